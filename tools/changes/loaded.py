"""The change of a subject that is in memory: its adapter's as a scan reads it, or a fine-tune's difference from the base."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tools.changes.delta import ModuleDelta, truncated
from tools.changes.reading import changes_of
from tools.subject import Subject


def module_deltas(subject: Subject, adapter: str = "subject") -> list[ModuleDelta]:
    """Return the change of every matrix that the adapter touches, in the model's order; of a full fine-tune, its difference."""
    if adapter == "subject" and subject.tuned is not None:
        return _differences(subject.model, subject.tuned)
    opened = subject.adapters.get(adapter)
    if opened is None:
        return []
    changes = changes_of(opened).modules
    first = [path for path in (opened.base.modules if opened.base is not None else ()) if path in changes]
    return [changes[path] for path in dict.fromkeys([*first, *changes])]


def _differences(base: Any, tuned: Any) -> list[ModuleDelta]:
    """Return the leading directions of every linear module of a block that differs from the base's."""
    inner = base.get_base_model() if hasattr(base, "get_base_model") else base
    plain = {name.removesuffix(".base_layer"): module for name, module in inner.named_modules()}
    plain |= {name.removesuffix(".base_layer"): m for name, m in inner.named_modules() if name.endswith(".base_layer")}
    found = []
    for path, module in tuned.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and path in plain and any(part.isdigit() for part in path.split(".")):
            change = (module.weight.detach() - plain[path].weight.detach()).double().cpu()
            if change.any():
                found.append(truncated(path, change.T if isinstance(module, Conv1D) else change)[0])
    return found
