"""One base in memory, and the channels whose weights may answer: adapters on it, nulls, and models beside it.

A channel is switched, asserted and restored around every read. A full fine-tune is a second model behind the same
`channel` interface (`whole`), and so is a verbaliser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from tools import checkpoint
from tools.batch import Row
from tools.changes.adapter import Adapter
from tools.changes.opening import open_adapter
from tools.changes.parameters import Parameters
from tools.changes.put_on import Replaced, assert_active, fill_null, lora_layers, null_config, parameter, put_on, swap
from tools.changes.reading import changes_of
from tools.errors import ToolInputError
from tools.head import Head, run_head

MAX_BATCH = 128
ROOM = 2**30
"""Bytes that one batch may take, where a quarter of the weights' own size is not more."""


@dataclass(kw_only=True)
class Channels:
    """The weights that can be asked, and where each of their files came from."""

    model: Any
    files: dict[str, dict[str, str]]
    whole: dict[str, Any] = field(default_factory=dict)
    weights: Parameters | None = None
    adapters: dict[str, Adapter] = field(default_factory=dict)
    _replaced: dict[str, Replaced] = field(default_factory=dict)
    _base_own: Replaced = field(default_factory=dict)
    _active: str | None = None
    _heads: dict[tuple[str, Row], Head] = field(default_factory=dict)
    _channels: set[str] = field(default_factory=lambda: {"base", "subject"})

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

    def head(self, ids: Row, channel: str) -> Head:
        """Return the keys and values of tokens that many texts begin with, run once for each channel."""
        if (channel, ids) not in self._heads:
            with self.channel(channel) as model, torch.no_grad():
                self._heads[channel, ids] = run_head(model, torch.tensor(ids, device=self.device))
        return self._heads[channel, ids]
