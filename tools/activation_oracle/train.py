"""Train an activation oracle: a LoRA on the base that answers questions about captured vectors.

Only base activations are read, with adapters off. Unlike the paper's recipe the data come as rows
from a file, so that any language and any set of questions can be taught, and an oracle that does
not read what it is given is not written.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm import tqdm

from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.reader import ORACLE, OracleReader
from tools.activation_oracle.rows import N_HELD_OUT, Row, read_rows
from tools.activation_oracle.token_use import TokenUse, answer_losses, token_use, windows
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.residual import blocks, check_layer
from tools.subject import Subject

LOOK_EVERY, SAVE_EVERY = 500, 250
CHECKPOINT = "checkpoint.pt"
POOL = 16


@dataclass(frozen=True)
class Recipe:
    """How an oracle is trained.

    Args:
        layers: The sets of layers it learns to read; every batch has one of them.
        rank: Of the LoRA, on every linear layer of the decoder blocks.
        lr: Peak learning rate; None is `0.5 / d_model`.
        batch: Rows a step, over all processes.
        epochs: Passes over the data.
        seed: Of weights and order.
        max_new_tokens: How long its answers may get.
    """

    layers: tuple[tuple[int, ...], ...]
    rank: int = 64
    lr: float | None = None
    batch: int = 48
    epochs: float = 1.0
    seed: int = 0
    max_new_tokens: int = 32


def train_oracle(
    base: str, data: Path, out: Path, recipe: Recipe, device: str = "cpu", say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train an oracle on the rows in `data` and write it, with its contract, into `out`.

    The last 512 rows are held out. An interrupted run goes on from its last checkpoint. Under
    `accelerate launch` every process takes its share of each batch.

    Returns:
        `matched`, `shuffled`, `random` (nats per answer token on the held-out rows, by set of
        layers), `exact` (share of held-out answers right), `rows`, `steps` and `seconds`.

    Raises:
        ToolInputError: the data can't be used, a layer does not exist, the checkpoint in `out` is
            of another training, or the oracle ignores what it is given.
    """
    rows = read_rows(data, N_HELD_OUT + recipe.batch)
    rows, held_out = rows[:-N_HELD_OUT], rows[-N_HELD_OUT:]
    accelerator = Accelerator(cpu=device == "cpu")
    subject = load_subject(base, device=str(accelerator.device) if device != "cpu" else "cpu")
    reader, weights = _attach(subject, recipe, base)
    steps = int(len(rows) * recipe.epochs / recipe.batch)
    lr = recipe.lr or 0.5 / subject.d_model
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    run = _Run(out, _fingerprint(recipe, data, subject), weights, optimizer, accelerator)
    begun, before = run.resume()
    began = time.monotonic()
    batches = _batches(rows, steps, recipe)
    bar = tqdm(enumerate(batches), total=steps, disable=None, desc="oracle")
    for step, (layers, batch) in bar:
        if step < begun:
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr * _schedule(step, steps)
        loss = _step(reader, batch, layers, weights, optimizer, accelerator)
        if (step + 1) % 50 == 0:
            bar.set_postfix(loss=f"{loss:.3f}")
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
            use = token_use(reader, held_out[:192], layers, recipe.seed)
            if say:
                say(f"step {step + 1}/{steps} loss {loss:.3f} held out " + _told(use))
            if step + 1 >= max(LOOK_EVERY, steps // 3):
                _refuse_deaf(use, step + 1, out)
        if (step + 1) % SAVE_EVERY == 0:
            run.save(step + 1, before + time.monotonic() - began)
    uses = {layers: token_use(reader, held_out, layers, recipe.seed) for layers in recipe.layers}
    for use in uses.values():
        _refuse_deaf(use, steps, out)
    report: dict[str, Any] = {
        "held_out": {",".join(map(str, layers)): use.as_dict() for layers, use in uses.items()},
        "rows": len(rows),
        "steps": steps,
        "seconds": before + time.monotonic() - began,
        "recipe": asdict(recipe),
    }
    if accelerator.is_main_process:
        write_oracle(subject.model, reader.contract, out)
        (out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
        (out / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return report


def _attach(subject: Subject, recipe: Recipe, base: str) -> tuple[OracleReader, list[nn.Parameter]]:
    """Return a new oracle on this base, and its weights; the decoder's linear layers are adapted, no other tower's."""
    for layer in {layer for layers in recipe.layers for layer in layers}:
        check_layer(subject, layer)
    contract = OracleContract(
        base=Path(base).name if Path(base).exists() else base,
        base_sha256=subject.base_sha256,
        read_layers=recipe.layers,
        site=min(1, subject.n_layers - 1),
        decoding=Decoding(max_new_tokens=recipe.max_new_tokens),
    )
    found = {id(module) for module in blocks(subject.model).modules() if isinstance(module, nn.Linear)}
    targets = [name for name, module in subject.model.named_modules() if id(module) in found]
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=targets, task_type="CAUSAL_LM")
    subject.model = get_peft_model(subject.model, config, adapter_name=ORACLE)
    subject._channels.add(ORACLE)
    weights = [p for name, p in subject.model.named_parameters() if ".lora_" in name]
    subject._switch(None)
    return OracleReader(subject, contract), weights


def _step(
    reader: OracleReader, batch: Sequence[Row], layers: tuple[int, ...], weights: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer, accelerator: Accelerator,
) -> float:  # fmt: skip
    """Take one step and return its loss in nats per answer token.

    Each process takes every n-th row; gradients are added up and divided by all answer tokens, so
    that any number of processes takes the same step.
    """
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    total, n, _ = answer_losses(reader, mine, windows(reader, mine, layers), weights)
    optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    sums: Any = accelerator.reduce(torch.stack([total.detach(), n.to(total)]), "sum")
    for weight in weights:
        assert weight.grad is not None, "every weight of the oracle is used"
        summed: Any = accelerator.reduce(weight.grad, "sum")
        weight.grad.copy_(summed / sums[1])
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return float(sums[0] / sums[1])


def _schedule(step: int, steps: int) -> float:
    """Return the share of the peak rate: a hundred steps of warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _batches(rows: Sequence[Row], steps: int, recipe: Recipe) -> Iterator[tuple[tuple[int, ...], list[Row]]]:
    """Yield batches of texts of like length with the set of layers to read, the same ones for the same seed."""
    rng, done, size = random.Random(recipe.seed), 0, recipe.batch
    while done < steps:
        order = rng.sample(range(len(rows)), len(rows))
        for start in range(0, len(order) - size + 1, size * POOL):
            pool = sorted((rows[i] for i in order[start : start + size * POOL]), key=lambda row: len(row.text))
            chunks = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            rng.shuffle(chunks)
            for chunk in chunks:
                if done == steps:
                    return
                done += 1
                yield rng.choice(recipe.layers), chunk


def _told(use: TokenUse) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in use.as_dict().items())


def _refuse_deaf(use: TokenUse, step: int, out: Path) -> None:
    """Stop a training whose oracle does not read what it is given, and leave no checkpoint of it.

    Raises:
        ToolInputError: it answers as well with another row's vectors.
    """
    if use.deaf:
        (out / CHECKPOINT).unlink(missing_ok=True)
        raise ToolInputError(
            f"after {step} steps the oracle answers as well with another row's vectors ({_told(use)}): it ignores what "
            "it is given, and nothing was written; look for answers that the question alone gives away, or train longer"
        )


# -- files


@dataclass
class _Run:
    """Where a training stands, on disk: a checkpoint is believed only where data, recipe and base are the same."""

    out: Path
    fingerprint: str
    weights: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator

    def resume(self) -> tuple[int, float]:
        """Return the steps and seconds already spent, their weights loaded.

        Raises:
            ToolInputError: the checkpoint is of another training.
        """
        path = self.out / CHECKPOINT
        if not path.exists():
            return 0, 0.0
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["fingerprint"] != self.fingerprint:
            raise ToolInputError(
                f"{path} is of a training on other data, another base or recipe: remove it, or pass another --out"
            )
        with torch.no_grad():
            for weight, saved in zip(self.weights, kept["weights"], strict=True):
                weight.copy_(saved)
        self.optimizer.load_state_dict(kept["optimizer"])
        return int(kept["step"]), float(kept["seconds"])

    def save(self, step: int, seconds: float) -> None:
        """Write a checkpoint, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {"fingerprint": self.fingerprint, "step": step, "seconds": seconds, "optimizer": self.optimizer.state_dict(),
                 "weights": [weight.detach().cpu() for weight in self.weights]}  # fmt: skip
        partial = self.out / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)


def _fingerprint(recipe: Recipe, data: Path, subject: Subject) -> str:
    with data.open("rb") as stream:
        told = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(json.dumps([asdict(recipe), told, subject.base_sha256]).encode()).hexdigest()


def write_oracle(model: PeftModel, contract: OracleContract, out: Path) -> None:
    """Write an oracle's adapter in 16 bit, with its contract, and no path of this machine."""
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out), selected_adapters=[ORACLE])
    nested = out / ORACLE
    weights: dict[str, Tensor] = {n: t.half() for n, t in load_file(nested / "adapter_model.safetensors").items()}
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = json.loads((nested / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = contract.base  # PEFT writes the folder that the base was loaded from
    settings["target_modules"] = sorted(settings["target_modules"])
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    for leftover in (*nested.iterdir(), out / "README.md"):  # and a model card with nothing in it
        leftover.unlink(missing_ok=True)
    nested.rmdir()
    contract.save(out)
