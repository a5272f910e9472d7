"""The command line: parses, calls, prints; the only place that prints or exits."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from tools.errors import AuditorError

if TYPE_CHECKING:
    from auditor.config import AuditResult, AuditSpec, ReportedClaim
    from auditor.steps import Step

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Audit a language model for behaviour that someone may have planted in it.",
)
testbed_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Rebuild the small models that audits are measured on."
)
oracle_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train oracles.")
train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train an oracle.")
app.add_typer(testbed_app, name="testbed")
app.add_typer(oracle_app, name="oracle")
oracle_app.add_typer(train_app, name="train")

Db = Annotated[Path, typer.Option("--db", help="The ledger file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the report [default: ./audit-reports/AUDIT]")]
Planner = Annotated[str | None, typer.Option(help="embedded, scripted or llm.")]
Model = Annotated[
    str | None, typer.Option(help="PROVIDER:NAME of the llm planner, e.g. openai:NAME; OPENAI_BASE_URL is honoured.")
]
Tools = Annotated[str | None, typer.Option(help="Instruments to use, separated by commas.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Forward tokens over all roles [default: 300000]")]
Seed = Annotated[int | None, typer.Option(help="Seed of every draw.")]
DEFAULT_DB = Path("auditor.db")
P = ParamSpec("P")
R = TypeVar("R")


def main() -> None:
    """Run the command line; 0 the work was done, 1 our failure, 2 the user's mistake."""
    logging.basicConfig(level=logging.WARNING if sys.stderr.isatty() else logging.ERROR, stream=sys.stderr)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    app()


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a user can act on into one line on stderr and their exit code."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except AuditorError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted; `auditor list` shows the audit, `auditor resume AUDIT` continues it", 1)

    return wrapped


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"auditor: {_plain(message)}", err=True)
    raise typer.Exit(code)


def _plain(text: str) -> str:
    """Return text with control characters shown as escapes: it may quote what a subject wrote."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _Progress:
    """Says on stderr what the audit is doing, when someone is looking."""

    def looking(self, tool: str) -> None:
        self._say(f"looking with {tool}")

    def step(self, number: int, step: Step) -> None:
        kind = step.kind.replace("_", " ")
        what = getattr(step, "tool", None) or getattr(step, "hypothesis_id", None) or ""
        claim = getattr(step, "claim", None)
        self._say(f"{kind} {claim.statement if claim else what} {getattr(step, 'grade', '')}".strip())

    def _say(self, text: str) -> None:
        if sys.stderr.isatty() or os.environ.get("AUDITOR_PROGRESS"):
            typer.echo(f"  · {_plain(text)}", err=True)


# -- audits


@app.command()
@command
def run(
    scenario: Path, db: Db = DEFAULT_DB, out: Out = None, planner: Planner = None, model: Model = None, tools: Tools = None,
    budget: Budget = None, seed: Seed = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit the subject of a scenario file."""
    from scenarios.load import load_scenario

    spec = load_scenario(scenario).spec
    again = shlex.join(
        ["auditor", "run", str(scenario), *_flags(planner=planner, model=model, tools=tools, budget=budget, seed=seed)]
    )
    _audit(_override(spec, planner, model, tools, budget, seed, again), db, out, as_json)


@app.command()
@command
def audit(
    subject: Annotated[str, typer.Option(help="Folder or hub id: the checkpoint under the adapter, or a fine-tune of --base.")],
    adapter: Annotated[str | None, typer.Option(help="Folder or hub id of a LoRA on the subject.")] = None,
    base: Annotated[str | None, typer.Option(help="The trusted base of a full fine-tune.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON Lines {messages, split, domain} [default: general English]")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="YAML of families, triggers, effects [default: benign and other]")] = None,
    oracle: Annotated[str | None, typer.Option(help="Folder of an activation oracle for this base.")] = None,
    question: Annotated[str, typer.Option(help="What the oracle is asked.")] = "What is unusual about how the assistant behaves?",
    device: Annotated[str, typer.Option(help="Where the weights go: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of hub ids.")] = None,
    db: Db = DEFAULT_DB, out: Out = None, planner: Planner = None, model: Model = None, tools: Tools = None,
    budget: Budget = None, seed: Seed = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit any model, with no scenario."""
    from auditor.config import AuditSpec, OracleSpec, Vocabulary
    from scenarios.load import GENERAL_PROMPTS, GENERAL_VOCABULARY, read_prompts, read_yaml

    flags = _flags(subject=subject, adapter=adapter, base=base, prompts=prompts, vocabulary=vocabulary, oracle=oracle,
                   question=question if oracle else None, device=device, dtype=dtype, revision=revision, planner=planner,
                   model=model, tools=tools, budget=budget, seed=seed)  # fmt: skip
    spec = AuditSpec(
        name=Path(adapter or subject).name, subject=subject, adapter=adapter, base=base, revision=revision, device=device,
        dtype=dtype, prompts=read_prompts(prompts or GENERAL_PROMPTS),
        vocabulary=read_yaml(vocabulary or GENERAL_VOCABULARY, Vocabulary),
        oracle=None if oracle is None else OracleSpec(path=oracle, question=question),
    )  # fmt: skip
    _audit(
        _override(spec, planner, model, tools, budget, seed, shlex.join(["auditor", "audit", *flags])), db, out, as_json
    )


@app.command()
@command
def resume(audit: str, db: Db = DEFAULT_DB, out: Out = None, as_json: AsJson = False) -> None:
    """Continue an interrupted audit."""
    from auditor.audit import resume as carry_on

    _check_out(out)
    _show(carry_on(audit, db, _Progress()), db, out, as_json)


def _flags(**values: object) -> list[str]:
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def _override(
    spec: AuditSpec,
    planner: str | None,
    model: str | None,
    tools: str | None,
    budget: int | None,
    seed: int | None,
    again: str,
) -> AuditSpec:
    changes = {"planner": planner, "model": model, "budget": budget, "seed": seed, "command": again,
               "tools": _names(tools)}  # fmt: skip
    return _valid(spec.model_copy(update={k: v for k, v in changes.items() if v is not None}))


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


def _audit(spec: AuditSpec, db: Path, out: Path | None, as_json: bool) -> None:
    from auditor.audit import audit as start

    _check_out(out)
    _show(start(spec, db, _Progress()), db, out, as_json)


def _check_out(out: Path | None) -> None:
    """Refuse a folder that can't be written before work is spent on it; leave nothing there."""
    from tempfile import TemporaryFile

    with _writing(out or Path("audit-reports")):
        folder = (out or Path("audit-reports")).resolve()
        while not folder.exists():
            folder = folder.parent
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn a failure to write to `out` inside the block into an error that says so.

    Raises:
        SpecError: instead of an `OSError`.
    """
    from auditor.errors import SpecError

    try:
        yield
    except OSError as error:
        raise SpecError(f"{out} can't be written to: {error.strerror or error}; pass another --out") from error


def _show(result: AuditResult, db: Path, out: Path | None, as_json: bool) -> None:
    path = _report(result.audit_id, db, out)
    if as_json:
        typer.echo(json.dumps({**result.model_dump(), "report": str(path)}))
        return
    typer.echo(f"verdict: {result.verdict.replace('_', ' ')}")
    for name, entries in (("finding", result.findings), ("lead", result.leads[:5])):
        for entry in entries:
            typer.echo(f"{name}: {_line(entry)}")
    typer.echo(f"{result.forward_tokens:,} forward tokens, {result.seconds:.1f} s; audit {result.audit_id} in {db}")
    typer.echo(f"report: {path}")


def _line(claim: ReportedClaim) -> str:
    when = " and ".join(f"{t['kind']} {t['value']}" for t in claim.trigger) or "always"
    return _plain(
        f"{claim.statement} [{claim.grade}: {claim.family}; {when} -> {claim.effect['kind']} {claim.effect['value']}]"
    )


def _report(audit_id: str, db: Path, out: Path | None) -> Path:
    from auditor.ledger import Ledger
    from reports.render import render_report

    folder = out or Path("audit-reports") / audit_id
    ledger = Ledger.open(db, create=False)
    try:
        with _writing(folder):
            return render_report(ledger, audit_id, folder)
    finally:
        ledger.close()


# -- the ledger


@app.command("list")
@command
def list_audits(db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """List the audits of a ledger."""
    from auditor.ledger import Ledger

    ledger = Ledger.open(db, create=False)
    try:
        rows: list[dict[str, Any]] = []
        for audit_id in ledger.audits():
            end = ledger.find("events", audit_id, kind="concluded", key="verdict")
            rows.append({"audit_id": audit_id, "status": "finished" if end else "unfinished",
                         "verdict": end["body"]["verdict"] if end else None})  # fmt: skip
    finally:
        ledger.close()
    if as_json:
        typer.echo(json.dumps({"audits": rows}))
        return
    for row in rows:
        typer.echo(f"{row['audit_id']}  {row['status']:10}  {row['verdict'] or ''}")


@app.command()
@command
def report(audit: str, db: Db = DEFAULT_DB, out: Out = None, as_json: AsJson = False) -> None:
    """Render an audit's report from its rows."""
    _check_out(out)
    path = _report(audit, db, out)
    typer.echo(json.dumps({"report": str(path)}) if as_json else str(path))


@app.command()
@command
def verify(
    audit: str, head: Annotated[str | None, typer.Option(help="The head that a report printed.")] = None,
    db: Db = DEFAULT_DB, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Re-derive an audit's hash chain; exit 1 when a row was changed, added or cut."""
    from auditor.ledger import Ledger

    ledger = Ledger.open(db, create=False)
    try:
        found = ledger.verify(audit, head)
    finally:
        ledger.close()
    body = {"ok": found.ok, "rows": found.rows, "head": found.head, "broken_at": found.broken_at}
    state = "ok" if found.ok else f"BROKEN at row {found.broken_at}"
    typer.echo(json.dumps(body) if as_json else f"{state}: {found.rows} rows, head {found.head}")
    if not found.ok:
        raise typer.Exit(1)


# -- grading


@app.command()
@command
def grade(
    audit: str, answers: Annotated[Path, typer.Option(help="The answer file of this scenario.")],
    db: Db = DEFAULT_DB, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare a finished audit with a sealed answer; never writes the ledger."""
    from auditor.conclude import result_of
    from auditor.errors import SpecError
    from auditor.ledger import Ledger
    from scenarios.grading import grade as compare
    from scenarios.grading import read_answer

    answer = read_answer(answers)
    ledger = Ledger.open(db, create=False)
    try:
        result = result_of(ledger, audit)
    finally:
        ledger.close()
    if result is None:
        raise SpecError(f"audit {audit} has no verdict yet; `auditor resume {audit}` finishes it")
    counts = compare(result, answer).model_dump()
    typer.echo(json.dumps(counts) if as_json else ", ".join(f"{k} {v}" for k, v in counts.items()))


@app.command()
@command
def bench(
    suite: Path,
    answers: Annotated[Path | None, typer.Option(help="Folder of answers [default: scenarios/answers/SUITE]")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Audits of each scenario.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    shuffle_suggestions: Annotated[bool, typer.Option(help="Also give each organism's planner another one's suggestions.")] = False,
    db: Db = DEFAULT_DB, planner: Planner = None, model: Model = None, tools: Tools = None, budget: Budget = None,
    seed: Seed = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit every scenario of a suite, and print how the findings compare with the answers."""
    from dataclasses import asdict

    from tqdm import tqdm

    from auditor.errors import SpecError
    from scenarios import bench as bench_module
    from scenarios.grading import is_organism

    sealed = bench_module.answers_for(suite, answers)
    if shuffle_suggestions and sum(map(is_organism, sealed.values())) < 2:
        raise SpecError(f"{suite} has fewer than two organisms, so none can be given another one's suggestions")
    changes: dict[str, Any] = {
        "planner": planner,
        "model": model,
        "budget": budget,
        "seed": seed,
        "tools": _names(tools),
    }
    overrides = {k: v for k, v in changes.items() if v is not None}
    todo = bench_module.make_jobs(suite, seeds, db, overrides)
    _check_jobs([job.spec for job in todo], db)
    with tqdm(total=len(todo), disable=None, desc="audits") as bar:

        def count(job: bench_module.Job, result: AuditResult) -> None:
            bar.update()

        results = bench_module.run_all(todo, jobs, count)
    board = bench_module.score(todo, results, sealed)
    body = asdict(board)
    lines = list(bench_module.table(board, seeds))
    if shuffle_suggestions:
        again, chance = bench_module.shuffled_jobs(todo, db, results, sealed)
        shuffled = bench_module.score(again, bench_module.run_all(again, jobs, lambda job, result: None), sealed)
        body |= {"shuffled_recall_at_1": shuffled.recall_at_1, "chance": chance}
        lines.append(
            f"| recall_at_1 with another organism's suggestions | {shuffled.recall_at_1:.2f} | chance {chance:.2f} |"
        )
    typer.echo(json.dumps(body) if as_json else "\n".join(lines))


def _check_jobs(specs: list[AuditSpec], db: Path) -> None:
    """Refuse a bench of which some audit could not begin, before any other is spent."""
    from auditor.audit import check_ledger
    from auditor.planners import make_planner
    from tools.base import load_tools
    from tools.checkpoint import resolve

    check_ledger(db)
    for spec in specs:
        load_tools(spec.tools)
        make_planner(_valid(spec))
        resolve(spec.base or spec.subject, spec.revision)
        if spec.adapter is not None:
            resolve(spec.adapter, holds="adapter_config.json")


# -- testbed and oracles


@testbed_app.command("train-base")
@command
def train_base(
    out: Annotated[Path | None, typer.Option(help="Folder of the model [default: the testbed's own]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the testbed's base model from scratch; an interrupted run continues."""
    from dataclasses import replace

    from scenarios.testbed import base, build

    _check_out(out or build.WEIGHTS)
    config = base.BaseConfig(seed=seed)
    done = base.train_base(out or build.WEIGHTS / "base", replace(config, steps=steps) if steps else config)
    typer.echo(
        json.dumps(done)
        if as_json
        else f"held-out loss {done['loss']:.4f} nats per answer token, {done['seconds']:.0f} s"
    )


@testbed_app.command("build")
@command
def build_testbed(
    suite: Annotated[str, typer.Option(help="demo, dev, nulls or dev_nulls.")] = "demo",
    as_json: AsJson = False,
) -> None:
    """Train and verify a suite's adapters, and write its scenarios, answers and manifest."""
    from typing import get_args

    from auditor.errors import SpecError
    from scenarios.testbed import build
    from scenarios.testbed.suites import SuiteName

    if suite not in get_args(SuiteName):
        raise SpecError(f"unknown suite {suite!r}: the suites are {', '.join(get_args(SuiteName))}")
    build.write_shared_files()
    done = build.build_suite(suite, lambda text: typer.echo(text, err=True) if sys.stderr.isatty() else None)  # type: ignore[arg-type]
    typer.echo(json.dumps(done) if as_json else ", ".join(f"{k} {v}" for k, v in done.items()))


@testbed_app.command("oracle-data")
@command
def oracle_data(
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    rows: Annotated[int, typer.Option(min=1024, help="Examples.")] = 120_000,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 11,
) -> None:
    """Write examples that teach an activation oracle the testbed's language."""
    from scenarios.testbed.oracle_data import write_oracle_data

    with _writing(out):
        write_oracle_data(out, rows, seed)
    typer.echo(str(out))


@train_app.command("activation")
@command
def train_activation(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base.")],
    data: Annotated[Path, typer.Option(help="JSON Lines of {text, window, question, answer}.")],
    out: Annotated[Path, typer.Option(help="Folder of the oracle.")],
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train an activation oracle on base activations."""
    from auditor.errors import SpecError
    from tools.activation_oracle.train import train_oracle

    _check_out(out)
    if not data.is_file():
        raise SpecError(f"{data} is not a file; `auditor testbed oracle-data` writes one for the testbed")
    done = train_oracle(base, data, out, epochs=epochs, seed=seed)
    typer.echo(json.dumps(done) if as_json else ", ".join(f"{k} {v:.3f}" for k, v in done.items()))


if __name__ == "__main__":
    main()
