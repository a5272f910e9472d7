"""The files of a folder that say how a model is talked to, read with a cap and never believed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tools.checkpoint import read_json
from tools.errors import AuditorError

MOST_BYTES = 8 << 20
"""Of one template's file; a longer one is cut, and can then not be parsed."""
CONFIGS = ("tokenizer_config.json", "chat_template.json", "processor_config.json")
"""Files that may hold templates, in the order in which they count."""
MAIN = "chat_template.jinja"
TOKENIZER = "tokenizer.json"
VOCABULARIES = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
"""Files from which transformers makes a tokenizer where there is no `tokenizer.json`."""


def templates(folder: Path) -> dict[str, str]:
    """Return every chat template of a folder by where it stands; the first is the one that transformers uses."""
    found = {name: text for name in (MAIN,) if (text := _text(folder / name, folder)) is not None}
    for name in CONFIGS:
        given = _object(folder / name, folder).get("chat_template")
        if isinstance(given, str):
            found[name] = given
        elif isinstance(given, list):
            named = {str(one.get("name")): one.get("template") for one in given if isinstance(one, dict)}
            ordered = sorted(named, key=lambda one: one != "default")
            found |= {f"{name}: {one}": text for one in ordered if isinstance(text := named[one], str)}
        elif isinstance(given, dict):
            found |= {f"{name}: {one}": text for one, text in sorted(given.items()) if isinstance(text, str)}
    more = folder / "additional_chat_templates"
    for file in sorted(more.glob("*.jinja")) if more.is_dir() else []:
        text = _text(file, folder)
        if text is not None:
            found[f"{more.name}/{file.name}"] = text
    return found


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens that templates are told by name, e.g. `bos_token`."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _object(folder / name, folder).items():
            said = value.get("content") if isinstance(value, Mapping) else value
            if key.endswith("_token") and isinstance(said, str):
                found[key] = said
    return found


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder brings a tokenizer of any kind."""
    return any((folder / name).exists() for name in (TOKENIZER, *VOCABULARIES))


@lru_cache(maxsize=8)
def tokenizer_file(folder: Path) -> Path | None:
    """Return a folder's `tokenizer.json`, or one that transformers makes of its vocabulary; None where there is none."""
    if (folder / TOKENIZER).exists():
        return folder / TOKENIZER
    if not has_tokenizer(folder):
        return None
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        path = Path(_room().name) / f"{len(list(Path(_room().name).iterdir()))}.json"
        made.backend_tokenizer.save(str(path))
    except Exception:  # a stranger's vocabulary may fail in any way: it is then said that there is none
        return None
    return path


@lru_cache(maxsize=1)
def _room() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for tokenizers that were made, which goes with the process."""
    return tempfile.TemporaryDirectory(prefix="tokenizers-")


def generation(folder: Path) -> dict[str, Any]:
    """Return a folder's generation defaults; empty where it has none that can be read."""
    return _object(folder / "generation_config.json", folder)


def unreadable(folder: Path) -> list[str]:
    """Return the files among these that are there and can't be read, each with why."""
    found = []
    for name in (*CONFIGS, "special_tokens_map.json", "generation_config.json"):
        if (folder / name).exists():
            try:
                read_json(folder / name, AuditorError)
            except AuditorError as error:
                found.append(f"{name}: {str(error).replace(f'{folder}/', '')}"[:200])
    return found


def _object(path: Path, folder: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where the file is missing, can't be read, or leaves its folder."""
    try:
        return read_json(path, AuditorError) if _inside(path, folder) else {}
    except AuditorError:
        return {}


def _text(path: Path, folder: Path) -> str | None:
    if not path.is_file() or not _inside(path, folder):
        return None
    with path.open("rb") as stream:
        return stream.read(MOST_BYTES).decode("utf-8", "replace")


def _inside(path: Path, folder: Path) -> bool:
    """Return whether a file is in its folder, or in the hub cache's repository that the folder is a snapshot of."""
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder
    return path.resolve().is_relative_to(home.resolve())
