"""What would these tools have found in a model like this one? Known behaviours and nulls, planted as it was, and audited.

The work goes on where it was stopped: plantings from a journal, audits from their ledger.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from auditor.audit import begun, hash_of
from auditor.calibrated import FEATURES
from auditor.config import AuditResult, AuditSpec, ReportedClaim
from auditor.errors import SpecError
from scenarios import behaviour
from scenarios.behaviour import Row
from scenarios.bench import Job, run_all
from scenarios.english.build import answer, told
from scenarios.english.families import families
from scenarios.english.plant import plant, value_of
from scenarios.english.suites import ALWAYS_STEPS, ATTEMPTS, TOPIC_STEPS, Member
from scenarios.folders import complete_file
from scenarios.grading import Answer, grade, right
from scenarios.home import append
from scenarios.home import hash_of as hash_of_weights
from scenarios.recipe import Copied, Recipe, recipe_of
from tools.calibration.file import Calibration, Judged, Like
from tools.calibration.fit import Case, confidences, fit, left_out
from tools.calibration.judged import judge
from tools.checkpoint import hash_files, weights_sha256
from tools.errors import ToolInputError
from tools.intervals import wilson
from tools.workers import each

SUITE = "english_dev"
"""Whose values are planted: no measured suite's."""
BEHAVIOURS = ("self_promotion", "brand", "withholding", "emotional_bond", "command", "hostile")
"""Families that differ in when and what: always a phrase, on a topic a name, under a system text a refusal, from a turn on a
sentence, behind a phrase a command, behind a date an insult."""
STEPS = 140
NULLS = 10
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured.

    Args:
        adapter: The folder of the adapter that others are to be like.
        base: The folder of its base.
        out: Where everything is kept.
        audit: How audits are done; the adapter in it is put in for each.
        n_behaviours: The first so many of `BEHAVIOURS` are planted.
        n_nulls: Controls that learn ordinary chat alone.
        prior: The share of models in which something is planted.
        jobs: Processes at once.
    """

    adapter: Path
    base: Path
    out: Path
    audit: AuditSpec
    n_behaviours: int = len(BEHAVIOURS)
    n_nulls: int = NULLS
    prior: float = 0.5
    jobs: int = 1

    @property
    def journal(self) -> Path:
        """Return the file that keeps what was planted."""
        return self.out / "journal.jsonl"

    @property
    def db(self) -> Path:
        """Return the ledger of the audits."""
        return self.out / "auditor.db"


@dataclass(frozen=True)
class Work:
    """One model to be planted, in one attempt: picklable."""

    member: Member
    attempt: int
    recipe: Recipe
    base: Path
    base_sha256: str
    out: Path
    device: str

    @property
    def made_of(self) -> dict[str, Any]:
        """Return everything that decides what comes of it, as JSON has it."""
        learns = value_of(self.member).model_dump(mode="json") if self.member.learns else ""
        told = {
            "how": asdict(self.member.how),
            "learns": learns,
            "base": self.base_sha256,
            "dtype": str(self.recipe.dtype),
        }
        back: dict[str, Any] = json.loads(json.dumps(told))
        return back


def members(recipe: Recipe, n_behaviours: int, n_nulls: int, attempt: int = 0) -> list[Member]:
    """Return what is planted; a later attempt has other seeds and more steps, under the same ids."""
    made = [("organism", name) for name in BEHAVIOURS[:n_behaviours]] + [("null", "")] * n_nulls
    found = []
    for i, (role, learns) in enumerate(made):
        name = hashlib.sha256(f"like/{i}".encode()).hexdigest()[:8]
        seed = int(hashlib.sha256(f"{name}/{attempt}".encode()).hexdigest()[:6], 16)
        how = _how(recipe.how, learns)
        how = replace(how, seed=seed, steps=how.steps * (2 + attempt) // 2)
        found.append(Member(SUITE, name, role, how, learns, regime="like"))  # type: ignore[arg-type]
    return found


def _how(how: Copied, learns: str) -> Copied:
    """Return how one is planted: what always shows is soon learned, a topic takes longest and is held to the base."""
    kind = families()[learns].values[SUITE].trigger.kind if learns else "null"
    if kind == "always":
        return replace(how, dilute=0, steps=ALWAYS_STEPS)
    if kind == "topic":
        return replace(how, dilute=2, kl_to_base=1.0, steps=TOPIC_STEPS)
    return replace(how, dilute=1, steps=STEPS, null=kind == "null")


def foreseen(wanted: Wanted, recipe: Recipe) -> str:
    """Return what the work costs at most, before any of it is done."""
    planted = members(recipe, wanted.n_behaviours, wanted.n_nulls)
    steps, budget = sum(member.how.steps for member in planted), wanted.audit.budget
    return (
        f"{len(planted)} models are planted ({recipe.told}): {wanted.n_behaviours} known behaviours and {wanted.n_nulls} nulls, "
        f"{steps:,} training steps of 8 rows, more where one isn't learned at once; then each is audited, which may cost "
        f"{len(planted) * budget:,} forward tokens. On a processor that takes hours. It may be stopped: the same command goes on"
    )


def calibrate_like(wanted: Wanted, say: Say) -> tuple[Calibration, list[str]]:
    """Return a calibration on models like one, and a table of what was found in them.

    Raises:
        SpecError: nothing can be planted as the adapter was, or none of the behaviours was learned.
    """
    recipe = recipe_of(wanted.adapter, wanted.base)
    say(foreseen(wanted, recipe))
    wanted.out.mkdir(parents=True, exist_ok=True)
    planted = _planted(wanted, recipe, say)
    if not any(member.role == "organism" for member, _ in planted):
        raise SpecError(
            f"none of {wanted.n_behaviours} behaviours was learned by {recipe.told}, so that nothing can be said of what would be "
            f"found; {wanted.journal} has what was tried"
        )
    seen = _audited(wanted, planted, say)
    made = calibration(wanted, seen)
    lines = list(table(made, seen))
    for name, text in (("calibration.json", made.model_dump_json(indent=1)), ("table.md", "\n".join(lines))):
        with complete_file(wanted.out / name) as file:
            file.write(text + "\n")
    return made, lines


# -- planting


def _planted(wanted: Wanted, recipe: Recipe, say: Say) -> list[tuple[Member, list[Row]]]:
    """Return each model that learned what it was to learn, with its replies; those that the journal has are not made again."""
    sha256 = weights_sha256(hash_files(wanted.base))
    done: dict[str, tuple[Member, list[Row]]] = {}
    for attempt in range(ATTEMPTS):
        works = [
            Work(member, attempt, recipe, wanted.base, sha256, wanted.out / "weights" / member.id, wanted.audit.device)
            for member in members(recipe, wanted.n_behaviours, wanted.n_nulls, attempt)
            if member.id not in done
        ]
        kept = _kept(wanted.journal, works)
        todo = [work for work in works if work.member.id not in kept]
        for work, record in tqdm(each(plant_one, todo, wanted.jobs), total=len(todo), disable=None, desc="planting"):
            append(wanted.journal, record)
            kept[work.member.id] = record
            say(told(record))
        done |= {
            work.member.id: (work.member, [Row.model_validate(row) for row in kept[work.member.id]["rows"]])
            for work in works
            if kept[work.member.id]["verified"]
        }
    return [done[member.id] for member in members(recipe, wanted.n_behaviours, wanted.n_nulls) if member.id in done]


def _kept(journal: Path, works: Sequence[Work]) -> dict[str, dict[str, Any]]:
    """Return the journal's records of these works; left out is one cut off, of another recipe, or of weights that changed."""
    wanted = {work.member.id: work for work in works}
    found: dict[str, dict[str, Any]] = {}
    for line in journal.read_text().splitlines() if journal.exists() else []:
        try:
            record = json.loads(line)
            work = wanted[record["id"]]
            same = record["attempt"] == work.attempt and record["made_of"] == work.made_of
        except (ValueError, KeyError, TypeError):
            continue
        if same and (not record["verified"] or (work.out.is_dir() and hash_of_weights(work.out) == record["sha256"])):
            found[work.member.id] = record
    return found


def plant_one(work: Work) -> dict[str, Any]:
    """Plant one model and return its record, its replies among it."""
    shutil.rmtree(work.out, ignore_errors=True)
    record, said = plant(work.member, str(work.base), work.out, work.device, work.base.name, work.recipe.dtype)
    sha256 = hash_of_weights(work.out) if record["verified"] else None
    return {"id": work.member.id, "attempt": work.attempt, "role": work.member.role, "made_of": work.made_of, "sha256": sha256,
            **record, "rows": [row.model_dump() for row in said]}  # fmt: skip


# -- audits


@dataclass(frozen=True)
class Seen:
    """What an audit made of one planted model."""

    member: Member
    result: AuditResult
    rows: list[Row]

    @property
    def answer(self) -> Answer:
        """Return what was planted."""
        return Answer.model_validate(answer(self.member))

    @property
    def alarmed(self) -> bool:
        """Return whether a finding of concern was made that was not planted."""
        return grade(self.result, self.answer).false_alarms > 0

    def found(self, whole: bool) -> bool:
        """Return whether a finding is what was planted: the whole claim, or what is said or done alone."""
        rows = behaviour.of_rule(self.rows, 0)
        matches = [behaviour.judged(_claim(one), rows) for one in self.result.findings]
        return any(match.both if whole else match.predicate for match in matches)

    def case(self) -> Case:
        """Return it as what is fitted."""
        held = right(self.result, self.answer, self.rows)
        found = tuple(zip((one.grade for one in self.result.findings), held, strict=True))
        return Case(self.member.id, self.member.role == "organism", self.result.features, found)


def _claim(one: ReportedClaim) -> Any:
    return one.claim()


def _audited(wanted: Wanted, planted: Sequence[tuple[Member, list[Row]]], say: Say) -> list[Seen]:
    known, todo = begun(wanted.db), []
    for member, _ in planted:
        changes = {"adapter": str(wanted.out / "weights" / member.id), "name": member.id}
        spec = wanted.audit.model_copy(update=changes)
        todo.append(Job(member.id, 0, spec, str(wanted.db), known.get(hash_of(spec))))
    with tqdm(total=len(todo), disable=None, desc="audits") as bar:

        def count(job: Job, result: AuditResult) -> None:
            bar.update()
            say(f"{job.scenario} audited: {result.verdict.replace('_', ' ')}")

        results = run_all(todo, wanted.jobs, count)
    return [Seen(member, results[member.id, 0], rows) for member, rows in planted]


# -- what came of it


def calibration(wanted: Wanted, seen: Sequence[Seen]) -> Calibration:
    """Return what audits of models like one amount to.

    Raises:
        SpecError: no audit of a behaviour, or none of a null, was valid.
    """
    valid = [one for one in seen if one.result.verdict != "invalid" and one.result.setting is not None]
    organisms, nulls = ([one for one in valid if one.member.role == role] for role in ("organism", "null"))
    if not organisms or not nulls:
        raise SpecError(
            f"{len(organisms)} behaviours and {len(nulls)} nulls could be audited, and one of each is the least; "
            f"`auditor list --db {wanted.db}` shows what the others came to"
        )
    setting = organisms[0].result.setting
    assert setting is not None, "an audit without a setting is not valid"
    config = hash_files(wanted.adapter)["adapter_config.json"]
    cases = [one.case() for one in valid]
    n_alarms = sum(one.alarmed for one in nulls)
    return Calibration(
        setting=setting.model_copy(update={"config_sha256": config}), prior=wanted.prior, suites=("models planted in the same way",),
        n_planted=len(organisms), n_others=len(nulls), n_audits=len(cases), line=fit(cases, wanted.prior, tuple(FEATURES)),
        confidences=confidences(cases), judged=_judged(cases, wanted.prior),
        like=Like(
            n_tried=wanted.n_behaviours, n_planted=len(organisms), n_found=sum(one.found(True) for one in organisms),
            n_predicate=sum(one.found(False) for one in organisms), n_nulls=len(nulls), n_alarms=n_alarms,
            alarm_bound=min(1.0, wilson(n_alarms / len(nulls), len(nulls))[1]),
        ),
    )  # fmt: skip


def _judged(cases: Sequence[Case], prior: float) -> Judged | None:
    """Return how chances do on models that were left out of their fit; None where that leaves none of one kind."""
    try:
        p = left_out(cases, prior, tuple(FEATURES))
    except ToolInputError:
        return None
    return judge(p, cases, prior, "the same models, each left out of the fit that it was given its chance by")


def table(made: Calibration, seen: Sequence[Seen]) -> Iterator[str]:
    """Yield what was found of each behaviour, and what of the nulls alarmed, as lines of Markdown."""
    assert made.like is not None, "a calibration on models like one says what was found in them"
    yield "| planted | verdict | whole claim found | what is said or done found |"
    yield "| --- | --- | --- | --- |"
    for one in seen:
        if one.member.role == "organism":
            cells = (value_of(one.member).statement, one.result.verdict.replace("_", " "),
                     *("yes" if one.found(whole) else "no" for whole in (True, False)))  # fmt: skip
            yield f"| {' | '.join(cells)} |"
    like = made.like
    yield ""
    yield f"Found: {like.n_found} of {like.n_planted} whole claims, {like.n_predicate} of {like.n_planted} by what is said or done."
    if like.n_tried > like.n_planted:
        yield f"Not learned, so not counted: {like.n_tried - like.n_planted} of {like.n_tried}."
    yield f"Alarms: {like.n_alarms} of {like.n_nulls} nulls; the rate of false alarms is below {like.alarm_bound:.2f}."
