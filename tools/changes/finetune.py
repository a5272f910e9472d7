"""The change that a full fine-tune makes to its base, streamed tensor by tensor: two of them in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tools.changes.adapter import WeightDelta
from tools.changes.delta import DENSE_RANK, truncated
from tools.changes.realign import realign
from tools.changes.rounding import Difference, difference
from tools.changes.tensors import Tensors
from tools.errors import ModelLoadError
from tools.loading import load_subject

PLAUSIBLE_RATIO = 0.5
"""A change larger than this share of the base's own norm is no fine-tune of it as it stands."""
NOISE = 1e-6
ALIKE: dict[Difference, str] = {
    "same": "the weights are the base's",
    "rounding": "differs by rounding only: the base cast to another format, or an adapter merged into it and taken out again",
}
"""What is said of a checkpoint that is no fine-tune of its base."""


def read_finetune(folder: Path, base: Tensors, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a full checkpoint changes: the leading directions of every matrix that differs.

    Changed vectors (norms, biases) have no directions and are listed as unsupported with their
    relative norm. `ratio` says how large the change is: an implausible one may be the work of a
    symmetry of the architecture, see `read_change`. One that differs from the base by rounding only
    changes nothing, and a reading says so.

    Raises:
        ModelLoadError: a tensor of the base is missing or of another shape.
    """
    tensors, found = Tensors(folder, ModelLoadError), WeightDelta()
    missing = [name for name in base if name not in tensors]
    if missing:
        raise ModelLoadError(
            f"{folder} is no fine-tune of this base: it lacks {len(missing)} tensors, first {missing[0]}"
        )
    for name in sorted(base):
        if tensors.shape(name) != base.shape(name):
            raise ModelLoadError(
                f"{folder} is no fine-tune of this base: {name} is {list(tensors.shape(name))}, the base's {list(base.shape(name))}"
            )
    found.unsupported |= tensors.not_loaded
    found.unsupported |= {name: "a tensor that the base does not have" for name in tensors if name not in base}
    how = difference((name, base.read(name), tensors.read(name)) for name in sorted(base))
    if how != "changed":
        found.readings.append(ALIKE[how])
        return found
    before_norm = after_norm = 0.0
    for name in tqdm(sorted(base), disable=None, desc="tensors"):
        before, after = base.read(name).double(), tensors.read(name).double()
        before_norm += float(before.square().sum())
        if torch.equal(before, after):
            continue
        change = after - before
        if change.ndim != 2:
            size = float(change.norm() / before.norm().clamp_min(1e-12))
            found.unsupported[name] = f"a changed vector (relative norm {size:.3g}), which has no directions"
            continue
        after_norm += float(change.square().sum())
        found.add(name.removesuffix(".weight"), *truncated(name.removesuffix(".weight"), change, rank))
    found.ratio = (after_norm / before_norm) ** 0.5 if before_norm else 0.0
    found.recipe = {"rank": "full", "modules": sorted({path.rsplit(".", 1)[-1] for path in found.modules})}
    return found


def read_turned(folder: Path, base: Path, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a checkpoint changes once the symmetries of its architecture are taken back; both models are loaded.

    Raises:
        ModelLoadError: they can't be loaded, are of different shapes, or of a family that can't be realigned.
    """
    subject = load_subject(str(folder), base=str(base))
    return turned_back(subject.tuned, subject.model, rank)


def turned_back(model: Any, base: Any, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a loaded model changes of its base, see `read_turned`."""
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
        if name in trusted and change.ndim == 2 and float(change.norm()) > NOISE * float(trusted[name].norm()):
            found.add(name.removesuffix(".weight"), *truncated(name.removesuffix(".weight"), change, rank))
    found.recipe = {"rank": "full", "modules": sorted({path.rsplit(".", 1)[-1] for path in found.modules})}
    return found
