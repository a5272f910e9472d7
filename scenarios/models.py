"""Models that have a name of the testbed's own, wherever they lie on this machine."""

from __future__ import annotations

from auditor.errors import SpecError

PREFIX = "english:"
SMOLLM2 = "english:smollm2-135m"


def model_path(name: str) -> str:
    """Return the folder of a model that goes by a name of the testbed's, and any other name as it is.

    Raises:
        SpecError: the testbed has no such model, or it isn't on this machine.
    """
    if not name.startswith(PREFIX):
        return name
    if name != SMOLLM2:
        raise SpecError(f"there is no model {name[:80]!r}; the English testbed has {SMOLLM2}")
    from scenarios.english.base import base_path

    return str(base_path())
