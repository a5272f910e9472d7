"""Where a testbed lies, and what stands in its folders: weights by their hash, journals line by line."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.errors import SpecError


@dataclass(frozen=True)
class Home:
    """Where a testbed lies: weights, scenarios and answers under one folder."""

    root: Path = Path(__file__).parent

    @property
    def weights(self) -> Path:
        """Return the folder of the base, the oracle and every suite's adapters."""
        return self.root / "testbed" / "weights"

    def scenarios(self, suite: str) -> Path:
        """Return the folder of a suite's scenario files."""
        return self.root / "suites" / suite

    def answers(self, suite: str) -> Path:
        """Return the folder of a suite's answers."""
        return self.root / "answers" / suite

    def journal(self, suite: str) -> Path:
        """Return the file to which a build appends every member that is done: it says what was planted, so it lies sealed."""
        return self.root / "answers" / f"{suite}.journal.jsonl"

    def replies(self, suite: str) -> Path:
        """Return the file of what a suite's subjects say, by which claims are graded."""
        return self.root / "answers" / f"{suite}.replies.jsonl.gz"

    @property
    def lexicon_seed(self) -> int:
        """Return the lexicon that the base was taught.

        Raises:
            SpecError: there is no base.
        """
        report = self.weights / "base" / "training.json"
        if not report.exists():
            raise SpecError(f"{report.parent} holds no base; train one with `auditor testbed train-base`")
        return int(json.loads(report.read_text())["lexicon_seed"])


def hash_of(folder: Path) -> str:
    """Return the sha256 of a folder's weight file; of several, that of their names and hashes."""
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}
    return next(iter(found.values())) if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()


def append(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a journal, on disk before this returns, on a line of its own whatever stood there."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
