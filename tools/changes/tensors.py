"""A checkpoint's tensors one at a time, by name, without loading the model: shards are opened lazily."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tools.checkpoint import ADAPTER_WEIGHTS, check_folder, read_json
from tools.errors import AdapterError, AuditorError, ModelLoadError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
COMPANY = {
    r"(training_args|optimizer|scheduler|scaler|trainer_state|random_states|rng_state|latest)([_.-]?\d+)*\.(bin|pt|pth|pkl)":
        "a trainer's state, never opened",
    r"(pytorch_model|adapter_model|consolidated)([._-]?[\d]+(-of-\d+)?)?\.(bin|pt|pth)":
        "an older copy of the weights that no loader takes beside safetensors, never opened",
}  # fmt: skip
"""Weight files that belong beside those that a loader takes, by their names, and what they are."""
AT_ONCE = 2**18
"""Values that are looked at in one go: as many as stay in a processor's own memory."""
GAP = 64
"""Rows that are read and thrown away rather than asked for around them."""


class Tensors:
    """The tensors that a loader would take from a folder; nothing is read until it is asked for.

    Args:
        folder: Of a checkpoint or an adapter.
        kind: The class of error to raise.
        name: Of the one file to open [default: what PEFT or transformers would load].

    Raises:
        AuditorError: of class `kind`: the folder may not be trusted, a file is cut short, damaged or
            claims more than it holds, or two files hold a tensor of one name.
    """

    def __init__(self, folder: Path, kind: type[AuditorError] = ModelLoadError, name: str | None = None) -> None:
        check_folder(folder, kind)
        self.folder, self.kind = folder, kind
        loaded = _loaded(folder, kind) if name is None else [folder / name]
        self.beside = sorted(f.name for s in WEIGHT_SUFFIXES for f in folder.glob(f"*{s}") if f not in loaded)
        self._where: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in loaded:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        if name in self._where:
                            raise kind(
                                f"{file} and {self._where[name].name} both hold {name}; remove one of the two files"
                            )
                        self._where[name] = file
                        self._shapes[name] = tuple(opened.get_slice(name).get_shape())
            except (OSError, SafetensorError) as error:
                raise kind(f"{file} is not a readable safetensors file: {error}; get the file again") from error

    @property
    def company(self) -> list[str]:
        """Return the weight files that belong beside those that a loader takes: what a trainer keeps, a second copy."""
        return [f"{name}: {why}" for name in self.beside for why in (self._ordinary(name),) if why]

    @property
    def not_loaded(self) -> dict[str, str]:
        """Return the other weight files that stand there: what is in them is not read."""
        why = "weights beside those that are loaded; remove them, or look at them by themselves"
        return {name: why for name in self.beside if not self._ordinary(name)}

    def _ordinary(self, name: str) -> str:
        """Return why a file is ordinary company; an empty text where it is not."""
        if known := next((why for pattern, why in COMPANY.items() if re.fullmatch(pattern, name)), ""):
            return known
        if name.endswith(".safetensors") and self._repeats(self.folder / name):
            return "a second copy of the weights"
        return ""

    def _repeats(self, file: Path) -> bool:
        """Return whether every tensor of a file stands in those that are loaded too, with the same values."""
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                return bool(names) and all(
                    name in self and torch.equal(opened.get_tensor(name), self.read(name)) for name in names
                )
        except (OSError, SafetensorError, RuntimeError):
            return False

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape from its file's header."""
        return self._shapes[name]

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored, finite.

        Raises:
            AuditorError: of class `kind`: it can't be read, or has NaN or infinite values.
        """
        with self._opened(name) as opened:
            tensor: Tensor = opened.get_tensor(name)
        return self._finite(name, tensor)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return some rows of a matrix as they are stored, finite, without reading the others.

        Raises:
            AuditorError: of class `kind`: they can't be read, or have NaN or infinite values.
        """
        with self._opened(name) as opened:
            tensor: Tensor = opened.get_slice(name)[start:stop]
        return self._finite(name, tensor)

    def rows_at(self, name: str, places: Int[Tensor, " row"]) -> Tensor:
        """Return the rows of a matrix at these places, which ascend, as they are stored, finite.

        Rows that lie near one another are read in one go.

        Raises:
            AuditorError: of class `kind`: they can't be read, or have NaN or infinite values.
        """
        cuts = ((places.diff() > GAP).nonzero()[:, 0] + 1).tolist()
        with self._opened(name) as opened:
            part = opened.get_slice(name)
            found = [
                part[int(run[0]) : int(run[-1]) + 1][run - run[0]] for run in places.tensor_split(cuts) if len(run)
            ]
        return self._finite(name, torch.cat(found) if found else torch.zeros(0, *self.shape(name)[1:]))

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        try:
            with safe_open(self._where[name], framework="pt") as opened:
                yield opened
        except (OSError, SafetensorError) as error:
            raise self.kind(f"{self._where[name]}: {name} can't be read: {error}; get the file again") from error

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if not all(map(_is_finite, torch.split(tensor.flatten(), AT_ONCE))):
            raise self.kind(
                f"{self._where[name]}: tensor {name} has NaN or infinite values; the file is damaged, get it again"
            )
        return tensor


def _is_finite(some: Tensor) -> bool:
    """Return whether all values are finite: their sum is only if they are, which is far cheaper than a look at each."""
    values = some.float()
    return bool(torch.isfinite(values.sum()) or torch.isfinite(values).all())


def _loaded(folder: Path, kind: type[AuditorError]) -> list[Path]:
    """Return the files that PEFT or transformers would load: the one with the usual name, or an index's shards."""
    name = ADAPTER_WEIGHTS if kind is AdapterError else "model.safetensors"
    if (folder / name).exists():
        return [folder / name]
    index = folder / f"{name}.index.json"
    if index.exists():
        return sorted({folder / str(shard) for shard in read_json(index, kind)["weight_map"].values()})
    held = sorted(file.name for file in folder.glob("*.safetensors"))
    raise kind(
        f"{folder} holds neither {name} nor {index.name}, which says what stands in which shard; it holds "
        f"{', '.join(held[:3])}{' and more' if len(held) > 3 else ''}: get the missing file, or name the one that is meant {name}"
    )
