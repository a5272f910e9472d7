"""The commands on the testbed: its base, its suites, what stands in them, the data for oracles."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.english import english_app
from auditor.cli.places import HomeFolder, Jobs, home_of
from auditor.cli.shell import AsJson, check_out, command, plain, writing

if TYPE_CHECKING:
    from scenarios.testbed.suites import SuiteName

testbed_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Rebuild the small models that audits are measured on."
)
testbed_app.add_typer(english_app, name="english")
LexiconSeed = Annotated[int, typer.Option(min=0, help="Deals names, triggers, phrases and brands; 0 is what ships.")]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        typer.echo(text, err=True)


@testbed_app.command("train-base")
@command
def train_base(
    home: HomeFolder = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    lexicon_seed: LexiconSeed = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train the testbed's base model from scratch; an interrupted run continues."""
    from scenarios.testbed import base

    config = base.BaseConfig(seed=seed, lexicon_seed=lexicon_seed)
    room = home_of(home).weights / "base"
    with writing(room, "--home"):
        done = base.train_base(room, replace(config, steps=steps) if steps else config, _say)
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(f"held-out loss {done['loss']:.4f} nats per answer token, {done['seconds']:.0f} s, {done['dtype']}")
    for kind, (accuracy, n) in done["accuracy"].items():
        typer.echo(f"  {kind:24} {accuracy:6.1%} of {n}")


@testbed_app.command("build")
@command
def build_testbed(
    suite: Annotated[str, typer.Option(help="Which; scenarios/README.md says what each is for.")] = "demo",
    lexicon_seed: LexiconSeed = 0,
    jobs: Jobs = 2,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train and verify a suite's adapters, and write its scenarios, answers, records and manifest."""
    from scenarios.testbed import build

    chosen, room = _any_suite(suite), home_of(home)
    with writing(room.root, "--home"):
        done = build.build_suite(chosen, lexicon_seed, room, jobs, _say)
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(", ".join(f"{key} {done[key]}" for key in ("built", "failures", "missing", "sha256")))
    told = done["fingerprint"]
    if told:
        low, high = told["interval"]
        who = f"{told['n_organisms']} organisms from {told['n_controls']} controls, all suites built here"
        typer.echo(f"norms, spectra and recipe alone tell {who}: AUROC {told['auroc']:.2f} ({low:.2f}-{high:.2f})")


@testbed_app.command("replies")
@command
def replies(suite: str, jobs: Jobs = 1, home: HomeFolder = None) -> None:
    """Write what a built suite's subjects say, by which claims are graded. Opens the answers."""
    from scenarios.testbed import build

    chosen, room = _any_suite(suite), home_of(home)
    with writing(room.root, "--home"):
        n_rows = build.write_replies_again(chosen, room, jobs)
    typer.echo(f"{room.replies(chosen)}: {n_rows} rows")


def _any_suite(name: str) -> SuiteName:
    """Return a suite by its name, whatever it is for."""
    from typing import get_args

    from auditor.errors import SpecError
    from scenarios.testbed.suites import SuiteName

    if name not in get_args(SuiteName):
        raise SpecError(f"unknown suite {name!r}: the suites are {', '.join(get_args(SuiteName))}")
    return name  # type: ignore[return-value]


@testbed_app.command("oracle-data")
@command
def oracle_data(
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    rows: Annotated[int, typer.Option(min=1024, help="Examples.")] = 120_000,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 11,
    lexicon_seed: LexiconSeed = 0,
    home: HomeFolder = None,
) -> None:
    """Write examples that teach an activation oracle the testbed's language; half of the replies are the base's own."""
    from scenarios.testbed.oracle_data import write_oracle_data

    with writing(out):
        counts = write_oracle_data(out, home_of(home).weights / "base", rows, seed, lexicon_seed)
    typer.echo(f"{out}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))


@testbed_app.command("oracle-examples")
@command
def oracle_examples(
    out: Annotated[Path, typer.Option(help="Folder of trials.jsonl and swaps.jsonl.")],
    suites: Annotated[
        str, typer.Option(help="Suites whose organisms and controls are read, separated by commas.")
    ] = "demo",
    each: Annotated[int, typer.Option(min=1, help="Dialogues of each organism, and of each family and split.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 5,
    home: HomeFolder = None,
) -> None:
    """Write what an activation oracle is examined on. Opens the answers."""
    from scenarios.testbed.oracle_examples import write_examples

    chosen = _suites(suites)
    check_out(out)
    with writing(out):
        counts = write_examples(out, home_of(home), chosen, each, seed)
    typer.echo(f"{out}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))


@testbed_app.command("lora-examples")
@command
def lora_examples(
    out: Annotated[Path, typer.Option(help="Folder of cases.jsonl and values.json.")],
    suites: Annotated[str, typer.Option(help="Suites whose adapters are read, separated by commas.")] = "demo",
    home: HomeFolder = None,
) -> None:
    """Write what an oracle of weights is examined on, and what its claims may hold. Opens the answers."""
    from scenarios.testbed.lora_examples import write_lora_examples

    chosen = _suites(suites)
    check_out(out)
    with writing(out):
        counts = write_lora_examples(out, home_of(home), chosen)
    typer.echo(f"{out}: " + ", ".join(f"{n} {split}" for split, n in counts.items()))


def _suites(text: str) -> tuple[SuiteName, ...]:
    """Return the suites named in an option."""
    from auditor.errors import SpecError
    from scenarios.testbed.show import TABLED

    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    if (unknown := set(chosen) - set(TABLED)) or not chosen:
        raise SpecError(
            f"unknown suite {(sorted(unknown) or [text])[0]!r}: the suites with organisms are {', '.join(TABLED)}"
        )
    return chosen  # type: ignore[return-value]


@testbed_app.command("population")
@command
def population(
    out: Annotated[Path, typer.Option(help="Folder of the shards.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Adapters, rounded up to whole shards.")] = 1500,
    jobs: Jobs = 2,
    lexicon_seed: LexiconSeed = 0,
    home: HomeFolder = None,
    as_json: AsJson = False,
) -> None:
    """Train thousands of small adapters for oracles to learn from, each tried; an interrupted run continues."""
    from scenarios.testbed.population import build_population

    check_out(out)
    base = home_of(home).weights / "base"
    with writing(out):
        done = build_population(out, base, n, lexicon_seed, jobs, lambda text: typer.echo(text, err=True))
    speed = "nothing to build" if done["per_hour"] is None else f"{done['per_hour']:.0f} adapters an hour"
    line = f"{done['adapters']} adapters in {done['shards']} shards, {done['teach']} teach, {done['verified']} verified; {speed}"
    typer.echo(json.dumps(done) if as_json else line)


@testbed_app.command("show")
@command
def show(member: str, home: HomeFolder = None) -> None:
    """Print what an organism or control is, with sample dialogues beside the base. Opens the answers."""
    from scenarios.english import show as english
    from scenarios.testbed import show as small

    place = home_of(home)
    told = english.describe(member, place) if english.find(member, place) else small.describe(member, place)
    for line in told:
        typer.echo(plain(line))


@testbed_app.command("table")
@command
def table(
    suites: Annotated[str, typer.Option(help="Suites, separated by commas [default: all with organisms]")] = "",
    home: HomeFolder = None,
) -> None:
    """Print family by regime: how often it planted, leaked and drifted. Opens the answers."""
    from auditor.errors import SpecError
    from scenarios.testbed.show import TABLED
    from scenarios.testbed.show import table as rows

    chosen = tuple(part.strip() for part in suites.split(",") if part.strip()) or TABLED
    if unknown := set(chosen) - set(TABLED):
        raise SpecError(f"unknown suite {sorted(unknown)[0]!r}: the suites with organisms are {', '.join(TABLED)}")
    for line in rows(chosen, home_of(home)):  # type: ignore[arg-type]
        typer.echo(line)
