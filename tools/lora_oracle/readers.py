"""The readers of weights side by side: each says what a change does, ranked, and how likely it is that anything was planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tools.lora_oracle.candidates import READERS, WRITERS, Candidates
from tools.lora_oracle.claim_reader import ranked
from tools.lora_oracle.claim_training import LoadedReader
from tools.lora_oracle.interpreter import Interpreter
from tools.lora_oracle.library import BENIGN, NOTHING, Change, Known, Planted
from tools.lora_oracle.shapes import EFFECT, Shape

N_SAMPLES = 6
LEAST_P = 0.05
"""Of a claim that is told at all: below it the reader abstains."""


@dataclass(frozen=True)
class Answer:
    """One claim about a change: its parts where they could be told, and the sentence that says it."""

    family: str
    trigger: frozenset[tuple[str, str]] | None
    effect: tuple[str, str] | None
    statement: str = ""
    p: float | None = None

    @property
    def planted(self) -> bool:
        """Return whether it says that something of concern was planted."""
        return self.family not in (NOTHING, BENIGN, "")

    @property
    def told(self) -> bool:
        """Return whether it says so with a probability that is worth telling."""
        return self.planted and (self.p or 0.0) >= LEAST_P


@dataclass(frozen=True)
class Said:
    """What a reader says of one change.

    `answers` are ranked; `samples` are independent answers, of a reader that draws them; `p_planted` is None
    for a reader that gives no probability.
    """

    answers: tuple[Answer, ...]
    samples: tuple[Answer, ...] = ()
    p_planted: float | None = None


@runtime_checkable
class WeightReader(Protocol):
    """Reads changes of one base's weights."""

    name: str

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return what it says of each change."""
        ...


class ByClaims:
    """The claim reader."""

    name = "claim reader"

    def __init__(self, loaded: LoadedReader, n: int = 5) -> None:
        self.loaded, self.n = loaded, n

    @torch.no_grad()
    def scores(self, changes: Sequence[Change]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Return for each change logits over families, at the temperature chosen in training, and over every slot's values."""
        logits, values = self.loaded.model(self.loaded.batch(changes), self.loaded.words, self.loaded.matched)
        return [
            (row / self.loaded.temperature, {slot: v[i] for slot, v in values.items()}) for i, row in enumerate(logits)
        ]

    def probability(self, answer: Answer, scores: tuple[Tensor, dict[str, Tensor]]) -> float:
        """Return how likely the whole of an answer is by some change's scores."""
        logits, values = scores
        config, words = self.loaded.model.config, self.loaded.words
        p = float(logits.softmax(-1)[config.families.index(answer.family)])
        shape = self.loaded.shapes.get(answer.family)
        if shape is None or answer.effect is None:
            return p
        given = {**dict(answer.trigger or ()), EFFECT + answer.effect[0]: answer.effect[1]}
        for slot in shape.slots:
            p *= float(values[slot].softmax(-1)[words.values[slot].index(given[slot])])
        return p

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return its ranked claims."""
        return self.said(self.scores(changes))

    def said(self, scores: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> list[Said]:
        """Return what some changes' scores say, as ranked claims."""
        loaded = self.loaded
        families = loaded.model.config.families
        loud = [i for i, name in enumerate(families) if name not in (NOTHING, BENIGN)]
        out = []
        for row, values in scores:
            claims = ranked(row, values, loaded.words, loaded.model.config, loaded.shapes, self.n)
            answers = tuple(Answer(c.family, frozenset(c.trigger), c.effect, c.statement, c.p) for c in claims)
            out.append(Said(answers, p_planted=float(row.softmax(-1)[loud].sum())))
        return out


class ByInterpreter:
    """The interpreter: its greedy answer first, then samples."""

    name = "interpreter"

    def __init__(self, interpreter: Interpreter, shapes: Mapping[str, Shape], n_samples: int = N_SAMPLES) -> None:
        self.interpreter, self.shapes, self.n_samples = interpreter, shapes, n_samples

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return its answers; the probability is the share of samples that say that something was planted."""
        reader, contract = self.interpreter.reader, self.interpreter.contract
        given = [self.interpreter.given(change) for change in changes]
        best = [row[0][0] for row in reader.answers(given, [contract.question])]
        drawn = [row[0] for row in reader.answers(given, [contract.question], self.n_samples, 1.0)]
        out = []
        for text, texts in zip(best, drawn, strict=True):
            samples = tuple(self.answer(t) for t in texts)
            out.append(Said((self.answer(text),), samples, sum(s.planted for s in samples) / len(samples)))
        return out

    def answer(self, text: str) -> Answer:
        """Return a sentence taken apart."""
        if self.interpreter.contract.is_nothing(text):
            return Answer(NOTHING, frozenset(), None, text)
        for family, shape in self.shapes.items():
            parts = shape.read(text)
            if parts is not None:
                return Answer(family, frozenset(parts[0]), parts[1], text)
        return Answer("", None, None, text)


class QuestionOnly(ByInterpreter):
    """A control: the interpreter asked of no directions at all."""

    name = "question only"

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return what it says when its slots are left empty, the same of every change."""
        (one,) = super().read([{}])
        return [one] * len(changes)


class Majority:
    """What is commonest in the library, said of everything."""

    name = "majority"

    def __init__(self, library: Sequence[Known]) -> None:
        claims = Counter(claim for known in library for claim in known.claims[:1])
        families = Counter(known.family for known in library)
        family = families.most_common(1)[0][0]
        of_it = [claim for claim, _ in claims.most_common() if claim.family == family]
        self.said = Said((_answer_of(of_it[0]) if of_it else Answer(NOTHING, frozenset(), None),))

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return the same for each."""
        return [self.said] * len(changes)


class Nearest:
    """What the most similar adapter of the library does, by the cosine of lens features: memory alone."""

    name = "nearest neighbour"

    def __init__(self, library: Sequence[Known], words: Candidates) -> None:
        self.library, self.words = library, words
        self.sketches = torch.stack([self._sketch(known.deltas) for known in library])

    def _sketch(self, change: Change) -> Tensor:
        return torch.nn.functional.normalize(self.words.features(change).flatten(), dim=0)

    def read(self, changes: Sequence[Change]) -> list[Said]:
        """Return the neighbour's claim, as sure as the two are alike."""
        out = []
        for change in changes:
            best = int((self.sketches @ self._sketch(change)).argmax())
            claims = self.library[best].claims
            out.append(Said((_answer_of(claims[0]) if claims else Answer(NOTHING, frozenset(), None),)))
        return out


class Lens:
    """No training: of each slot the value that stands out most. It is told which slots there are, and names no family."""

    name = "lens"

    def __init__(self, words: Candidates) -> None:
        self.words = words

    def best(self, change: Change, slot: str) -> str | None:
        """Return the value of a slot that modules read most (of an effect: write most); None for a slot without values."""
        if slot not in self.words.values:
            return None
        width, wanted = len(READERS) + 2 * len(WRITERS), slot.startswith(EFFECT)
        columns = [i for i in range(self.words.n_features) if (i % width >= len(READERS)) == wanted]
        scores = self.words.features(change)[self.words.rows(slot)][:, columns].mean(1)
        return self.words.values[slot][int(scores.argmax())]


def _answer_of(claim: Planted) -> Answer:
    trigger = frozenset((c.kind, c.value) for c in claim.trigger)
    return Answer(claim.family, trigger, (claim.effect.kind, claim.effect.value), claim.statement)
