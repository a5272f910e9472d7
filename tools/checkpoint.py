"""Checks on a model folder or an adapter folder before anything in it is believed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tools.errors import AdapterError, AuditorError, ModelLoadError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_JSON_BYTES = 64 << 20
SCANNED_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model", ".bin", ".pt", ".pth", ".py"}


def resolve(path_or_id: str, revision: str | None = None, holds: str = "config.json") -> Path:
    """Return the local folder of a checkpoint or an adapter: the path itself, or the hub snapshot of an id.

    Args:
        path_or_id: A folder, or a hub id ORG/NAME.
        revision: Of a hub id.
        holds: The file that makes the folder what is asked for: `config.json` or `adapter_config.json`.

    Raises:
        AuditorError: it is neither a folder nor an id that the hub has or the cache holds; a
            `ModelLoadError` for a model, an `AdapterError` for an adapter.
    """
    kind, noun = (ModelLoadError, "a model") if holds == "config.json" else (AdapterError, "an adapter")
    try:
        path = Path(path_or_id).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:
        raise kind(f"{path_or_id[:80]} can't be looked up: {error}; pass a folder with {holds}") from error
    if is_folder:
        return path.resolve()
    if is_there or not re.fullmatch(r"[\w.-]+/[\w.-]+", path_or_id) or path_or_id.startswith("."):
        raise kind(f"{path_or_id[:200]} is not {noun} folder; pass a folder with {holds}, or a hub id ORG/NAME")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.yaml"]
    try:
        return Path(snapshot_download(path_or_id, revision=revision, allow_patterns=patterns)).absolute()
    except Exception as error:
        raise kind(
            f"{path_or_id} is no folder here and the hub did not give it ({type(error).__name__}: {error}); "
            "pass a local folder, or check the id, the revision and the network"
        ) from error


def check_folder(folder: Path, kind: type[AuditorError]) -> None:
    """Refuse a folder that reaches outside itself or carries code or pickles for weights.

    Raises:
        AuditorError: of class `kind`; the message names the file and what to do about it.
    """
    home = _hub_repository(folder) or folder.resolve()
    for file in sorted(folder.iterdir()):
        if file.suffix in SCANNED_SUFFIXES and not file.resolve().is_relative_to(home):
            raise kind(f"{file} is a link out of its folder ({file.resolve()}): copy the file in, or drop it")
    if not any(folder.glob("*.safetensors")):
        if not any(folder.glob("*.bin")) and any(folder.glob("*.gguf")):
            raise kind(
                f"{folder} holds GGUF files alone, whose weights are rounded for llama.cpp; pass the safetensors that they were made from"
            )
        pickles = sorted(f.name for s in ("*.bin", "*.pt", "*.pth") for f in folder.glob(s))
        if pickles:
            raise kind(
                f"{folder} holds pickled weights ({', '.join(pickles)}), which can run code: convert to safetensors"
            )
        raise kind(f"{folder} holds no .safetensors weights; pass the folder that does")
    for index in folder.glob("*.safetensors.index.json"):
        shards = read_json(index, kind).get("weight_map")
        if not isinstance(shards, dict):
            raise kind(f"{index.name} has no weight_map from weights to shards; get the file again")
        for shard in shards.values():
            if not _is_shard(folder, shard):
                raise kind(f"{index.name} names the shard {shard!r}, which is no .safetensors file of {folder}")


def _is_shard(folder: Path, name: object) -> bool:
    return (
        isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") and (folder / name).exists()
    )


def _hub_repository(folder: Path) -> Path | None:
    """Return the hub cache's repository folder when `folder` is one of its snapshots."""
    for parent in folder.resolve().parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return parent.parent.resolve()
    return None


def read_json(path: Path, kind: type[AuditorError]) -> dict[str, Any]:
    """Return a JSON object from a file.

    Raises:
        AuditorError: of class `kind`, when the file is missing or is not a JSON object.
    """
    try:
        if path.exists() and not path.is_file():
            raise kind(f"{path} is no ordinary file; copy the real one in")
        if path.exists() and path.stat().st_size > MAX_JSON_BYTES:
            raise kind(
                f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB, which no configuration is; get the file again"
            )
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise kind(f"{path} is missing; {_instead(path)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"{path} is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise kind(f"{path} holds {type(data).__name__}, an object is needed")
    return data


def _instead(path: Path) -> str:
    """Return what to pass in place of a folder that lacks a file: one of its own folders, or the other option."""
    folder, name = path.parent, path.name
    inside = sorted(str(f.parent.relative_to(folder)) for depth in ("*", "*/*") for f in folder.glob(f"{depth}/{name}"))
    if inside:
        more = f" and {len(inside) - 5} more" if len(inside) > 5 else ""
        return f"these folders in it hold one: {', '.join(inside[:5])}{more}; pass one of them"
    if name == "adapter_config.json" and (folder / "config.json").exists():
        return "it holds a whole model: pass it as --subject with --base, or as what it is"
    if name == "config.json" and (folder / "adapter_config.json").exists():
        return "it holds an adapter: pass the base as --subject and this as --adapter"
    return f"pass a folder that holds {name}"


def read_tensors(path: Path, kind: type[AuditorError]) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file, each finite.

    Raises:
        AuditorError: of class `kind`, when the file is damaged or a value is NaN or infinite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise kind(f"{path} is not a readable safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor.float()).all():
            raise kind(f"{path}: tensor {name} has NaN or infinite values; the file is damaged, get it again")
    return tensors


def hash_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of every configuration, tokenizer and weight file of the folder."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in SCANNED_SUFFIXES)
    return {file.name: _sha256(file) for file in files}


def weights_sha256(files: Mapping[str, str]) -> str:
    """Return one sha256 over the hashes of a folder's weight files: what an oracle or a library names as its base."""
    shards = sorted((name, sha) for name, sha in files.items() if name.endswith(".safetensors"))
    return hashlib.sha256("\n".join(f"{name} {sha}" for name, sha in shards).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


QUANTISED = (".absmax", ".qweight", ".qzeros", ".weight_packed", ".weight_scale_inv", ".SCB", "_proj_blocks")
"""How the names of tensors end that are kept in a few bits."""


def check_model_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config after refusing one that would run code of its own, or whose weights are rounded.

    Raises:
        ModelLoadError: there is no config, it asks for code that transformers lacks, or it is quantised.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelLoadError(
            f"{folder} holds an adapter (adapter_config.json): pass the base as --subject and the adapter as --adapter"
        )
    config = read_json(folder / "config.json", ModelLoadError)
    if config.get("auto_map") and not is_native(config):
        raise ModelLoadError(
            f"{folder}/config.json asks for code of its own (auto_map), which is never run here, and transformers has no "
            f"class for {str(config.get('model_type'))[:60]!r}"
        )
    if config.get("quantization_config"):
        how = config["quantization_config"]
        kind = how.get("quant_method") if isinstance(how, dict) else None
        raise ModelLoadError(_is_quantised(folder, f" ({str(kind)[:40]})" if kind else ""))
    return config


def check_not_quantised(folder: Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint whose tensors are kept in a few bits, whatever its configuration says.

    Raises:
        ModelLoadError: they are.
    """
    odd = next((name for name in names if name.endswith(QUANTISED)), None)
    if odd is not None:
        raise ModelLoadError(_is_quantised(folder, f" (it holds {odd[:80]})"))


DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configurations call the number of a model's layers."""


def check_config_values(folder: Path, n_tensors: int) -> None:
    """Refuse a configuration that says what its files can't bear out: more layers than tensors, a format that torch lacks.

    Raises:
        ModelLoadError: it does; a model that is built by it would never be done, or could not be loaded.
    """
    if not (folder / "config.json").exists():
        return
    config = read_json(folder / "config.json", ModelLoadError)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in DEPTHS:
            if isinstance(n := part.get(key), int) and n > n_tensors:
                raise ModelLoadError(
                    f"{folder}/config.json says {key} {n}, and the files hold {n_tensors} tensors in all: get them again"
                )
        for key in ("dtype", "torch_dtype"):
            name = part.get(key)
            if name is not None and not (isinstance(name, str) and isinstance(getattr(torch, name, None), torch.dtype)):
                raise ModelLoadError(
                    f"{folder}/config.json has the {key} {str(name)[:40]!r}, which is no format of torch; write one, as 'bfloat16'"
                )


def _is_quantised(folder: Path, how: str) -> str:
    return (
        f"{folder} is quantised{how}: a change of weights can't be told from their rounding; pass the full-precision "
        "model that it was made from, which an adapter trained on it fits as well"
    )


def is_native(config: Mapping[str, Any]) -> bool:
    """Return whether transformers itself has a class for a configuration's model."""
    from transformers import CONFIG_MAPPING

    return config.get("model_type") in CONFIG_MAPPING


def ignored_code(folder: Path) -> list[str]:
    """Return a sentence where a model's folder names code of its own, which is not run."""
    if not read_json(folder / "config.json", ModelLoadError).get("auto_map"):
        return []
    return ["config.json names code of its own (auto_map), which is not run: transformers has a class for this model"]
