"""What an `adapter_config.json` says of a LoRA: which settings count, which have no effect here, which can't be read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tools.checkpoint import read_json
from tools.errors import AdapterError

Rule = Literal["read", "no effect", "refused"]
CHANGES_BASE = (
    "it changes the base's own weights on loading, so that the factors are not the change; "
    "convert it to a plain LoRA with PEFT first"
)
SETTINGS: dict[str, tuple[Rule, str]] = {
    "r": ("read", "the rank; where the tensors have another, a scan goes by them and says so, and an audit refuses"),
    "lora_alpha": ("read", "scales the change"),
    "use_rslora": ("read", "scales by the root of the rank"),
    "rank_pattern": ("read", "ranks of single modules"),
    "alpha_pattern": ("read", "scales of single modules"),
    "fan_in_fan_out": ("no effect", "which way round a weight is stored is the base's to say"),
    "use_dora": ("read", "magnitudes beside directions"),
    "lora_bias": ("read", "a bias on the second factor"),
    "bias": ("read", "the base's biases, changed"),
    "modules_to_save": ("read", "whole modules in place of the base's"),
    "trainable_token_indices": ("read", "rows of the embeddings, changed"),
    "ensure_weight_tying": ("read", "whether tied weights change together"),
    "target_parameters": ("read", "weights that belong to no layer, as fused experts"),
    "use_bdlora": ("read", "factors that are made of blocks"),
    "alora_invocation_tokens": ("read", "an explicit trigger: it acts after these tokens alone"),
    "target_modules": ("read", "what is changed is told by the tensors; a name that disagrees is said"),
    "exclude_modules": ("no effect", "what is changed is told by the tensors"),
    "layers_to_transform": ("no effect", "what is changed is told by the tensors"),
    "layers_pattern": ("no effect", "what is changed is told by the tensors"),
    "base_model_name_or_path": ("read", "what it is made for, in its own words"),
    "init_lora_weights": ("read", "how training began; a beginning that changes the base is refused"),
    "peft_type": ("read", "LORA; others are refused"),
    "task_type": ("read", "what it was trained for; a head of its own is refused with its tensors"),
    "auto_mapping": ("no effect", "the class it was trained on, which is never imported"),
    "lora_dropout": ("no effect", "in training alone"),
    "inference_mode": ("no effect", "in training alone"),
    "loftq_config": ("no effect", "how training began"),
    "eva_config": ("no effect", "how training began"),
    "corda_config": ("no effect", "how training began"),
    "lora_ga_config": ("no effect", "how training began"),
    "velora_config": ("no effect", "in training alone"),
    "monteclora_config": ("no effect", "in training alone"),
    "qalora_group_size": ("no effect", "belongs to use_qalora"),
    "revision": ("no effect", "of the base, in its own words"),
    "peft_version": ("no effect", "what wrote it"),
    "runtime_config": ("no effect", "where it is held in memory"),
    "megatron_core": ("no effect", "belongs to megatron_config; never imported"),
    "layer_replication": ("refused", "it stacks the base's layers anew, so that there is no base to compare with"),
    "use_qalora": ("refused", "its factors belong to a quantised base"),
    "kasa_config": ("refused", CHANGES_BASE),
    "arrow_config": ("refused", "it chooses among other adapters, which are not here"),
    "megatron_config": ("refused", "its layers are Megatron's, and their code is never imported"),
}
"""Every setting of PEFT's LoRA, what is done with it, and why."""
PLAIN_INITS: tuple[object, ...] = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Values of `init_lora_weights` with which the factors' product is the change of the base's weights."""
OF_OTHERS = {"lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "merge_weights", "use_merged_linear", "swift_version"}
"""Settings that other trainers write beside PEFT's, and that count in training alone."""
EMPTY: tuple[object, ...] = (None, False, "", [], {})
LIBRARIES = ("transformers", "peft", "unsloth")
LANGUAGE = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
SLOW_PATTERN = r"\)[*+{]"
MOST_REPEATS = 4
"""Repeats without an end that a pattern may have: each multiplies how long it may take to match."""
LARGEST = 1e9
"""A larger alpha leaves the range of numbers in which a model computes."""


@dataclass(frozen=True)
class Settings:
    """An adapter's configuration, checked.

    Args:
        raw: As the file has it.
        unread: What of it can't be read: a setting, and why.
        notes: What is worth knowing: settings of other trainers, another task.
    """

    raw: Mapping[str, Any]
    unread: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def scale(self, path: str, rank: int) -> float:
        """Return `alpha / r`, or `alpha / √r` for rsLoRA, by the patterns that name this module.

        Raises:
            AdapterError: the value is no finite number, or a pattern could take for ever to match.
        """
        return self.alpha(path) / (rank**0.5 if self.raw.get("use_rslora") else rank)

    def alpha(self, path: str) -> float:
        """Return a module's alpha, of either sign.

        Raises:
            AdapterError: it is no number, or so large that nothing can be computed with it.
        """
        alpha = self.number(path, "alpha_pattern", self.raw.get("lora_alpha", 8))
        if abs(alpha) > LARGEST:
            raise AdapterError(
                f"adapter_config.json has the alpha {alpha:g}, {LARGEST:g} is the most; get the file again"
            )
        return alpha

    def rank(self, path: str) -> int:
        """Return the rank that a module is said to have."""
        return int(self.number(path, "rank_pattern", self.raw.get("r", 8)))

    def number(self, path: str, key: str, default: object) -> float:
        """Return the value of the pattern that a module's path ends in, as PEFT matches it; else the default.

        Raises:
            AdapterError: a value is no finite number, or a pattern could take for ever to match.
        """
        wanted, patterns = default, self.raw.get(key)
        for pattern, value in (patterns if isinstance(patterns, Mapping) else {}).items():
            if matches(str(pattern), path):
                wanted = value
                break
        if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not math.isfinite(wanted):
            raise AdapterError(
                f"adapter_config.json has {repr(wanted)[:40]} where a number for a rank or an alpha is needed; get the file again"
            )
        return float(wanted)


def may_be_slow(pattern: str) -> bool:
    """Return whether a pattern could take for ever to match: it is long, repeats a group, or repeats much."""
    n_repeats = len(re.findall(r"[*+]|\{\d*,", pattern))
    return len(pattern) > 400 or n_repeats > MOST_REPEATS or re.search(SLOW_PATTERN, pattern) is not None


def matches(pattern: str, path: str) -> bool:
    """Return whether a path ends in a pattern.

    Raises:
        AdapterError: the pattern could take for ever to match.
    """
    if may_be_slow(pattern):
        raise AdapterError(
            f"the pattern {pattern[:60]!r} of adapter_config.json is long, repeats a group or has more than "
            f"{MOST_REPEATS} repeats, and may take for ever to match; name modules plainly"
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def read_settings(folder: Path) -> Settings:
    """Return what the configuration of an adapter's folder says.

    Raises:
        AdapterError: there is none, it is no LoRA's, or it asks for code of its own.
    """
    return checked(read_json(folder / "adapter_config.json", AdapterError), folder)


def checked(raw: Mapping[str, Any], folder: Path) -> Settings:
    """Return a configuration with what can't be read of it.

    Raises:
        AdapterError: it asks for code of its own.
    """
    found = Settings(raw)
    kind = raw.get("peft_type")
    if kind != "LORA":
        what = "an adapter without a peft_type" if kind is None else f"an adapter of the type {str(kind)[:40]!r}"
        found.unread["peft_type"] = (
            f"{what} can't be read here, only 'LORA'; merge it into its base and pass a fine-tune"
        )
        return found
    _own_code(raw, folder)
    init = raw.get("init_lora_weights")
    if init not in PLAIN_INITS:
        found.unread["init_lora_weights"] = f"{init!r}: {CHANGES_BASE}"
    for key, (rule, why) in SETTINGS.items():
        if rule == "refused" and raw.get(key) not in EMPTY:
            found.unread[key] = f"{key} is set: {why}"
    if raw.get("use_bdlora") not in EMPTY and not isinstance(raw["use_bdlora"], Mapping):
        found.unread["use_bdlora"] = f"use_bdlora is {str(raw['use_bdlora'])[:40]!r}, where its blocks are needed"
    if raw.get("target_parameters") not in EMPTY and not isinstance(raw["target_parameters"], list):
        found.unread["target_parameters"] = "target_parameters is no list of names"
    tokens = raw.get("alora_invocation_tokens")
    if tokens not in EMPTY and not (
        isinstance(tokens, list) and all(type(i) is int and 0 <= i < 2**31 for i in tokens)
    ):
        found.unread["alora_invocation_tokens"] = (
            f"{str(tokens)[:40]!r} is no list of tokens' numbers; get the file again"
        )
    for key in sorted(set(raw) - set(SETTINGS)):
        if raw[key] in EMPTY:
            continue
        if key in OF_OTHERS:
            found.notes.append(f"{key[:60]} is a setting of another trainer's, which has no effect here")
        else:
            found.unread[key] = (
                f"PEFT's LoRA has no setting {key[:60]!r}, so that what {str(raw[key])[:60]!r} does can't be told; "
                "remove it, or use the version of PEFT that wrote it"
            )
    if raw.get("task_type") not in LANGUAGE:
        found.notes.append(f"it was trained for {str(raw['task_type'])[:40]}, and is read as a language model's")
    return found


def _own_code(raw: Mapping[str, Any], folder: Path) -> None:
    """Refuse an `auto_mapping` that names code of a stranger's; classes of the libraries are never imported either.

    Raises:
        AdapterError: it does.
    """
    mapping = raw.get("auto_mapping")
    if mapping in EMPTY:
        return
    library = str(mapping.get("parent_library") or "transformers") if isinstance(mapping, Mapping) else ""
    if library.split(".")[0] not in LIBRARIES:
        raise AdapterError(
            f"{folder}/adapter_config.json asks for code of its own (auto_mapping {str(mapping)[:80]!r}), which is "
            "never run here; remove the key if the base is one of transformers' own classes"
        )
