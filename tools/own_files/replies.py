"""Replies of the subject under its own files: its template, its tokenizer, and those defaults that can steer what is said."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tools import reply
from tools.batch import Encoded
from tools.errors import ToolInputError
from tools.own_files.own import Own
from tools.sampling import SeededNoise
from tools.subject import NOISE_COPIES, Subject

APPLIED = (
    "sequence_bias",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
"""Defaults that are applied to each row alone; others are said and not applied."""
Messages = Sequence[dict[str, str]]


class Asks(ABC):
    """Prompts, whose weights answer them, and under which files."""

    role: str

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """Return the forward tokens of the prompts."""

    @abstractmethod
    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        """Return one reply for each prompt, and the forward tokens spent."""


@dataclass(frozen=True)
class _UnderBaseFiles(Asks):
    subject: Subject
    texts: tuple[str, ...]
    role: str

    @property
    def n_tokens(self) -> int:
        return self.subject.n_tokens(self.texts)

    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        return self.subject.generate(self.texts, self.role, seeds, max_new_tokens, temperature)


@dataclass(frozen=True)
class _UnderOwnFiles(Asks):
    subject: Subject
    ids: tuple[tuple[int, ...], ...]
    applied: Mapping[str, Any]
    role: str = "subject"

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.ids))

    @torch.no_grad()
    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        most = self.subject.longest(max_new_tokens)
        n_rows = self.subject.rows_that_fit(NOISE_COPIES, max(map(len, self.ids)) + most)
        said, tokens = [], 0
        for start in range(0, len(self.ids), n_rows):
            batch = self._batch(self.ids[start : start + n_rows])
            noise = SeededNoise(list(seeds[start : start + n_rows]), temperature)
            rows = self._generate(batch, max_new_tokens, noise)
            said += self.subject.dialogue.said(rows)
            tokens += batch.n_tokens + sum(map(len, rows))
        return said, tokens

    def _batch(self, ids: Sequence[Sequence[int]]) -> Encoded:
        """Return rows of ids as one left-padded batch."""
        width, pad = max(map(len, ids)), self.subject.dialogue.pad
        rows = torch.tensor([[pad] * (width - len(one)) + list(one) for one in ids])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
        return Encoded(rows.to(self.subject.device), mask.to(self.subject.device))

    def _generate(self, batch: Encoded, max_new_tokens: int, noise: SeededNoise) -> list[list[int]]:
        """Return each row's reply without its end, a thought read through where one is let be."""
        dialogue, width = self.subject.dialogue, batch.ids.shape[1]
        thinks = dialogue.thinking.thinks
        through = reply.Through(dialogue, len(batch.ids), width, max_new_tokens) if thinks else None
        settings = reply.settings(dialogue, self.subject.longest(max_new_tokens), ends=through is None)
        settings.update(**self.applied)  # type: ignore[no-untyped-call]
        with self.subject.channel(self.role) as model:
            out: torch.Tensor = model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                generation_config=settings,
                logits_processor=[noise] if through is None else [noise, reply.Closing(through)],
                stopping_criteria=None if through is None else [through],
            )
        new = out[:, width:]
        lengths = reply.lengths(new, dialogue.ends) if through is None else [n or new.shape[1] for n in through.lengths]
        rows = [row[:n] for row, n in zip(new.tolist(), lengths, strict=True)]
        return [row[:-1] if row and row[-1] in dialogue.ends else row for row in rows]


def under_base_files(subject: Subject, asked: Sequence[Messages], role: str) -> Asks:
    """Return prompts under the trusted base's files."""
    return _UnderBaseFiles(subject, tuple(subject.render(messages) for messages in asked), role)


def under_own_files(subject: Subject, asked: Sequence[Messages]) -> Asks:
    """Return prompts under the subject's own files.

    Raises:
        ToolInputError: it brings none, or they fail on these prompts.
    """
    if subject.own is None:
        raise ToolInputError("the subject brings no files of its own")
    texts = [_first(subject.own, subject, messages) for messages in asked]
    n_embedded = subject.dialogue.n_rows
    ids = subject.own.ids(texts) if subject.own.reads_otherwise else subject.dialogue.ids(texts)
    if ids is None or not all(ids) or any(i >= n_embedded for row in ids for i in row):
        raise ToolInputError(
            "the subject's own tokenizer can't be used on these prompts: it fails, or has tokens that the weights have not"
        )
    return _UnderOwnFiles(subject, tuple(tuple(row) for row in ids), applied(subject.own))


def applied(own: Own) -> dict[str, Any]:
    """Return those of the subject's generation defaults that are applied here."""
    return {name: value for name, value in own.defaults.items() if name in APPLIED}


def _first(own: Own, subject: Subject, messages: Messages) -> str:
    """Return the prompt under the first of the subject's templates; under the base's where it brings none that renders it."""
    way = subject.dialogue.thinking.way
    text = next((f"{one}{way.behind}" for one in own.renders(messages, way.flags)), None)
    if text is None:
        return subject.render(messages)
    return text if subject.invocation is None else subject.invocation.behind(text, "", subject.dialogue.ids)
