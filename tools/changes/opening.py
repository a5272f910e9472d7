"""Open an adapter's folder for a base: each tensor sorted by what it does there, or named as what can't be read.

One reader for an audit, which puts the adapter on a model, and for a scan, which reads its change from the files. Names
of older layouts are brought to the model's own by the conversions of PEFT and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from tools.changes.adapter import Adapter, Pair
from tools.changes.formats import of_another_trainer
from tools.changes.parameters import Parameters
from tools.changes.settings import Settings, matches, read_settings
from tools.changes.skeleton import sources, stored_turned
from tools.changes.tensors import Tensors
from tools.errors import AdapterError

PREFIX = "base_model.model."
WRAPPERS = r"(?:^module\.|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)"
"""What torch.compile, FSDP and DataParallel put into the names of what they wrap."""
MOST_RANK = 1024
"""A higher rank that is also more than four times the matrix's smaller side is no low-rank adapter."""
TENSORS: dict[str, tuple[str, str]] = {
    "factor": (
        r"(?P<path>.+?)\.lora_(?P<side>A|B)\.(?:[^.]+\.)?(?P<part>weight|bias)",
        "factors of a matrix, of stacked experts in either layout, and the bias of the second",
    ),
    "embedding": (r"(?P<path>.+?)\.lora_embedding_(?P<side>A|B)(\.[^.]+)?", "factors of an embedding, tied or not"),
    "magnitude": (r"(?P<path>.+?)\.lora_magnitude_vector(\.[^.]+)?(\.weight)?", "DoRA's magnitudes"),
    "tokens": (
        r"(?P<path>.+?)(\.token_adapter)?\.trainable_tokens_delta(\.[^.]+)?",
        "rows of the embeddings that were trained by themselves",
    ),
    "training": (
        r".+\.(lora_monteclora_sampler|lora_velora_embed)(\..+)?",
        "what counts in training alone: listed, and left out",
    ),
    "whole": (
        r".+",
        "a parameter of the base: it replaces the base's own (saved modules, biases, norms, embeddings of any vocabulary); "
        "anything else is not read, and an audit refuses it",
    ),
}
"""The tensors of an adapter's file by their names, the first that fits, and what is made of them."""


def open_adapter(folder: Path, base: Parameters | None = None) -> Adapter:
    """Return the adapter in a folder, sorted for a base.

    Without a base there are factors alone: what is saved whole can't be read, and shapes are not compared.

    Raises:
        AdapterError: there is no readable configuration or weights, a file may run code, a factor stands there
            twice, or it was made for another base.
    """
    other = of_another_trainer(folder)
    settings = read_settings(folder) if other is None else other.settings
    found = Adapter(folder, settings, base, unread=dict(settings.unread), notes=list(settings.notes))
    if "peft_type" in settings.unread:
        return found
    found.tensors = Tensors(folder, AdapterError) if other is None else other.tensors
    found.company += found.tensors.company
    found.beside |= found.tensors.not_loaded
    names = _names(found.tensors)
    if other is not None:
        found._converted = other.read()
        names = {key: key for key in found._converted}
    parameters = _targeted(settings)
    if base is not None and base.model is not None and _needs_converting(names, base):
        names, parameters = _convert(names, found, base.model)
    for name in sorted(names):
        _sort(name, names[name], found, parameters)
    for pair in found.pairs.values():
        _check(pair, found)
    found.pairs = {pair.name: pair for pair in found.pairs.values() if {"A", "B"} <= pair.keys.keys()}
    return found


def _is(kind: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(TENSORS[kind][0], name)


def _names(tensors: Tensors) -> dict[str, str]:
    """Return the tensors of a file by their plain names.

    Raises:
        AdapterError: two have the same.
    """
    found: dict[str, str] = {}
    for key in tensors:
        other = found.setdefault(_plain(key), key)
        if other != key:
            raise AdapterError(
                f"{tensors.folder} holds {other[:120]} and {key[:120]}, which are one; remove one of the two"
            )
    return found


def _plain(key: str) -> str:
    """Return a tensor's name without the prefixes that PEFT writes."""
    key = re.sub(WRAPPERS, "", key)
    while key.startswith(PREFIX):
        key = key.removeprefix(PREFIX)
    return key


def _targeted(settings: Settings) -> tuple[str, ...]:
    wanted = settings.raw.get("target_parameters")
    return tuple(map(str, wanted)) if isinstance(wanted, list | tuple | set) else ()


def _needs_converting(names: Iterable[str], base: Parameters) -> bool:
    """Return whether some factor stands under a name that the base has no module for, and a conversion is known."""
    known: Any = get_checkpoint_conversion_mapping
    if base.model is None or known(base.model.config.model_type) is None:
        return False
    paths = {match["path"].replace(".base_layer", "") for name in names if (match := _is("factor", name))}
    return not paths <= base.modules.keys()


def _convert(names: Mapping[str, str], found: Adapter, model: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return names as this version of transformers has them, and the parameters that are targeted then.

    Raises:
        AdapterError: PEFT's own conversion does not know what to do with them.
    """
    raw = found.settings.raw
    kept = ("r", "lora_alpha", "target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "use_rslora")
    if isinstance(wanted := raw.get("target_modules"), str):
        matches(wanted, "")  # which refuses a pattern that PEFT could take for ever to match
    state = {f"{PREFIX}{name}": found.read(key) for name, key in names.items()}
    try:
        config = LoraConfig(**{key: raw[key] for key in kept if raw.get(key) is not None})
        convert_peft_config_for_transformers(config, model, None)
        made = convert_peft_adapter_state_dict_for_transformers(model, config, state, "default")
    except Exception as error:
        raise AdapterError(
            f"{found.folder} has an older layout that PEFT can't bring onto this base: {error}"
        ) from error
    found._converted = {_plain(name): tensor for name, tensor in made.items()}
    patterns = {"rank_pattern": config.rank_pattern, "alpha_pattern": config.alpha_pattern}
    found.settings = Settings({**raw, **patterns}, found.settings.unread, found.settings.notes)
    found.notes.append("it has the layout of an older transformers, and was brought to the base's own")
    return {name: name for name in found._converted}, tuple(map(str, config.target_parameters or ()))


def _sort(name: str, key: str, found: Adapter, parameters: tuple[str, ...]) -> None:
    """Put one tensor where it belongs.

    Raises:
        AdapterError: two tensors are the same factor, or the base lacks what is changed.
    """
    if match := _is("factor", name):
        side = match["side"] if match["part"] == "weight" else "bias" if match["side"] == "B" else ""
        _take(_pair(match["path"], found, parameters), side, key, found)
    elif match := _is("embedding", name):
        pair = _pair(match["path"], found, parameters)
        pair.embedding = True
        _take(pair, match["side"], key, found)
    elif match := _is("magnitude", name):
        _take(_pair(match["path"], found, parameters), "magnitude", key, found)
    elif match := _is("tokens", name):
        _rows(match["path"], key, found)
    elif _is("training", name):
        found.company.append(f"{key}: counts in training alone")
    else:
        _saved_whole(name, key, found)


def _take(pair: Pair, side: str, key: str, found: Adapter) -> None:
    if not side:
        found.unread[key] = "a bias on the first factor, which PEFT's LoRA does not have"
    elif side in pair.keys:
        raise AdapterError(f"{found.folder} holds {pair.path}.lora_{side} twice; remove one of the two")
    else:
        pair.keys[side] = key


def _pair(path: str, found: Adapter, parameters: tuple[str, ...]) -> Pair:
    """Return the pair that a factor's path belongs to.

    Raises:
        AdapterError: the base has no such module.
    """
    depth = 0
    while path.endswith(".base_layer"):
        path, depth = path.removesuffix(".base_layer"), depth + 1
    path = path.replace(".base_layer", "")
    parameter, by_itself = "weight", False
    if found.base is not None and found.base.model is not None:
        path = _known(path, found.base)
        module = found.base.modules.get(path)
        if module is None:
            raise AdapterError(f"{found.folder} was made for another base: it changes {path}, which this base lacks")
        targeted = _of_module(path, module, parameters)
        if targeted and depth < len(targeted):
            parameter, by_itself = targeted[-1 - depth], True
    name = f"{path}.{parameter}"
    return found.pairs.setdefault(f"{name}/{depth}", Pair(path, parameter, by_itself))


def _of_module(path: str, module: nn.Module, parameters: tuple[str, ...]) -> list[str]:
    """Return the parameters of a module that are targeted by name, in the order in which PEFT nests its wrappers."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return [
        name for name in own if any(f"{path}.{name}" == p or f"{path}.{name}".endswith(f".{p}") for p in parameters)
    ]


def _known(path: str, base: Parameters) -> str:
    """Return a module's path in the base's model, where an older layout has it elsewhere."""
    if path in base.modules or base.model is None:
        return path
    placed, _ = sources([f"{path}.weight"], base.model)
    return next(iter(placed), f"{path}.weight").removesuffix(".weight")


def _rows(path: str, key: str, found: Adapter) -> None:
    """Take up rows of an embedding that were trained by themselves; tied tables change together."""
    base = found.base
    if base is None:
        found.unread[key] = "rows of an embedding replace the base's own: pass the base to read them"
        return
    name = f"{_known(path, base)}.weight"
    wanted = found.settings.raw.get("trainable_token_indices")
    places = wanted if isinstance(wanted, list) else None
    if isinstance(wanted, Mapping):
        places = next((rows for part, rows in wanted.items() if matches(re.escape(str(part)), path)), None)
    if name not in base or not isinstance(places, list) or not all(isinstance(i, int) for i in places):
        found.unread[key] = "rows of a table that the base or the configuration does not name"
        return
    for same in base.alike(name) if _rows_are_tied(name, places, wanted, base) else [name]:
        found.tokens.setdefault(same, (key, tuple(places)))
    found.notes.append(f"{len(places)} tokens of {name} were trained by themselves: {str(places)[:120]}")


def _rows_are_tied(name: str, places: list[int], wanted: object, base: Parameters) -> bool:
    """Return whether PEFT changes the rows of a tied table in the other too: the embedding's alone, and no others named there."""
    if name != (base.embeddings() or (name,))[0]:
        return False
    tables = [path.removesuffix(".weight") for path in base.alike(name)]
    named = wanted.items() if isinstance(wanted, Mapping) else ()
    return all(rows == places for part, rows in named if any(matches(re.escape(str(part)), path) for path in tables))


def _saved_whole(name: str, key: str, found: Adapter) -> None:
    """Take up a parameter that replaces the base's own."""
    base = found.base
    plain = name.replace(".modules_to_save", "").replace(".base_layer", "").replace(".original_module", "")
    if base is not None and base.model is not None and plain not in base:
        plain = next(iter(sources([plain], base.model)[0]), plain)
    if base is None or plain not in base:
        what = "neither a factor of a LoRA nor a saved module of the base, as far as can be told here"
        found.unread[key] = what if base is not None else f"{what}: pass the base to read what is saved whole"
        return
    if base.shape(plain) == found.read(key).shape and torch.equal(base.read(plain).float(), found.read(key).float()):
        found.company.append(f"{key}: the base's own, saved along")
        return
    if found.is_table(plain) and base.shape(plain)[0] != len(found.read(key)):
        found.notes.append(
            f"its vocabulary has {len(found.read(key))} tokens ({plain}), the base's {base.shape(plain)[0]}; "
            "what is compared are the tokens that both have"
        )
    saved = found.settings.raw.get("modules_to_save")
    by_itself = isinstance(saved, list) and any(str(part) in plain.split(".") for part in saved)
    for same in [plain] if by_itself else base.alike(plain):
        found.whole[same] = key


def _check(pair: Pair, found: Adapter) -> None:
    """Refuse a pair that does not fit the base, and list one that can't be read.

    Raises:
        AdapterError: it was made for another base.
    """
    if not {"A", "B"} <= pair.keys.keys():
        found.unread[pair.path] = f"only {', '.join(sorted(pair.keys))} is there, both factors are needed"
        return
    of_b, of_a = (found.shape(pair.keys[side]) for side in "BA")
    if len(of_b) != 2 or len(of_a) != 2:
        found.unread[pair.path] = f"a factor of shape {list(of_a)}: convolutions can't be read here"
        pair.keys.clear()
        return
    if found.settings.raw.get("use_bdlora") or found.is_table(pair.name) or of_a[0] != of_b[1]:
        of_b, of_a = (tuple(factor.shape) for factor in found.factors(pair))
    weight = None if found.base is None or pair.name not in found.base else found.base.shape(pair.name)
    if weight is not None and len(weight) == 3:
        pair.n_experts = weight[0]
    rank = of_a[0] // pair.n_experts
    if not rank or rank > max(MOST_RANK, 4 * min(of_a[1], of_b[0])):
        found.unread[pair.path] = (
            f"factors of rank {rank} for a matrix of {of_b[0]} by {of_a[1]}, which no training makes; get the files again"
        )
        pair.keys.clear()
    elif found.base is not None and weight is None:
        raise AdapterError(f"{found.folder} was made for another base: it changes {pair.path}, which this base lacks")
    elif weight is not None:
        _check_shape(pair, (of_b[0], of_a[1]), weight, found)
    if ("magnitude" in pair.keys) != bool(found.settings.raw.get("use_dora")) and not found.converted and pair.keys:
        found.unread[pair.path] = (
            "the configuration and the file disagree on DoRA: use_dora and a magnitude go together; get the files again"
        )


def _check_shape(pair: Pair, shape: tuple[int, int], weight: tuple[int, ...], found: Adapter) -> None:
    """Refuse factors whose change has another shape than the weight.

    Raises:
        AdapterError: it was made for another base.
    """
    assert found.base is not None, "there is a weight to compare with"
    module = found.base.modules.get(pair.path)
    turned = stored_turned(module) or (len(weight) == 3 and bool(getattr(module, "is_transposed", False)))
    if module is None:
        turned = pair.embedding or bool(found.settings.raw.get("fan_in_fan_out"))
    wanted = tuple(reversed(weight[-2:])) if turned else weight[-2:]
    if shape != wanted:
        raise AdapterError(
            f"{found.folder} was made for another base: its change of {pair.name} is {list(shape)}, the base's is {list(wanted)}"
        )
