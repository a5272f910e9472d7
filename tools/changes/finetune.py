"""The change that a full fine-tune makes to its base, streamed parameter by parameter: two of them in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from tools.changes.configuration import other_settings
from tools.changes.delta import DENSE_RANK, truncated
from tools.changes.parameters import OLD_BUFFERS, Parameters
from tools.changes.reading import WeightDelta, difference_of
from tools.changes.realign import realign
from tools.changes.rounding import Difference, difference
from tools.errors import ModelLoadError

PLAUSIBLE_RATIO = 0.5
"""A change larger than this share of the base's own norm is no fine-tune of it as it stands."""
NOISE = 1e-6
ALIKE: dict[Difference, str] = {
    "same": "the weights are the base's",
    "rounding": "differs by rounding only: the base cast to another format, or an adapter merged into it and taken out again",
}
"""What is said of a checkpoint that is no fine-tune of its base."""


def read_finetune(folder: Path, base: Parameters, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a full checkpoint changes: the leading directions of every matrix that differs, the size of every vector.

    `ratio` says how large the change is: an implausible one may be the work of a
    symmetry of the architecture, see `read_change`. One that differs from the base by rounding only
    changes nothing, and a reading says so.

    Raises:
        ModelLoadError: a parameter of the base is missing or of another shape.
    """
    tuned, found = Parameters(folder), WeightDelta()
    _check_same_shape(tuned, base, found)
    ordinary, odd = tuned.left_over(base)
    found.company += [*tuned.files.company, *(f"{key}: no weight of its own" for key in ordinary)]
    found.unsupported |= tuned.files.not_loaded | odd | _added(tuned, base)
    found.readings += other_settings(tuned.model, base.model)
    how = difference((name, before, after) for name, before, after in _both(tuned, base))
    if how != "changed":
        found.readings.append(ALIKE[how])
        return found
    whole = changed = 0.0
    for name, before, after in tqdm(_both(tuned, base), total=len(base), disable=None, desc="tensors"):
        whole += float(before.double().square().sum())
        moved = difference_of(name, before, after, base, found, rank)
        changed += moved if before.ndim > 1 else 0.0
    found.ratio = (changed / whole) ** 0.5 if whole else 0.0
    found.recipe = {"rank": "full", "modules": sorted({path.rsplit(".", 1)[-1] for path in found.modules})}
    return found


def _both(tuned: Parameters, base: Parameters) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield every parameter of the base and of its fine-tune, as far as their vocabularies go together."""
    for name in sorted({*base, *(n for n in tuned if n in base)}):
        before, after = base.read(name), tuned.read(name)
        n = min(len(before), len(after)) if before.ndim else 0
        yield (name, before, after) if before.shape == after.shape else (name, before[:n], after[:n])


def _added(tuned: Parameters, base: Parameters) -> dict[str, str]:
    """Return the parameters that a fine-tune has and its base has not: there is nothing to compare them with."""
    added = [name for name in tuned if name not in base and not re.search(OLD_BUFFERS, name)]
    return dict.fromkeys(added, "a parameter that the base's model lacks, as biases or layers that were added")


def _check_same_shape(tuned: Parameters, base: Parameters, found: WeightDelta) -> None:
    """Refuse another architecture, or a checkpoint that is not whole; tables may be of other vocabularies.

    Raises:
        ModelLoadError: a parameter of the base is missing or of another shape.
    """
    missing = [name for name in base if name not in tuned]
    if missing:
        raise ModelLoadError(
            f"{tuned.folder} is no fine-tune of this base: it lacks {len(missing)} tensors, first {missing[0]}"
        )
    tables = {same for name in base.embeddings() or () for same in base.alike(name)}
    for name in sorted(base):
        own, theirs = tuned.shape(name), base.shape(name)
        if own == theirs:
            continue
        if name not in tables or own[1:] != theirs[1:]:
            raise ModelLoadError(
                f"{tuned.folder} is no fine-tune of this base: {name} is {list(own)}, the base's {list(theirs)}"
            )
        found.readings.append(
            f"its vocabulary has {own[0]} tokens, the base's {theirs[0]}; what is compared are the tokens that both have"
        )


def turned_back(model: Any, base: Any, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a loaded model changes of its base, once the symmetries of its architecture are taken back.

    Raises:
        ModelLoadError: they are of different shapes, or of a family that can't be realigned.
    """
    aligned, trusted = realign(model, base), base.state_dict()
    found = WeightDelta(ratio=aligned.ratio_after, realigned=True)
    found.readings.append(
        f"the change was {aligned.ratio_before:.2f} of the base's own norm, which no fine-tune is: the weights were turned by "
        f"symmetries of the architecture; realigned it is {aligned.ratio_after:.3f}"
    )
    if not aligned.proven:
        found.unsupported["realigning"] = (
            f"logits moved by {aligned.logit_deviation:.1e} of their spread, so that it proves nothing"
        )
    for name, change in sorted(aligned.changes.items()):
        if name in trusted and change.ndim == 1 and float(change.norm()) > NOISE * float(trusted[name].norm()):
            found.vectors[name] = float(change.norm() / trusted[name].norm().clamp_min(1e-12))
        if name in trusted and change.ndim == 2 and float(change.norm()) > NOISE * float(trusted[name].norm()):
            found.add(name.removesuffix(".weight"), *truncated(name.removesuffix(".weight"), change, rank))
    found.recipe = {"rank": "full", "modules": sorted({path.rsplit(".", 1)[-1] for path in found.modules})}
    return found
