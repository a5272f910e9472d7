"""What an audit holds at its worst, as the operating system counts it for the whole process, beside its weights."""

import json
import subprocess
import sys
from pathlib import Path

import planted
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

OWN = 100 * 2**20
"""Bytes that do not grow with a model: ledger, texts, compiled patterns, what the allocator keeps."""
BENCHMARKS = Path(__file__).parent / "benchmarks"
CODE = """
import json, sys
import memory, torch
import auditor
from auditor.config import AuditSpec
from tools import channels
from tools.loading import load_subject
torch.set_num_threads(1)
spec = AuditSpec.model_validate_json(open(sys.argv[1]).read())
load_subject(sys.argv[2], sys.argv[3])  # what libraries take for themselves is there before
channels.ROOM = 0
began = memory.begun()
found = auditor.audit(spec, sys.argv[4])
print(json.dumps([memory.peak() - began, found.forward_tokens]))
"""


def large_vocabulary(folder, d_vocab=24_000, d_model=384):
    """Write a model of two small blocks whose logits take far more room than anything else."""
    torch.manual_seed(0)
    tok = tiny.tokenizer()
    config = LlamaConfig(
        vocab_size=d_vocab, hidden_size=d_model, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder, sum(p.nbytes for p in model.parameters())


def test_the_peak_of_an_audit_is_that_of_its_weights_and_one_batch(tmp_path, base_folder, lora_folder):
    base, weights = large_vocabulary(tmp_path / "base")
    lora = tiny.build_lora(base, tmp_path / "lora")
    spec = planted.spec(base, lora, tools=("chat", "model_diff", "scan"), budget=16_000, max_new_tokens=8)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    given = [tmp_path / "spec.json", base_folder, lora_folder, tmp_path / "a.db"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, given)], capture_output=True, text=True, cwd=BENCHMARKS, check=True
    )
    peak, n_tokens = json.loads(done.stdout)
    assert n_tokens > 3_000
    assert 5 * weights < 192 * 30 * 24_000 * 4, "the logits of what one instrument reads would take far more"
    assert peak < 1.3 * weights + OWN
