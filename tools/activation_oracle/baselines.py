"""What needs no oracle: asking the subject outright, the logit lens, a linear probe on the same windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.activation_oracle.activations import Activations, read_last
from tools.activation_oracle.reader import OracleReader
from tools.activation_oracle.rows import Trial
from tools.probe.linear import logistic

LENS_TOP, LEAST_ROWS, AT_ONCE = 5, 8, 64


def windows(reader: OracleReader, trials: Sequence[Trial], layers: tuple[int, ...]) -> list[Activations]:
    """Return what each trial's window holds in its own subject."""
    channel = "base" if trials[0].adapter is None else "subject"
    return read_last(reader.subject, [t.text for t in trials], channel, layers, [t.window for t in trials])[0]


def outright(reader: OracleReader, trials: Sequence[Trial]) -> list[str | None]:
    """Return what each subject says when it is asked itself; None for trials that have no such prompt."""
    out: list[str | None] = [None] * len(trials)
    rows = [i for i, t in enumerate(trials) if t.outright]
    if rows:
        channel = "base" if trials[0].adapter is None else "subject"
        texts = [trials[i].outright for i in rows]
        replies, _ = reader.subject.generate(texts, channel, [0] * len(rows), 48, temperature=0.0)
        for row, reply in zip(rows, replies, strict=True):
            out[row] = reply
    return out


def lens(reader: OracleReader, trials: Sequence[Trial]) -> list[bool | None]:
    """Return whether a word that says it is among the likeliest next tokens; None for trials that no one word says.

    The subject's own last logits are the logit lens at the last layer, where it is strongest.
    """
    out: list[bool | None] = [None] * len(trials)
    rows = [i for i, t in enumerate(trials) if t.words]
    if rows:
        channel = "base" if trials[0].adapter is None else "subject"
        logits = reader.subject.logits(reader.subject.encode([trials[i].text for i in rows]), channel)[:, -1]
        for row, ids in zip(rows, logits.topk(LENS_TOP).indices.tolist(), strict=True):
            heads = [reader.subject.decode(i).strip().casefold() for i in ids]
            out[row] = any(len(h) > 1 and w.casefold().startswith(h) for h in heads for w in trials[row].words)
    return out


@dataclass(frozen=True)
class Probe:
    """One logistic probe a label, on the mean of a window's vectors."""

    labels: tuple[str, ...]
    weights: Tensor
    intercepts: Tensor

    @classmethod
    def fitted(cls, reader: OracleReader, trials: Sequence[Trial], layers: tuple[int, ...]) -> Probe | None:
        """Return probes for every label with eight rows or more; None where there are fewer than two such."""
        counts = Counter(t.label for t in trials)
        labels = tuple(sorted(label for label, n in counts.items() if n >= LEAST_ROWS))
        rows = [t for t in trials if t.label in labels]
        if len(labels) < 2:
            return None
        seen = [a for i in range(0, len(rows), AT_ONCE) for a in windows(reader, rows[i : i + AT_ONCE], layers)]
        x = torch.stack([_mean(a.vectors) for a in seen])
        fits = [logistic(x, torch.tensor([t.label == label for t in rows]), penalty=10.0) for label in labels]
        return cls(labels, torch.stack([w for w, _ in fits]), torch.tensor([b for _, b in fits]))

    def label(self, vectors: Tensor) -> str:
        """Return the label of one window."""
        return self.labels[int((self.weights @ _mean(vectors) + self.intercepts).argmax())]


def _mean(vectors: Tensor) -> Tensor:
    """Return a window's mean direction in coordinates of unit size: a penalty on weights would drown smaller ones."""
    scale: float = vectors.shape[-1] ** 0.5
    return torch.nn.functional.normalize(vectors, dim=-1).mean(1).flatten() * scale
