"""The change that a full fine-tune makes to its base, streamed tensor by tensor: two of them in memory at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from tools.errors import ModelLoadError
from tools.lora_oracle.adapter import DENSE_RANK, WeightDelta, truncated
from tools.lora_oracle.weights import Tensors

PLAUSIBLE_RATIO = 0.5
"""A change larger than this share of the base's own norm is no fine-tune of it as it stands."""


def read_finetune(folder: Path, base: Tensors, rank: int = DENSE_RANK) -> WeightDelta:
    """Return what a full checkpoint changes: the leading directions of every matrix that differs.

    Changed vectors (norms, biases) have no directions and are listed as unsupported with their
    relative norm. A change of implausible size is a reading: the weights may have been turned by a
    symmetry of the architecture, see `realign`.

    Raises:
        ModelLoadError: a tensor of the base is missing or of another shape.
    """
    tensors, found = Tensors(folder, ModelLoadError), WeightDelta()
    missing = [name for name in base if name not in tensors]
    if missing:
        raise ModelLoadError(
            f"{folder} is no fine-tune of this base: it lacks {len(missing)} tensors, first {missing[0]}"
        )
    found.readings += [f"{name} is not in the base" for name in tensors if name not in base][:8]
    before_norm = after_norm = 0.0
    for name in tqdm(sorted(base), disable=None, desc="tensors"):
        if tensors.shape(name) != base.shape(name):
            raise ModelLoadError(
                f"{folder} is no fine-tune of this base: {name} is {list(tensors.shape(name))}, the base's {list(base.shape(name))}"
            )
        before, after = base.read(name).double(), tensors.read(name).double()
        if torch.equal(before, after):
            continue
        change = after - before
        if change.ndim != 2:
            size = float(change.norm() / before.norm().clamp_min(1e-12))
            found.unsupported[name] = f"a changed vector (relative norm {size:.3g}), which has no directions"
            continue
        before_norm, after_norm = before_norm + float(before.square().sum()), after_norm + float(change.square().sum())
        found.add(name.removesuffix(".weight"), *truncated(name.removesuffix(".weight"), change, rank))
    ratio = (after_norm / before_norm) ** 0.5 if before_norm else 0.0
    if ratio > PLAUSIBLE_RATIO:
        found.readings.append(
            f"the change is {ratio:.2f} of the base's own norm, which no fine-tune is: the weights may have been turned by a symmetry"
        )
    found.recipe = {"rank": "full", "modules": sorted({path.rsplit(".", 1)[-1] for path in found.modules})}
    return found
