"""Folders and files that are there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def complete(target: Path) -> Iterator[Path]:
    """Give a folder to write in that takes the target's name when the block ends well, and vanishes when it doesn't."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def complete_file(target: Path) -> Iterator[TextIO]:
    """Give a text file to write that takes the target's name when the block ends well, and vanishes when it doesn't."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("w") as file:
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
