"""The commands on audits and their ledger: run, audit, resume, bench."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.cli.ledgers import AuditId, claim_line, opened, write_report
from auditor.cli.shell import (
    DEFAULT_DB,
    AsJson,
    Budget,
    Db,
    Failures,
    Hypotheses,
    Judge,
    MaxTrials,
    Model,
    NewTokens,
    NoCatalogue,
    Out,
    Planner,
    Progress,
    Quiet,
    Seed,
    Temperature,
    Thinking,
    Tools,
    check_out,
    command,
    fail,
    note,
    plain,
    typed_again,
)  # fmt: skip

if TYPE_CHECKING:
    from auditor.config import AuditResult, AuditSpec
    from scenarios.bench import Job

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Audit a language model for behaviour that someone may have planted in it.",
)


def _print_versions(wanted: bool) -> None:
    """Print the versions of what an audit's outcome hangs on, read from package metadata, and end."""
    from importlib.metadata import PackageNotFoundError, version

    if not wanted:
        return
    for name in ("auditor", "torch", "transformers", "peft"):
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} is not installed as a package")
    raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Print versions, and end.")] = False,
) -> None:  # fmt: skip
    """Audit a language model for behaviour that someone may have planted in it."""


@app.command()
@command
def run(
    scenario: Path, db: Db = DEFAULT_DB, out: Out = None, planner: Planner = None, model: Model = None, tools: Tools = None,
    budget: Budget = None, seed: Seed = None, thinking: Thinking = None, max_new_tokens: NewTokens = None,
    temperature: Temperature = None, max_trials: MaxTrials = None, judge: Judge = None, no_catalogue: NoCatalogue = False,
    hypothesis: Hypotheses = None, failures: Failures = None, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit the subject of a scenario file."""
    from scenarios.load import load_scenario

    spec = load_scenario(scenario).spec
    options = {"planner": planner, "model": model, "tools": tools, "budget": budget, "seed": seed, "thinking": thinking,
               "max_new_tokens": max_new_tokens, "temperature": temperature, "max_trials": max_trials,
               "judge": judge, "no_catalogue": no_catalogue or None, "hypothesis": hypothesis or None,
               "failures": failures}  # fmt: skip
    again = shlex.join(["auditor", "run", str(scenario), *_flags(**options)])
    _audit(overridden(spec, again, options), db, out, quiet, as_json)


@app.command()
@command
def audit(
    subject: Annotated[str, typer.Option(help="Folder or hub id: the checkpoint under the adapter, or a fine-tune of --base.")],
    adapter: Annotated[str | None, typer.Option(help="Folder or hub id of a LoRA on the subject.")] = None,
    base: Annotated[str | None, typer.Option(help="The trusted base of a full fine-tune.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON Lines {messages, split, domain} [default: general English]")] = None,
    catalogue: Annotated[Path | None, typer.Option(help="YAML of what to try early [default: a general one]")] = None,
    oracle: Annotated[str | None, typer.Option(help="Folder of an activation oracle for this base.")] = None,
    question: Annotated[str | None, typer.Option(help="What the oracle is asked [default: what is unusual]")] = None,
    lora_oracle: Annotated[str | None, typer.Option(help="Folder of an oracle of weights for this base.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="File of `auditor calibrate`, to say how likely a plant is.")] = None,
    check: Annotated[str | None, typer.Option(help="How it is asked about a claim, with {statement} [default: whether it is true]")] = None,
    device: Annotated[str, typer.Option(help="Where the weights go: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of hub ids.")] = None,
    db: Db = DEFAULT_DB, out: Out = None, planner: Planner = None, model: Model = None, tools: Tools = None,
    budget: Budget = None, seed: Seed = None, thinking: Thinking = None, max_new_tokens: NewTokens = None,
    temperature: Temperature = None, max_trials: MaxTrials = None, judge: Judge = None, no_catalogue: NoCatalogue = False,
    hypothesis: Hypotheses = None, failures: Failures = None, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit any model, with no scenario."""
    from pydantic import ValidationError

    from auditor.config import AuditSpec, OracleSpec
    from auditor.errors import SpecError
    from scenarios.load import GENERAL_CATALOGUE, GENERAL_PROMPTS, read_catalogue, read_prompts
    from scenarios.models import model_path
    from tools.calibration.file import read_calibration

    flags = _flags(subject=subject, adapter=adapter, base=base, prompts=prompts, catalogue=catalogue, oracle=oracle,
                   question=question, check=check, lora_oracle=lora_oracle, calibration=calibration, device=device, dtype=dtype,
                   revision=revision)  # fmt: skip
    options = {"planner": planner, "model": model, "tools": tools, "budget": budget, "seed": seed, "thinking": thinking,
               "max_new_tokens": max_new_tokens, "temperature": temperature, "max_trials": max_trials,
               "judge": judge, "no_catalogue": no_catalogue or None, "hypothesis": hypothesis or None,
               "failures": failures}  # fmt: skip
    given = [*flags, *_flags(**options)]
    if "" in given:
        raise SpecError(
            f"{given[given.index('') - 1]} is given an empty text: leave the option out, or give it a value"
        )
    if catalogue is not None and no_catalogue:
        raise SpecError("--catalogue names what --no-catalogue goes without: pass one of them")
    asked = {key: text for key, text in (("question", question), ("check", check)) if text is not None}
    if asked and oracle is None:
        raise SpecError(f"--{next(iter(asked))} is for an activation oracle: pass --oracle as well")
    try:
        wanted = None if oracle is None else OracleSpec(path=oracle, **asked)
    except ValidationError as error:
        raise SpecError(f"--check: {error.errors()[0]['ctx']['error']}; e.g. 'is it so? {{statement}}'") from error
    spec = AuditSpec(
        name=Path(adapter or subject).name, subject=model_path(subject), adapter=adapter,
        base=None if base is None else model_path(base), revision=revision, device=device, dtype=dtype,
        prompts=read_prompts(prompts or GENERAL_PROMPTS),
        catalogue=read_catalogue(catalogue or GENERAL_CATALOGUE),
        oracle=wanted, lora_oracle=lora_oracle, calibration=None if calibration is None else read_calibration(calibration),
    )  # fmt: skip
    again = shlex.join(["auditor", "audit", *flags, *_flags(**options)])
    _audit(overridden(spec, again, options), db, out, quiet, as_json)


@app.command()
@command
def resume(audit: AuditId, db: Db = DEFAULT_DB, out: Out = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Continue an interrupted audit; of one that has its verdict, print that and write its report."""
    from auditor.audit import named
    from auditor.audit import resume as carry_on
    from auditor.conclude import result_of

    check_out(out)
    with opened(db, audit) as (ledger, audit_id):
        result = result_of(ledger, audit_id)
    if result is not None:
        note(f"audit {audit_id} is finished, so nothing was run; this is what it came to")
    with _resumable(db, out):
        if result is None:
            _warn(None, db)
            with _progress(quiet) as progress:
                result = carry_on(audit_id, db, progress)
        with named(result.audit_id):
            _show(result, db, out, as_json)


def _flags(**values: object) -> list[str]:
    given = [(name, one) for name, value in values.items() for one in (value if isinstance(value, list) else [value])]
    return [
        part
        for name, value in given
        if value is not None
        for part in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]


def overridden(spec: AuditSpec, again: str, options: dict[str, Any]) -> AuditSpec:
    """Return the specification with the options that were given in it, and the command line that says so."""
    changes = {**options, "tools": _names(options["tools"]), "command": again}
    changes["catalogue"] = _without_catalogue(changes.pop("no_catalogue"))
    changes["hypotheses"] = changes.pop("hypothesis")
    changes["failures"] = _transcripts(changes.pop("failures"))
    return _valid(spec.model_copy(update={k: v for k, v in changes.items() if v is not None}))


def _without_catalogue(wanted: bool | None) -> Any:
    """Return the empty catalogue where an audit is to go without one; None, which changes nothing, elsewhere."""
    from tools.claims.catalogue import Catalogue

    return Catalogue() if wanted else None


def _transcripts(path: Path | None) -> Any:
    """Return the transcripts of a file; None where none is named."""
    if path is None:
        return None
    from scenarios.transcripts import read_failures

    return read_failures(path)


def _names(tools: str | None) -> tuple[str, ...] | None:
    return None if tools is None else tuple(name.strip() for name in tools.split(","))


def _valid(spec: AuditSpec) -> AuditSpec:
    """Return the specification, checked again after options were put in."""
    from pydantic import ValidationError

    from auditor.errors import SpecError

    try:
        return type(spec).model_validate(spec.model_dump(warnings=False))
    except ValidationError as error:
        raise SpecError(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        ) from error


def _audit(spec: AuditSpec, db: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    from auditor.audit import audit as start
    from auditor.audit import named

    check_out(out)
    _warn(spec, db)
    with _resumable(db, out):
        with _progress(quiet) as progress:
            result = start(spec, db, progress)
        with named(result.audit_id):
            _show(result, db, out, as_json)


@contextmanager
def _resumable(db: Path, out: Path | None) -> Iterator[None]:
    """Turn an interrupt of an audit under way into the command line that resumes it."""
    from auditor.errors import Interrupted

    try:
        yield
    except Interrupted as stop:
        again = ["auditor", "resume", stop.audit_id, "--db", str(db), *_flags(out=out)]
        fail(f"interrupted; this goes on with it: {shlex.join(again)}", 1)


def _warn(spec: AuditSpec | None, db: Path) -> None:
    """Say before work begins what may spoil it: a ledger on a network, too few prompts to look with."""
    from auditor.ledger.place import unsafe_place
    from auditor.view import too_few_prompts

    for said in (unsafe_place(db), too_few_prompts(spec) if spec else ""):
        if said:
            note(said)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    progress = Progress(quiet)
    try:
        yield progress
    finally:
        progress.close()


def _show(result: AuditResult, db: Path, out: Path | None, as_json: bool) -> None:
    path = write_report(result.audit_id, db, out)
    if as_json:
        typer.echo(json.dumps({**result.model_dump(), "report": str(path)}))
        return
    typer.echo(f"verdict: {result.verdict.replace('_', ' ')}: {plain(result.why)[:400]}")
    if result.p_planted is not None:
        typer.echo(f"chance that something was planted: {result.p_planted:.2f}, {plain(result.p_scope)}")
    elif result.p_scope:
        typer.echo(f"chance that something was planted: not calibrated: {plain(result.p_scope)[:400]}")
    listed = (("finding", result.findings), ("near miss", result.near_misses), ("lead", result.leads[:5]))
    for name, entries in listed:
        for entry in entries:
            typer.echo(f"{name}: {claim_line(entry)}")
    typer.echo(f"{result.forward_tokens:,} forward tokens, {result.seconds:.1f} s; audit {result.audit_id} in {db}")
    typer.echo(f"report: {path}")


@app.command()
@command
def bench(
    context: typer.Context,
    suite: Path,
    answers: Annotated[Path | None, typer.Option(help="Folder of answers [default: scenarios/answers/SUITE]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Audits of each scenario.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    first: Annotated[int | None, typer.Option(min=1, help="Audit so many scenarios alone, by id; where ids are hashes, a draw.")] = None,
    shuffle_suggestions: Annotated[bool, typer.Option(help="Also give each organism's planner another one's suggestions.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted bench: take the audits that --db has of it.")] = False,
    db: Db = DEFAULT_DB, planner: Planner = None, model: Model = None, tools: Tools = None, budget: Budget = None,
    seed: Seed = None, thinking: Thinking = None, max_new_tokens: NewTokens = None, temperature: Temperature = None,
    max_trials: MaxTrials = None, judge: Judge = None, no_catalogue: NoCatalogue = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit every scenario of a suite, and print how the findings compare with the answers."""
    from dataclasses import asdict

    from auditor.audit import begun
    from auditor.errors import SpecError
    from scenarios import bench as bench_module
    from scenarios.grading import is_organism
    from scenarios.instruments import by_tool, table

    sealed_in = answers or bench_module.answers_folder(suite)
    sealed = bench_module.answers_for(suite, sealed_in)
    changes: dict[str, Any] = {
        "planner": planner,
        "model": model,
        "budget": budget,
        "seed": seed,
        "tools": _names(tools),
        "thinking": thinking,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "max_trials": max_trials,
        "judge": judge,
        "catalogue": _without_catalogue(no_catalogue),
    }
    overrides = {k: v for k, v in changes.items() if v is not None}
    known = begun(db) if resume else {}
    todo = bench_module.make_jobs(suite, seeds, db, overrides, known, first)
    organisms = {job.scenario for job in todo if is_organism(sealed[job.scenario])}
    if shuffle_suggestions and len(organisms) < 2:
        raise SpecError(
            f"{suite} has fewer than two organisms to audit, so none can be given another one's suggestions"
        )
    _check_jobs([job.spec for job in todo], db)
    logged, look = suite.resolve().name in bench_module.HELD_OUT, ""
    if logged:
        options = {
            "seeds": seeds,
            "first": first,
            "shuffled": shuffle_suggestions,
            "resumed": bool(known),
            **{name: value for name, value in overrides.items() if name != "catalogue"},
            **({"no_catalogue": True} if no_catalogue else {}),
        }
        look = bench_module.log_look(suite, sealed_in, todo, options, bench_module.RUNS)
    _warn(None, db)
    results = _run_all(todo, jobs, context)
    stored = bench_module.stored_replies(sealed_in)
    board = bench_module.score(todo, results, sealed, stored)
    board.suite = suite.resolve().name
    board.fingerprint = bench_module.fingerprint_of(todo, sealed, sealed_in.with_suffix(".json"))
    board.by_tool = by_tool(todo, results, sealed, stored, db)
    if not as_json:
        typer.echo("\n".join([*bench_module.table(board, seeds), "", *table(board.by_tool)]))
    if logged:
        bench_module.log_scores(look, board, bench_module.RUNS)
    if shuffle_suggestions:
        again, chance = bench_module.shuffled_jobs(todo, db, results, sealed, known)
        shuffled = bench_module.score(again, _run_all(again, jobs, context), sealed, stored)
        board.shuffled_recall_at_1, board.chance = shuffled.recall_at_1, chance
        if not as_json:
            row = f"| recall_at_1 with another organism's suggestions | {shuffled.recall_at_1:.2f} | chance {chance:.2f} |"
            typer.echo(row)
    if as_json:
        typer.echo(json.dumps(asdict(board)))


def _run_all(todo: list[Job], jobs: int, context: typer.Context) -> dict[tuple[str, int], AuditResult]:
    """Return every job's result; an interrupt is answered with the command line that goes on."""
    from tqdm import tqdm

    from scenarios.bench import run_all

    try:
        with tqdm(total=len(todo), disable=None, desc="audits") as bar:

            def count(job: Job, result: AuditResult) -> None:
                bar.update()

            return run_all(todo, jobs, count)
    except KeyboardInterrupt:
        fail(f"interrupted; this goes on with it: {typed_again(context, '--resume')}", 1)


def _check_jobs(specs: list[AuditSpec], db: Path) -> None:
    """Refuse a bench of which some audit could not begin, before any other is spent."""
    from auditor.audit import check_ledger
    from auditor.planners import make_planner
    from tools.base import load_tools
    from tools.checkpoint import resolve

    check_ledger(db)
    for spec in (specs[0], specs[-1]):
        _valid(spec)  # the options are the same for all; the rest was checked when it was read
    for spec in specs:
        load_tools(spec.tools)
        make_planner(spec)
        resolve(spec.base or spec.subject, spec.revision)
        if spec.adapter is not None:
            resolve(spec.adapter, holds="adapter_config.json")
