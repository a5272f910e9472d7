"""An adapter that names another base than the one it is put on: told from copies of the same weights and from local paths."""

from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from auditor.cli import app
from tools.base_names import names_another
from tools.loading import load_subject

HUB = Path("/cache/models--Qwen--Qwen3-8B/snapshots/0a1b")
ANOTHER = [("meta-llama/Llama-2-7b-hf", Path("base")), ("Qwen/Qwen3-8B-Base", HUB), ("Qwen/Qwen3-8B", Path("Qwen3-8B-Instruct")),
           ("Qwen/Qwen3-4B", HUB)]  # fmt: skip
SAME = [("Qwen/Qwen3-8B", HUB), ("unsloth/qwen3-8b-unsloth-bnb-4bit", HUB), ("someone/Qwen3-8B-GPTQ-Int4", HUB),
        ("Qwen/Qwen3-8B", Path("downloads/Qwen3-8B")), ("/home/ann/run 3/merged", HUB), ("./merged", HUB), ("outputs/stage1", HUB),
        ("C:\\models\\llama", HUB), ("testbed-base", HUB), ("", HUB), (None, HUB), (7, HUB)]  # fmt: skip


@pytest.mark.parametrize(("claimed", "base"), ANOTHER)
def test_a_hub_id_of_another_name_is_another_base(claimed, base):
    assert names_another(claimed, base) == claimed


@pytest.mark.parametrize(("claimed", "base"), SAME)
def test_copies_of_the_same_weights_and_paths_are_not(claimed, base):
    assert names_another(claimed, base) == ""


def test_what_the_caller_or_its_own_configuration_calls_a_base_is_its_name_too(tmp_path):
    assert names_another("Qwen/Qwen3-8B", tmp_path)
    assert not names_another("Qwen/Qwen3-8B", tmp_path, "Qwen/Qwen3-8B")
    (tmp_path / "config.json").write_text('{"_name_or_path": "Qwen/Qwen3-8B"}')
    assert not names_another("Qwen/Qwen3-8B", tmp_path)


def test_an_audit_and_a_scans_line_say_so_and_its_twin_is_quiet(base_folder, lora_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tiny.copy(lora_folder, tmp_path / "adapters" / "other")
    tiny.edit_json(other / "adapter_config.json", base_model_name_or_path="meta-llama/Llama-2-7b-hf")
    tiny.copy(lora_folder, tmp_path / "adapters" / "same")
    said = [note for note in load_subject(str(base_folder), str(other)).notes if "another base" in note]
    assert len(said) == 1
    assert "meta-llama/Llama-2-7b-hf" in said[0]
    assert not [note for note in load_subject(str(base_folder), str(lora_folder)).notes if "another base" in note]
    done = CliRunner().invoke(app, ["scan", "adapters", "--base", str(base_folder)])
    assert done.exit_code == 0, done.stderr
    lines = {Path(line.split(":")[0].split()[-1]).name: line for line in done.stdout.splitlines()}
    assert "names another base, meta-llama/Llama-2-7b-hf" in lines["other"]
    assert "another base" not in lines["same"]
