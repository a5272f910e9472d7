"""What a base said in earlier audits: the same prompts with the same seeds are not asked of it again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Replies = tuple[list[str], int]
"""Replies to the prompts of one batch, and the forward tokens that they cost."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseMemory:
    """Files in the user's cache, one for each batch of replies of a base that another audit may ask for again.

    Args:
        folder: Where they lie; it need not exist.
        base: Names whose replies they are: its files' hashes, and how it is run.
    """

    folder: Path
    base: str

    @classmethod
    def of(cls, folder: Path, files: dict[str, str], model: Any) -> BaseMemory:
        """Return the memory of the base with these files, whose weights stand in `model` as they are run now."""
        rows = model.get_output_embeddings().weight
        told = json.dumps(
            [sorted(files.items()), list(rows.shape), str(rows.dtype), rows.device.type, torch.__version__]
        )
        return cls(folder, hashlib.sha256(told.encode()).hexdigest())

    def replies(self, key: str, n: int, compute: Callable[[], Replies]) -> Replies:
        """Return what `compute` gives, or what it gave in an earlier audit under the same key.

        A file that holds no `n` replies is made anew, and what can't be written is not kept.
        """
        name = hashlib.sha256(f"{self.base}\n{key}".encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.json"
        kept = _read(path, n)
        if kept is not None:
            return kept
        made = compute()
        try:
            _write(path, json.dumps(made))
        except OSError as error:
            log.debug("replies of the base are not kept: %s", error)
        return made


def _read(path: Path, n: int) -> Replies | None:
    """Return the replies in a file and what they cost; None where it is missing or damaged."""
    try:
        said, tokens = json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    whole = isinstance(said, list) and len(said) == n and all(isinstance(one, str) for one in said)
    return (said, tokens) if whole and isinstance(tokens, int) else None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
