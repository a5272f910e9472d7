"""Whether a checkpoint differs from its base by rounding alone: a cast, or a LoRA merged and taken out again.

Rounding has the size of a format's last places, and it goes nowhere: the signs of its errors are as good as drawn.
A fine-tune, however quiet, moves weights in few directions, because gradients are sums of few outer products.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Difference = Literal["same", "rounding", "changed"]
FORMATS = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 2**-6
"""More than this share of a weight and of its tensor's root mean square is no rounding, not even bfloat16's."""
FEWEST = 8
"""A matrix with fewer rows or columns shows no more structure than a vector."""
LAST_PLACE = 2**-7
"""The largest share of a value that two roundings to bfloat16 come to."""
SMALLEST = 2**-24
"""The smallest step of float16, below which it rounds without regard to size."""
CONCENTRATED = 4.0
"""A change whose largest singular value is so many times that of its own entries in drawn places stands in few rows or columns."""


def difference(tensors: Iterable[tuple[str, Tensor, Tensor]]) -> Difference:
    """Return whether tensors are the base's own, differ from them by rounding only, or are changed.

    A tensor is rounded where it is a cast of the base's own through bfloat16 or float16, or else a
    matrix whose difference is small and has no structure, see `unstructured`. Vectors have too few
    entries to show a structure. Merging leaves them alone, so that casts are all that is expected of
    them: another difference of a last place is put down to rounding only where some matrix has an
    unstructured difference too, and a checkpoint in which vectors alone moved is changed. The first
    tensor that is changed is the last one read.

    Args:
        tensors: Name, the base's tensor and the checkpoint's, of one shape.
    """
    seen: set[str] = set()
    for _, base, tuned in tensors:
        if torch.equal(base.float(), tuned.float()):
            continue
        before, change = _nearest(base, tuned)
        if not change.any():
            seen.add("cast")
        elif change.ndim < 2 or min(change.flatten(0, -2).shape) < FEWEST:
            if bool((change.abs() > LAST_PLACE * before.abs() + SMALLEST).any()):
                return "changed"
            seen.add("vector")
        elif not (_small(before, change) and unstructured(change.flatten(0, -2))):
            return "changed"
        else:
            seen.add("matrix")
    if "vector" in seen and "matrix" not in seen:
        return "changed"
    return "rounding" if seen else "same"


def pairs(base: Any, tuned: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Return the weights of two loaded models by name, the base's under its adapters; a tied pair comes once."""
    plain = base.get_base_model() if hasattr(base, "get_base_model") else base
    trusted = {
        name.replace(".base_layer.", "."): weight for name, weight in plain.named_parameters(remove_duplicate=False)
    }
    seen: set[tuple[int, int]] = set()
    for name, weight in tuned.named_parameters(remove_duplicate=False):
        pair = (id(trusted[name]), id(weight))
        if pair not in seen:
            seen.add(pair)
            yield name, trusted[name].detach(), weight.detach()


def _small(before: Tensor, change: Tensor) -> bool:
    """Return whether no entry changed by more than a few last places of the coarsest format, at the tensor's scale."""
    return not bool((change.abs() > LARGEST * (before.abs() + _rms(before))).any())


def _nearest(base: Tensor, tuned: Tensor) -> tuple[Tensor, Tensor]:
    """Return the base's tensor in the format in which it is nearest to the checkpoint's, and what is left of the change.

    What a cast did is taken off, so that a quiet change under it is not lost in the cast's own noise.
    """
    after = tuned.float()
    kind = min(FORMATS, key=lambda kind: float((after - base.to(kind).float()).norm().nan_to_num(torch.inf)))
    before = base.to(kind).float()
    return before, after - before


def unstructured(change: Float[Tensor, "d_out d_in"], seed: int = 0) -> bool:
    """Return whether a matrix goes nowhere: its signs and its places could as well have been drawn.

    Its largest singular value is held against that of the same entries with signs drawn anew, which
    keeps rows and columns as loud as they are, as rounding makes them. The margin allows for what
    chance does in small matrices. A change of a few rows or columns loses nothing by drawn signs, so
    that it is told by its places: it leaves most rows alone, or is far from the same entries put
    anywhere. The rounding of a merged LoRA is louder in some rows too, and that margin is wide.
    """
    if any(_crowded(change, dim) for dim in (0, 1)):
        return False
    generator = torch.Generator().manual_seed(seed)
    change = (change / _rms(change)).cpu()
    signs = torch.randint(0, 2, change.shape, generator=generator) * 2 - 1
    places = torch.randperm(change.numel(), generator=generator)
    largest = _largest(change, seed)
    if largest > (1.2 + 3 / min(change.shape)) * _largest(change * signs, seed):
        return False
    return largest <= CONCENTRATED * _largest(change.flatten()[places].view_as(change), seed)


def _crowded(change: Float[Tensor, "d_out d_in"], dim: int) -> bool:
    """Return whether the entries that changed stand in fewer than half of the lines that drawn places would touch."""
    lines, changed = change.shape[dim], change != 0
    drawn = lines * (1 - (1 - 1 / lines) ** int(changed.sum()))
    return int(changed.any(1 - dim).sum()) < 0.5 * drawn


def _largest(matrix: Float[Tensor, "d_out d_in"], seed: int) -> float:
    """Return the largest singular value, by subspace iteration."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(matrix.shape[1], 4, generator=generator)
    for _ in range(8):
        q = torch.linalg.qr(matrix.T @ (matrix @ q))[0]
    return float(torch.linalg.matrix_norm(matrix @ q, 2))


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
