"""Where to read this subject: which layers bring an oracle to say what its controls do not.

The layer at which an oracle was trained is not the one at which a subject tells most; in published
sweeps the best is anywhere between a third and nine tenths of the depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tools.activation_oracle.activations import tails
from tools.activation_oracle.controls import Controlled, controlled
from tools.activation_oracle.reader import OracleReader
from tools.errors import ToolInputError

LEAST_TEXTS = 4


@dataclass(frozen=True)
class LayerLift:
    """How far the answers brought about at some layers stand above their controls: nats, mean over texts."""

    layers: tuple[int, ...]
    lift: float
    n: int


@dataclass(frozen=True)
class Sweep:
    """Every set of layers on the texts that choose, best first, and the best one on the texts that did not.

    `tokens` are the forward tokens of subject and base that it took.
    """

    chosen_on: tuple[LayerLift, ...]
    held_out: LayerLift
    tokens: dict[str, int]

    @property
    def layers(self) -> tuple[int, ...]:
        """Return where to read."""
        return self.held_out.layers


def sweep(
    reader: OracleReader, texts: Sequence[str], window: int, question: str, seed: int,
    sets: Sequence[tuple[int, ...]] | None = None,
) -> Sweep:  # fmt: skip
    """Return the layers at which the subject's answers rise most over their strongest control.

    Every other text chooses; the lift of what was chosen is measured on the rest, for the largest of
    several is too large by itself.

    Args:
        reader: The oracle beside the subject.
        texts: Rendered prompts, four or more.
        window: How many of the last tokens are read, fewer of a shorter text.
        question: What is asked.
        seed: Of the random control.
        sets: Sets of layers to try; None is every layer alone.

    Raises:
        ToolInputError: there are too few texts to choose on some and measure on others.
    """
    if len(texts) < LEAST_TEXTS:
        raise ToolInputError(
            f"{len(texts)} texts are too few to choose a layer on some and measure it on others; pass {LEAST_TEXTS}"
        )
    if sets is not None and not sets:
        raise ToolInputError("no set of layers to try: pass some, or none for every layer alone")
    tried = [(layer,) for layer in range(reader.subject.n_layers)] if sets is None else list(sets)
    tokens: Counter[str] = Counter()
    found = [_lift(reader, texts[::2], window, question, seed, layers, tokens) for layers in tried]
    ranked = sorted(found, key=lambda one: -one.lift)
    measured = _lift(reader, texts[1::2], window, question, seed, ranked[0].layers, tokens)
    return Sweep(tuple(ranked), measured, dict(tokens))


def _lift(
    reader: OracleReader, texts: Sequence[str], window: int, question: str, seed: int, layers: tuple[int, ...],
    tokens: Counter[str],
) -> LayerLift:  # fmt: skip
    """Return the mean lift of each text's own answer at these layers, and count what it took."""
    where = tails(reader.subject, texts, [window] * len(texts))
    group, spent = controlled(reader, texts, layers, where, seed)
    tokens.update(spent)
    answers = [row[0][0] for row in reader.answers(group.mine, [question])]
    total = 0.0
    for answer in dict.fromkeys(answers):
        rows = [i for i, said in enumerate(answers) if said == answer]
        total += len(rows) * _of(group, rows, reader, question, answer)
    return LayerLift(layers, total / len(texts), len(texts))


def _of(group: Controlled, rows: Sequence[int], reader: OracleReader, question: str, answer: str) -> float:
    return group.some(rows).lifted(reader, question, answer).lift
