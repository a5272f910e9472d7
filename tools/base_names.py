"""Whether the base that an adapter names is the one that it is put on, told by their names alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FOLDERS = (
    "models",
    "model",
    "base",
    "bases",
    "output",
    "outputs",
    "checkpoints",
    "weights",
    "data",
    "tmp",
    "out",
    "results",
)
"""First parts of relative paths that only look like hub ids."""
IN_CACHE = re.compile(r"models--(.+?)--(.+)")
COPIES = re.compile(r"[-_.](unsloth|bnb|gptq|awq|gguf|mlx|fp8|bf16|fp16|[48]-?bit|int[48]|dynamic|hf)(?=$|[-_.])", re.I)
"""What names of other copies of the same weights end in."""


def names_another(claimed: object, base: Path, *given: str | None) -> str:
    """Return the base that an adapter's files name where it goes by another name than the one given; else an empty text.

    Only a hub id can say so: a folder may be called anything, and a copy that was quantised is the same base.

    Args:
        claimed: `base_model_name_or_path` of the adapter's configuration.
        base: The folder of the base that it is put on.
        given: What the caller called that base: hub ids or folders.
    """
    if not isinstance(claimed, str) or not HUB_ID.fullmatch(claimed) or claimed.split("/")[0].lower() in FOLDERS:
        return ""
    known = {_name(one) for one in (*given, str(base), base.resolve().as_posix(), _called(base)) if one}
    return "" if _name(claimed) in known else claimed


def _called(base: Path) -> str:
    """Return the name that a base's configuration has for it, an empty text where it has none."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("_name_or_path") or "") if isinstance(config, dict) else ""


def _name(text: str) -> str:
    """Return a model's name without its owner, and without what other copies of the same weights are called."""
    cached = next((found[2] for part in Path(text).parts if (found := IN_CACHE.fullmatch(part))), None)
    name = cached or Path(text).name
    while (shorter := COPIES.sub("", name)) != name:
        name = shorter
    return name.lower()
