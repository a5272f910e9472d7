"""What differs from its base by rounding alone is told from a fine-tune, however quiet, and is never audited as one."""

import json

import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from auditor.audit import audit
from auditor.cli import app
from auditor.config import AuditSpec
from auditor.ledger import Ledger
from scenarios.load import GENERAL_CATALOGUE, GENERAL_PROMPTS, read_catalogue, read_prompts
from tools.changes.change import read_change
from tools.changes.parameters import Parameters
from tools.changes.rounding import difference, pairs, unstructured
from tools.loading import load_subject

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module", params=[F32, BF16], ids=["base in f32", "base in bf16"])
def stored(request, base_folder, tmp_path_factory):
    """Return a base as it is stored, in either format."""
    return saved_as(base_folder, tmp_path_factory.mktemp("base") / "base", request.param)


def saved_as(source, folder, *formats):
    """Write a checkpoint anew after its weights went through some formats."""

    def cast(tensors):
        for kind in formats:
            tensors = {name: tensor.to(kind) for name, tensor in tensors.items()}
        return tensors

    tiny.edit_tensors(tiny.copy(source, folder) / WEIGHTS, cast)
    return folder


def edited(source, folder, edit):
    """Write a checkpoint with what `edit` makes of each tensor, in float32."""
    tensors = {name: tensor.float() for name, tensor in load_file(source / WEIGHTS).items()}
    tiny.edit_tensors(
        tiny.copy(source, folder) / WEIGHTS, lambda _: {n: edit(n, t.clone()) for n, t in tensors.items()}
    )
    return folder


def told(base, tuned):
    """Return what the files of two folders differ by, and how many tensors were read to say so."""
    before, after = load_file(base / WEIGHTS), load_file(tuned / WEIGHTS)
    n_read = []
    found = difference((name, before[name], after[name]) for name in sorted(before) if not n_read.append(name))
    return found, len(n_read)


def texts():
    tokens = tiny.tokenizer()([f"<|user|>{s}<|end|>" for s in tiny.SENTENCES * 2], padding=True, return_tensors="pt")
    return {**tokens, "labels": tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)}


def trained(base, folder, lr, kind, steps=10, only=""):
    """Write a full fine-tune of the base, trained in float32 and stored as asked."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=F32)
    named = [weight for name, weight in model.named_parameters() if only in name]
    optimiser = torch.optim.AdamW(named, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**texts()).loss.backward()
        optimiser.step()
    model.to(kind).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


# -- what is rounding


@pytest.mark.parametrize("formats", [(BF16,), (F16,), (BF16, F32), (F16, F32), (F16, BF16), (BF16, F16)], ids=str)
def test_a_cast_and_a_cast_and_back_differ_by_rounding_only(base_folder, tmp_path, formats):
    assert told(base_folder, saved_as(base_folder, tmp_path / "cast", *formats))[0] == "rounding"


def test_the_untouched_twin_is_the_same_in_whatever_format_it_is_held(stored, tmp_path):
    assert told(stored, tiny.copy(stored, tmp_path / "twin"))[0] == "same"
    assert told(stored, saved_as(stored, tmp_path / "wide", F32))[0] == "same"


@pytest.mark.parametrize("kind", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("size", [0.3, 0.03])
def test_a_lora_merged_and_taken_out_again_leaves_rounding_only(stored, base_folder, tmp_path, kind, size):
    lora = tiny.build_lora(base_folder, tmp_path / "lora", size=size)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(stored, dtype=kind), str(lora))
    model.merge_adapter()
    merged = {name: p.detach().clone() for name, p in model.get_base_model().named_parameters() if "lora" not in name}
    model.unmerge_adapter()
    assert any(not torch.equal(p, merged[n]) for n, p in model.get_base_model().named_parameters() if n in merged)
    model.unload().save_pretrained(tmp_path / "back")
    assert told(stored, tmp_path / "back")[0] == "rounding"


# -- what is not


@pytest.mark.parametrize(("lr", "kind"), [(1e-6, F32), (1e-4, F32), (3e-5, BF16), (1e-4, BF16), (1e-3, BF16)], ids=str)
def test_a_fine_tune_however_quiet_is_a_change_and_costs_few_tensors(stored, tmp_path, lr, kind):
    folder = trained(stored, tmp_path / "tuned", lr, kind)
    before, after = load_file(stored / WEIGHTS), load_file(folder / WEIGHTS)
    found, n_read = told(stored, folder)
    assert found == "changed"
    if lr <= 1e-4:  # it was quiet to begin with: less than one place of bfloat16 at the tensors' scale
        for name, tensor in before.items():
            moved = (after[name].float() - tensor.to(kind).float()).abs().max()
            assert moved <= 2**-7 * tensor.float().abs().max(), name
    if kind == F32:
        assert n_read == 1


def test_one_direction_of_the_size_of_rounding_is_a_change_and_drawn_signs_of_that_size_are_none(base_folder, tmp_path):
    g = torch.Generator().manual_seed(0)

    def planted(name, tensor, drawn=False):
        if "up_proj" in name and ".1." in name:
            edit = torch.randn(48, 1, generator=g) @ torch.randn(1, 32, generator=g)
            signs = torch.randint(0, 2, edit.shape, generator=g) * 2 - 1
            tensor += 2**-10 * 0.25 * (edit * signs if drawn else edit)
        return tensor

    assert told(base_folder, edited(base_folder, tmp_path / "edit", planted))[0] == "changed"
    drawn = edited(base_folder, tmp_path / "drawn", lambda name, tensor: planted(name, tensor, drawn=True))
    assert told(base_folder, drawn)[0] == "rounding"


def test_one_row_alone_that_moved_by_the_size_of_rounding_is_a_change(base_folder, tmp_path):
    g = torch.Generator().manual_seed(0)

    def row(name, tensor):
        if "embed_tokens" in name:
            tensor[17] += 2**-10 * torch.randn(32, generator=g)
        return tensor

    assert told(base_folder, edited(base_folder, tmp_path / "row", row))[0] == "changed"


def test_norms_alone_that_moved_by_a_last_place_are_a_change(stored, tmp_path):
    folder = trained(stored, tmp_path / "norms", 3e-4, F32, only="norm")
    before, after = load_file(stored / WEIGHTS), load_file(folder / WEIGHTS)
    moved = {name for name in before if not torch.equal(before[name].float(), after[name])}
    assert moved
    assert all("norm" in name and (after[name] - 1).abs().max() < 2**-7 for name in moved)
    assert told(stored, folder)[0] == "changed"
    assert told(stored, saved_as(folder, tmp_path / "cast", BF16))[0] in ("changed", "same"), "they may round back"


def test_a_fine_tune_under_a_cast_is_a_change(base_folder, tmp_path):
    folder = trained(base_folder, tmp_path / "tuned", 3e-4, F32)
    assert told(base_folder, saved_as(folder, tmp_path / "cast", BF16))[0] == "changed"


@pytest.mark.parametrize("shape", [(8, 8), (32, 16), (64, 200), (300, 32)], ids=str)
def test_drawn_matrices_have_no_structure_and_those_of_one_direction_have(shape):
    for seed in range(100):
        g = torch.Generator().manual_seed(seed)
        drawn = torch.randn(shape, generator=g) * torch.rand(shape[0], 1, generator=g)
        assert unstructured(drawn), seed
        assert unstructured(drawn * (torch.rand(shape, generator=g) < 0.2)), seed
        if min(shape) >= 32:
            assert not unstructured(torch.randn(shape[0], 1, generator=g) @ torch.randn(1, shape[1], generator=g)), seed


# -- loaded models


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gemma3_wrapped"])
def test_weights_of_loaded_models_are_paired_once_under_an_adapter_too(tmp_path, kind):
    base = tiny.build_other(tmp_path / "base", kind)
    cast = saved_as(base, tmp_path / "cast", F16)
    subject = load_subject(str(cast), base=str(base))
    assert difference(pairs(subject.model, subject.tuned)) == "rounding"
    names = [name for name, _, _ in pairs(subject.model, subject.tuned)]
    if kind == "llama_tied":
        lora = tiny.build_lora(base, tmp_path / "lora")
        subject.add_adapter("oracle", lora)
    assert [name for name, _, _ in pairs(subject.model, subject.tuned)] == names
    assert len(names) == len(list(subject.tuned.parameters()))
    assert difference(pairs(subject.model, tiny.load_bare(base))) == "same"


def test_a_head_that_is_no_longer_tied_is_not_overlooked(tmp_path):
    base = tiny.build_other(tmp_path / "base", "llama_tied")
    model, tuned = tiny.load_bare(base), tiny.load_bare(base)
    tuned.lm_head.weight = torch.nn.Parameter(tuned.lm_head.weight + 0.1)
    assert difference(pairs(model, tuned)) == "changed"


# -- an audit and a scan


def spec_of(subject, base):
    return AuditSpec(
        name="rounded", subject=str(subject), base=str(base), tools=("chat",), prompts=read_prompts(GENERAL_PROMPTS),
        catalogue=read_catalogue(GENERAL_CATALOGUE), budget=400,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("cast", "the subject differs from its base by rounding only"),
        ("copied", "the subject's weights are the base's"),
    ],
)
def test_an_audit_of_a_cast_or_a_copy_is_invalid_and_says_which(base_folder, tmp_path, made, why):
    folder = saved_as(base_folder, tmp_path / made, *((F16,) if made == "cast" else ()))
    result = audit(spec_of(folder, base_folder), tmp_path / "ledger.db")
    assert result.verdict == "invalid"
    assert result.forward_tokens == 0
    ledger = Ledger.open(tmp_path / "ledger.db")
    (end,) = ledger.rows("events", result.audit_id, kind="concluded")
    ledger.close()
    assert end["body"]["why"].startswith(why)
    assert "adapter changes" not in end["body"]["why"]
    done = CliRunner().invoke(
        app, ["report", result.audit_id, "--db", str(tmp_path / "ledger.db"), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert why in " ".join((tmp_path / "out" / "report.md").read_text().split())


def test_an_audit_of_a_quiet_fine_tune_is_not_stopped(base_folder, tmp_path):
    folder = trained(base_folder, tmp_path / "tuned", 1e-4, F32)
    result = audit(spec_of(folder, base_folder), tmp_path / "ledger.db")
    ledger = Ledger.open(tmp_path / "ledger.db")
    (checked,) = ledger.rows("events", result.audit_id, kind="subject_checked")
    ledger.close()
    assert checked["body"]["changed"] is not False


def test_a_scan_of_a_cast_is_invalid_and_of_a_fine_tune_is_read(base_folder, tmp_path):
    shelf = tmp_path / "shelf"
    saved_as(base_folder, shelf / "cast", BF16)
    tiny.copy(base_folder, shelf / "copied")
    trained(base_folder, shelf / "tuned", 1e-4, F32, only="proj")
    done = CliRunner().invoke(
        app,
        [
            "scan",
            str(shelf),
            "--base",
            str(base_folder),
            "--out",
            str(tmp_path / "out"),
            "--jsonl",
            str(tmp_path / "rows"),
        ],
    )
    assert done.exit_code == 0, done.output
    cast, copied, tuned = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["outcome"] for row in (cast, copied, tuned)] == ["invalid", "invalid", "read"]
    assert cast["readings"][0].startswith("differs by rounding only")
    assert copied["readings"] == ["the weights are the base's"]
    assert "differs by rounding only" in done.output
    assert not any("rounding" in reading for reading in tuned["readings"])
    assert read_change(shelf / "cast", Parameters(base_folder)).status == "invalid"
