"""The change of weights that an adapter makes, in singular directions: read from its files, without running a model.

What is not understood is said to be unsupported, never that it is clean. Formats as PEFT 0.21 writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tools.changes.adapter import Adapter, Pair, fit_rows
from tools.changes.agreement import disagreements
from tools.changes.delta import ModuleDelta, factored_svd, layer_of, truncated
from tools.changes.opening import open_adapter
from tools.changes.parameters import Parameters

Status = Literal["read", "partial", "unsupported", "invalid"]


@dataclass(frozen=True)
class Factors:
    """One matrix's factors, float64: the change of what it does to its input is `scale · B A`, [d_out, d_in]."""

    B: Tensor
    A: Tensor
    scale: float

    def scrambled(self, g: Tensor) -> Factors:
        """Return other factors of the same change: `B G⁻¹` and `G A`."""
        return Factors(torch.linalg.solve(g, self.B, left=False), g @ self.A, self.scale)

    def delta(self, path: str) -> ModuleDelta:
        """Return the change in singular directions; the product is never formed."""
        return ModuleDelta(path, layer_of(path), *factored_svd(self.B * self.scale, self.A))


@dataclass
class WeightDelta:
    """All that an adapter, or a full fine-tune, changes.

    Args:
        modules: Changes of matrices, by module; of stacked experts each by itself, as `PATH.PARAMETER.EXPERT`.
        vectors: Norms and biases that changed: the norm of the change over the base's own, or its norm where that is 0.
        energy: Squared norm of each module's change; where directions were cut off, of the whole of it.
        factors: Where the change came from a LoRA's factors.
        unsupported: What could not be read: a tensor or a setting, and why.
        company: What stands beside and changes nothing.
        readings: What stands in the files and is worth knowing: an explicit trigger, a config that disagrees.
        claimed_base: What the adapter says that it is for.
        recipe: What can be said of how it was made: rank, alpha, modules.
        ranks: Of the factors' tensors, by module.
        ratio: Of a full fine-tune: norm of the change over the base's own.
        realigned: Whether symmetries of the architecture were taken back first.
    """

    modules: dict[str, ModuleDelta] = field(default_factory=dict)
    vectors: dict[str, float] = field(default_factory=dict)
    energy: dict[str, float] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    company: list[str] = field(default_factory=list)
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
        changes = any(float(d.S.sum()) > 0 for d in self.modules.values()) or bool(self.vectors)
        if self.unsupported:
            return "partial" if changes else "unsupported"
        return "read" if changes else "invalid"

    def add(self, path: str, delta: ModuleDelta, energy: float | None = None) -> None:
        """Take up one module's change, and the squared norm of it whole where directions were cut off.

        What is changed twice, saved whole and adapted as well, is changed by the sum of the two.
        """
        other = self.modules.get(path)
        if other is not None and float(other.S.sum()) > 0:
            both = factored_svd(
                torch.cat([other.U * other.S, delta.U * delta.S], 1), torch.cat([other.V, delta.V], 1).T
            )
            cut = self.energy[path] - float(other.S.square().sum())
            cut += 0.0 if energy is None else energy - float(delta.S.square().sum())
            delta, self.factors = (
                ModuleDelta(path, delta.layer, *both),
                {p: f for p, f in self.factors.items() if p != path},
            )
            energy = float(delta.S.square().sum()) + max(0.0, cut)
        self.modules[path] = delta
        self.energy[path] = float(delta.S.square().sum()) if energy is None else energy


def read_adapter(folder: Path, base: Parameters | None = None) -> WeightDelta:
    """Return the change that the adapter in `folder` makes.

    Args:
        folder: With `adapter_config.json` and safetensors.
        base: The trusted base, without which DoRA and what is saved whole can't be read and shapes are not compared.

    Raises:
        AdapterError: there is no readable configuration or weights, a file may run code, a value is not
            finite, or it was made for another base.
    """
    return changes_of(open_adapter(folder, base))


def changes_of(adapter: Adapter) -> WeightDelta:
    """Return the change that an opened adapter makes to its base.

    Raises:
        AdapterError: a value is not finite, or the factors of a pair do not fit each other.
    """
    found = WeightDelta(
        claimed_base=adapter.settings.raw.get("base_model_name_or_path"), unsupported={**adapter.unread, **adapter.beside},
        readings=list(adapter.notes), company=list(adapter.company),
    )  # fmt: skip
    for pair in sorted(adapter.pairs.values(), key=lambda pair: (layer_of(pair.path), pair.name)):
        _low_rank(pair, adapter, found)
    for name, key in sorted(adapter.whole.items()):
        _replaced(name, adapter.read(key), adapter, found)
    for name in sorted(adapter.tokens):
        _rows_replaced(name, adapter, found)
    found.readings += [*disagreements(adapter), *_silent(found)]
    if tokens := adapter.settings.raw.get("alora_invocation_tokens"):
        found.readings.append(f"explicit trigger: the adapter acts after the tokens {str(tokens)[:200]} alone")
    found.recipe = {
        "rank": sorted(set(found.ranks.values())), "alpha": adapter.settings.raw.get("lora_alpha"),
        "rslora": bool(adapter.settings.raw.get("use_rslora")), "modules": sorted({p.rsplit(".", 1)[-1] for p in found.ranks}),
    }  # fmt: skip
    return found


def _silent(found: WeightDelta) -> list[str]:
    """Return that some modules, and not all, have a factor of zeros."""
    silent = [path for path, factors in found.factors.items() if not factors.B.any() or not factors.A.any()]
    if not silent or len(silent) == len(found.factors):
        return []
    return [f"{len(silent)} of {len(found.factors)} modules have a factor of zeros, first {silent[0]}"]


def _low_rank(pair: Pair, adapter: Adapter, found: WeightDelta) -> None:
    """Read one pair of factors, of each expert by itself where they are stacked."""
    b, a = (factor.double() for factor in adapter.factors(pair))
    n = pair.n_experts
    rank = a.shape[0] // n
    scale = adapter.settings.scale(pair.key, rank)
    found.ranks[pair.path if pair.parameter == "weight" else pair.name] = rank
    if "bias" in pair.keys:
        _vector(f"{pair.path}.bias", scale * adapter.read(pair.keys["bias"]).double(), adapter, found)
    for path, one_b, one_a in _matrices(pair, b, a):
        factors = Factors(one_b, one_a, scale)
        if "magnitude" in pair.keys:
            _dora(pair, factors, adapter.read(pair.keys["magnitude"]).double(), adapter, found)
            return
        found.factors[path] = factors
        found.add(path, factors.delta(path))


def _matrices(pair: Pair, b: Tensor, a: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the matrices that a pair changes, with their factors, as PEFT lays those of stacked experts out."""
    if pair.parameter == "weight" and pair.n_experts == 1:
        yield pair.path, b, a
        return
    of_a = a.reshape(pair.n_experts, -1, a.shape[-1])
    of_b = b.reshape(b.shape[0], -1, pair.n_experts).permute(2, 0, 1)
    for i in range(pair.n_experts):
        yield f"{pair.name}.{i}", of_b[i], of_a[i]


def _dora(pair: Pair, factors: Factors, magnitude: Tensor, adapter: Adapter, found: WeightDelta) -> None:
    """Read a DoRA module, which needs the base's weights: `m · (W + sBA) / ‖W + sBA‖ − W`.

    Norms are those of rows, one for each output; an embedding's are those of the columns of `W + (sBA)ᵀ`, its outputs too.
    """
    base, path = adapter.base, pair.path
    if pair.name in adapter.whole:
        found.unsupported[path] = "DoRA on a weight that was saved whole as well"
        return
    if base is None or pair.name not in base:
        found.unsupported[path] = "DoRA scales the base's own weights: pass the base to read it"
        return
    before = base.matrix(path)
    assert before is not None, "the base has the weight"
    before = before.double()
    directed = before + factors.scale * factors.B @ factors.A
    after = magnitude.flatten()[:, None] * directed / directed.norm(dim=1, keepdim=True).clamp_min(1e-12)
    found.add(path, *truncated(path, after - before))


def _replaced(name: str, after: Tensor, adapter: Adapter, found: WeightDelta) -> None:
    """Read a parameter that was saved whole as its difference from the base's."""
    base = adapter.base
    assert base is not None, "without a base nothing is known to be saved whole"
    before = base.read(name)
    if adapter.is_table(name):
        after = fit_rows(after, len(before), before)
    if before.shape == after.shape:
        difference_of(name, before, after, base, found)
    else:
        found.unsupported[name] = f"saved as {list(after.shape)}, and the base's is {list(before.shape)}"


def difference_of(
    name: str, before: Tensor, after: Tensor, base: Parameters, found: WeightDelta, rank: int | None = None
) -> float:
    """Take up what one parameter changed, and return the squared norm of it.

    A vector has no directions: its relative norm is kept. Stacked experts are read one by one.
    """
    change = after.double() - before.double()
    if not change.any():
        return 0.0
    if change.ndim < 2:
        _vector(name, change, None, found, before)
        return float(change.square().sum())
    path = name.removesuffix(".weight")
    more = {} if rank is None else {"rank": rank}
    if change.ndim == 3:
        for i, one in enumerate(change):
            if one.any():
                found.add(f"{name}.{i}", *truncated(f"{name}.{i}", one, **more))
    else:
        turned = change.T if base.turned(name) else change.flatten(1)
        found.add(path, *truncated(path, turned, **more))
    return float(change.square().sum())


def _vector(
    name: str, change: Tensor, adapter: Adapter | None, found: WeightDelta, before: Tensor | None = None
) -> None:
    """Keep the size of a changed vector beside the base's own."""
    if adapter is not None and adapter.base is not None and name in adapter.base:
        before = adapter.base.read(name)
    own = 0.0 if before is None else float(before.double().norm())
    if change.any():
        found.vectors[name] = float(change.norm()) / (own or 1.0)


def _rows_replaced(name: str, adapter: Adapter, found: WeightDelta) -> None:
    """Read rows of a table that were trained by themselves."""
    base = adapter.base
    assert base is not None, "without a base no rows are known"
    places, rows = adapter.rows(name)
    table = base.read(name)
    after = table.clone()
    after[places] = rows.to(table.dtype)
    difference_of(name, table, after, base, found)
