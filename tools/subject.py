"""The subject: one base in memory, and the channels whose weights may answer.

`base` is the trusted checkpoint, `subject` what is audited; an oracle and the null channels are
further adapters on the same base. A channel is switched, asserted and restored around every read.
A full fine-tune is a second model behind the same `channel` interface (`whole`), and so is a verbaliser.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tools import checkpoint, reply
from tools.batch import Encoded, Row, alike, padded
from tools.changes.adapter import Adapter
from tools.changes.opening import open_adapter
from tools.changes.parameters import Parameters
from tools.changes.put_on import Replaced, assert_active, fill_null, lora_layers, null_config, parameter, put_on, swap
from tools.changes.reading import changes_of
from tools.decoding import decode
from tools.dialogue import Dialogue
from tools.errors import ToolInputError
from tools.head import Head, can_be_shared, run_head
from tools.kept import Keeper, Tokens, once
from tools.own_files.invocation import Invocation
from tools.own_files.own import Own
from tools.sampling import SeededNoise
from tools.template import Flags

Message = dict[str, str]
MAX_BATCH = 128
ROOM = 2**30
"""Bytes that one batch may take, where a quarter of the weights' own size is not more."""
FIRST_ROWS = 4
"""Rows at a time that are asked whether anything changes: the first ones mostly do."""
NOISE_COPIES = 6
"""Float32 copies of one position's logits that drawing a token takes, see `SeededNoise`."""


@dataclass
class Subject:
    """A loaded subject with its channels, and where each of its files came from."""

    model: Any
    dialogue: Dialogue
    files: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)
    whole: dict[str, Any] = field(default_factory=dict)
    adapter_given: bool = False
    keeper: Keeper | None = None
    own: Own | None = None
    invocation: Invocation | None = None
    weights: Parameters | None = None
    adapters: dict[str, Adapter] = field(default_factory=dict)
    _replaced: dict[str, Replaced] = field(default_factory=dict)
    _base_own: Replaced = field(default_factory=dict)
    _active: str | None = None
    _heads: dict[tuple[str, Row], Head] = field(default_factory=dict)
    _channels: set[str] = field(default_factory=lambda: {"base", "subject"})

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the trusted base's tokenizer."""
        return self.dialogue.tokenizer

    @property
    def tuned(self) -> Any:
        """Return the full fine-tune that is audited; None where the subject is an adapter or the base."""
        return self.whole.get("subject")

    @tuned.setter
    def tuned(self, model: Any) -> None:
        self.whole["subject"] = model

    @property
    def base_sha256(self) -> str:
        """Return the trusted base's hash, as an oracle names its base."""
        return checkpoint.weights_sha256(self.files["base"])

    @property
    def weights_hash(self) -> str:
        """Return one sha256 over the hashes of every file behind the channels of the subject."""
        text = "\n".join(
            f"{role} {name} {sha}" for role, files in sorted(self.files.items()) for name, sha in sorted(files.items())
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def n_layers(self) -> int:
        """Return the number of transformer blocks."""
        return int(self.text_config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Return the width of the residual stream."""
        return int(self.text_config.hidden_size)

    @property
    def text_config(self) -> Any:
        """Return the configuration of the language model, inside a multimodal wrapper too."""
        return self.model.config.get_text_config()

    def rows_that_fit(self, n_logits: int, n_pos: int = 0, n_new: int = 0) -> int:
        """Return how many rows one batch may have, from 1 to `MAX_BATCH`, so that it stays within its room in memory.

        The room is `ROOM`, or a quarter of what the weights take where that is more: who holds a large model has more of it.

        Args:
            n_logits: At how many positions of a row there are float32 logits at once.
            n_pos: How many positions of a row pass through a block at once.
            n_new: How many come one by one behind them, so that there are keys and values of these too.
        """
        weights, passing, cached = self._sizes
        row = n_logits * self.text_config.vocab_size * torch.float32.itemsize
        row += n_pos * passing + (n_pos + n_new) * cached
        fit: int = max(ROOM, weights // 4) // max(1, row)
        return min(MAX_BATCH, max(1, fit))

    @cached_property
    def _sizes(self) -> tuple[int, int, int]:
        """Return the bytes of the base's weights, of a position that passes through a block, of its keys and values."""
        config = self.text_config
        attending = getattr(config, "num_attention_heads", None) or 1  # a model without attention keeps a state instead
        heads = getattr(config, "num_key_value_heads", None) or attending
        width = getattr(config, "head_dim", None) or self.d_model // attending
        cached = 2 * self.n_layers * heads * width
        passing = 6 * self.d_model + 3 * (getattr(config, "intermediate_size", None) or 4 * self.d_model)
        weights = sum(p.nbytes for name, p in self.model.named_parameters() if ".lora_" not in name)
        item: int = self.model.dtype.itemsize
        return weights, passing * item, cached * item

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        where: torch.device = next(self.model.parameters()).device
        return where

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels that can be read."""
        return tuple(sorted(self._channels))

    # -- channels

    @contextmanager
    def channel(self, name: str) -> Iterator[Any]:
        """Give the model as this channel answers, asserted on every switch; on leaving, the one before it again.

        A switch visits every layer: open the channel once around a loop of batches.

        Raises:
            ToolInputError: there is no such channel; the message lists those there are.
        """
        if name not in self._channels:
            raise ToolInputError(f"unknown channel {name!r}: the channels are {', '.join(self.channels)}")
        if name in self.whole:
            yield self.whole[name]
            return
        before, wanted = self._active, self._answering(name)
        if wanted != before:
            self._switch(wanted)
        try:
            yield self.model
        finally:
            if self._active != before:
                self._switch(before)

    def _answering(self, name: str) -> str | None:
        """Return the adapter behind a channel; None for plain weights."""
        layers = isinstance(self.model, PeftModel) and name in self.model.peft_config
        return name if layers or self._replaced.get(name) else None

    def _switch(self, adapter: str | None) -> None:
        """Let this adapter answer, or the base; asserted on every layer."""
        swap(self.model, self._base_own)
        self._base_own = {}
        factors = isinstance(self.model, PeftModel) and adapter in self.model.peft_config
        for _, _, layer in self._layers:
            layer.enable_adapters(factors)
            if factors:
                layer.set_adapter(adapter, inference_mode=True)
        if factors:
            self.model.active_adapter = self.model.base_model.active_adapter = adapter
        if adapter is not None:
            self._base_own = swap(self.model, self._replaced.get(adapter, {}))
        self._active = adapter
        self._assert_active(adapter)

    @cached_property
    def _layers(self) -> list[tuple[str, str, Any]]:
        """Return every layer that carries factors, found once: a walk over all modules takes longer than a switch."""
        return list(lora_layers(self.model))

    def _weights_changed(self, name: str) -> None:
        """Forget what was kept of a channel's weights, and the layers there were."""
        self._heads = {key: head for key, head in self._heads.items() if key[0] != name}
        self.__dict__.pop("_layers", None)
        self.model.requires_grad_(False)
        self.model.eval()
        self._switch(None)

    def _assert_active(self, adapter: str | None) -> None:
        """Assert that this adapter answers on every layer, with all that it replaces; None for the base."""
        if isinstance(self.model, PeftModel):
            assert_active(self._layers, adapter if adapter in self.model.peft_config else None)
        for name, own in self._replaced.get(adapter or "", {}).items():
            assert parameter(self.model, name) is own, (
                f"{name}: another adapter's weights stand where {adapter!r} was asked"
            )

    def active_adapter(self, channel: str) -> str | None:
        """Return the adapter that answers inside an open `channel`, asserted on every layer; None for plain weights."""
        if channel in self.whole:
            return None
        wanted = self._answering(channel)
        assert self._active == wanted, f"{self._active!r} answers where {channel!r} was asked"
        self._assert_active(wanted)
        return wanted

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load the LoRA in `folder` as the channel `name`, with whatever else it replaces of the base.

        Raises:
            AdapterError: damaged, made for another base, or not every tensor of it was taken up.
        """
        adapter = open_adapter(folder, self.weights)
        try:
            self.model, self._replaced[name] = put_on(self.model, name, adapter)
        finally:
            self.model.to(self.device)
            self._weights_changed(name)
        self.adapters[name] = adapter
        self.files[name] = checkpoint.hash_files(folder)
        self._channels.add(name)

    def add_null(self, name: str, seed: int) -> None:
        """Add a random LoRA as a null channel: per matrix the subject's rank and norm of change.

        Where the subject has no factors the null has none either, and reads as the base.
        """
        self._channels.add(name)
        if not isinstance(self.model, PeftModel) or "subject" not in self.model.peft_config:
            return
        if name not in self.model.peft_config:
            self.model.add_adapter(name, null_config(self.model, "subject"), autocast_adapter_dtype=False)
        fill_null(self.model, name, self._norms, seed)
        self._weights_changed(name)

    @cached_property
    def _norms(self) -> dict[str, float]:
        """Return the squared norm of each of the subject's changes, which a null has too."""
        return changes_of(self.adapters["subject"]).energy

    def once(self, key: str, tokens: Tokens, compute: Callable[[], Any]) -> Any:
        """Return what one batch of a long call comes to, kept until the call is settled, see `tools.kept.once`."""
        return once(self.keeper, key, tokens, compute)

    # -- text

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
            return self._head(batch.head, channel).inputs(batch.ids, batch.mask)
        given = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if self._learns_positions:
            given["position_ids"] = (batch.mask.cumsum(1) - 1).clamp_min(0)
        return given

    @cached_property
    def _learns_positions(self) -> bool:
        return any(name.endswith(".wpe") for name, _ in self.model.named_modules())

    def _head(self, ids: Row, channel: str) -> Head:
        """Return the keys and values of tokens that many texts begin with, run once for each channel."""
        if (channel, ids) not in self._heads:
            with self.channel(channel) as model, torch.no_grad():
                self._heads[channel, ids] = run_head(model, torch.tensor(ids, device=self.device))
        return self._heads[channel, ids]

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
                said, n = self.once(key, cost, partial(self._replies, batch, channel, noise, max_new_tokens, through))
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
                head = self._head(batch.head, channel) if batch.head else None
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
