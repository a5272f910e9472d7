"""Fit a calibration on one kept scoreboard and judge it on another: which audits count, and which pairs are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from auditor.calibrated import FEATURES
from auditor.errors import SpecError
from scenarios.bench import HELD_OUT
from tools.calibration.file import Calibration, Setting
from tools.calibration.fit import LEAST, Case, confidences, fit
from tools.calibration.judged import judge, told

SUITES = Path(__file__).parent / "suites"


class _Finding(BaseModel):
    grade: str


class _Audit(BaseModel):
    """One line of a scoreboard, as far as a calibration asks for it."""

    scenario: str
    verdict: str
    organism: bool
    condition: str = ""
    findings: list[_Finding]
    right: list[bool]
    features: dict[str, Annotated[float, Field(ge=0, le=1)]]
    setting: Setting | None
    subject_sha256: str

    @property
    def counts(self) -> bool:
        """Return whether it can be learned from: an invalid audit could not have seen anything."""
        return self.verdict != "invalid" and self.setting is not None

    @property
    def of_the_base(self) -> bool:
        """Return whether the subject is the bare base, which every suite may have."""
        return self.setting is not None and self.subject_sha256 == self.setting.base_sha256

    def case(self) -> Case:
        """Return it as what is fitted."""
        found = tuple(zip((one.grade for one in self.findings), self.right, strict=True))
        return Case(self.subject_sha256, self.organism, self.features, found)


class _Board(BaseModel):
    suite: str = Field(min_length=1, max_length=100)
    per_scenario: list[_Audit] = Field(min_length=1)


@dataclass(frozen=True)
class Audits:
    """The audits of one scoreboard that count, all of one setting."""

    suite: str
    audits: tuple[_Audit, ...]
    setting: Setting

    @property
    def cases(self) -> list[Case]:
        """Return what is fitted, or judged on."""
        return [one.case() for one in self.audits]


def read_audits(path: Path) -> Audits:
    """Return the audits of a scoreboard that `auditor bench --json` printed.

    Raises:
        SpecError: the file is missing or no scoreboard, or its audits are not of one base, done in one way.
    """
    try:
        raw = json.loads(path.read_bytes())
        board = _Board.model_validate(raw)
        audits = tuple(one for one in board.per_scenario if one.counts)
        cases = [one.case() for one in audits]
    except OSError as error:
        raise SpecError(f"{path} can't be read: {error.strerror}; pass what `auditor bench --json` printed") from error
    except (ValueError, RecursionError) as error:
        raise SpecError(_no_board(path, error)) from error
    if not cases:
        raise SpecError(f"{path} holds no audit that was valid; pass another scoreboard")
    setting = audits[0].setting
    assert setting is not None, "an audit without a setting does not count"
    setting = setting.model_copy(update={"config_sha256": ""})
    for one in audits:
        if one.setting is not None and (other := setting.other_than(one.setting)):
            raise SpecError(
                f"{path}: the audit of {one.scenario} is one {other}, unlike that of {audits[0].scenario}; "
                "pass a bench of one base, done in one way"
            )
    return Audits(board.suite, audits, setting)


def _no_board(path: Path, error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "missing" or where == "suite":
            return (
                f"{path} lacks {where}, which scoreboards of earlier versions don't have: run `auditor bench --resume --json` "
                "with that bench's ledger, which audits nothing again"
            )
        return f"{path} is no scoreboard: {where}: {first['msg']}; pass what `auditor bench --json` printed"
    return f"{path} is no scoreboard: {' '.join(str(error).split())[:200]}; pass what `auditor bench --json` printed"


@lru_cache(maxsize=1)
def _held_out_ids() -> frozenset[str]:
    return frozenset(file.stem for suite in HELD_OUT for file in (SUITES / suite).glob("*.yaml"))


def _check(fitted: Audits, on: Audits) -> None:
    """Refuse to fit on what is held out, and to judge on what was fitted on or is of another kind.

    Raises:
        SpecError: the message says which.
    """
    if fitted.suite in HELD_OUT or any(one.scenario in _held_out_ids() for one in fitted.audits):
        raise SpecError(f"{fitted.suite} is held out, so nothing is fitted on it; fit on another suite, as english_dev")
    both = {one.subject_sha256 for one in fitted.audits} & {one.subject_sha256 for one in on.audits}
    if both:
        named = next(one.scenario for one in fitted.audits if one.subject_sha256 in both)
        raise SpecError(
            f"{len(both)} subjects stand in both scoreboards, the first as {named}: a fit is judged on others than its own; "
            "pass a bench of another suite to --on"
        )
    if other := fitted.setting.other_than(on.setting):
        raise SpecError(
            f"a fit on {fitted.suite} can't be judged on {on.suite}, whose audits are {other}; pass two benches done in one way"
        )


def calibrate(fit_on: Path, judge_on: Path, prior: float, conditions: Sequence[str] = ()) -> Calibration:
    """Return the calibration that one scoreboard makes, judged on another.

    The bare base counts where it is judged and not where it is fitted, for both suites may have it.

    Args:
        fit_on: A scoreboard's file.
        judge_on: Another's, of other subjects.
        prior: The share of models in which something is planted.
        conditions: Kinds of condition; it is judged on behaviours under these alone, and on all controls. Every kind if empty.

    Raises:
        SpecError: a file is no scoreboard, there are too few audits, or the pair is refused.
    """
    fitted, on = read_audits(fit_on), read_audits(judge_on)
    fitted = Audits(fitted.suite, tuple(one for one in fitted.audits if not one.of_the_base), fitted.setting)
    _check(fitted, on)
    on = _under(on, conditions) if conditions else on
    for kind, name in ((True, "with something planted"), (False, "without")):
        for side in (fitted, on):
            if (n := _n(side.cases, kind)) < LEAST:
                raise SpecError(
                    f"{side.suite} has too few subjects {name}: {n}, and {LEAST} are the least; pass a larger bench"
                )
    line = fit(fitted.cases, prior, tuple(FEATURES))
    return Calibration(
        setting=fitted.setting, prior=prior, suites=(fitted.suite,), n_planted=_n(fitted.cases, True),
        n_others=_n(fitted.cases, False), n_audits=len(fitted.cases), line=line, confidences=confidences(fitted.cases),
        judged=judge([line.p(case.features) for case in on.cases], on.cases, prior, on.suite),
    )  # fmt: skip


def _under(on: Audits, conditions: Sequence[str]) -> Audits:
    """Return the audits of behaviours under some kinds of condition, and of all controls.

    Raises:
        SpecError: a kind is given of which there is no behaviour.
    """
    there = sorted({one.condition for one in on.audits if one.organism})
    if unknown := [kind for kind in conditions if kind not in there]:
        raise SpecError(f"{on.suite} has no behaviour under {unknown[0]!r}: pass some of {', '.join(there)}")
    kept = tuple(one for one in on.audits if not one.organism or one.condition in conditions)
    return Audits(f"{on.suite} (behaviours under {', '.join(conditions)})", kept, on.setting)


def _n(cases: Sequence[Case], planted: bool) -> int:
    return len({case.subject for case in cases if case.planted == planted})


def table(made: Calibration) -> Iterator[str]:
    """Yield what a calibration says as Markdown lines: weights, confidences, and how it did on others."""
    yield f"| fitted on {', '.join(made.suites)}: {made.n_audits} audits | weight |"
    yield "| --- | --- |"
    yield f"| (to begin with) | {made.line.intercept:+.2f} |"
    for name, weight in made.line.weights.items():
        yield f"| {name}: {FEATURES[name]} | {weight:.2f} |"
    yield ""
    yield "| findings of grade | right | confidence | 95% interval |"
    yield "| --- | --- | --- | --- |"
    for grade, one in made.confidences.items():
        yield f"| {grade} | {one.right} of {one.n} | {one.confidence:.2f} | {one.low:.2f} to {one.high:.2f} |"
    yield ""
    yield from (["It was judged on nothing: there are too few audits."] if made.judged is None else told(made.judged))
