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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tools import checkpoint, reply
from tools.changes.adapter import Adapter
from tools.changes.opening import open_adapter
from tools.changes.parameters import Parameters
from tools.changes.put_on import Replaced, assert_active, fill_null, null_config, parameter, put_on, swap
from tools.changes.reading import changes_of
from tools.dialogue import Dialogue
from tools.errors import ToolInputError
from tools.head import Head
from tools.kept import Keeper, Tokens, once
from tools.own_files.invocation import Invocation
from tools.own_files.own import Own
from tools.sampling import SeededNoise
from tools.template import Flags

Message = dict[str, str]
MAX_BATCH = 64
ROOM = 256 * 2**20
"""Bytes that the logits and the cache of one batch may take, where half of the weights' own size is not more."""
NOISE_COPIES = 6
"""Float32 copies of one position's logits that drawing a token takes, see `SeededNoise`."""


@dataclass(frozen=True)
class Encoded:
    """A left-padded batch: ids and mask of shape [batch, pos]; with a `head`, unpadded rows that come behind it."""

    ids: Tensor
    mask: Tensor
    head: Head | None = None

    @property
    def n_tokens(self) -> int:
        """Return the number of non-padding tokens."""
        return int(self.mask.sum())

    def parts(self, n_rows: int) -> Iterator[Encoded]:
        """Return the batch in parts of so many rows, padded as they are."""
        for start in range(0, len(self.ids), n_rows):
            yield Encoded(self.ids[start : start + n_rows], self.mask[start : start + n_rows])


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

    def rows_that_fit(self, n_logits: int, n_cached: int = 0) -> int:
        """Return how many rows one batch may have, from 1 to `MAX_BATCH`, so that it stays within its room in memory.

        The room is `ROOM`, or half of what the weights take where that is more: who holds a large model has more of it.

        Args:
            n_logits: At how many positions of a row there are float32 logits at once.
            n_cached: How many positions of a row are in the cache of keys and values.
        """
        config = self.text_config
        attending = getattr(config, "num_attention_heads", None) or 1  # a model without attention keeps a state instead
        heads = getattr(config, "num_key_value_heads", None) or attending
        width = getattr(config, "head_dim", None) or self.d_model // attending
        cached = 2 * self.n_layers * heads * width * self.model.dtype.itemsize
        weights = sum(p.nbytes for name, p in self.model.named_parameters() if ".lora_" not in name)
        row = n_logits * config.vocab_size * torch.float32.itemsize + n_cached * cached
        fit: int = max(ROOM, weights // 2) // row
        return min(MAX_BATCH, max(1, fit))

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
        if isinstance(self.model, PeftModel):
            layers: Any = self.model.base_model
            if adapter is None or adapter not in self.model.peft_config:
                layers.disable_adapter_layers()
            else:
                layers.enable_adapter_layers()
                self.model.set_adapter(adapter)
            self.model.requires_grad_(False)
        if adapter is not None:
            self._base_own = swap(self.model, self._replaced.get(adapter, {}))
        self._active = adapter
        self._assert_active(adapter)

    def _assert_active(self, adapter: str | None) -> None:
        """Assert that this adapter answers on every layer, with all that it replaces; None for the base."""
        if isinstance(self.model, PeftModel):
            assert_active(self.model, adapter if adapter in self.model.peft_config else None)
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
            self.model.eval()
            self.model.to(self.device)
            self._switch(None)
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
        fill_null(self.model, name, changes_of(self.adapters["subject"]), seed)
        self.model.eval()
        self._switch(None)

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
        rows = self.dialogue.ids(texts)
        width = max(map(len, rows), default=0)
        ids = [[self.dialogue.pad] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return Encoded(self._tensor(ids, width), self._tensor(mask, width))

    def _tensor(self, rows: list[list[int]], width: int) -> Tensor:
        return torch.tensor(rows, device=self.device, dtype=torch.long).reshape(len(rows), width)

    def inputs(self, batch: Encoded) -> dict[str, Any]:
        """Return what one forward pass is called with.

        Where positions are learned, each row's are counted from its first token, for padding must
        not move them; elsewhere they are left to the model, as published code leaves them.
        """
        if batch.head is not None:
            return batch.head.inputs(batch.ids)
        given = {"input_ids": batch.ids, "attention_mask": batch.mask}
        if any(name.endswith(".wpe") for name, _ in self.model.named_modules()):
            given["position_ids"] = (batch.mask.cumsum(1) - 1).clamp_min(0)
        return given

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
        replies, tokens = [], 0
        through = through and self.dialogue.thinking.thinks
        most = self.longest(max_new_tokens) if through else max_new_tokens
        prompt = max(map(len, self.dialogue.ids(texts)), default=0)
        n_rows = self.rows_that_fit(NOISE_COPIES, prompt + most)
        with self.channel(channel):
            for start in range(0, len(texts), n_rows):
                part, drawn = list(texts[start : start + n_rows]), list(seeds[start : start + n_rows])
                batch = self.encode(part)
                asked = f"{channel}\n{drawn}\n{max_new_tokens} {temperature} {through}\n{part}"
                key = "generate/" + hashlib.sha256(asked.encode("utf-8", "backslashreplace")).hexdigest()
                cost = {channel: batch.n_tokens + most * len(part)}
                noise = SeededNoise(drawn, temperature)
                said, n = self.once(key, cost, partial(self._replies, batch, channel, noise, max_new_tokens, through))
                replies += said
                tokens += n
        return replies, tokens

    def longest(self, max_new_tokens: int) -> int:
        """Return how many tokens a reply of so many may have at most: a thought comes before it where one is let be."""
        return reply.longest(self.dialogue, max_new_tokens)

    def _replies(
        self, batch: Encoded, channel: str, noise: SeededNoise, max_new_tokens: int, through: bool
    ) -> tuple[list[str], int]:
        """Return the replies to one batch, and the forward tokens spent on it."""
        width = batch.ids.shape[1]
        if through:
            thinking = reply.Through(self.dialogue, len(batch.ids), width, max_new_tokens)
            new = self.generate_ids(batch, channel, max_new_tokens, noise, thinking)[:, width:]
            lengths = [n or new.shape[1] for n in thinking.lengths]
        else:
            new = self.generate_ids(batch, channel, max_new_tokens, noise)[:, width:]
            lengths = reply.lengths(new, self.eos_ids)
        rows = [row[:n] for row, n in zip(new.tolist(), lengths, strict=True)]
        ended = [row[:-1] if row and row[-1] in self.eos_ids else row for row in rows]
        return self.dialogue.said(ended), batch.n_tokens + sum(lengths)

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
            out: Tensor = model(**self.inputs(batch), **lean(model, last)).logits
        return (out if last is None else out[:, -last:]).float()

    def changes_anything(self, texts: Sequence[str]) -> bool:
        """Return whether subject and base differ in any logit on these prompts; the first rows that do are the last read."""
        batch = self.encode(texts)
        parts = batch.parts(self.rows_that_fit(2 * batch.ids.shape[1]))
        return any(not torch.equal(self.logits(part, "subject"), self.logits(part, "base")) for part in parts)


def lean(model: Any, last: int | None = None) -> dict[str, Any]:
    """Return what keeps one forward pass small: no cache, and logits at the last positions alone, where the model can."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    wanted: dict[str, Any] = {"use_cache": False} | ({} if last is None else {"logits_to_keep": last})
    return {name: value for name, value in wanted.items() if name in inspect.signature(plain.forward).parameters}
