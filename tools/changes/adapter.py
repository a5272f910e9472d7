"""The change of weights that an adapter folder holds, read without a model: what can be read, and what can't.

What is not understood is said to be unsupported, never that it is clean. Formats as PEFT 0.21 writes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tools.changes.delta import ModuleDelta, factored_svd, layer_of, truncated
from tools.changes.tensors import Tensors
from tools.checkpoint import read_json
from tools.errors import AdapterError

Status = Literal["read", "partial", "unsupported", "invalid"]
PLAIN_INITS: tuple[object, ...] = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` with which the factors' product is the change of the base's weights."""
MEANS_MORE = (
    "layer_replication",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
)
"""Settings with which the factors' product is not the change, or not all of it."""
PREFIX = "base_model.model."
MOST_RANK = 4
"""A rank of more than so many times the matrix's own smaller side is no low-rank adapter."""
_FACTOR = re.compile(r"(?P<path>.+?)\.lora_(?P<side>A|B)(\.[^.]+)?\.weight")
_EMBEDDING = re.compile(r"(?P<path>.+?)\.lora_embedding_(?P<side>A|B)(\.[^.]+)?")
_MAGNITUDE = re.compile(r"(?P<path>.+?)\.lora_magnitude_vector(\.[^.]+)?(\.weight)?")


@dataclass(frozen=True)
class Factors:
    """One module's factors as stored, float64: the change is `scale · B A`, transposed where the base stores it so."""

    B: Tensor
    A: Tensor
    scale: float
    transposed: bool = False

    def scrambled(self, g: Tensor) -> Factors:
        """Return other factors of the same change: `B G⁻¹` and `G A`."""
        return Factors(torch.linalg.solve(g, self.B, left=False), g @ self.A, self.scale, self.transposed)

    def delta(self, path: str) -> ModuleDelta:
        """Return the change in singular directions; the product is never formed."""
        u, s, v = factored_svd(self.B * self.scale, self.A)
        u, v = (v, u) if self.transposed else (u, v)
        return ModuleDelta(path, layer_of(path), u, s, v)


@dataclass
class WeightDelta:
    """All that an adapter, or a full fine-tune, changes.

    Args:
        modules: Low-rank changes by module.
        energy: Squared norm of each module's change; where directions were cut off, of the whole of it.
        factors: Where the change came from a LoRA's factors.
        unsupported: What could not be read: a tensor or a setting, and why.
        readings: What stands in the files and is worth knowing: an explicit trigger, a config that disagrees.
        claimed_base: What the adapter says that it is for.
        recipe: What can be said of how it was made: rank, alpha, modules.
        ranks: Of the factors' tensors, by module.
        ratio: Of a full fine-tune: norm of the change over the base's own.
        realigned: Whether symmetries of the architecture were taken back first.
    """

    modules: dict[str, ModuleDelta] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    readings: list[str] = field(default_factory=list)
    claimed_base: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    ratio: float | None = None
    realigned: bool = False

    @property
    def coverage(self) -> float | None:
        """Return what share of the change's squared norm the directions hold; None where a part was not read at all."""
        whole = sum(self.energy.values())
        if self.unsupported or whole == 0:
            return None
        return sum(float(d.S.square().sum()) for d in self.modules.values()) / whole

    @property
    def status(self) -> Status:
        """Return whether the change was read, in part or not at all; `invalid` where what was read changes nothing."""
        changes = any(float(d.S.sum()) > 0 for d in self.modules.values())
        if self.unsupported:
            return "partial" if changes else "unsupported"
        return "read" if changes else "invalid"

    def add(self, path: str, delta: ModuleDelta, energy: float | None = None) -> None:
        """Take up one module's change, and the squared norm of it whole where directions were cut off."""
        if path in self.modules and float(self.modules[path].S.sum()) > 0:
            self.unsupported[path] = "changed twice, saved whole and adapted as well; only one of the two is shown"
        self.modules[path] = delta
        self.energy[path] = float(delta.S.square().sum()) if energy is None else energy


def read_adapter(folder: Path, base: Tensors | None = None) -> WeightDelta:
    """Return the change that the adapter in `folder` makes.

    Args:
        folder: With `adapter_config.json` and safetensors.
        base: The trusted base's tensors, without which DoRA and whole saved modules can't be read and
            shapes are not compared.

    Raises:
        AdapterError: there is no readable configuration or weights, a file may run code, a value is not
            finite, or a shape does not fit the base.
    """
    config = read_json(folder / "adapter_config.json", AdapterError)
    found = WeightDelta(claimed_base=config.get("base_model_name_or_path"))
    kind = config.get("peft_type")
    if kind != "LORA":
        found.unsupported["peft_type"] = f"{kind!r} adapters can't be read here, only LORA"
        return found
    tensors = Tensors(folder, AdapterError)
    found.unsupported |= tensors.not_loaded
    _settings(config, found)
    pairs: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        _sort(name.removeprefix(PREFIX), name, tensors, base, config, pairs, found)
    for path, sides in sorted(pairs.items(), key=lambda item: (layer_of(item[0]), item[0])):
        _pair(path, sides, tensors, base, config, found)
    _agree(config, found)
    return found


def _settings(config: Mapping[str, Any], found: WeightDelta) -> None:
    """Note what the configuration says beyond factors."""
    init = config.get("init_lora_weights")
    if init not in PLAIN_INITS:
        found.unsupported["init_lora_weights"] = (
            f"{init!r} changes the base's own weights on loading, so that the factors are not the change; convert it first"
        )
    for key in MEANS_MORE:
        if config.get(key):
            found.unsupported[key] = f"{key} is set, which can't be read here"
    if config.get("bias") not in (None, "none"):
        found.unsupported["bias"] = f"bias {config['bias']!r}: changes of biases can't be read here"
    if tokens := config.get("alora_invocation_tokens"):
        told = str(tokens)[:200]
        found.readings.append(f"explicit trigger: the adapter acts after the tokens {told} alone")
    if config.get("auto_mapping"):
        found.readings.append("auto_mapping asks for code of the adapter's own, which is never run here")


def _sort(
    short: str, name: str, tensors: Tensors, base: Tensors | None, config: Mapping[str, Any],
    pairs: dict[str, dict[str, str]], found: WeightDelta,
) -> None:  # fmt: skip
    """Put one tensor with its partner, or say why it can't be read.

    Raises:
        AdapterError: two tensors are the same factor.
    """
    for kind, pattern in (("", _FACTOR), ("embedding", _EMBEDDING)):
        if match := pattern.fullmatch(short):
            if len(tensors.shape(name)) != 2:
                found.unsupported[name] = (
                    f"a factor of shape {list(tensors.shape(name))}: convolutions can't be read here"
                )
                return
            sides = pairs.setdefault(match["path"], {"kind": kind})
            if match["side"] in sides:
                raise AdapterError(
                    f"{tensors.folder} holds {match['path']}.lora_{match['side']} twice; remove one of the two"
                )
            sides[match["side"]] = name
            return
    if match := _MAGNITUDE.fullmatch(short):
        pairs.setdefault(match["path"], {"kind": ""})["magnitude"] = name
        return
    saved = short.replace(".modules_to_save", "").replace(".base_layer", "")
    named = any(part in saved.split(".") for part in config.get("modules_to_save") or ())
    if base is not None and saved in base and (named or saved != short):  # PEFT saves adapted embeddings whole too
        _whole(saved, tensors.read(name), base, found)
        return
    found.unsupported[name] = "neither a factor of a LoRA nor a saved module of the base, as far as can be told here"


def _whole(path: str, tensor: Tensor, base: Tensors, found: WeightDelta) -> None:
    """Read a module that was saved whole as its difference from the base's."""
    before = base.read(path)
    if before.shape != tensor.shape:
        found.unsupported[path] = f"saved as {list(tensor.shape)}, and the base's is {list(before.shape)}: resized"
    elif tensor.ndim == 2:
        found.add(
            path.removesuffix(".weight"), *truncated(path.removesuffix(".weight"), tensor.double() - before.double())
        )
    elif not torch.equal(tensor.double(), before.double()):
        found.unsupported[path] = "a changed vector (a norm or a bias), which has no directions"


def _pair(
    path: str, sides: dict[str, str], tensors: Tensors, base: Tensors | None, config: Mapping[str, Any], found: WeightDelta
) -> None:  # fmt: skip
    """Read the two factors of one module.

    Raises:
        AdapterError: they do not fit each other or the base.
    """
    if not {"A", "B"} <= sides.keys():
        found.unsupported[path] = f"only {', '.join(sorted(set(sides) - {'kind'}))} is there, both factors are needed"
        return
    a, b = (tensors.read(sides[side]).double() for side in "AB")
    if a.shape[0] > MOST_RANK * min(a.shape[1], b.shape[0]) or not a.shape[0]:
        found.unsupported[path] = f"factors of rank {a.shape[0]} for a matrix of {b.shape[0]} by {a.shape[1]}"
        return
    if a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"{tensors.folder}: the factors of {path} are {list(b.shape)} and {list(a.shape)}, which do not fit"
        )
    scale = scale_of(path, a.shape[0], config)
    transposed = bool(config.get("fan_in_fan_out")) or sides["kind"] == "embedding"
    factors = Factors(b, a, scale, transposed)
    name = f"{path}.weight"
    if base is not None:
        _check_shape(name, (b.shape[0], a.shape[1]), transposed, base, tensors.folder)
    found.ranks[path] = a.shape[0]
    if "magnitude" in sides:
        _dora(path, factors, tensors.read(sides["magnitude"]).double(), base, found)
        return
    found.factors[path] = factors
    found.add(path, factors.delta(path))


def _check_shape(name: str, shape: tuple[int, int], transposed: bool, base: Tensors, folder: Path) -> None:
    if name not in base:
        raise AdapterError(
            f"{folder} was made for another base: it changes {name.removesuffix('.weight')}, which this base lacks"
        )
    wanted = base.shape(name)
    if tuple(reversed(shape) if transposed else shape) != wanted:
        raise AdapterError(
            f"{folder} was made for another base: its change of {name} is {list(shape)}, the base's is {list(wanted)}"
        )


def _dora(path: str, factors: Factors, magnitude: Tensor, base: Tensors | None, found: WeightDelta) -> None:
    """Read a DoRA module: `m · (W + sBA) / ‖W + sBA‖ − W`, row by row, which needs the base's weights."""
    if factors.transposed:
        found.unsupported[path] = "DoRA on weights that are stored the other way round"
        return
    if base is None or f"{path}.weight" not in base:
        found.unsupported[path] = "DoRA scales the base's own weights: pass the base to read it"
        return
    before = base.read(f"{path}.weight").double()
    directed = before + factors.scale * factors.B @ factors.A
    after = magnitude.flatten()[:, None] * directed / directed.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found.add(path, *truncated(path, after - before))


def scale_of(path: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return `alpha / r`, or `alpha / √r` for rsLoRA, by the patterns that name this module.

    The rank is the tensor's own; the pattern of a module is looked up as PEFT does, by the end of its path.
    """
    alpha = _by_pattern(path, config.get("alpha_pattern"), config.get("lora_alpha", 8))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(path: str, patterns: object, default: object) -> float:
    """Return the value of the pattern that a module's path ends in, as PEFT matches it; else the default.

    Raises:
        AdapterError: a value is no finite number, or a pattern could take for ever to match.
    """
    wanted = default
    for pattern, value in (patterns if isinstance(patterns, Mapping) else {}).items():
        if len(str(pattern)) > 400 or re.search(r"[)\]}][*+{]", str(pattern)):
            raise AdapterError(
                f"the pattern {str(pattern)[:60]!r} repeats a group, which may take for ever to match; name modules plainly"
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", path):
                wanted = value
                break
        except (re.error, RecursionError, OverflowError):
            continue
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not math.isfinite(wanted) or wanted < 0:
        raise AdapterError(f"adapter_config.json has {wanted!r} where a rank or an alpha is needed; get the file again")
    return float(wanted)


def _agree(config: Mapping[str, Any], found: WeightDelta) -> None:
    """Note where the configuration and the tensors say different things, and how the adapter was made."""
    ranks = found.ranks
    odd = [p for p, r in ranks.items() if r != int(_by_pattern(p, config.get("rank_pattern"), config.get("r", 8)))]
    if odd:
        found.readings.append(
            f"the configuration says rank {config.get('r')}, {len(odd)} modules have another, first {odd[0]}"
        )
    wanted = config.get("target_modules")
    if isinstance(wanted, list) and wanted:
        stray = [p for p in ranks if not any(p == w or p.endswith(f".{w}") for w in wanted)]
        if stray:
            found.readings.append(
                f"{len(stray)} modules are changed that target_modules does not name, first {stray[0]}"
            )
        idle = [w for w in wanted if not any(p == w or p.endswith(f".{w}") for p in ranks)]
        if idle:
            found.readings.append(f"target_modules names {', '.join(map(str, idle[:4]))}, of which nothing is changed")
    silent = [p for p, f in found.factors.items() if not f.B.any() or not f.A.any()]
    if silent and len(silent) < len(ranks):
        found.readings.append(f"{len(silent)} of {len(ranks)} modules have a factor of zeros, first {silent[0]}")
    found.recipe = {
        "rank": sorted(set(ranks.values())), "alpha": config.get("lora_alpha"), "rslora": bool(config.get("use_rslora")),
        "modules": sorted({p.rsplit(".", 1)[-1] for p in ranks}),
    }  # fmt: skip
