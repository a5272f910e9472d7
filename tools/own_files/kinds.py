"""How grave a difference of a subject's files is; nothing heavy is imported."""

from __future__ import annotations

from typing import Literal

Severity = Literal["same", "differs harmlessly", "not resolved", "acts on content"]
ORDER: tuple[Severity, ...] = ("same", "differs harmlessly", "not resolved", "acts on content")
GRAVE = ORDER[2:]
"""What a gate stays shut for."""
