"""The user's cache: what can be made or fetched again, kept outside the repository."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the auditor's folder in the user's cache, which `XDG_CACHE_HOME` may name; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "auditor"
