"""A model without its weights: which modules there are, and which tensors of its files each parameter is made of.

The names in a file are not always the model's: transformers 5 fuses the experts that older files hold one by one, and
moved the parts of vision-language models. Names are matched by transformers' own conversion rules, never by string.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Source:
    """The tensors of a file that one parameter is made of, each with the rule's pattern it met, and the rule."""

    target: str
    keys: tuple[tuple[str, str], ...]
    rule: WeightConverter | None = None


def model_class(config: Any) -> Any:
    """Return the auto class that loads a configuration's language model, inside a vision-language wrapper too."""
    known = type(config) in AutoModelForCausalLM._model_mapping
    wrapped = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if wrapped and not known else AutoModelForCausalLM


def skeleton(folder: Path) -> PreTrainedModel | None:
    """Return the model of a folder on the meta device, without a weight; None where transformers has no class for it."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model: PreTrainedModel = model_class(config).from_config(config)
    except Exception:  # a configuration of a stranger's may fail in any way; then names are the files' own
        return None
    return model


def sources(names: Iterable[str], model: PreTrainedModel) -> tuple[dict[str, Source], list[str]]:
    """Return what each parameter or buffer of a model is made of, and the tensors that none takes.

    The walk is that of transformers' own loader: every renaming in turn, then at most one conversion.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    state, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Source] = {}
    surplus = []
    for key in sorted(names, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], prefix, state)
        rule = None if pattern is None else by_pattern[pattern]
        targets = [name] if rule is None else [name.replace(rule.target_patterns[0], t) for t in rule.target_patterns]
        if not any(target in state for target in targets):
            surplus.append(key)
        for target in targets:
            if target in state:
                before = found[target].keys if target in found and rule is not None else ()
                found[target] = Source(name, (*before, (key, pattern or key)), rule)
    return found, surplus


def converted(source: Source, tensors: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the parameters that a source's tensors make, by name, as transformers' own rule makes them."""
    rule = deepcopy(source.rule)
    assert rule is not None, "a source without a rule is its one tensor as it stands"
    for key, pattern in source.keys:
        rule.add_tensor(source.target, key, pattern, tensors[key])  # type: ignore[arg-type]
    made = rule.convert(source.target, model=model, config=model.config, hf_quantizer=None, loading_info=None)
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def stored_turned(module: nn.Module | None) -> bool:
    """Return whether a module keeps its weight as [in, out]: an embedding's rows are inputs, and so are GPT-2's."""
    return isinstance(module, Conv1D | nn.Embedding)
