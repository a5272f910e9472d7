"""A training that is cut off in the middle."""

from __future__ import annotations

from typing import Any

import pytest

from tools.activation_oracle import fit


class CutOffError(Exception):
    """Raised where a kill would come."""


def cut_off_after(n: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have `fit` stop once when `n` steps are done; return the list that every step's loss goes into."""
    step, ran = fit._step, list[float]()

    def until(*args: Any) -> float:
        ran.append(step(*args))
        if len(ran) == n:
            raise CutOffError
        return ran[-1]

    monkeypatch.setattr(fit, "_step", until)
    return ran
