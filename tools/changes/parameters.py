"""A checkpoint's weights under the names that its own model gives them, read from the files one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tools.changes.skeleton import Source, converted, skeleton, sources, stored_turned
from tools.changes.tensors import Tensors
from tools.checkpoint import check_config_values, check_not_quantised
from tools.errors import AuditorError, ModelLoadError

OLD_BUFFERS = r"(^|\.)(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|attention\.bias|masked_bias|position_ids)$"
"""What older versions of transformers saved and none reads: tables that a model works out itself."""
HEADS = r"^(v_head|value_head|score|reward_head|classifier)\."
"""Heads of reinforcement learning or of a reward model, which a language model has no place for."""


class Parameters:
    """A checkpoint, of which nothing is read until it is asked for; the model itself is never filled.

    Args:
        folder: Of a checkpoint.
        kind: The class of error to raise.

    Raises:
        AuditorError: of class `kind`, as `Tensors` has it.
    """

    def __init__(self, folder: Path, kind: type[AuditorError] = ModelLoadError) -> None:
        self.folder, self.kind = folder, kind
        self.files = Tensors(folder, kind)
        check_not_quantised(folder, self.files)
        check_config_values(folder, len(self.files))
        self.model = skeleton(folder)
        if self.model is None:
            self.sources = {name: Source(name, ((name, name),)) for name in self.files}
            self.surplus: list[str] = []
        else:
            self.sources, self.surplus = sources(self.files, self.model)
        self._turned: dict[str, bool] = {}
        self._made: tuple[str, dict[str, Tensor]] = ("", {})
        self._drop_redundant_ties()

    def _drop_redundant_ties(self) -> None:
        """Leave out a tied weight that the file holds as well and that says the same: it is no weight of its own."""
        for target, source in self.ties.items():
            both = target in self.sources and source in self.sources
            if both and self.files_equal(target, source):
                self.surplus += [key for key, _ in self.sources.pop(target).keys]

    def files_equal(self, one: str, other: str) -> bool:
        """Return whether two parameters hold the same values."""
        return self.shape(one) == self.shape(other) and torch.equal(self.read(one), self.read(other))

    @property
    def ties(self) -> dict[str, str]:
        """Return the parameters that the model shares with another, by the one that is shared."""
        return dict(getattr(self.model, "all_tied_weights_keys", None) or {})

    def owner(self, name: str) -> str:
        """Return the parameter that stands behind a name: another's where the two are tied, and only that one is there."""
        if name in self.sources:
            return name
        tied = self.ties.get(name) or next((t for t, s in self.ties.items() if s == name and t in self.sources), name)
        return tied

    def alike(self, name: str) -> list[str]:
        """Return every name of one weight: of a tied one there are several."""
        own = self.owner(name)
        names = {own, *(t for pair in self.ties.items() for t in pair if self.owner(t) == own)}
        return sorted(names)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Return the model's modules by path; none where transformers has no class for it."""
        return {} if self.model is None else dict(self.model.named_modules())

    def turned(self, name: str) -> bool:
        """Return whether a weight is stored as [in, out], see `stored_turned`."""
        return stored_turned(self.modules.get(name.rpartition(".")[0]))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.owner(name) in self.sources

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a parameter's shape, from a header where its file holds it as it is."""
        source = self.sources[self.owner(name)]
        if source.rule is None:
            return self.files.shape(source.keys[0][0])
        assert self.model is not None, "rules come with a model"
        return tuple(self.model.state_dict()[self.owner(name)].shape)

    def read(self, name: str) -> Tensor:
        """Return one parameter as it is stored, finite; one that several tensors make up is put together.

        Raises:
            AuditorError: of the class given: it can't be read, or has NaN or infinite values.
        """
        own = self.owner(name)
        source = self.sources[own]
        if source.rule is None:
            return self.files.read(source.keys[0][0])
        made = self._made  # another thread may put another in its place
        if made[0] != source.target:
            assert self.model is not None, "rules come with a model"
            tensors = {key: self.files.read(key) for key, _ in source.keys}
            made = self._made = (source.target, converted(source, tensors, self.model))
        return made[1][own]

    def matrix(self, path: str) -> Tensor | None:
        """Return what a module's weight, or one of stacked experts, does to its input, [d_out, d_in], as it is stored.

        None where there is no such matrix.
        """
        stack, _, place = path.rpartition(".")
        if f"{path}.weight" in self and len(self.shape(f"{path}.weight")) == 2:
            weight = self.read(f"{path}.weight")
            return weight.T if self.turned(f"{path}.weight") else weight
        if place.isdigit() and stack in self and len(self.shape(stack)) == 3 and int(place) < self.shape(stack)[0]:
            return self.rows(stack, int(place), int(place) + 1)[0]
        return None

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return some rows of a matrix as they are stored, finite, without reading the others where that can be."""
        source = self.sources[self.owner(name)]
        if source.rule is None:
            return self.files.rows(source.keys[0][0], start, stop)
        return self.read(name)[start:stop]

    def rows_at(self, name: str, places: Int[Tensor, " row"]) -> Tensor:
        """Return the rows of a matrix at these places, which ascend."""
        source = self.sources[self.owner(name)]
        if source.rule is None:
            return self.files.rows_at(source.keys[0][0], places)
        return self.read(name)[places]

    def embeddings(self) -> tuple[str, str] | None:
        """Return the names of the embedding and of the unembedding; None where the model does not say."""
        if self.model is None:
            return None
        model: Any = self.model
        tables = [model.get_input_embeddings(), model.get_output_embeddings()]
        paths = {id(module): path for path, module in self.modules.items()}
        names = [f"{paths[id(table)]}.weight" if id(table) in paths else None for table in tables]
        known = [name for name in names if name is not None and name in self]
        return (known[0], known[-1]) if names[0] is not None and known else None

    def left_over(self, base: Parameters | None = None) -> tuple[list[str], dict[str, str]]:
        """Return the tensors that no parameter takes: those that are ordinary company, and what is not, with why.

        Ordinary are tables that a model works out itself, a second copy of a tied weight, and what the base holds too.
        """
        ignored = getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or set()
        ordinary, odd = [], {}
        for key in self.surplus:
            known = re.search(f"{OLD_BUFFERS}|{HEADS}", key) or any(re.search(pattern, key) for pattern in ignored)
            if known or self._repeats(key) or (base is not None and self._same_there(key, base)):
                ordinary.append(key)
            else:
                odd[key] = "no parameter of the model takes it, so that what it is for can't be told"
        return ordinary, odd

    def _repeats(self, key: str) -> bool:
        """Return whether a tensor is a second copy of the embeddings."""
        tables = self.embeddings()
        if tables is None or self.files.shape(key) != self.shape(tables[0]):
            return False
        return any(torch.equal(self.files.read(key), self.read(name)) for name in set(tables))

    def _same_there(self, key: str, base: Parameters) -> bool:
        return (
            key in base.files
            and base.files.shape(key) == self.files.shape(key)
            and torch.equal(base.files.read(key), self.files.read(key))
        )
