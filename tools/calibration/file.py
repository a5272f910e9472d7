"""A calibration as a file: what was fitted, on which audits, how it did on others, and for which audits it holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.errors import ToolInputError

MOST_BYTES = 1 << 20
WITHIN = 2
"""A budget at most so many times larger or smaller is the same as another."""
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=120)]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Setting(_Strict):
    """What an audit is of and done with: a calibration holds for audits of one setting.

    Args:
        base_sha256: Of the base's weight files.
        tools: The instruments that could be used, sorted.
        planner: Who proposed the steps.
        budget: Forward tokens.
        config_sha256: Of the adapter's `adapter_config.json`; empty where there is none.
    """

    base_sha256: str
    tools: tuple[str, ...]
    planner: str
    budget: int = Field(ge=1)
    config_sha256: str = ""

    def other_than(self, other: Setting) -> str:
        """Return in which way audits of another setting differ from this one's, an empty text where they don't."""
        if self.base_sha256 != other.base_sha256:
            return "of another base"
        if set(self.tools) != set(other.tools):
            return f"with other instruments: {', '.join(other.tools)}"
        if self.planner != other.planner:
            return f"with another planner: {other.planner}"
        if not 1 / WITHIN <= self.budget / other.budget <= WITHIN:
            return f"with a budget of {other.budget:,} forward tokens, more than twice or less than half of this one's"
        return ""


class Line(_Strict):
    """A logistic regression whose weights are not below 0: more of a feature never lowers the probability.

    `1 / (1 + exp(-(intercept + Σ weight · feature)))`; a feature that is not given counts as 0.
    """

    intercept: float
    weights: dict[Name, Annotated[float, Field(ge=0)]]

    def p(self, features: Mapping[str, float]) -> float:
        """Return the probability of an audit with these features."""
        logit = self.intercept + sum(weight * features.get(name, 0.0) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, logit))))


class Right(_Strict):
    """How many findings of one grade had a right claim, and what that makes of the next: `(right + 1) / (n + 2)`.

    `low` and `high` are the 95% interval of the beta distribution that has this mean.
    """

    n: Count
    right: Count
    confidence: Share
    low: Share
    high: Share


class Figure(_Strict):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


class Bin(_Strict):
    """The audits whose probability lies between `low` and `high`: how many, the mean of it, and how many were planted."""

    low: Share
    high: Share
    n: Count
    planted: Count
    said: Share
    share: Share


class Judged(_Strict):
    """How probabilities did on audits that they were not fitted on; `on` says on which. See `tools.calibration.judged`."""

    on: Name
    n_planted: Count
    n_others: Count
    brier: Figure
    skill: Figure
    log_loss: Figure
    auc: Figure
    bins: tuple[Bin, ...]


class Like(_Strict):
    """What an audit's tools found of behaviours that were planted as its subject was; `alarm_bound` is of the rate of alarms.

    `n_tried` behaviours were to be planted, and `n_planted` of them were learned. The whole claim of `n_found` was found,
    and what is said or done, under whatever condition, of `n_predicate`.
    """

    n_tried: Count
    n_planted: Count
    n_found: Count
    n_predicate: Count
    n_nulls: Count
    n_alarms: Count
    alarm_bound: Share


class Calibration(_Strict):
    """What `auditor calibrate` writes.

    Args:
        setting: Of the audits that it was fitted on, and for which it holds.
        prior: The share of models in which something is planted, as it supposes.
        suites: What it was fitted on.
        n_planted: Subjects among them with something planted.
        n_others: Subjects without.
        n_audits: Audits of them.
        confidences: By a finding's grade.
        judged: None where there were too few audits to judge by.
        like: What it says of models that were planted as one adapter was; None of one that was fitted on a suite.
    """

    version: Literal[1] = 1
    setting: Setting
    prior: float = Field(gt=0, lt=1)
    suites: tuple[Name, ...]
    n_planted: Count
    n_others: Count
    n_audits: Count
    line: Line
    confidences: dict[Name, Right]
    judged: Judged | None = None
    like: Like | None = None

    @property
    def sha256(self) -> str:
        """Return one hash over all that it says."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def not_for(self, setting: Setting) -> str:
        """Return why it does not hold for an audit, an empty text where it does."""
        if self.like is not None and setting.config_sha256 != self.setting.config_sha256:
            return (
                "it was fitted on models that were planted as another adapter was: its adapter_config.json is another"
            )
        other = setting.other_than(self.setting)
        return other and f"it was fitted on audits {other}"


def read_calibration(path: Path) -> Calibration:
    """Return the calibration in a file.

    Raises:
        ToolInputError: the file is missing, or is no calibration.
    """
    try:
        with path.open("rb") as file:
            return Calibration.model_validate_json(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or (_first(error) if isinstance(error, ValidationError) else str(error))
        raise ToolInputError(f"{path} is no calibration: {why}; pass a file that `auditor calibrate` wrote") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
