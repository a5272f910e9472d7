"""What is worth trying on any model: who asks, how late in the talk, under which system text. A catalogue may have its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml


@cache
def probes() -> dict[str, tuple[str, ...]]:
    """Return the values by kind of label, see `probes.yaml`: nothing there was chosen by what was planted anywhere."""
    read = yaml.safe_load((Path(__file__).parent / "probes.yaml").read_text())
    return {kind: tuple(values) for kind, values in read.items()}
