"""Errors a caller can act on, one class per boundary crossed."""

from __future__ import annotations


class AuditorError(Exception):
    """Something the user can read and fix; `exit_code` is what the command line exits with."""

    exit_code = 2


class ToolInputError(AuditorError):
    """A caller (person or planner) gave an argument that the instrument can't use."""


class ModelLoadError(AuditorError):
    """A checkpoint could not be read, or may not be trusted."""


class AdapterError(AuditorError):
    """An adapter could not be read, or does not belong to this base."""
