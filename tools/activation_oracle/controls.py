"""The same question asked of everything that could explain the answer away, and the lift over the strongest.

A reading of an oracle is what the activations added: the answer's log-probability, less the largest
that the same answer has with nothing put in, with noise, with the base's own activations, with those
of another adapter, or with the prompt's text in place of any activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tools.activation_oracle.activations import DIFFERENCE, Activations, Where, read
from tools.activation_oracle.reader import Asked, OracleReader, TextAlone
from tools.controls import RANDOM_DELTA, lift_over, random_like
from tools.errors import ToolInputError

NO_ACTIVATION, ZERO, RANDOM, BASE, TEXT = "no_activation", "zero_vector", "random", "base", "text_alone"
LEAST_SPLICED = 2


@dataclass(frozen=True)
class Lifted:
    """An answer's mean log-probability, or yes's log-odds, in nats over some texts, beside the same with each control."""

    answer: str
    value: float
    controls: dict[str, float]

    @property
    def lift(self) -> float:
        """Return what the subject's activations added over the strongest control."""
        return lift_over(self.value, self.controls)


@dataclass(frozen=True)
class Controlled:
    """The subject's activations on some texts, and every control's in the same places."""

    mine: list[Activations]
    controls: dict[str, list[Asked]]

    def some(self, rows: Sequence[int]) -> Controlled:
        """Return those of some of the texts."""
        return Controlled([self.mine[i] for i in rows], {k: [v[i] for i in rows] for k, v in self.controls.items()})

    def lifted(self, reader: OracleReader, question: str, answer: str) -> Lifted:
        """Return how likely this answer is of the subject's activations, and of each control's."""
        return self._scored(answer, lambda asked: reader.log_probs(asked, [question], [answer])[:, 0, 0])

    def margin(self, reader: OracleReader, question: str) -> Lifted:
        """Return the log-odds of yes over no of the subject's activations, and of each control's."""
        return self._scored("yes", lambda asked: reader.margins(asked, [question])[:, 0])

    def _scored(self, answer: str, score: Callable[[list[Asked]], Tensor]) -> Lifted:
        groups = {"subject": list[Asked](self.mine), **self.controls}
        scores = score([one for group in groups.values() for one in group]).view(len(groups), -1).mean(1).tolist()
        values = dict(zip(groups, scores, strict=True))
        if ZERO not in values:  # where vectors are added, a zero vector is no vector
            values[ZERO] = values[NO_ACTIVATION]
        return Lifted(answer, values.pop("subject"), values)


def controlled(
    reader: OracleReader, texts: Sequence[str], layers: Sequence[int], where: Sequence[Where], seed: int,
    channel: str = "subject",
) -> tuple[Controlled, dict[str, int]]:  # fmt: skip
    """Return what the channel's weights make of the texts, with every control; and forward tokens by role.

    Another adapter's activations are a random LoRA's with the subject's norm of change in every
    module; a full fine-tune has no such twin, and goes without. Beside a difference from the base,
    the controls are differences from it too.
    """
    subject = reader.subject
    mine, n_subject = read(subject, texts, "subject" if channel == DIFFERENCE else channel, layers, where)
    plain, n_base = read(subject, texts, "base", layers, where)

    def relative(some: list[Activations]) -> list[Activations]:
        if channel != DIFFERENCE:
            return some
        return [replace(a, vectors=a.vectors - b.vectors) for a, b in zip(some, plain, strict=True)]

    mine = [replace(a, channel=channel) for a in relative(mine)]
    controls: dict[str, list[Asked]] = {
        NO_ACTIVATION: [replace(a, channel=NO_ACTIVATION, adapter=None, silent=True) for a in mine],
        RANDOM: [a.replaced(random_like(a.vectors, seed + i), RANDOM) for i, a in enumerate(mine)],
        BASE: list(relative(plain)),
    }
    if reader.contract.rule != "add":
        controls[ZERO] = [a.replaced(torch.zeros_like(a.vectors), ZERO) for a in mine]
    if reader.contract.asks:
        controls[TEXT] = [TextAlone(a.text) for a in mine]
    if subject.adapter_given:
        subject.add_null(RANDOM_DELTA, seed)
        others, n = read(subject, texts, RANDOM_DELTA, layers, where)
        controls[RANDOM_DELTA] = list(relative(others))
        n_base += n
    return Controlled(mine, controls), {"subject": n_subject, "base": n_base}


def spliced(a: Activations, b: Activations) -> Activations:
    """Return the first half of one window followed by the second half of another: a context that never was.

    An oracle that says of it what it says of either whole does not read what it is given.

    Raises:
        ToolInputError: the windows differ in shape, or have fewer than two positions.
    """
    if a.vectors.shape != b.vectors.shape or a.n_slots < LEAST_SPLICED:
        raise ToolInputError(
            f"windows of shape {list(a.vectors.shape)} and {list(b.vectors.shape)} can't be spliced: "
            "pass two of the same layers and two or more positions"
        )
    half = a.n_slots // 2
    return a.replaced(torch.cat([a.vectors[:, :half], b.vectors[:, half:]], dim=1), "spliced")
