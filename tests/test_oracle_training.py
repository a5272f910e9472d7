"""Training an oracle: it learns to read, resumes, shares work between processes, and is refused when it ignores its input."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from cut_off import CutOffError, cut_off_after
from safetensors.torch import load_file

from tools.activation_oracle import fit, train
from tools.activation_oracle.contract import AO_CONFIG, OracleContract, read_contract
from tools.activation_oracle.evaluate import evaluate, table
from tools.activation_oracle.fit import Recipe, attach
from tools.activation_oracle.load import load_oracle
from tools.activation_oracle.rows import Row, Swap, Trial, read_rows
from tools.activation_oracle.token_use import token_use, windows
from tools.activation_oracle.train import train_oracle
from tools.errors import ToolInputError
from tools.loading import load_subject

WORDS = ("river", "bridge", "kettle", "fox")
RECIPE = Recipe(((1,), (0, 1)), rank=16, lr=1e-2, batch=24, epochs=4.0)


def told(n, seed=0, constant=False):
    rng = random.Random(seed)
    for _ in range(n):
        words = rng.choices(WORDS, k=rng.randint(1, 3))
        answer = "a word" if constant else words[-1]
        yield {"text": f"<|user|>tell me of the {' and the '.join(words)}", "window": rng.randint(1, 3),
               "question": "which word?", "answer": answer, "kind": "word"}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "rows.jsonl", told(2000))


@pytest.fixture(scope="module")
def trained(base_folder, data, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained") / "oracle"
    return folder, train_oracle(str(base_folder), data, folder, RECIPE)


def test_an_oracle_learns_to_read_what_the_base_has_in_mind_at_every_set_of_layers(trained, base_folder):
    folder, report = trained
    assert set(report["held_out"]) == {"1", "0,1"}
    losses = list(report["losses"].values())
    assert losses[-1] < losses[0] / 2
    for use in report["held_out"].values():
        assert use["exact"] > 0.9
        assert use["matched"] + 0.5 < min(use["shuffled"], use["random"])
    subject = load_subject(str(base_folder))
    reader = load_oracle(subject, folder)
    fresh = [Row.model_validate(row) for row in told(64, seed=9)]
    for layers in RECIPE.layers:
        said = reader.answers(windows(reader, fresh, layers), ["which word?"])
        assert sum(row.answer == texts[0][0] for row, texts in zip(fresh, said, strict=True)) > 56
        assert token_use(reader, fresh, lambda some, at=layers: windows(reader, some, at), seed=0).exact > 56 / 64


def test_what_is_written_has_a_contract_names_its_base_and_no_folder_of_this_machine(trained, base_folder):
    folder, _ = trained
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", AO_CONFIG, "training.json",
    ]  # fmt: skip
    contract = read_contract(folder, 3)
    assert contract.read_layers == RECIPE.layers
    assert contract.base_sha256 == load_subject(str(base_folder)).base_sha256
    for file in folder.glob("*.json"):
        assert str(base_folder.parent) not in file.read_text()


def test_the_base_is_left_as_it_was(trained, base_folder):
    subject = load_subject(str(base_folder))
    batch = subject.encode(tiny.TEXTS)
    before = subject.logits(batch, "base")
    load_oracle(subject, trained[0])
    assert torch.equal(subject.logits(batch, "base"), before)
    assert not torch.equal(subject.logits(batch, "oracle"), before)


def test_an_oracle_that_ignores_what_it_is_given_is_refused_and_nothing_is_written(base_folder, tmp_path):
    rows = write(tmp_path / "rows.jsonl", told(700, constant=True))
    with pytest.raises(ToolInputError, match="answers as well with another row's vectors .+ nothing was written"):
        train_oracle(str(base_folder), rows, tmp_path / "out", Recipe(((1,),), rank=4, batch=24, epochs=1.0))
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_an_interrupted_training_goes_on_to_the_weights_of_one_that_was_not(base_folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", 5)
    recipe = Recipe(((1,), (0, 1)), rank=4, batch=24, epochs=0.5)
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    monkeypatch.setattr(fit, "_refuse_deaf", lambda use, step, out: None)
    train_oracle(str(base_folder), data, whole, recipe)
    ran = cut_off_after(8, monkeypatch)
    with pytest.raises(CutOffError):
        train_oracle(str(base_folder), data, twice, recipe)
    assert (twice / fit.CHECKPOINT).exists()
    train_oracle(str(base_folder), data, twice, recipe)
    assert len(ran) == 8 + int(1488 * 0.5 / 24) - 5, "the checkpoint after five steps was gone on from"
    assert not (twice / fit.CHECKPOINT).exists()
    for name, tensor in load_file(whole / tiny.ADAPTER).items():
        assert torch.equal(tensor, load_file(twice / tiny.ADAPTER)[name]), name


def test_a_checkpoint_of_another_training_is_refused(base_folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", 2)
    monkeypatch.setattr(fit, "_refuse_deaf", lambda use, step, out: None)
    recipe = Recipe(((1,),), rank=4, batch=24, epochs=0.2)
    monkeypatch.setattr(train, "_write", lambda *args: (_ for _ in ()).throw(CutOffError))
    with pytest.raises(CutOffError):
        train_oracle(str(base_folder), data, tmp_path / "out", recipe)
    with pytest.raises(ToolInputError, match="is of a training on other data, another base or recipe: remove it"):
        train_oracle(str(base_folder), data, tmp_path / "out", Recipe(((1,),), rank=8, batch=24, epochs=0.2))


def test_two_processes_take_the_steps_of_one(base_folder, data, tmp_path):
    root = Path(__file__).parent.parent
    arguments = ["-m", "auditor.cli", "oracle", "train", "activation", "--base", str(base_folder), "--data", str(data),
                 "--layers", "1", "--rank", "16", "--batch", "24", "--epochs", "3", "--lr", "0.008"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
    for name, before in (("one", []), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *before, *arguments, "--out", str(tmp_path / name)],
            env=env, cwd=root, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (load_file(tmp_path / name / tiny.ADAPTER) for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor.float(), two[name].float(), atol=2e-2), name
    reports = [json.loads((tmp_path / name / "training.json").read_text())["held_out"]["1"] for name in ("one", "two")]
    assert reports[1]["matched"] == pytest.approx(reports[0]["matched"], abs=0.05)


def test_the_towers_of_a_multimodal_base_that_are_no_decoder_are_left_alone(tmp_path):
    base = tiny.build_other(tmp_path / "base", "gemma3_wrapped")
    subject = load_subject(str(base))
    attach(subject, OracleContract(base="x", read_layers=((1,),)), Recipe(((1,),), rank=4), "oracle")
    adapted = {name for name, _ in subject.model.named_parameters() if ".lora_" in name}
    assert adapted
    assert not any("vision" in name for name in adapted)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is not JSON"), ('{"text": "a"}', "line 2: question: Field required.+window: Field required"), ("[]", "line 2: row: "),
     ('{"text": "a", "window": 0, "question": "q", "answer": "b"}', "line 2: window: Input should be greater"),
     ('{"text": "a", "window": 1, "question": "q", "answer": "b", "odd": 1}', "line 2: odd: Extra inputs")],
)  # fmt: skip
def test_a_wrong_row_is_refused_by_its_line(tmp_path, line, message):
    good = json.dumps(next(told(1)))
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ToolInputError, match=message):
        read_rows(tmp_path / "rows.jsonl")


def test_too_few_rows_and_a_layer_the_base_lacks_are_refused(base_folder, data, tmp_path):
    few = write(tmp_path / "few.jsonl", told(20))
    with pytest.raises(ToolInputError, match="20 rows; 536 are the least"):
        train_oracle(str(base_folder), few, tmp_path / "out", Recipe(((1,),), batch=24))
    with pytest.raises(ToolInputError, match=r"layer 7 is out of range: the subject has layers 0\.\.2"):
        train_oracle(str(base_folder), data, tmp_path / "out", Recipe(((7,),), batch=24))


# -- evaluation: an oracle that reads, beside what needs none


def trials(adapter=None, n=60, fit=0):
    for i, row in enumerate(told(n + fit, seed=21)):
        yield Trial(
            **row, family="words" if i % 2 else "others", split="train", subject="organism" if adapter else "base",
            adapter=adapter, label=row["answer"], words=(row["answer"],), fit=i >= n, cluster=str(i % 7),
            outright=row["text"], accepted=("bridge",),
        )  # fmt: skip


def test_an_evaluation_tells_an_oracle_that_reads_from_its_baselines(trained, base_folder, tmp_path):
    swaps = [
        Swap(texts=(f"<|user|>tell me of the {a}", f"<|user|>tell me of the {b}"), window=1, question="which word?", answers=(a, b),
             unrelated={"which word? ": "no"})
        for a in WORDS for b in WORDS if a != b
    ]  # fmt: skip
    found = evaluate(str(base_folder), trained[0], list(trials(fit=80)), swaps, tmp_path)
    assert found.n == 60
    assert sum(row["exact"] for row in found.totals if row["subject"] == "base") > 42
    assert {(row["family"], row["split"], row["subject"]) for row in found.rows} == {
        ("words", "train", "base"), ("others", "train", "base"),
    }  # fmt: skip
    assert found.baselines["no_activation"] < 0.5 < found.compared["no_activation"]["oracle"]
    assert found.baselines["probe"] > found.baselines["majority"]
    assert set(found.baselines) == {"no_activation", "outright", "probe", "logit_lens", "majority"}
    assert set(found.ece_by) == {"informed", "informed: train", "base"}
    assert found.swaps["n"] == 12
    assert found.swaps["follows"] > 0.9
    for row in found.rows:
        assert row["kept_right"] + row["wrong"] + row["abstained"] == row["n"]
    text = "\n".join(table(found))
    assert "| words | train | base | yes | 30 |" in text
    assert "expected calibration error of the agreement of 10 samples" in text


def test_trials_read_the_adapter_they_name(trained, base_folder, lora_folder, tmp_path):
    link = tmp_path / "adapter"
    link.symlink_to(lora_folder)
    plain = evaluate(str(base_folder), trained[0], list(trials()), [], tmp_path)
    tuned = evaluate(str(base_folder), trained[0], list(trials("adapter")), [], tmp_path)
    assert {row["subject"] for row in tuned.rows} == {"organism"}
    assert sum(r["exact"] for r in tuned.rows) < sum(r["exact"] for r in plain.rows), (
        "a random adapter disturbs what is read"
    )


def test_an_evaluation_of_nothing_is_refused(trained, base_folder, tmp_path):
    with pytest.raises(ToolInputError, match="no trial to score"):
        evaluate(str(base_folder), trained[0], list(trials(n=0, fit=20)), [], tmp_path)
