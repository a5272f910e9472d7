"""The subject: one base in memory, and the channels whose weights may answer.

`base` is the trusted checkpoint, `subject` what is audited; an oracle and the null channels are
further adapters on the same base. A channel is switched, asserted and restored around every read.
A full fine-tune is a second model behind the same `channel` interface (`whole`), and so is a verbaliser.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tools import checkpoint
from tools.errors import AdapterError, ToolInputError
from tools.head import Head
from tools.kept import Keeper, Tokens, once
from tools.own_files.own import Own
from tools.sampling import SeededNoise

Message = dict[str, str]
MAX_BATCH = 64
ROOM = 256 * 2**20
"""Bytes that the logits and the cache of one batch may take, where half of the weights' own size is not more."""
NOISE_COPIES = 6
"""Float32 copies of one position's logits that drawing a token takes, see `SeededNoise`."""
PINNED_DATE = date(2024, 7, 26)
"""The day that chat templates are told it is; the one that Llama 3's own template falls back on."""


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
    tokenizer: PreTrainedTokenizerBase
    files: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)
    whole: dict[str, Any] = field(default_factory=dict)
    adapter_given: bool = False
    keeper: Keeper | None = None
    own: Own | None = None
    _active: str | None = None
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

    def rows_that_fit(self, n_logits: int, n_cached: int = 0) -> int:
        """Return how many rows one batch may have, from 1 to `MAX_BATCH`, so that it stays within its room in memory.

        The room is `ROOM`, or half of what the weights take where that is more: who holds a large model has more of it.

        Args:
            n_logits: At how many positions of a row there are float32 logits at once.
            n_cached: How many positions of a row are in the cache of keys and values.
        """
        config = self.text_config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or self.d_model // config.num_attention_heads
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
        before = self._active
        wanted = name if isinstance(self.model, PeftModel) and name in self.model.peft_config else None
        if wanted != before:
            self._switch(wanted)
        try:
            yield self.model
        finally:
            if self._active != before:
                self._switch(before)

    def _switch(self, adapter: str | None) -> None:
        """Let this adapter answer, or the base; asserted on every layer."""
        if isinstance(self.model, PeftModel):
            layers: Any = self.model.base_model
            if adapter is None:
                layers.disable_adapter_layers()
            else:
                layers.enable_adapter_layers()
                self.model.set_adapter(adapter)
            self.model.requires_grad_(False)
            assert_active(self.model, adapter)
        self._active = adapter

    def active_adapter(self, channel: str) -> str | None:
        """Return the adapter that answers inside an open `channel`, asserted on every layer; None for plain weights."""
        if channel in self.whole:
            return None
        wanted = channel if isinstance(self.model, PeftModel) and channel in self.model.peft_config else None
        assert self._active == wanted, f"{self._active!r} answers where {channel!r} was asked"
        if isinstance(self.model, PeftModel):
            assert_active(self.model, wanted)
        return wanted

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load the LoRA in `folder` as the channel `name`.

        Raises:
            AdapterError: damaged, made for another base, or not every tensor of it was consumed.
        """
        checkpoint.check_folder(folder, AdapterError)
        checkpoint.check_adapter_config(folder)
        tensors = checkpoint.read_tensors(folder / checkpoint.ADAPTER_WEIGHTS, AdapterError)
        if isinstance(self.model, PeftModel):
            modules: dict[str, nn.Module] = dict(self.model.get_base_model().named_modules())
        else:
            modules = dict(self.model.named_modules())
        checkpoint.check_fits(folder, tensors, modules)
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(
                    str(folder), adapter_name=name, is_trainable=False, autocast_adapter_dtype=False
                )
            else:
                self.model = PeftModel.from_pretrained(
                    self.model, str(folder), adapter_name=name, is_trainable=False, autocast_adapter_dtype=False
                )
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            if isinstance(self.model, PeftModel):
                self._switch(None)
            else:
                _take_off(self.model)
            raise AdapterError(f"{folder} could not be put on this base: {error}") from error
        self.model.eval()
        self.model.to(self.device)
        self._switch(None)
        checkpoint.check_consumed(
            folder, tensors, get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False)
        )
        self.files[name] = checkpoint.hash_files(folder)
        self._channels.add(name)

    def add_null(self, name: str, seed: int) -> None:
        """Add a random LoRA as a null channel: per module the subject's rank and norm of change.

        Where the subject has no adapter the null has none either, and reads as the base.
        """
        self._channels.add(name)
        if not isinstance(self.model, PeftModel) or "subject" not in self.model.peft_config:
            return
        if name not in self.model.peft_config:
            self.model.add_adapter(name, _copy_config(self.model.peft_config["subject"]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            module: Any
            for module in lora_modules(self.model).values():
                if name not in module.lora_A:
                    continue
                delta = delta_norm(module, "subject")
                for part in (module.lora_A[name], module.lora_B[name]):
                    part.weight.copy_(torch.randn(part.weight.shape, generator=generator).to(part.weight))
                module.lora_B[name].weight.mul_(delta / max(delta_norm(module, name), 1e-12))
        self.model.eval()
        self._switch(None)

    def once(self, key: str, tokens: Tokens, compute: Callable[[], Any]) -> Any:
        """Return what one batch of a long call comes to, kept until the call is settled, see `tools.kept.once`."""
        return once(self.keeper, key, tokens, compute)

    # -- text

    def render(
        self, messages: Sequence[Message], prefill: str = "", flags: Mapping[str, bool | str] | None = None
    ) -> str:
        """Return the prompt text up to where the assistant speaks, under the trusted template.

        A template that writes a date writes `PINNED_DATE`, so that a prompt is the same tomorrow.

        Args:
            messages: The chat.
            prefill: How the assistant's reply begins.
            flags: Arguments that the template knows, e.g. `enable_thinking`.
        """
        known: dict[str, Any] = {"date_string": PINNED_DATE.strftime("%d %b %Y"), **(flags or {})}
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **known)
        return str(text) + prefill

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the texts as one left-padded batch, special tokens as the texts have them."""
        batch = self.tokenizer(
            list(texts), add_special_tokens=False, padding=True, return_tensors="pt", padding_side="left"
        )
        return Encoded(batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device))

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
    ) -> tuple[list[str], int]:
        """Return one sampled reply for each rendered prompt, and the forward tokens spent.

        Row i is drawn with its own seed, so that a reply depends neither on its batch nor on its
        place in it, and two channels given the same seeds share their noise.
        """
        replies, tokens = [], 0
        longest = max((len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts), default=0)
        n_rows = self.rows_that_fit(NOISE_COPIES, longest + max_new_tokens)
        with self.channel(channel):
            for start in range(0, len(texts), n_rows):
                part, drawn = list(texts[start : start + n_rows]), list(seeds[start : start + n_rows])
                batch = self.encode(part)
                asked = f"{channel}\n{drawn}\n{max_new_tokens} {temperature}\n{part}"
                key = "generate/" + hashlib.sha256(asked.encode("utf-8", "backslashreplace")).hexdigest()
                most = {channel: batch.n_tokens + max_new_tokens * len(part)}
                said, n = self.once(
                    key, most, partial(self._replies, batch, channel, drawn, max_new_tokens, temperature)
                )
                replies += said
                tokens += n
        return replies, tokens

    def _replies(
        self, batch: Encoded, channel: str, seeds: list[int], max_new_tokens: int, temperature: float
    ) -> tuple[list[str], int]:
        """Return the replies to one batch, and the forward tokens spent on it."""
        out = self.generate_ids(batch, channel, max_new_tokens, SeededNoise(seeds, temperature))
        new = out[:, batch.ids.shape[1] :]
        said = [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]
        return said, batch.n_tokens + int((new != self.tokenizer.pad_token_id).sum())

    @torch.no_grad()
    def generate_ids(self, batch: Encoded, channel: str, max_new_tokens: int, noise: SeededNoise) -> Tensor:
        """Return the batch's ids with the channel's continuation, [batch, pos + new]."""
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.eos_ids,
        )
        with self.channel(channel) as model:
            out: Tensor = model.generate(
                input_ids=batch.ids, attention_mask=batch.mask, generation_config=settings, logits_processor=[noise]
            )
        return out

    def decode(self, ids: Tensor | list[int] | int) -> str:
        """Return the text of some token ids, special tokens included."""
        return str(self.tokenizer.decode(ids))

    @property
    def eos_ids(self) -> list[int]:
        """Return the token ids that end a reply, the trusted base's."""
        generation = getattr(self.model, "generation_config", None)
        ids = getattr(generation, "eos_token_id", None)
        ids = [ids] if isinstance(ids, int) else list(ids or [])
        own = self.tokenizer.eos_token_id
        return ids or ([own] if own is not None else [])

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


def _copy_config(config: Any) -> LoraConfig:
    return LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, target_modules=config.target_modules, task_type=config.task_type,
        rank_pattern=config.rank_pattern, alpha_pattern=config.alpha_pattern, use_rslora=config.use_rslora,
    )  # fmt: skip


def lora_modules(model: nn.Module) -> dict[str, LoraLayer]:
    """Return every module that carries LoRA factors, by its path in the base."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def _take_off(model: nn.Module) -> None:
    """Put a base's own layers back where a load that failed had wrapped them."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())


def delta_norm(module: LoraLayer, adapter: str) -> float:
    """Return the Frobenius norm of a module's change, 0 where the adapter does not touch it.

    `||s B A||² = s² tr((BᵀB)(AAᵀ))`: the change itself is never formed.
    """
    if adapter not in module.lora_A:
        return 0.0
    factors: list[Any] = [module.lora_A[adapter].weight, module.lora_B[adapter].weight]
    a, b = (factor.double() for factor in factors)
    squared = float(((b.T @ b) * (a @ a.T)).sum())
    norm: float = float(module.scaling[adapter]) * max(squared, 0.0) ** 0.5
    return norm


def assert_active(model: nn.Module, adapter: str | None) -> None:
    """Assert that exactly this adapter answers on every layer that has it; None for the base."""
    for path, module in lora_modules(model).items():
        if adapter is None:
            assert module.disable_adapters, f"{path}: an adapter is active where the base was asked"
        elif adapter in module.lora_A:
            active = [] if module.disable_adapters else list(module.active_adapters)
            assert active == [adapter], f"{path}: active are {active}, {adapter!r} was asked"
