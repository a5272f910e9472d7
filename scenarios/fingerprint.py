"""Can organisms be told from controls by norms, spectra and recipe alone? The baseline of every scoreboard.

A benchmark whose controls learnt less than its organisms measures the size of a change, not what
was planted. This classifier sees no direction of any weight: what it reaches is printed beside
every score. An organism and the control that was given its spectrum are never on two sides of a
fold: there the control would be taken for the organism that it looks like, and the classifier for
worse than it is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file
from torch import Tensor

from tools.probe.linear import auroc, logistic

FOLDS, SPLITS, BOOTSTRAPS = 5, 20, 1000
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Print:
    """What the classifier sees of one adapter, what it is, and which others it can't be told from by construction.

    Args:
        features: See `features`.
        organism: Whether anything was planted.
        group: The id of the organism whose spectrum it has, its own otherwise.
    """

    features: Tensor
    organism: bool
    group: str


@dataclass(frozen=True)
class Fingerprint:
    """How well the classifier tells the two apart: AUROC with its 95% interval, and how many there were of each."""

    auroc: float
    interval: tuple[float, float]
    n_organisms: int
    n_controls: int


def features(folder: Path, base: Path) -> Tensor:
    """Return log norm, stable rank and entropy of the change for each kind of module, then the recipe's rank and modules."""
    spectra = _of_lora(folder) if (folder / "adapter_config.json").exists() else _of_full(folder, base)
    parts: list[float] = []
    for kind in KINDS:
        values = [s for name, s in spectra.items() if kind in name]
        if not values:
            parts += [0.0, 0.0, 0.0]
            continue
        energy = torch.stack([s.square() for s in values])
        share = energy / energy.sum(1, keepdim=True).clamp(min=1e-20)
        norm = energy.sum().clamp(min=1e-20).log() / 2
        stable = (energy.sum(1) / energy.amax(1).clamp(min=1e-20)).mean()
        entropy = -(share * share.clamp(min=1e-12).log()).sum(1).mean()
        parts += [float(norm), float(stable), float(entropy)]
    rank = max(len(s) for s in spectra.values())
    return torch.tensor([*parts, float(rank), float(len(spectra))], dtype=torch.float64)


def _of_lora(folder: Path) -> dict[str, Tensor]:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    return {
        name: scale * _product_spectrum(tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"])
        for name in names
    }


def _product_spectrum(a: Tensor, b: Tensor) -> Tensor:
    """Return the singular values of `B A` from the factors."""
    _, r_b = torch.linalg.qr(b.double())
    _, r_a = torch.linalg.qr(a.double().T)
    return torch.linalg.svdvals(r_b @ r_a.T)


def _of_full(folder: Path, base: Path) -> dict[str, Tensor]:
    tuned, before = (load_file(path / "model.safetensors") for path in (folder, base))
    return {
        name: torch.linalg.svdvals(weight.double() - before[name].double())
        for name, weight in tuned.items()
        if weight.ndim == 2 and any(kind in name for kind in KINDS)
    }


def fingerprint(prints: Sequence[Print], seed: int = 0) -> Fingerprint | None:
    """Return the cross-validated AUROC of a logistic regression on standardised features; None for fewer than `FOLDS` of either.

    Folds are of whole groups; the AUROC is the mean over `SPLITS` ways of making them, its interval a
    bootstrap over groups.
    """
    label = torch.tensor([one.organism for one in prints])
    n_organisms = int(label.sum())
    if min(n_organisms, len(prints) - n_organisms) < FOLDS:
        return None
    x = torch.stack([one.features for one in prints])
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    members: dict[str, list[int]] = {}
    for i, one in enumerate(prints):
        members.setdefault(one.group, []).append(i)
    rng = random.Random(seed)
    found, draws = [], []
    for _ in range(SPLITS):
        scores = _held_out_scores(x, label, list(members.values()), rng)
        found.append(auroc(scores, label))
        for _ in range(BOOTSTRAPS // SPLITS):
            drawn = [i for group in rng.choices(list(members.values()), k=len(members)) for i in group]
            if len(set(label[drawn].tolist())) == 2:
                draws.append(auroc(scores[drawn], label[drawn]))
    draws.sort()
    ends = draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws)) - 1]
    return Fingerprint(fmean(found), ends, n_organisms, len(prints) - n_organisms)


def _held_out_scores(x: Tensor, label: Tensor, groups: list[list[int]], rng: random.Random) -> Tensor:
    """Return each adapter's score by a classifier that saw no adapter of its group."""
    fold = torch.zeros(len(label), dtype=torch.long)
    place = 0
    for kind in (True, False):
        own = [group for group in groups if bool(label[group].any()) == kind]
        for group in rng.sample(own, len(own)):
            fold[group] = place % FOLDS
            place += 1
    scores = torch.zeros(len(label), dtype=torch.float64)
    for k in range(FOLDS):
        weights, intercept = logistic(x[fold != k], label[fold != k])
        scores[fold == k] = x[fold == k] @ weights + intercept
    return scores
