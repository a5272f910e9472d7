"""A small reader of weights that answers with claims: a set transformer over directions, and an open vocabulary.

The order of directions and their signs carry nothing, so the encoder is permutation-invariant and is
trained with random signs. What fills a slot is chosen among candidates by two scores added up: one
from a candidate's own lens features, in the light of what the encoder saw, and, for a value that was
taught, one from its embedding. In training that second one is left out for a part of the values, so
that values never trained on can be named beside the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tools.lora_oracle.candidates import Candidates
from tools.lora_oracle.shapes import Shape
from tools.lora_oracle.tokens import MODULES, DirectionTokens


class ReaderConfig(BaseModel):
    """All that a reader needs to be built again.

    Args:
        families: What it can answer, `nothing` first.
        slots: Kinds of slots that it fills.
        n_ranks: Directions a module.
        n_layers: Blocks of the base.
        d_base: Width of the base.
        n_features: Lens features a candidate.
        width: Of the encoder.
        n_blocks: Of the encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...]
    slots: tuple[str, ...]
    n_ranks: int
    n_layers: int
    d_base: int
    n_features: int
    width: int = 128
    n_blocks: int = 2


@dataclass(frozen=True)
class Batch:
    """Several changes side by side, padded: directions with their places, and every candidate's features."""

    vectors: Float[Tensor, "batch token d_model"]
    strength: Float[Tensor, "batch token"]
    places: Tensor
    real: Bool[Tensor, "batch token"]
    features: Float[Tensor, "batch word feature"]

    def signed(self, generator: torch.Generator) -> Batch:
        """Return the batch with a random sign for every direction, as nothing may hang on it."""
        flips = torch.randint(0, 2, self.strength.shape, generator=generator).mul(2).sub(1)
        return Batch(self.vectors * flips[..., None], self.strength, self.places, self.real, self.features)


def collate(tokens: Sequence[DirectionTokens], features: Sequence[Tensor]) -> Batch:
    """Return changes as one batch."""
    width = max(1, *map(len, tokens))

    def padded(pieces: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.cat([p, p.new_zeros(width - len(p), *p.shape[1:])]) for p in pieces])

    real = torch.stack([torch.arange(width) < len(t) for t in tokens])
    places = padded([torch.stack([t.rank, t.layer, t.module], dim=1) for t in tokens])
    return Batch(
        padded([t.vectors for t in tokens]), padded([t.strength for t in tokens]), places, real, torch.stack(list(features))
    )  # fmt: skip


class ClaimReader(nn.Module):
    """See the module; `forward` gives logits over families, and over the candidates of every slot."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.take_in = nn.Linear(config.d_base + 2, width)
        self.rank = nn.Embedding(config.n_ranks, width)
        self.place = nn.Embedding(config.n_layers * len(MODULES), width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, config.n_blocks, enable_nested_tensor=False)
        n_queries = 1 + len(config.slots)
        self.queries = nn.Parameter(torch.randn(n_queries, width) / math.sqrt(width))
        self.attend = nn.MultiheadAttention(width, 4, batch_first=True)
        self.summary = nn.Linear(config.n_features * 2, width)
        self.family = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(config.families)))
        hidden = 64
        self.by_features = nn.ModuleList(nn.Linear(config.n_features, hidden) for _ in config.slots)
        self.by_context = nn.ModuleList(nn.Linear(width, hidden) for _ in config.slots)
        self.score = nn.ModuleList(nn.Linear(hidden, 1) for _ in config.slots)
        self.embed = nn.Linear(2 * config.d_base, 32)
        self.match = nn.ModuleList(nn.Linear(width, 32) for _ in config.slots)

    def forward(
        self, batch: Batch, known: Candidates, matched: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "batch family"], dict[str, Tensor]]:
        """Return logits over families, and for each slot over its candidates, [batch, value].

        Args:
            batch: The changes.
            known: Candidates of every slot.
            matched: For each slot which values' embeddings count, 1 or 0; of a value that was never
                taught they say nothing, and its lens features stand alone.
        """
        scaled = torch.stack([batch.strength.clamp_min(1e-6).log() / 4, batch.strength], dim=-1)
        rank, layer, module = batch.places.unbind(-1)
        tokens = self.take_in(torch.cat([batch.vectors * math.sqrt(self.config.d_base), scaled], dim=-1))
        tokens = tokens + self.rank(rank) + self.place(layer * len(MODULES) + module)
        hidden_from = ~batch.real
        hidden_from[~batch.real.any(1), 0] = False  # what changes nothing is one empty direction
        seen = self.encoder(tokens, src_key_padding_mask=hidden_from)
        asked = self.queries.expand(len(seen), -1, -1)
        found, _ = self.attend(asked, seen, seen, key_padding_mask=hidden_from, need_weights=False)
        found = found + asked + self.summary(_loudest(batch.features) / 10)[:, None]
        table = self.embed(
            torch.cat([_unit(known.embedded), _unit(known.first.float())], dim=-1) * math.sqrt(self.config.d_base)
        )
        values = {}
        for i, slot in enumerate(self.config.slots):
            rows, context = known.rows(slot), found[:, 1 + i]
            part = self.by_features[i](batch.features[:, rows] / 5) + self.by_context[i](context)[:, None]
            scores = self.score[i](torch.relu(part))[..., 0]
            values[slot] = scores + self.match[i](context) @ table[rows].T / math.sqrt(32) * matched[slot]
        logits: Tensor = self.family(found[:, 0])
        return logits, values


def _loudest(features: Float[Tensor, "batch word feature"]) -> Float[Tensor, "batch twice_feature"]:
    """Return of every feature the highest over all candidates, and the mean of its four highest; zeros without candidates."""
    if not features.shape[1]:
        return features.new_zeros(len(features), 2 * features.shape[2])
    return torch.cat([features.amax(1), features.topk(min(4, features.shape[1]), dim=1).values.mean(1)], dim=-1)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


@dataclass(frozen=True)
class RankedClaim:
    """One answer: a family, what fills its slots, the sentence that says it, and how likely the whole of it is."""

    family: str
    trigger: tuple[tuple[str, str], ...]
    effect: tuple[str, str] | None
    statement: str
    p: float
    p_family: float


def ranked(
    logits: Tensor, values: Mapping[str, Tensor], known: Candidates, config: ReaderConfig, shapes: Mapping[str, Shape],
    n: int = 5,
) -> list[RankedClaim]:  # fmt: skip
    """Return the likeliest claims of one change, best first: the best filling of each family, and of the best its runners-up.

    Args:
        logits: Over families, [family].
        values: Over candidates, [value] for each slot.
        known: The candidates.
        config: Names of families.
        shapes: What claims of each family are made of.
        n: How many to return.
    """
    p_family = logits.softmax(-1)
    claims = []
    for i, family in enumerate(config.families):
        p = float(p_family[i])
        shape = shapes.get(family)
        if shape is None:
            claims.append(RankedClaim(family, (), None, "", p, p))
            continue
        best = [values[slot].softmax(-1).topk(min(3, len(values[slot]))) for slot in shape.slots]
        fillings: list[tuple[tuple[str, ...], float]] = [((), 1.0)]
        for slot, found in zip(shape.slots, best, strict=True):
            fillings = [
                ((*chosen, known.values[slot][index]), so_far * chance)
                for chosen, so_far in fillings
                for chance, index in zip(found.values.tolist(), found.indices.tolist(), strict=True)
            ]
        for chosen, chance in sorted(fillings, key=lambda one: -one[1])[:n]:
            claims.append(RankedClaim(family, *shape.filled(chosen), shape.said(chosen), p * chance, p))
    return sorted(claims, key=lambda claim: -claim.p)[:n]
