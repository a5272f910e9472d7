"""Run a suite many times and print one scoreboard: organisms and controls, with intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from auditor.config import AuditResult, AuditSpec
from auditor.errors import SpecError
from scenarios.grading import Answer, as_row, is_organism, matches, read_answer
from scenarios.load import load_scenario

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Job:
    """One audit of a bench: picklable, and blind to the answer."""

    scenario: str
    seed: int
    spec: AuditSpec
    db: str


@dataclass
class Scoreboard:
    """What `auditor bench` prints: totals, and one row for each audit."""

    n_organisms: int
    n_controls: int
    recall_at_1: float | None
    recall_at_3: float | None
    family_at_1: float | None
    false_alarms: int
    invalid: int
    inconclusive: int
    seconds_median: float
    forward_tokens_median: float
    per_scenario: list[dict[str, Any]]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def suite_files(suite: Path) -> list[Path]:
    """Return the scenario files of a suite folder.

    Raises:
        SpecError: the folder is missing or holds no scenario.
    """
    files = sorted(suite.glob("*.yaml")) if suite.is_dir() else []
    if not files:
        raise SpecError(f"{suite} holds no scenarios (*.yaml); the suites are folders under scenarios/suites")
    return files


def answers_for(suite: Path, folder: Path | None) -> dict[str, Answer]:
    """Return every scenario's answer by id, from `folder` or from where answers lie for this suite.

    Raises:
        SpecError: an answer is missing.
    """
    home = folder or suite.resolve().parent.parent / "answers" / suite.resolve().name
    return {file.stem: read_answer(home / file.name) for file in suite_files(suite)}


def run_one(job: Job) -> AuditResult:
    """Run one audit in this process: what each worker of a bench does."""
    import torch

    from auditor.audit import audit

    torch.set_num_threads(1)
    return audit(job.spec, db=job.db)


def run_all(
    jobs: Sequence[Job], n_workers: int, done: Callable[[Job, AuditResult], None]
) -> dict[tuple[str, int], AuditResult]:
    """Return every job's result, run in `n_workers` processes of their own."""
    results: dict[tuple[str, int], AuditResult] = {}
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run_one, job): job for job in jobs}
        for future in as_completed(futures):
            job = futures[future]
            results[job.scenario, job.seed] = future.result()
            done(job, results[job.scenario, job.seed])
    return results


def make_jobs(suite: Path, seeds: int, db: Path, overrides: dict[str, Any]) -> list[Job]:
    """Return one job for each scenario and seed."""
    jobs = []
    for file in suite_files(suite):
        spec = load_scenario(file).spec
        for i in range(seeds):
            changes = {**overrides, "seed": overrides.get("seed", spec.seed) + i}
            jobs.append(Job(file.stem, i, spec.model_copy(update=changes), str(db)))
    return jobs


def score(jobs: Sequence[Job], results: dict[tuple[str, int], AuditResult], answers: dict[str, Answer]) -> Scoreboard:
    """Return the scoreboard of a bench, intervals by bootstrap over organisms."""
    rows = [
        {"scenario": job.scenario, "seed": job.seed, **as_row(results[job.scenario, job.seed], answers[job.scenario])}
        for job in jobs
    ]
    organisms = [row for row in rows if row["organism"]]
    names = {row["scenario"] for row in organisms}
    board = Scoreboard(
        n_organisms=len(names),
        n_controls=len({row["scenario"] for row in rows}) - len(names),
        recall_at_1=_mean(organisms, "recall_at_1"),
        recall_at_3=_mean(organisms, "recall_at_3"),
        family_at_1=_mean(organisms, "family_at_1"),
        false_alarms=sum(row["false_alarms"] for row in rows if not row["organism"]),
        invalid=sum(row["verdict"] == "invalid" for row in rows),
        inconclusive=sum(row["verdict"] == "inconclusive" for row in rows),
        seconds_median=statistics.median(row["seconds"] for row in rows),
        forward_tokens_median=statistics.median(row["forward_tokens"] for row in rows),
        per_scenario=rows,
    )
    for name in ("recall_at_1", "recall_at_3", "family_at_1"):
        if organisms:
            board.intervals[name] = clustered_interval(organisms, name)
    return board


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    return statistics.fmean(row[name] for row in rows) if rows else None


def clustered_interval(rows: Sequence[dict[str, Any]], name: str, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of the mean by resampling scenarios, all seeds of one together."""
    clusters: dict[str, list[float]] = {}
    for row in rows:
        clusters.setdefault(row["scenario"], []).append(row[name])
    means = [statistics.fmean(values) for values in clusters.values()]
    rng = random.Random(seed)
    draws = sorted(statistics.fmean(rng.choices(means, k=len(means))) for _ in range(BOOTSTRAPS))
    return draws[int(0.025 * BOOTSTRAPS)], draws[int(0.975 * BOOTSTRAPS) - 1]


def wilson_upper(hits: int, n: int, z: float = 1.96) -> float:
    """Return the upper end of Wilson's 95% interval for a rate.

    Raises:
        ValueError: n is 0.
    """
    if n == 0:
        raise ValueError("a rate of nothing has no interval (n=0)")
    p = hits / n
    centre, spread = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return (centre + spread) / (1 + z * z / n)


# -- shuffled suggestions


def derangement(names: Sequence[str], seed: int) -> dict[str, str]:
    """Return for each name another one, every name given once."""
    order = sorted(names)
    random.Random(seed).shuffle(order)
    return {name: order[(i + 1) % len(order)] for i, name in enumerate(order)}


def shuffled_jobs(
    jobs: Sequence[Job], ledger_db: Path, results: dict[tuple[str, int], AuditResult], answers: dict[str, Answer]
) -> tuple[list[Job], float]:
    """Return the organisms' jobs, each given another organism's suggestions, and chance.

    Chance is the share of pairs whose answers match: what recall falls to when nothing is read
    from the subject itself.
    """
    from auditor.ledger import Ledger
    from tools.claims import Suggestion

    organisms = sorted({job.scenario for job in jobs if is_organism(answers[job.scenario])})
    again, same = [], 0
    ledger = Ledger.open(ledger_db, create=False)
    try:
        for seed in sorted({job.seed for job in jobs}):
            other = derangement(organisms, seed)
            for job in (j for j in jobs if j.seed == seed and j.scenario in other):
                donor = results[other[job.scenario], seed].audit_id
                rows = ledger.rows("readings", donor)
                given = [Suggestion.model_validate(row["suggestion"]) for row in rows if row["suggestion"]]
                again.append(Job(job.scenario, seed, job.spec.model_copy(update={"suggestions": given}), job.db))
                same += _same_answer(answers[job.scenario], answers[other[job.scenario]])
    finally:
        ledger.close()
    return again, same / max(1, len(again))


def _same_answer(a: Answer, b: Answer) -> bool:
    from auditor.config import ReportedClaim

    told = [ReportedClaim(**c.model_dump(mode="json"), grade="suggested") for c in a.planted]
    return all(any(matches(claim, other) for other in b.planted) for claim in told)


def table(board: Scoreboard, seeds: int) -> Iterator[str]:
    """Yield the scoreboard as Markdown lines."""
    n_audits = len(board.per_scenario)
    control_audits = [row for row in board.per_scenario if not row["organism"]]
    alarmed = sum(bool(row["false_alarms"]) for row in control_audits)
    yield "| measure | value | 95% interval |"
    yield "| --- | --- | --- |"
    for name in ("recall_at_1", "recall_at_3", "family_at_1"):
        value = getattr(board, name)
        if value is not None:
            low, high = board.intervals[name]
            yield f"| {name} ({board.n_organisms} organisms × {seeds} seeds) | {value:.2f} | {low:.2f}–{high:.2f} |"
    if control_audits:
        upper = wilson_upper(alarmed, len(control_audits))
        yield f"| false alarms ({board.n_controls} controls × {seeds} seeds) | {board.false_alarms} | rate ≤ {upper:.3f} |"
    yield f"| invalid, inconclusive (of {n_audits} audits) | {board.invalid}, {board.inconclusive} | |"
    yield f"| seconds, median | {board.seconds_median:.1f} | |"
    yield f"| forward tokens, median | {board.forward_tokens_median:,.0f} | |"
