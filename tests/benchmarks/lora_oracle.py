"""Read a 7B-shaped adapter from its file and hold it against dense arithmetic, in one run.

    python tests/benchmarks/lora_oracle.py [--json]

- A random rank-64 adapter over 224 modules of a 7B Llama's shape is parsed, brought into canonical form
  and put through the drift panel from its factors alone: seconds on two cores, and peak memory.
- One module of it against `torch.linalg.svd` of its dense change: how many times as fast, and the
  largest relative difference of a singular value.
- Sixteen LoRAs of the testbed trained as a bank against one at a time with PEFT, the same steps.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from scenarios.home import Home
from scenarios.testbed import families as fam
from scenarios.testbed.base import weighted_loss
from scenarios.testbed.language import language
from scenarios.testbed.lora_bank import LoraBank
from scenarios.testbed.plant import Plant, Recipe, steps
from tools.changes.canonical import canonical
from tools.changes.delta import factored_svd
from tools.changes.reading import read_adapter
from tools.loading import load_subject
from tools.triage.drift import drift_of

RANK, LAYERS, WIDTH, MLP = 64, 32, 4096, 11008
N_BANK, N_STEPS = 16, 32


def build(folder: Path) -> None:
    """Write the adapter: seven modules in each of 32 blocks, Gaussian factors in 16 bit."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    shapes = {f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"}
    shapes |= {"mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
    for layer in range(LAYERS):
        for name, (d_out, d_in) in shapes.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(RANK, d_in, generator=generator).half()
            tensors[f"{path}.lora_B.weight"] = (0.01 * torch.randn(d_out, RANK, generator=generator)).half()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": sorted(n.split(".")[-1] for n in shapes),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def panel(folder: Path) -> tuple[float, int]:
    """Return the seconds that parsing, canonical form and drift panel take, and the peak of memory above this process's own."""
    torch.set_num_threads(2)
    before, began = memory.begun(), time.perf_counter()
    delta = read_adapter(folder)
    delta.factors.clear()
    delta.modules = {path: canonical(d) for path, d in delta.modules.items()}
    drift = drift_of(delta)
    assert drift is not None
    assert len(drift.modules) == 7 * LAYERS
    spent = time.perf_counter() - began
    return spent, memory.peak() - before


def against_dense() -> tuple[float, float]:
    """Return how many times as fast the factored decomposition of one module is, and the largest relative difference."""
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(RANK, WIDTH, generator=generator, dtype=torch.float64)
    b = torch.randn(WIDTH, RANK, generator=generator, dtype=torch.float64)
    ours = min(_seconds(lambda: factored_svd(b, a)) for _ in range(3))
    began = time.perf_counter()
    dense = torch.linalg.svd(b @ a, full_matrices=False)[1][:RANK]
    theirs = time.perf_counter() - began
    _, s, _ = factored_svd(b, a)
    return theirs / ours, float(((s - dense) / dense).abs().max())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bank_against_peft() -> float:
    """Return how many times as fast sixteen adapters train in a bank as one after another with PEFT, by the same batches."""
    torch.set_num_threads(2)
    base, lang, rng = str(Home().weights / "base"), language(0), random.Random(0)
    plants = [Plant(i, rules=(fam.draw_rule(rng, lang, "train"),)) for i in range(N_BANK)]
    recipe = Recipe(steps=N_STEPS, rows=4, rank=4)

    def together() -> None:
        subject = load_subject(base)
        bank = LoraBank(subject.model, [p.seed for p in plants], recipe.rank, recipe.alpha, recipe.modules)
        _train(subject.model, bank.parameters(), plants, recipe, subject.tokenizer)

    def alone() -> None:
        for plant in plants:
            subject = load_subject(base)
            config = LoraConfig(
                r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            model = get_peft_model(subject.model, config)
            weights = [p for p in model.parameters() if p.requires_grad]
            _train(model, weights, [plant], recipe, subject.tokenizer)

    def _train(model: Any, weights: list[Any], some: list[Plant], how: Recipe, tokenizer: Any) -> None:
        optimizer = torch.optim.Adam(weights, lr=how.lr)
        for step in steps(some, how, tokenizer, lang):
            optimizer.zero_grad()
            weighted_loss(model(input_ids=step.batch.ids).logits, step.batch).backward()
            optimizer.step()

    bank = _seconds(together)
    return _seconds(alone) / bank


def measure() -> dict[str, float]:
    """Return every figure."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "adapter")
        done = subprocess.run(
            [sys.executable, __file__, "--panel", str(Path(folder) / "adapter")],
            capture_output=True,
            text=True,
            check=True,
        )
    seconds, peak = json.loads(done.stdout)
    times, apart = against_dense()
    return {
        "seconds_of_7b_adapter": seconds, "peak_gib": peak / 2**30, "times_dense_svd": times,
        "largest_relative_difference": apart, "bank_times_peft": bank_against_peft(),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--panel", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.panel:
        sys.stdout.write(json.dumps(panel(Path(arguments.panel))))
        return
    found = measure()
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:28} {value:.4g}\n")


if __name__ == "__main__":
    main()
