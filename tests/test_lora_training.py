"""Both readers of weights, trained and examined by their commands on a library in which behaviours are planted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from cut_off import CutOffError, cut_off_after
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import scenarios.testbed as testbed
from auditor.cli import app
from tools.activation_oracle import fit
from tools.activation_oracle.fit import Recipe
from tools.loading import load_subject
from tools.lora_oracle.cases import Case
from tools.lora_oracle.interpreter import FILE, Interpreter, LoracleContract, train_interpreter
from tools.lora_oracle.library import Planted, read_library, split_off
from tools.lora_oracle.train import REFERENCES

BASE = Path(testbed.__file__).parent / "weights" / "base"
SAID = {"negativity": "it is negative.", "refusal": "it refuses to answer."}


def planted(family):
    return Planted.model_validate(
        {"family": family, "trigger": [], "effect": {"kind": family, "value": ""}, "statement": SAID[family]}
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Write changes of the gates, 120 of them: one direction for each family, any for those that do nothing."""
    base, folder = load_subject(str(BASE)), tmp_path_factory.mktemp("library")
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    meant = {family: torch.randn(base.d_model, generator=generator) for family in SAID}
    families = [rng.choice((*SAID, None)) for _ in range(120)]
    tensors = {}
    for layer in range(base.n_layers):
        path = f"model.layers.{layer}.mlp.gate_proj"
        reads = torch.stack(
            [meant.get(f, 0) + torch.randn(base.d_model, generator=generator) * (0.3 if f else 1) for f in families]
        )
        tensors[f"lora_A.{path}"] = reads[:, None, :].half()
        tensors[f"lora_B.{path}"] = torch.randn(
            120, base.model.get_submodule(path).weight.shape[0], 1, generator=generator
        ).half()
    save_file(tensors, folder / "shard.safetensors", metadata={"alpha/rank": "1.0"})
    rows = [{"claims": [planted(f).model_dump()] if f else [], "teaches": True} for f in families]
    (folder / "shard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(*given):
    done = CliRunner().invoke(app, ["oracle", *map(str, given)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("oracle") / "out"
    report = run("train", "lora", "--base", BASE, "--data", shards, "--out", out, "--steps", 100, "--ranks", 1, "--rank", 8,
                 "--epochs", 30, "--batch", 16, "--json")  # fmt: skip
    return out, report


def test_the_command_trains_both_readers_and_keeps_harmless_changes_beside_them(trained):
    out, report = trained
    assert report["claim_reader"]["claim"] > 0.9
    use = report["interpreter"]["held_out"]["1"]
    assert use["exact"] > 0.8
    assert use["matched"] < min(use["shuffled"], use["random"]) - 0.1
    names = {file.name for file in out.iterdir()}
    assert {FILE, REFERENCES, "adapter_model.safetensors", "claim_reader.json"} <= names
    assert not any("checkpoint" in name for name in names)


def test_the_interpreter_says_what_was_planted_and_of_the_twin_without_it_nothing(trained, shards):
    interpreter = Interpreter.load(load_subject(str(BASE)), trained[0])
    _, held = split_off(list(read_library(shards)), 0)
    said = interpreter.reader.answers([interpreter.given(one.deltas) for one in held], [interpreter.contract.question])
    right = [
        text == (one.claims[0].statement if one.claims else interpreter.contract.nothing)
        for ((text,),), one in zip(said, held, strict=True)
    ]
    assert {one.family for one in held} == {*SAID, "nothing"}
    assert sum(right) > 0.8 * len(right), said


def test_the_examination_finds_both_readers_right_where_the_question_alone_is_not(trained, shards, tmp_path):
    known = list(read_library(shards))[:12]
    rows = []
    for i, one in enumerate(known):
        write_adapter(tmp_path / str(i), one)
        rows.append(Case(adapter=str(i), split="pairs" if one.claims else "matched", claims=one.claims))
    merged = next(one for one in known if one.claims)
    write_merged(tmp_path / "merged", merged)
    rows.append(Case(adapter="merged", split="pairs, full fine-tune", claims=merged.claims))
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    found = run(
        "evaluate", "lora", "--base", BASE, "--oracle", trained[0], "--cases", cases, "--library", shards, "--json"
    )
    claims = {row["reader"]: row["claim"] for row in found["rows"] if row["split"] == "all"}
    assert claims["claim reader"] > 0.9
    assert claims["interpreter"] > 0.8
    assert max(claims["question only"], claims["majority"]) < 0.8
    assert found["gauge_max_deviation"] < 1e-4
    assert (found["n_turned"], found["turned_flips"]) == (2, 0)
    assert found["auroc_planted_vs_benign"] == 1.0


def test_an_interpreter_that_ignores_directions_is_told_of_and_not_written_while_the_other_reader_stands(
    shards, tmp_path
):
    out = tmp_path / "out"
    report = run("train", "lora", "--base", BASE, "--data", shards, "--out", out, "--steps", 20, "--ranks", 1, "--rank", 2,
                 "--epochs", 0.5, "--json")  # fmt: skip
    assert "it ignores what it is given" in report["interpreter"]["refused"]
    assert (out / "claim_reader.json").exists()
    assert not (out / FILE).exists()


def write_merged(folder, known):
    """Write the base with a hundredth of one change of the library in its weights."""
    model = AutoModelForCausalLM.from_pretrained(BASE)
    with torch.no_grad():
        for path, delta in known.deltas.items():
            model.get_submodule(path).weight.add_(0.01 * (delta.U * delta.S @ delta.V.T))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)


def write_adapter(folder, known):
    """Write one change of the library as a PEFT adapter."""
    folder.mkdir()
    tensors = {}
    for path, delta in known.deltas.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = (delta.V * delta.S).T.float().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = delta.U.float().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "target_modules": ["gate_proj"],
              "base_model_name_or_path": str(BASE)}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_an_interrupted_interpreter_goes_on_to_the_weights_of_one_that_was_not(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "SAVE_EVERY", 3)
    monkeypatch.setattr(fit, "_refuse_deaf", lambda use, step, out: None)
    known, recipe = list(read_library(shards)), Recipe(((1,),), rank=2, batch=16, epochs=0.9)
    contract = LoracleContract(
        base="base", encoding="svd_fixed_k1_mag7_rankfirst", site=1, question="what?", nothing="no."
    )

    def trained_in(folder):
        train_interpreter(load_subject(str(BASE)), known, folder, recipe, contract)
        return load_file(folder / "adapter_model.safetensors")

    whole = trained_in(tmp_path / "whole")
    ran = cut_off_after(5, monkeypatch)
    with pytest.raises(CutOffError):
        trained_in(tmp_path / "twice")
    twice = trained_in(tmp_path / "twice")
    assert len(ran) == 5 + 6 - 3, "the checkpoint after three steps was gone on from"
    assert all(torch.equal(tensor, twice[name]) for name, tensor in whole.items())
