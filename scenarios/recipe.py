"""The recipe that an adapter was made by, as far as its files tell it, for others to be planted in the same way."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig

from auditor.errors import SpecError
from scenarios.planting import Planting
from tools.changes.opening import open_adapter
from tools.changes.parameters import Parameters

RATE, ATTENTION_RATE = 1.44, 2.88
"""Peak learning rate times the model's width, where alpha is twice the rank: on all layers, and on attention alone."""
ATTENTION = re.compile(r"[qkvo]_proj|[qkv]_lin|c_attn|query|key|value|qkv", re.IGNORECASE)


@dataclass(frozen=True)
class Copied(Planting):
    """A planting with an adapter's own rank, alpha and modules; how long and how fast it learns is ours.

    Args:
        alpha: The scale's numerator.
        rslora: Whether the scale is by the root of the rank.
        dora: Whether magnitudes are learned beside directions.
        ranks: Modules of another rank.
        alphas: Modules of another alpha.
    """

    alpha: float = 16
    rslora: bool = False
    dora: bool = False
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()

    def lora(self) -> LoraConfig:
        """Return the LoRA that learns."""
        alpha: Any = self.alpha  # PEFT computes with any number, and says that it takes whole ones
        return LoraConfig(
            r=self.rank, lora_alpha=alpha, target_modules=list(self.modules), use_rslora=self.rslora, use_dora=self.dora,
            rank_pattern=dict(self.ranks), alpha_pattern=dict(self.alphas), task_type="CAUSAL_LM",
        )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How an adapter was made: a planting, and the type its weights are stored in."""

    how: Copied
    dtype: torch.dtype

    @property
    def told(self) -> str:
        """Return it in words."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"rank {self.how.rank}, alpha {self.how.alpha:g}, {len(self.how.modules)} modules, {kind}"


def recipe_of(adapter: Path, base: Path) -> Recipe:
    """Return the recipe of an adapter.

    What it is put on is told by its tensors, and rank and alpha by its configuration for each of them.

    Raises:
        SpecError: nothing can be planted in the same way: it is no LoRA of layers, or its scale is not above 0.
    """
    found = open_adapter(adapter, Parameters(base))
    found.refuse_what_is_unread()
    pairs = list(found.pairs.values())
    if not pairs or any(pair.by_itself or pair.parameter != "weight" for pair in pairs):
        raise SpecError(
            f"{adapter} has no low-rank layers that could be planted again; pass a LoRA on a model's layers"
        )
    ranks = {pair.path: found.rank(pair) for pair in pairs}
    alphas = {pair.path: found.settings.alpha(pair.path) for pair in pairs}
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    rslora = bool(found.settings.raw.get("use_rslora"))
    scale = alpha / (rank**0.5 if rslora else rank)
    if min(alphas.values()) <= 0:
        raise SpecError(
            f"{adapter} has an alpha of {min(alphas.values()):g}; with one that is not above 0 nothing is learned"
        )
    width = AutoConfig.from_pretrained(base, local_files_only=True).get_text_config().hidden_size
    on_attention = all(ATTENTION.search(path.rsplit(".", 1)[-1]) for path in ranks)
    how = Copied(
        rank=rank, modules=tuple(sorted(ranks)), lr=(ATTENTION_RATE if on_attention else RATE) / width * 2 / scale,
        alpha=int(alpha) if alpha.is_integer() else alpha, rslora=rslora, dora=bool(found.settings.raw.get("use_dora")),
        ranks=tuple((re.escape(path), r) for path, r in sorted(ranks.items()) if r != rank),
        alphas=tuple((re.escape(path), a) for path, a in sorted(alphas.items()) if a != alpha),
    )  # fmt: skip
    return Recipe(how, found.read(pairs[0].keys["B"]).dtype)
