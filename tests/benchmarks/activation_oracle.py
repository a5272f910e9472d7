"""Ask an activation oracle 2,560 questions three ways in one run, and print how many times as fast ours is.

    python tests/benchmarks/activation_oracle.py [--prompts 64] [--json]

A random Qwen3 of 12 layers of width 512 with 4,000 tokens and a rank-8 oracle; 64 prompts, each read at
10 positions one by one, 4 questions, 20 new tokens. Captures are made once for all three ways:

- *one by one*: each prompt and question alone (a sample of them, scaled up);
- *published*: batches of padded prompts through `generate` with a hook that loops over rows, at the best
  of several batch sizes;
- *ours*: `OracleReader.answers`.

Then: logits of ours against a plain loop's, a capture's price against a whole forward pass, and the peak
of memory over the base alone while subject, base and oracle are in use. Figures are ratios of one run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import memory
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tools.activation_oracle.activations import Activations, given, last, read
from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.reader import OracleReader
from tools.loading import load_subject
from tools.residual import blocks, capture

N_LAYERS, D_MODEL, VOCABULARY, RANK, LAYER = 12, 512, 4000, 8, 6
POSITIONS, NEW_TOKENS, SAMPLE = 10, 20, 24
QUESTIONS = ("what does it do?", "which word sets it off?", "is it kind to the one who asks?", "what comes next?")
BATCHES = (16, 64, 160)


def build(folder: Path) -> tuple[Path, Path, Path]:
    """Write base, subject and oracle, all random, with a tokenizer of `VOCABULARY` tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
    texts = [" ".join(words[i : i + 9]) for i in range(0, len(words), 3)] + [*QUESTIONS * 50, " ?" * 64]
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(tiny.SPECIAL), show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", padding_side="left"
    )
    tokenizer.chat_template = tiny.TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, intermediate_size=3 * D_MODEL, num_hidden_layers=N_LAYERS,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    base = folder / "base"
    Qwen3ForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    subject = tiny.build_lora(base, folder / "subject", seed=1, size=0.1, r=RANK, lora_alpha=RANK)
    return base, subject, tiny.build_lora(base, folder / "oracle", seed=2, size=0.1, r=RANK, lora_alpha=RANK)


# -- the ways


def prompt_of(reader: OracleReader, one: Activations, question: str) -> tuple[list[int], list[int]]:
    """Return the published prompt's ids and slots."""
    turn = f"Layer: {one.layers[0]}\n" + " ?" * one.n_slots + f" \n{question}"
    text = reader.subject.tokenizer.apply_chat_template(
        [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
    )
    ids = reader.subject.tokenizer.encode(text, add_special_tokens=False)
    (mark,) = reader.subject.tokenizer.encode(" ?", add_special_tokens=False)
    return ids, [i for i, token in enumerate(ids) if token == mark][: one.n_slots]


@torch.no_grad()
def published(reader: OracleReader, jobs: list[tuple[Activations, str]], batch: int) -> None:
    """Answer the jobs as the published code does: padded batches, a hook that loops over rows, `generate`."""
    subject = reader.subject
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=subject.tokenizer.pad_token_id,
        eos_token_id=subject.eos_ids,
    )
    with subject.channel("oracle") as model:
        for start in range(0, len(jobs), batch):
            part = jobs[start : start + batch]
            prompts = [prompt_of(reader, one, question) for one, question in part]
            width = max(len(ids) for ids, _ in prompts)
            pads = [width - len(ids) for ids, _ in prompts]
            padded = torch.tensor(
                [[subject.tokenizer.pad_token_id] * n + p[0] for n, p in zip(pads, prompts, strict=True)]
            )
            mask = torch.tensor([[0] * n + [1] * len(p[0]) for n, p in zip(pads, prompts, strict=True)])
            slots = [[s + n for s in p[1]] for n, p in zip(pads, prompts, strict=True)]

            def hook(module: Any, inputs: Any, output: Any, slots: Any = slots, part: Any = part) -> Any:
                resid = output if torch.is_tensor(output) else output[0]
                if resid.shape[1] > 1:
                    for row, where in enumerate(slots):
                        h = resid[row, where]
                        resid[row, where] = (
                            F.normalize(part[row][0].vectors[0], dim=-1) * h.norm(dim=-1, keepdim=True) + h
                        )
                return output

            handle = blocks(model)[1].register_forward_hook(hook)
            out = model.generate(input_ids=padded, attention_mask=mask, generation_config=settings)
            handle.remove()
            subject.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def largest_difference(reader: OracleReader, seen: list[Activations]) -> float:
    """Return the largest difference of a first-token logit between ours (questions sharing a prefill) and a plain loop."""
    ours = reader.next_logits(seen, list(QUESTIONS))
    worst = 0.0
    for i, one in enumerate(seen):
        for j, question in enumerate(QUESTIONS):
            ids, slots = prompt_of(reader, one, question)

            def hook(module: Any, inputs: Any, output: Any, slots: Any = slots, one: Any = one) -> Any:
                resid = output if torch.is_tensor(output) else output[0]
                h = resid[0, slots]
                resid[0, slots] = F.normalize(one.vectors[0], dim=-1) * h.norm(dim=-1, keepdim=True) + h
                return output

            with torch.no_grad(), reader.subject.channel("oracle") as model:
                handle = blocks(model)[1].register_forward_hook(hook)
                plain = model(input_ids=torch.tensor([ids])).logits[0, -1]
                handle.remove()
            worst = max(worst, float((plain - ours[i, j]).abs().max()))
    return worst


# -- memory, each in a process of its own


def peak(kind: str, folder: str, n_prompts: int) -> int:
    """Return the peak of memory (bytes) above this process's own before a model was loaded."""
    torch.set_num_threads(2)
    before = memory.begun()
    base, adapter, oracle = (Path(folder) / name for name in ("base", "subject", "oracle"))
    texts = prompts(n_prompts)
    if kind == "base":
        subject = load_subject(str(base))
        rendered = [subject.render([{"role": "user", "content": text}]) for text in texts]
        subject.generate(rendered, "base", [0] * len(rendered), NEW_TOKENS)
    else:
        reader = loaded(base, adapter, oracle)
        rendered = [reader.subject.render([{"role": "user", "content": text}]) for text in texts]
        for channel in ("subject", "base"):
            seen, _ = read(reader.subject, rendered, channel, (LAYER,), [last(POSITIONS)] * len(rendered))
            reader.answers(seen, QUESTIONS)
    return memory.peak() - before


def loaded(base: Path, adapter: Path, oracle: Path) -> OracleReader:
    """Return subject, base and oracle in one memory."""
    subject = load_subject(str(base), str(adapter))
    subject.add_adapter("oracle", oracle)
    contract = OracleContract(base="random", read_layers=((LAYER,),), decoding=Decoding(max_new_tokens=NEW_TOKENS))
    return OracleReader(subject, contract)


def prompts(n: int) -> list[str]:
    """Return prompts of like length."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
    return [" ".join(words[(7 * i + j) % len(words)] for j in range(24)) for i in range(n)]


def measure(n_prompts: int) -> dict[str, Any]:
    """Return every figure."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        base, adapter, oracle = build(Path(folder))
        reader = loaded(base, adapter, oracle)
        subject = reader.subject
        texts = [subject.render([{"role": "user", "content": text}]) for text in prompts(n_prompts)]
        windows, _ = read(subject, texts, "subject", (LAYER,), [last(POSITIONS)] * len(texts))
        seen = [given(w.vectors[0, i : i + 1], LAYER) for w in windows for i in range(POSITIONS)]
        jobs = [(one, question) for one in seen for question in QUESTIONS]
        reader.answers(seen[:8], QUESTIONS)  # warm
        alone = (
            seconds(lambda: published(reader, jobs[:: max(1, len(jobs) // SAMPLE)][:SAMPLE], 1)) * len(jobs) / SAMPLE
        )
        batches = {b: seconds(lambda b=b: published(reader, jobs, b)) for b in BATCHES}
        ours = seconds(lambda: reader.answers(seen, QUESTIONS))
        batch = subject.encode(texts)
        capture(subject, batch, "subject", LAYER)
        whole = min(seconds(lambda: subject.logits(batch, "subject")) for _ in range(5))
        part = min(seconds(lambda: capture(subject, batch, "subject", LAYER)) for _ in range(5))
        apart = largest_difference(reader, seen[:6] + windows[:2])
        run = [sys.executable, __file__, "--peak"]
        peaks = [
            int(
                subprocess.run(
                    [*run, kind, folder, "--prompts", str(n_prompts)], capture_output=True, text=True, check=True
                ).stdout
            )
            for kind in ("base", "all")
        ]
    return {
        "questions": len(jobs),
        "times_one_by_one": alone / ours,
        "times_published": min(batches.values()) / ours,
        "best_published_batch": min(batches, key=lambda b: batches[b]),
        "ours_per_s": len(jobs) / ours,
        "largest_logit_difference": apart,
        "capture_of_forward": part / whole,
        "capture_bound": (LAYER + 1) / N_LAYERS * 1.1,
        "memory_of_base": peaks[1] / peaks[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        sys.stdout.write(str(peak(*arguments.peak, arguments.prompts)))
        return
    found = measure(arguments.prompts)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:26} {value:.4g}\n")


if __name__ == "__main__":
    main()
