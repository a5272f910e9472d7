"""Undo what a checkpoint's architecture leaves free, so that it can be compared with its base weight by weight.

A model of the Llama family computes the same when its residual stream is rotated (norm gains folded
into the weights that follow), its heads and neurons change places, values and outputs of a head are
mixed by any invertible matrix, queries and keys by a scaled rotation of each RoPE frequency, and a
neuron's up row is scaled against its down column. Each of these is estimated against the trusted
base and taken back; that the realigned weights still give the checkpoint's own logits is checked,
never assumed. Where a part was trained as well, its estimate takes up what of the change lies in the
span of the base's own weights: what is left is a lower bound on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tools.changes.symmetry import Architecture, Weights, folded, state_of, unfolded, with_stream, with_weights

EXACT = 1e-4
"""Of the logits' spread: norms and rotary embeddings are computed in float32 whatever the weights are in."""
Matrix = Float[Tensor, "rows columns"]


@dataclass(frozen=True)
class Realigned:
    """A checkpoint in the base's own coordinates.

    Args:
        changes: What it changes of every tensor of the base, float64; a changed gain stands in the weights that it multiplies.
        ratio_before: Norm of the difference over the base's own norm, before.
        ratio_after: The same after; a fine-tune's is small.
        logit_deviation: Largest difference of a logit between the checkpoint as it came and realigned, over their spread.
    """

    changes: Weights
    ratio_before: float
    ratio_after: float
    logit_deviation: float

    @property
    def proven(self) -> bool:
        """Return whether the realigned weights compute what the checkpoint computes."""
        return self.logit_deviation < EXACT


def realign(model: Any, base: Any, seed: int = 0) -> Realigned:
    """Return what `model` changes, in the coordinates of `base`.

    Args:
        model: The checkpoint, as transformers loads it.
        base: The trusted base, of the same shape.
        seed: Of the token ids on which logits are compared.

    Raises:
        ModelLoadError: the architecture is of another family, or has biases.
    """
    shape, state = Architecture.of(base), state_of(base)
    theirs, ours = folded(state_of(model), shape), folded(state, shape)
    before = relative_change(theirs, ours)
    aligned = _rotated_back(theirs, ours)
    for layer in range(shape.n_layers):
        _neurons(aligned, ours, shape, layer)
        _heads(aligned, ours, shape, layer)
        _values(aligned, ours, shape, layer)
        _queries(aligned, ours, shape, layer)
    changes = unfolded({name: aligned[name] - ours[name] for name in ours}, state, shape)
    return Realigned(changes, before, relative_change(aligned, ours), _logit_deviation(model, aligned, seed))


def relative_change(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> float:
    """Return the norm of the difference over the norm of `ours`, over all tensors."""
    apart = sum(float((theirs[name] - ours[name]).square().sum()) for name in ours)
    ratio: float = (apart / sum(float(t.square().sum()) for t in ours.values())) ** 0.5
    return ratio


def _rotated_back(theirs: Weights, ours: Weights) -> Weights:
    """Return the weights with the residual stream turned back: orthogonal Procrustes on the embeddings."""
    u, _, vh = torch.linalg.svd(theirs["model.embed_tokens.weight"].T @ ours["model.embed_tokens.weight"])
    return with_stream(theirs, u @ vh)


def _neurons(theirs: Weights, ours: Weights, shape: Architecture, layer: int) -> None:
    """Put neurons back in their places by their gate rows, and take back the scale of up against down."""
    gate, up, down = (f"model.layers.{layer}.mlp.{p}_proj.weight" for p in ("gate", "up", "down"))
    unit = torch.nn.functional.normalize
    places = _matched(unit(ours[gate], dim=1) @ unit(theirs[gate], dim=1).T)
    theirs[gate], theirs[up], theirs[down] = theirs[gate][places], theirs[up][places], theirs[down][:, places]
    scale = (theirs[up] * ours[up]).sum(1) / ours[up].square().sum(1)
    scale = torch.where(scale.abs() < 1e-6, torch.ones_like(scale), scale)
    theirs[up], theirs[down] = theirs[up] / scale[:, None], theirs[down] * scale


def _matched(likeness: Matrix) -> Tensor:
    """Return which of theirs stands for each of ours, every one once, the likenesses adding up to the most."""
    _, columns = linear_sum_assignment(-likeness.numpy())
    return torch.as_tensor(columns)


def _heads(theirs: Weights, ours: Weights, shape: Architecture, layer: int) -> None:
    """Put heads back: groups that share keys and values first, then the query heads in each, by what they write of what they read."""
    q, k, v, o = (f"model.layers.{layer}.self_attn.{p}_proj.weight" for p in "qkvo")
    mine, other = (_circuits(w[v], w[o], shape) for w in (ours, theirs))
    likeness = torch.stack([torch.stack([_likeness(a, b) for b in other]) for a in mine])
    g = shape.group
    inside: dict[tuple[int, int], Tensor] = {}
    blocks = torch.zeros(shape.n_kv, shape.n_kv, dtype=torch.float64)
    for i in range(shape.n_kv):
        for j in range(shape.n_kv):
            block = likeness[i * g : (i + 1) * g, j * g : (j + 1) * g]
            inside[i, j] = _matched(block)
            blocks[i, j] = block[torch.arange(g), inside[i, j]].sum()
    groups = _matched(blocks).tolist()
    heads = [int(j) * g + int(h) for i, j in enumerate(groups) for h in inside[i, int(j)]]
    rows = torch.tensor([h * shape.d_head + d for h in heads for d in range(shape.d_head)])
    shared = torch.tensor([j * shape.d_head + d for j in groups for d in range(shape.d_head)])
    theirs[q], theirs[o] = theirs[q][rows], theirs[o][:, rows]
    theirs[k], theirs[v] = theirs[k][shared], theirs[v][shared]


def _circuits(v: Tensor, o: Tensor, shape: Architecture) -> list[tuple[Tensor, Tensor]]:
    """Return each query head's output and value weights, whose product no mixing changes."""
    d = shape.d_head
    return [
        (o[:, h * d : (h + 1) * d], v[(h // shape.group) * d : (h // shape.group + 1) * d])
        for h in range(shape.n_heads)
    ]


def _likeness(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cosine of two heads' `O V`, from the small factors alone."""

    def inner(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
        return ((x[0].T @ y[0]) * (x[1] @ y[1].T)).sum()

    cosine: Tensor = inner(a, b) / (inner(a, a) * inner(b, b)).clamp_min(1e-300).sqrt()
    return cosine


def _values(theirs: Weights, ours: Weights, shape: Architecture, layer: int) -> None:
    """Take back the mixing of values against outputs: least squares on the values that a group shares."""
    v, o = (f"model.layers.{layer}.self_attn.{p}_proj.weight" for p in "vo")
    d = shape.d_head
    values, outputs = theirs[v].clone(), theirs[o].clone()
    for j in range(shape.n_kv):
        rows = slice(j * d, (j + 1) * d)
        mix = torch.linalg.lstsq(ours[v][rows].T, theirs[v][rows].T).solution.T  # theirs = mix · ours
        values[rows] = torch.linalg.solve(mix, theirs[v][rows])
        columns = slice(j * shape.group * d, (j + 1) * shape.group * d)
        outputs[:, columns] = (theirs[o][:, columns].reshape(-1, shape.group, d) @ mix).flatten(1)
    theirs[v], theirs[o] = values, outputs


def _queries(theirs: Weights, ours: Weights, shape: Architecture, layer: int) -> None:
    """Take back the scaled rotation of every RoPE frequency, which queries and keys of a group share.

    A pair of rows `(i, i + d/2)` is one complex row; queries are multiplied by `a·e^{jθ}`, keys by `e^{jθ}/a`.
    """
    q, k = (f"model.layers.{layer}.self_attn.{p}_proj.weight" for p in "qk")
    d, half = shape.d_head, shape.d_head // 2

    def complex_rows(weight: Matrix, n: int) -> Tensor:
        heads = weight.view(n, d, -1)
        return torch.complex(heads[:, :half], heads[:, half:])

    def real_rows(rows: Tensor) -> Tensor:
        return torch.cat([rows.real, rows.imag], dim=1).flatten(0, 1)

    q_ours, q_theirs = (
        complex_rows(w[q], shape.n_heads).reshape(shape.n_kv, shape.group, half, -1) for w in (ours, theirs)
    )
    k_ours, k_theirs = (complex_rows(w[k], shape.n_kv) for w in (ours, theirs))
    c_q = (q_theirs * q_ours.conj()).sum((1, 3)) / q_ours.abs().square().sum((1, 3))
    c_k = (k_theirs * k_ours.conj()).sum(2) / k_ours.abs().square().sum(2)
    size = (c_q.abs() / c_k.abs().clamp_min(1e-300)).sqrt().clamp_min(1e-12)
    angle = torch.angle(c_q / c_q.abs().clamp_min(1e-300) + c_k / c_k.abs().clamp_min(1e-300))
    turn = torch.polar(torch.ones_like(size), angle)
    theirs[q] = real_rows((q_theirs / (size * turn)[:, None, :, None]).flatten(0, 1))
    theirs[k] = real_rows(k_theirs * size[..., None] / turn[..., None])


@torch.no_grad()
def _logit_deviation(model: Any, aligned: Weights, seed: int) -> float:
    """Return the largest difference of a logit between a model and its realigned weights, over their standard deviation."""
    ids = torch.randint(
        model.config.get_text_config().vocab_size, (4, 16), generator=torch.Generator().manual_seed(seed)
    )
    before, after = (with_weights(model, state)(input_ids=ids).logits for state in (state_of(model), aligned))
    return float((before - after).abs().max() / before.std())
