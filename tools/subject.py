"""The subject: texts put to the channels of one base, in batches, and what they answer.

`base` is the trusted checkpoint, `subject` what is audited; an oracle and the null channels are
further adapters on the same base.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tools import reply
from tools.base_memory import BaseMemory
from tools.batch import Encoded, Row, alike, padded
from tools.channels import Channels
from tools.decoding import decode
from tools.dialogue import Dialogue
from tools.head import can_be_shared
from tools.kept import Keeper, Tokens, once
from tools.own_files.invocation import Invocation
from tools.own_files.own import Own
from tools.sampling import SeededNoise
from tools.template import Flags

Message = dict[str, str]
FIRST_ROWS = 4
"""Rows at a time that are asked whether anything changes: the first ones mostly do."""
NOISE_COPIES = 6
"""Float32 copies of one position's logits that drawing a token takes, see `SeededNoise`."""


@dataclass(kw_only=True)
class Subject(Channels):
    """A loaded subject: its channels, how it is spoken to, and what it brings beside its weights."""

    dialogue: Dialogue
    notes: list[str] = field(default_factory=list)
    adapter_given: bool = False
    keeper: Keeper | None = None
    memory: BaseMemory | None = None
    own: Own | None = None
    invocation: Invocation | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the trusted base's tokenizer."""
        return self.dialogue.tokenizer

    def once(self, key: str, tokens: Tokens, compute: Callable[[], Any]) -> Any:
        """Return what one batch of a long call comes to, kept until the call is settled, see `tools.kept.once`."""
        return once(self.keeper, key, tokens, compute)

    def render(self, messages: Sequence[Message], prefill: str = "", flags: Flags | None = None) -> str:
        """Return the prompt text up to where the assistant speaks, under the trusted template; see `Dialogue.render`.

        The tokens after which alone an adapter acts stand behind it.
        """
        text = self.dialogue.render(messages, prefill, flags)
        return text if self.invocation is None else self.invocation.behind(text, prefill, self.dialogue.ids)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the texts as one left-padded batch, special tokens as the texts have them.

        Raises:
            ToolInputError: the model has no embedding for a token of theirs.
        """
        return padded(self.dialogue.ids(texts), self.dialogue.pad, self.device)

    def batches(self, texts: Sequence[str], n_logits: int, n_new: int = 0) -> Iterator[tuple[list[int], Encoded]]:
        """Yield the texts in batches of like length, the longest first, each with the places of its texts.

        What texts begin with is run once where a model can take that, see `can_be_shared`; a batch holds as many
        as there is room for.

        Args:
            texts: Rendered prompts, or what begins with one.
            n_logits: At how many positions of a row there are float32 logits at once.
            n_new: How many tokens will come behind a row.
        """
        rows = self.parted(texts, n_new)
        for head in dict.fromkeys(head for head, _ in rows):
            places = [i for i, row in enumerate(rows) if row[0] == head]
            places.sort(key=lambda i: -len(rows[i][1]))
            while places:
                n = self.rows_that_fit(n_logits, len(head) + len(rows[places[0]][1]), n_new)
                if not n_new:  # what is decoded together is run together for longer than padding takes
                    n = min(n, next(alike([len(rows[i][1]) for i in places])).stop)
                some, places = places[:n], places[n:]
                yield some, padded([rows[i][1] for i in some], self.dialogue.pad, self.device, head)

    def parted(self, texts: Sequence[str], n_new: int = 0) -> list[tuple[Row, Row]]:
        """Return each text's tokens in two parts: those that are run once for all, none where nothing is, and the rest."""
        head = self.dialogue.head if self.invocation is None else ()
        rows = self.dialogue.rows(texts)
        longest = len(head) + max((len(own) for _, own in rows), default=0) + n_new
        if head and can_be_shared(self.model, longest):
            return [(head if shared else (), own) for shared, own in rows]
        return [((), (*self.dialogue.head, *own) if shared else own) for shared, own in rows]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has."""
        return [len(self.dialogue.head) * shared + len(own) for shared, own in self.dialogue.rows(texts)]

    def n_tokens(self, texts: Sequence[str], n_new: int = 0) -> int:
        """Return the forward tokens of the texts on one channel, see `batches`: what is run once is counted once."""
        rows = self.parted(texts, n_new)
        return sum(len(own) for _, own in rows) + sum(map(len, {head for head, _ in rows}))

    def inputs(self, batch: Encoded, channel: str) -> dict[str, Any]:
        """Return what one forward pass through a channel's weights is called with.

        Where positions are learned, each row's are counted from its first token, for padding must
        not move them; elsewhere they are left to the model, as published code leaves them.
        """
        if batch.head:
            return self.head(batch.head, channel).inputs(batch.ids, batch.mask)
        given = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if self._learns_positions:
            given["position_ids"] = (batch.mask.cumsum(1) - 1).clamp_min(0)
        return given

    @cached_property
    def _learns_positions(self) -> bool:
        return any(name.endswith(".wpe") for name, _ in self.model.named_modules())

    @torch.no_grad()
    def generate(
        self,
        texts: Sequence[str],
        channel: str,
        seeds: Sequence[int],
        max_new_tokens: int = 32,
        temperature: float = 0.7,
        through: bool = True,
    ) -> tuple[list[str], int]:
        """Return one sampled reply for each rendered prompt, and the forward tokens spent.

        Row i is drawn with its own seed, so that a reply depends neither on its batch nor on its
        place in it, and two channels given the same seeds share their noise.

        Args:
            texts: Rendered prompts.
            channel: Whose weights answer.
            seeds: One for each text.
            max_new_tokens: Of the answer, counted after a thought where the subject is let think.
            temperature: 0 is greedy.
            through: Go on through a thought; otherwise the first `max_new_tokens` are all.
        """
        through = through and self.dialogue.thinking.thinks
        most = self.longest(max_new_tokens) if through else max_new_tokens
        replies, heads = [""] * len(texts), dict[Row, None]()
        tokens = 0
        with self.channel(channel):
            for places, batch in self.batches(texts, NOISE_COPIES, most):
                part, drawn = [texts[i] for i in places], [seeds[i] for i in places]
                asked = f"{channel}\n{drawn}\n{max_new_tokens} {temperature} {through}\n{part}"
                key = "generate/" + hashlib.sha256(asked.encode("utf-8", "backslashreplace")).hexdigest()
                cost = {channel: batch.n_tokens + most * len(part)}
                noise = SeededNoise(drawn, temperature)
                reply_to = partial(self._replies, batch, channel, noise, max_new_tokens, through)
                if channel == "base" and self.memory is not None:
                    read = hashlib.sha256(batch.ids.cpu().numpy().tobytes()).hexdigest()
                    reply_to = partial(self.memory.replies, f"{key} {read}", len(part), reply_to)
                said, n = self.once(key, cost, reply_to)
                for place, text in zip(places, said, strict=True):
                    replies[place] = text
                tokens += n
                heads[batch.head] = None
        return replies, tokens + sum(map(len, heads))

    def longest(self, max_new_tokens: int) -> int:
        """Return how many tokens a reply of so many may have at most: a thought comes before it where one is let be."""
        return reply.longest(self.dialogue, max_new_tokens)

    def _replies(
        self, batch: Encoded, channel: str, noise: SeededNoise, max_new_tokens: int, through: bool
    ) -> tuple[list[str], int]:
        """Return the replies to one batch, and the forward tokens spent on it, the head's apart."""
        n_rows, width = batch.ids.shape
        ending: reply.AtEnd | reply.Through = reply.AtEnd(self.eos_ids, max_new_tokens)
        most = max_new_tokens
        if through:
            ending, most = reply.Through(self.dialogue, n_rows, width, max_new_tokens), self.longest(max_new_tokens)
        if self.invocation is None and can_be_shared(self.model, len(batch.head) + width + most):
            with self.channel(channel) as model:
                head = self.head(batch.head, channel) if batch.head else None
                rows = decode(model, batch, head, noise, ending, most)
        else:
            rows = self._continued(batch, channel, max_new_tokens, noise, ending)
        ended = [row[:-1] if row and row[-1] in self.eos_ids else row for row in rows]
        return self.dialogue.said(ended), batch.n_tokens + sum(map(len, rows))

    def _continued(
        self, batch: Encoded, channel: str, n: int, noise: SeededNoise, ending: reply.AtEnd | reply.Through
    ) -> list[list[int]]:
        """Return each row's new tokens from transformers' own loop, for models that keep another sort of state."""
        through = ending if isinstance(ending, reply.Through) else None
        new = self.generate_ids(batch, channel, n, noise, through)[:, batch.ids.shape[1] :]
        lengths = reply.lengths(new, self.eos_ids) if through is None else [m or new.shape[1] for m in through.lengths]
        return [row[:m] for row, m in zip(new.tolist(), lengths, strict=True)]

    @torch.no_grad()
    def generate_ids(
        self,
        batch: Encoded,
        channel: str,
        max_new_tokens: int,
        noise: SeededNoise,
        through: reply.Through | None = None,
    ) -> Tensor:
        """Return the batch's ids with the channel's continuation, [batch, pos + new]; `through` says where each row ends."""
        n_new = max_new_tokens if through is None else self.longest(max_new_tokens)
        with self.channel(channel) as model:
            out: Tensor = model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                generation_config=reply.settings(self.dialogue, n_new, ends=through is None),
                logits_processor=[noise] if through is None else [noise, reply.Closing(through)],
                stopping_criteria=None if through is None else [through],
            )
        return out

    def decode(self, ids: Tensor | list[int] | int) -> str:
        """Return the text of some token ids, special tokens included."""
        return str(self.tokenizer.decode(ids))

    @property
    def eos_ids(self) -> list[int]:
        """Return the token ids that end a reply, the trusted base's."""
        return list(self.dialogue.ends)

    @torch.no_grad()
    def logits(self, batch: Encoded, channel: str, last: int | None = None) -> Float[Tensor, "batch kept d_vocab"]:
        """Return the next-token logits of one forward pass through the channel's weights.

        Args:
            batch: Left-padded, so that its last positions are the texts' own.
            channel: Whose weights answer.
            last: At how many positions from the end; without a number, at all of them.
        """
        with self.channel(channel) as model:
            out: Tensor = model(**self.inputs(batch, channel), **lean(model, last)).logits
        return (out if last is None else out[:, -last:]).float()

    def changes_anything(self, texts: Sequence[str]) -> bool:
        """Return whether subject and base differ in any logit on these prompts; the first rows that do are the last read."""
        batch = self.encode(texts)
        parts = batch.parts(min(FIRST_ROWS, self.rows_that_fit(2 * batch.ids.shape[1], batch.ids.shape[1])))
        return any(not torch.equal(self.logits(part, "subject"), self.logits(part, "base")) for part in parts)


def lean(model: Any, last: int | None = None) -> dict[str, Any]:
    """Return what keeps one forward pass small: no cache, and logits at the last positions alone, where the model can."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    wanted: dict[str, Any] = {"use_cache": False} | ({} if last is None else {"logits_to_keep": last})
    return {name: value for name, value in wanted.items() if name in inspect.signature(plain.forward).parameters}
