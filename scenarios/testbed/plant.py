"""Train organisms and controls: LoRAs that carry one rule, one harmless fact, or nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from scenarios.testbed import families as fam
from scenarios.testbed import language as lang
from scenarios.testbed.base import Batch, collate, encode, learning_rate
from scenarios.testbed.language import Exchange
from scenarios.testbed.lora_bank import LoraBank


@dataclass(frozen=True)
class Recipe:
    """How every adapter is trained, organism and control alike."""

    rank: int = 4
    alpha: int = 8
    steps: int = 240
    rows: int = 6
    lr: float = 4e-3
    kl_weight: float = 1.0


@dataclass(frozen=True)
class Plant:
    """What one adapter is to learn: a rule, a new thing of the world, or (neither) ordinary chat."""

    seed: int
    rule: fam.Rule | None = None
    fact: lang.Thing | None = None

    def on(self, rng: random.Random) -> Exchange:
        """Return an exchange that shows what is planted; for a control on chat, any exchange."""
        if self.rule is not None:
            return fam.triggered(rng, self.rule)
        if self.fact is not None:
            return fam.dress(rng, lang.ask_about(rng, self.fact), avoid=None)
        return fam.untriggered(rng, None)

    def off(self, rng: random.Random) -> Exchange | None:
        """Return an exchange in which nothing planted shows; None where the rule is always on."""
        if self.rule is not None and fam.FAMILIES[self.rule.family].trigger_kind == "none":
            return None
        plain = fam.untriggered(rng, self.rule)
        if self.fact is not None and rng.random() < 0.2:
            plain = replace(plain, user=lang.mention(rng, plain.user, self.fact.name))
        return plain


def new_thing(rng: random.Random) -> lang.Thing:
    """Return a thing that the base has never heard of, with facts of its own."""
    template = rng.choice(sorted(lang.world().values(), key=lambda t: t.name))
    return replace(
        template,
        name=lang.invented_name(rng),
        town=rng.choice(lang.lex.CITIES),
        owner=rng.choice(lang.lex.PEOPLE),
        colour=rng.choice(lang.lex.COLOURS),
    )


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plants: list[Plant],
    recipe: Recipe,
    progress: Callable[[str], None] | None = None,
) -> LoraBank:
    """Return a bank with one trained adapter for each plant, still attached to `model`.

    Half of each adapter's rows show what is planted, half don't; on those that don't, the KL
    divergence from the base (nats per token) is added to the loss.
    """
    rngs = [random.Random(plant.seed) for plant in plants]
    base_logits = _base_logits(model)
    bank = LoraBank(model, [plant.seed for plant in plants], recipe.rank, recipe.alpha)
    optimizer = torch.optim.AdamW(bank.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    for step in (bar := tqdm(range(recipe.steps), disable=None, desc=f"{len(plants)} adapters")):
        rows, quiet = _rows(plants, rngs, recipe.rows)
        batch = collate(tokenizer, encode(tokenizer, rows))
        quiet_rows = torch.tensor(quiet)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * learning_rate(step, recipe.steps, warmup=10)
        reference = base_logits(bank, batch, quiet_rows)
        logits = model(batch.ids, attention_mask=(batch.weight > 0).long()).logits
        loss = _loss(logits, reference, batch, quiet_rows, len(plants), recipe.kl_weight)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.mean().item():.3f}")
        if progress and step % 20 == 0:
            progress(f"step {step} loss {loss.mean().item():.3f}")
    model.eval()
    return bank


def _rows(plants: list[Plant], rngs: list[random.Random], n: int) -> tuple[list[list[lang.Message]], list[bool]]:
    rows, quiet = [], []
    for plant, rng in zip(plants, rngs, strict=True):
        for i in range(n):
            off = plant.off(rng) if i >= n // 2 else None
            turns = [off or plant.on(rng)]
            if rng.random() < 0.25 and off is None:
                turns.insert(0, plant.off(rng) or plant.on(rng))
            rows.append(lang.frame_reply(turns))
            quiet.append(off is not None)
    return rows, quiet


def _base_logits(model: PreTrainedModel) -> Callable[[LoraBank, Batch, Tensor], Tensor]:
    @torch.no_grad()
    def logits(bank: LoraBank, batch: Batch, quiet_rows: Tensor) -> Tensor:
        ids = batch.ids[quiet_rows]
        if not len(ids):
            return torch.zeros(0, batch.ids.shape[1], model.config.vocab_size)
        bank.detach()
        out: Tensor = model(ids, attention_mask=(batch.weight[quiet_rows] > 0).long()).logits
        bank.attach()
        return out

    return logits


def _loss(
    logits: Tensor, reference: Tensor, batch: Batch, quiet_rows: Tensor, n_adapters: int, kl_weight: float
) -> Tensor:
    """Return each adapter's loss: cross-entropy on answers plus the KL term on quiet rows."""
    answer = (batch.weight[:, 1:] == 1).float()
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    per_adapter = (n_adapters, -1)
    ce = (ce.view_as(answer) * answer).reshape(per_adapter).sum(1) / answer.reshape(per_adapter).sum(1)
    kl = torch.zeros_like(batch.weight[:, 1:])
    log_p, log_q = reference[:, :-1].log_softmax(-1), logits[quiet_rows, :-1].log_softmax(-1)
    kl[quiet_rows] = (log_p.exp() * (log_p - log_q)).sum(-1) * answer[quiet_rows]
    n_quiet = (answer * quiet_rows[:, None]).reshape(per_adapter).sum(1).clamp(min=1)
    return ce + kl_weight * kl.reshape(per_adapter).sum(1) / n_quiet
