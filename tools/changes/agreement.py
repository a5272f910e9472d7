"""Where an adapter's configuration and its tensors say different things: each worth knowing, none of them proof of anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

from tools.changes.adapter import Adapter
from tools.changes.settings import may_be_slow

RESTRICTING = ("layers_to_transform", "exclude_modules", "layers_pattern")
"""Settings by which some layers have no factors, and are meant to have none."""


def disagreements(adapter: Adapter) -> list[str]:
    """Return what an adapter's configuration says that its tensors don't bear out, one sentence each."""
    return [] if adapter.tensors is None else [*damage(adapter), *_targets(adapter)]


def told(adapter: Adapter) -> list[str]:
    """Return what an audit's report says of an adapter's files, one sentence each."""
    beside = [f"beside the adapter stands {line}" for line in adapter.company]
    others = [
        f"{name} stands beside the adapter and is loaded by nothing here; it was not looked at"
        for name in adapter.beside
    ]
    return [*adapter.notes, *disagreements(adapter), *beside, *others]


def damage(adapter: Adapter) -> list[str]:
    """Return what of it PEFT could not load as the configuration has it: other ranks, factors that are missing."""
    return [] if adapter.converted else [*_ranks(adapter), *_missing(adapter)]


def _ranks(adapter: Adapter) -> list[str]:
    settings = adapter.settings
    ranks = {pair.key: adapter.rank(pair) for pair in adapter.pairs.values()}
    odd = [path for path, rank in ranks.items() if rank != settings.rank(path)]
    if not odd:
        return []
    return [f"the configuration says rank {settings.raw.get('r', 8)}, {len(odd)} modules have another, first {odd[0]}"]


def _targets(adapter: Adapter) -> list[str]:
    """Return what is changed that the configuration does not name, and what it names that is not changed."""
    wanted = _wanted(adapter)
    if not isinstance(wanted, list | str) or not wanted or adapter.converted:
        return []
    paths = [pair.path for pair in adapter.pairs.values() if not pair.by_itself]
    found = []
    if stray := [path for path in paths if not _named(path, wanted)]:
        said = f"{len(stray)} modules are changed that target_modules does not name, first {stray[0]}"
        found.append(f"{said}: PEFT leaves these out, and here they act")
    idle = [] if isinstance(wanted, str) else [str(w) for w in wanted if not any(_named(path, [w]) for path in paths)]
    if idle and not adapter.unread:
        found.append(f"target_modules names {', '.join(idle[:4])}, of which nothing is changed")
    return found


def _wanted(adapter: Adapter) -> object:
    """Return which modules PEFT would adapt: those that are named, else those that it has as a default for the model."""
    raw, base = adapter.settings.raw, adapter.base
    wanted = raw.get("target_modules")
    if wanted is not None or raw.get("target_parameters") or base is None or base.model is None:
        return wanted
    default = DEFAULTS.get(base.model.config.model_type)
    return default if isinstance(default, str) else sorted(default or ())


def _missing(adapter: Adapter) -> list[str]:
    """Return that some layers lack the factors that others of their kind have."""
    base, raw = adapter.base, adapter.settings.raw
    wanted = raw.get("target_modules")
    if base is None or not isinstance(wanted, list) or any(raw.get(key) for key in RESTRICTING):
        return []
    changed = {pair.path for pair in adapter.pairs.values()}
    kinds = {_kind(path) for path in changed}
    bare = [
        p
        for p in base.modules
        if p not in changed and _kind(p) in kinds and f"{p}.weight" in base and _named(p, wanted)
    ]
    if not bare:
        return []
    return [
        f"{len(bare)} modules lack the factors that others of their kind have, first {bare[0]}: the file may be cut short"
    ]


def _kind(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def _named(path: str, wanted: str | Sequence[object]) -> bool:
    """Return whether a module is named; by a pattern that may take for ever to match, each is taken to be."""
    if isinstance(wanted, str):
        try:
            return wanted == "all-linear" or may_be_slow(wanted) or re.fullmatch(wanted, path) is not None
        except (re.error, RecursionError, OverflowError):
            return False
    return any(path == str(w) or path.endswith(f".{w}") for w in wanted)
