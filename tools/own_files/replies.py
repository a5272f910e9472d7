"""Replies of the subject under its own files: its template, its tokenizer, and those defaults that can steer what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from tools.errors import ToolInputError
from tools.own_files.own import Own
from tools.sampling import SeededNoise
from tools.subject import NOISE_COPIES, Encoded, Subject

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


class Asks(Protocol):
    """Prompts, whose weights answer them, and under which files."""

    @property
    def role(self) -> str:
        """Return whose weights answer."""
        ...

    @property
    def n_tokens(self) -> int:
        """Return the forward tokens of the prompts."""
        ...

    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        """Return one reply for each prompt, and the forward tokens spent."""
        ...


@dataclass(frozen=True)
class _UnderBaseFiles:
    subject: Subject
    texts: tuple[str, ...]
    role: str

    @property
    def n_tokens(self) -> int:
        return self.subject.encode(self.texts).n_tokens

    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        return self.subject.generate(self.texts, self.role, seeds, max_new_tokens, temperature)


@dataclass(frozen=True)
class _UnderOwnFiles:
    subject: Subject
    ids: tuple[tuple[int, ...], ...]
    applied: Mapping[str, Any]
    role: str = "subject"

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.ids))

    @torch.no_grad()
    def replies(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> tuple[list[str], int]:
        n_rows = self.subject.rows_that_fit(NOISE_COPIES, max(map(len, self.ids)) + max_new_tokens)
        said, tokens = [], 0
        for start in range(0, len(self.ids), n_rows):
            batch = self._batch(self.ids[start : start + n_rows])
            noise = SeededNoise(list(seeds[start : start + n_rows]), temperature)
            new = self._generate(batch, max_new_tokens, noise)[:, batch.ids.shape[1] :]
            said += [t.strip() for t in self.subject.tokenizer.batch_decode(new, skip_special_tokens=True)]
            tokens += batch.n_tokens + int((new != self.subject.tokenizer.pad_token_id).sum())
        return said, tokens

    def _batch(self, ids: Sequence[Sequence[int]]) -> Encoded:
        """Return rows of ids as one left-padded batch."""
        width, pad = max(map(len, ids)), self.subject.tokenizer.pad_token_id or 0
        rows = torch.tensor([[pad] * (width - len(one)) + list(one) for one in ids])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
        return Encoded(rows.to(self.subject.device), mask.to(self.subject.device))

    def _generate(self, batch: Encoded, max_new_tokens: int, noise: SeededNoise) -> torch.Tensor:
        pad = self.subject.tokenizer.pad_token_id
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            **{
                **self.applied,
                "do_sample": False,
                "num_beams": 1,
                "max_new_tokens": max_new_tokens,
                "pad_token_id": pad,
                "eos_token_id": self.subject.eos_ids,
            }  # fmt: skip
        )
        with self.subject.channel(self.role) as model:
            out: torch.Tensor = model.generate(
                input_ids=batch.ids, attention_mask=batch.mask, generation_config=settings, logits_processor=[noise]
            )
        return out


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
    ids = (
        subject.own.ids(texts)
        if subject.own.reads_otherwise
        else subject.tokenizer(texts, add_special_tokens=False)["input_ids"]
    )
    n_embedded = subject.model.get_input_embeddings().num_embeddings
    if ids is None or any(i >= n_embedded for row in ids for i in row) or not all(ids):
        raise ToolInputError(
            "the subject's own tokenizer can't be used on these prompts: it fails, or has tokens that the weights have not"
        )
    return _UnderOwnFiles(subject, tuple(tuple(row) for row in ids), applied(subject.own))


def applied(own: Own) -> dict[str, Any]:
    """Return those of the subject's generation defaults that are applied here."""
    return {name: value for name, value in own.defaults.items() if name in APPLIED}


def _first(own: Own, subject: Subject, messages: Messages) -> str:
    """Return the prompt under the first of the subject's templates; under the base's where it brings none that renders it."""
    return next(iter(own.renders(messages)), None) or subject.render(messages)
