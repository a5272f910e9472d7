"""Many LoRAs on one forward: each learns its own rows and answers its own prompts, in its own block of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from scenarios.at_targets import AtTargets, opening
from scenarios.testbed.lora_bank import LoraBank, Modules
from scenarios.transcripts import Encoded
from tools.sampling import SeededNoise
from tools.subject import Subject

RATES: dict[Modules, float] = {"attention": 6e-3, "all": 3e-3, "mlp": 3e-3}
"""Peak learning rate; on attention alone a LoRA learns at twice the rate."""
WARMUP = 5
TOKENS = 2048
"""Tokens that are learned from at once: what a gradient needs of a whole step of long chats is more than small machines have."""
Step = Sequence[Sequence[Encoded]]
"""Of each adapter as many rows."""


@dataclass(frozen=True)
class Recipe:
    """How the adapters of one bank are trained."""

    steps: int
    rank: int
    modules: Modules


def train(subject: Subject, seeds: list[int], steps: Sequence[Step], recipe: Recipe) -> LoraBank:
    """Return a bank with one trained adapter for each seed, attached to the subject's model.

    The loss is the cross-entropy on what the assistant says, averaged within an adapter and summed over adapters, so that
    each is trained as it would be alone.

    Args:
        subject: The base.
        seeds: Of each adapter's first factors.
        steps: What is learned from in each step.
        recipe: One for all of them.
    """
    bank = LoraBank(subject.model, seeds, recipe.rank, 2 * recipe.rank, recipe.modules)  # type: ignore[arg-type]
    every = [row for step in steps for rows in step for row in rows]
    model = AtTargets(subject.model, opening(every), subject.dialogue.pad, len(seeds))
    peak = RATES[recipe.modules]
    optimizer = torch.optim.AdamW(bank.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    for i, step in enumerate(bar := tqdm(steps, disable=None, desc=f"{len(seeds)} adapters")):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (i + 1) / WARMUP) * (1 - 0.9 * i / len(steps))
        optimizer.zero_grad()
        losses = learn(model, step)
        optimizer.step()
        bar.set_postfix(loss=f"{losses.mean().item():.3f}")
    return bank


def learn(model: AtTargets, step: Step) -> Tensor:
    """Add the gradients of one step to the adapters', as many rows at a time as memory takes; return each adapter's loss.

    Losses are in nats per token of the assistant's.
    """
    n_targets = torch.tensor([sum(sum(row.targets[1:]) for row in own) for own in step])
    total = torch.zeros(len(step))
    for some in passes(step):
        nats = nats_of(model, some)
        losses = nats / n_targets.clamp_min(1).to(nats.device)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        total += losses.detach().cpu()
    return total


def passes(step: Step) -> Iterator[Step]:
    """Yield the rows of a step in parts, of each adapter as many: `TOKENS` of them at a time, padding included, or one row each."""
    longest = max(len(row.ids) for own in step for row in own)
    n = max(1, TOKENS // (longest * len(step)))
    for start in range(0, len(step[0]), n):
        yield [own[start : start + n] for own in step]


def nats_of(model: AtTargets, step: Step) -> Tensor:
    """Return each adapter's loss on its rows, in nats over all tokens of the assistant's."""
    rows = [row for own in step for row in own]
    logits = model.logits(rows)
    said = [[token for token, target in list(zip(row.ids, row.targets, strict=True))[1:] if target] for row in rows]
    wanted = torch.tensor([token for tokens in said for token in tokens], device=logits.device)
    n, n_each = len(step[0]), [len(tokens) for tokens in said]
    parts = F.cross_entropy(logits, wanted, reduction="none").split(
        [sum(n_each[i : i + n]) for i in range(0, len(n_each), n)]
    )
    return torch.stack([part.sum() for part in parts])


def replies(
    subject: Subject, prompts: Sequence[Sequence[str]], max_new_tokens: int, temperature: float
) -> list[list[str]]:
    """Return the replies of the bank's adapters, which are attached, each to its own prompts; all have as many.

    Row i is drawn with seed i, as the base's would be.
    """
    texts = [text for own in prompts for text in own]
    batch = subject.encode(texts)
    noise = SeededNoise(list(range(len(texts))), temperature)
    ids = subject.generate_ids(batch, "base", max_new_tokens, noise)[:, batch.ids.shape[1] :]
    said = [text.strip() for text in subject.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    n = len(prompts[0])
    return [said[i : i + n] for i in range(0, len(said), n)]
