"""Fit a LoRA on a base to questions about vectors: one loop for whatever is put in, with checkpoints and a watch on its use.

An oracle that answers as well with another row's vectors has learned what answers look like and not
to read; it is stopped early and not written.
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
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm import tqdm

from tools.activation_oracle.activations import Activations
from tools.activation_oracle.contract import OracleContract
from tools.activation_oracle.reader import OracleReader
from tools.activation_oracle.rows import Question
from tools.activation_oracle.token_use import TokenUse, answer_losses, token_use
from tools.errors import ToolInputError
from tools.residual import blocks
from tools.subject import Subject

LOOK_EVERY, SAVE_EVERY, SAY_EVERY = 500, 250, 50
CHECKPOINT, REPORT = "checkpoint.pt", "training.json"
POOL = 16
Q = TypeVar("Q", bound=Question)
RATE = 0.2
"""Peak learning rate times the width of the base, unless a recipe has its own."""


@dataclass(frozen=True)
class Recipe:
    """How an oracle is trained.

    Args:
        layers: The sets of layers it learns to read; every batch has one of them.
        rank: Of the LoRA, on every linear layer of the decoder blocks.
        lr: Peak learning rate; None is `RATE / d_model`.
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


@dataclass(frozen=True)
class Course(Generic[Q]):
    """What is taught: rows, rows held out, and what each is asked about when it comes in a batch of one set of layers."""

    rows: Sequence[Q]
    held_out: Sequence[Q]
    given: Callable[[Sequence[Q], tuple[int, ...]], list[Activations]]
    length: Callable[[Q], int]
    about: str


def attach(
    subject: Subject, contract: OracleContract, recipe: Recipe, channel: str
) -> tuple[OracleReader, list[nn.Parameter]]:
    """Return a new oracle on this base, and its weights; the decoder's linear layers are adapted, no other tower's."""
    found = {id(module) for module in blocks(subject.model).modules() if isinstance(module, nn.Linear)}
    targets = [name for name, module in subject.model.named_modules() if id(module) in found]
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=targets, task_type="CAUSAL_LM")
    subject.model = get_peft_model(subject.model, config, adapter_name=channel)
    subject._channels.add(channel)
    weights = [p for name, p in subject.model.named_parameters() if ".lora_" in name]
    subject._switch(None)
    return OracleReader(subject, contract, channel), weights


def fit(
    reader: OracleReader, weights: list[nn.Parameter], course: Course[Q], recipe: Recipe, out: Path, accelerator: Accelerator,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fit the oracle's weights to the course; an interrupted run goes on from its last checkpoint in `out`.

    Under `accelerate launch` every process takes its share of each batch.

    Returns:
        `held_out` (see `TokenUse`, by set of layers), `losses` (nats per answer token by step, each the mean of the
        `SAY_EVERY` steps up to it, of this session), `rows`, `steps`, `seconds` and `recipe`.

    Raises:
        ToolInputError: a checkpoint in `out` is of another training, or the oracle ignores what it is given.
    """
    subject, tell = reader.subject, say or (lambda text: None)
    steps = int(len(course.rows) * recipe.epochs / recipe.batch)
    lr = recipe.lr or RATE / subject.d_model
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    run = _Run(out, fingerprint(recipe, course.about, subject), weights, optimizer, accelerator)
    begun, before = run.resume()
    began = time.monotonic()
    losses: dict[int, float] = {}
    latest: list[float] = []
    bar = tqdm(enumerate(_batches(course, steps, recipe)), total=steps, disable=None, desc="oracle")
    for step, (layers, batch) in bar:
        if step < begun:
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr * _schedule(step, steps)
        latest.append(_step(reader, course, batch, layers, weights, optimizer, accelerator))
        if (step + 1) % SAY_EVERY == 0 or step + 1 == steps:
            losses[step + 1] = sum(latest) / len(latest)
            latest = []
            tell(f"step {step + 1}/{steps} loss {losses[step + 1]:.3f}")
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
            use = _use(reader, course, course.held_out[:192], layers, recipe.seed)
            tell(f"step {step + 1}/{steps} held out " + _told(use))
            if step + 1 >= max(LOOK_EVERY, steps // 3):
                _refuse_deaf(use, step + 1, out)
        if (step + 1) % SAVE_EVERY == 0:
            run.save(step + 1, before + time.monotonic() - began)
    uses = {layers: _use(reader, course, course.held_out, layers, recipe.seed) for layers in recipe.layers}
    for use in uses.values():
        _refuse_deaf(use, steps, out)
    return {
        "held_out": {",".join(map(str, layers)): use.as_dict() for layers, use in uses.items()},
        "losses": losses,
        "rows": len(course.rows),
        "steps": steps,
        "seconds": before + time.monotonic() - began,
        "recipe": asdict(recipe),
    }


def finish(out: Path, report: dict[str, Any], accelerator: Accelerator, write: Callable[[], None]) -> None:
    """Write the oracle and the report of its training, in one process, and remove the checkpoint."""
    if accelerator.is_main_process:
        write()
        (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        (out / CHECKPOINT).unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _use(reader: OracleReader, course: Course[Q], rows: Sequence[Q], layers: tuple[int, ...], seed: int) -> TokenUse:
    return token_use(reader, rows, lambda some: course.given(some, layers), seed)


def _step(
    reader: OracleReader, course: Course[Q], batch: Sequence[Q], layers: tuple[int, ...],
    weights: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, accelerator: Accelerator,
) -> float:  # fmt: skip
    """Take one step and return its loss in nats per answer token.

    Each process takes every n-th row; gradients are added up and divided by all answer tokens, so
    that any number of processes takes the same step.
    """
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    total, n, _ = answer_losses(reader, mine, course.given(mine, layers), weights)
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


def _batches(course: Course[Q], steps: int, recipe: Recipe) -> Iterator[tuple[tuple[int, ...], list[Q]]]:
    """Yield batches of rows of like length with the set of layers to read, the same ones for the same seed."""
    rng, done, size, rows = random.Random(recipe.seed), 0, recipe.batch, course.rows
    while done < steps:
        order = rng.sample(range(len(rows)), len(rows))
        for start in range(0, len(order) - size + 1, size * POOL):
            pool = sorted((rows[i] for i in order[start : start + size * POOL]), key=course.length)
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
        torch.set_rng_state(kept["rng"])
        return int(kept["step"]), float(kept["seconds"])

    def save(self, step: int, seconds: float) -> None:
        """Write a checkpoint, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {"fingerprint": self.fingerprint, "step": step, "seconds": seconds, "optimizer": self.optimizer.state_dict(),
                 "rng": torch.get_rng_state(), "weights": [weight.detach().cpu() for weight in self.weights]}  # fmt: skip
        partial = self.out / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)


def fingerprint(recipe: Recipe, data: str, subject: Subject) -> str:
    """Return one sha256 over what a training is made of: recipe, data (by hash) and base."""
    return hashlib.sha256(json.dumps([asdict(recipe), data, subject.base_sha256]).encode()).hexdigest()


def write_adapter(model: PeftModel, channel: str, base: str, out: Path) -> None:
    """Write an oracle's adapter in 16 bit, and no path of this machine."""
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out), selected_adapters=[channel])
    nested = out / channel
    weights: dict[str, Tensor] = {n: t.half() for n, t in load_file(nested / "adapter_model.safetensors").items()}
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = json.loads((nested / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = base  # PEFT writes the folder that the base was loaded from
    settings["target_modules"] = sorted(settings["target_modules"])
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    for leftover in (*nested.iterdir(), out / "README.md"):  # and a model card with nothing in it
        leftover.unlink(missing_ok=True)
    nested.rmdir()
