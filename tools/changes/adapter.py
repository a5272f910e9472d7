"""An adapter as it acts on a base: low-rank parts, parameters and rows that are replaced, and what of it can't be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tools.changes.parameters import Parameters
from tools.changes.settings import Settings
from tools.changes.tensors import Tensors
from tools.errors import AdapterError


@dataclass
class Pair:
    """One weight's low-rank part: the tensors by their side, `A`, `B`, `magnitude`, `bias`.

    Args:
        path: Of the module.
        parameter: Of the module's weights; another than `weight` for experts that are fused.
        by_itself: Whether PEFT wraps the parameter itself, no layer around it.
        embedding: Whether the factors are an embedding's.
        n_experts: How many matrices the weight is a stack of; 1 for a matrix.
    """

    path: str
    parameter: str = "weight"
    by_itself: bool = False
    embedding: bool = False
    n_experts: int = 1
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the parameter that is changed."""
        return f"{self.path}.{self.parameter}"

    @property
    def key(self) -> str:
        """Return what PEFT looks up rank and alpha by: the module, or the parameter that is wrapped by itself."""
        return self.name if self.by_itself else self.path


@dataclass
class Adapter:
    """What stands in an adapter's folder, as it acts on a base; tensors are read when they are asked for.

    Args:
        pairs: Low-rank parts by the parameter that they change.
        whole: Parameters that are replaced, with the tensor that replaces them.
        tokens: Embeddings of which rows are replaced, with the tensor and the rows.
        company: What stands beside and changes nothing: trainer state, a second copy, the base's own embeddings.
        beside: Other files of weights in the folder, which neither PEFT nor transformers would load.
        unread: What can't be read of what PEFT would load, and why.
        notes: What is worth knowing.
    """

    folder: Path
    settings: Settings
    base: Parameters | None
    tensors: Tensors | None = None
    pairs: dict[str, Pair] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    company: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _converted: dict[str, Tensor] = field(default_factory=dict)

    @property
    def converted(self) -> bool:
        """Return whether its layout was brought to the base's own."""
        return bool(self._converted)

    def read(self, key: str) -> Tensor:
        """Return one tensor, finite, by the name under which it was sorted."""
        if key in self._converted:
            return self._converted[key]
        assert self.tensors is not None, "an adapter of which nothing was opened has no names either"
        return self.tensors.read(key)

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape, from the file's header where that is enough."""
        if key in self._converted:
            return tuple(self._converted[key].shape)
        assert self.tensors is not None, "an adapter of which nothing was opened has no names either"
        return self.tensors.shape(key)

    def rank(self, pair: Pair) -> int:
        """Return the rank of one pair, of each expert where they are stacked."""
        return self.shape(pair.keys["A"])[0] // pair.n_experts

    def factors(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return B, [out, rank], and A, [rank, in], of one pair; blocks of a BD-LoRA are set into the whole.

        Raises:
            AdapterError: they do not fit each other.
        """
        b, a = self.read(pair.keys["B"]), self.read(pair.keys["A"])
        if not pair.embedding and isinstance(blocks := self.settings.raw.get("use_bdlora"), Mapping):
            n = int(blocks.get("nblocks") or 1)
            if any(str(name) in pair.path for name in blocks.get("target_modules_bd_a") or ()):
                a = torch.block_diag(*a.chunk(n, dim=0))  # type: ignore[no-untyped-call]
            if any(str(name) in pair.path for name in blocks.get("target_modules_bd_b") or ()):
                b = torch.block_diag(*b.chunk(n, dim=0))  # type: ignore[no-untyped-call]
        if self.is_table(pair.name) and self.base is not None:
            n = self.base.shape(pair.name)[0]
            b, a = (b, fit_rows(a.T, n).T) if pair.embedding else (fit_rows(b, n), a)
        if a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"{self.folder}: the factors of {pair.path} are {list(b.shape)} and {list(a.shape)}, which do not fit"
            )
        return b, a

    def is_table(self, name: str) -> bool:
        """Return whether a parameter is an embedding or an unembedding, whose vocabulary may be another."""
        base = self.base
        return base is not None and any(name in base.alike(table) for table in base.embeddings() or ())

    def rows(self, name: str) -> tuple[list[int], Tensor]:
        """Return which tokens of a table were trained by themselves, and their rows; those that the base lacks are left out.

        Raises:
            AdapterError: there are not as many rows as tokens, or they are of another width.
        """
        assert self.base is not None, "without a base no table is known"
        key, places = self.tokens[name]
        found, (n, width) = self.read(key), self.base.shape(name)
        if found.shape != (len(places), width) or min(places, default=0) < 0:
            raise AdapterError(
                f"{self.folder}: trained rows of shape {list(found.shape)} for {len(places)} tokens of {name} do not fit the base"
            )
        kept = [i for i, place in enumerate(places) if place < n]
        return [places[i] for i in kept], found[kept]

    def refuse_what_is_unread(self) -> None:
        """Refuse an adapter that would not act as it was made to act.

        Raises:
            AdapterError: a setting or a tensor can't be read; the message names it.
        """
        if self.unread:
            names = [repr(name[-100:]) for name in self.unread]
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            why = next(iter(self.unread.values()))
            raise AdapterError(f"{self.folder} can't be put on this base whole, for {listed}: {why}")


def fit_rows(table: Tensor, n: int, rest: Tensor | None = None) -> Tensor:
    """Return a table with `n` rows: the first of its own, and where it has fewer those of `rest`, or zeros."""
    if len(table) >= n:
        return table[:n]
    more = table.new_zeros(n - len(table), *table.shape[1:]) if rest is None else rest[len(table) : n].to(table)
    return torch.cat([table, more])
