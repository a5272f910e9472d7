"""The command that learns how far an audit's outcome can be trusted."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.cli.places import Jobs
from auditor.cli.shell import (
    AsJson,
    Budget,
    Model,
    NoCatalogue,
    Planner,
    Seed,
    Tools,
    check_out,
    command,
    one_line,
    writing,
)

if TYPE_CHECKING:
    from tools.calibration.file import Calibration


OF_LIKE = (
    "prompts",
    "organisms",
    "nulls",
    "lora_oracle",
    "device",
    "jobs",
    "planner",
    "model",
    "tools",
    "budget",
    "seed",
    "no_catalogue",
)
"""Options of `calibrate` that say how models are planted and audited."""


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone stops no work
        typer.echo(one_line(text), err=True)


@command
def calibrate(
    context: typer.Context,
    fit: Annotated[Path | None, typer.Argument(help="What `auditor bench --json` printed for the suite to fit on.")] = None,
    on: Annotated[Path | None, typer.Option(help="What it printed for another suite, to judge the fit on.")] = None,
    conditions: Annotated[
        str | None, typer.Option(help="Judge on behaviours under these kinds of condition alone, e.g. always,topic; and on all controls.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="In place of both: an adapter; others are planted as it was, and audited.")] = None,
    base: Annotated[str | None, typer.Option(help="With --like: folder or hub id of the adapter's base.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; with --like, folder to work in [default: calibration.json, calibration-ADAPTER]"),
    ] = None,
    prior: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of models in which something is planted, as it supposes.")
    ] = 0.5,
    prompts: Annotated[Path | None, typer.Option(help="With --like: the audits' prompts [default: general English]")] = None,
    organisms: Annotated[int, typer.Option(min=1, max=6, help="With --like: known behaviours to plant.")] = 6,
    nulls: Annotated[int, typer.Option(min=1, max=200, help="With --like: controls that learn ordinary chat alone.")] = 10,
    lora_oracle: Annotated[str | None, typer.Option(help="With --like: folder of an oracle of weights for the base.")] = None,
    device: Annotated[str, typer.Option(help="With --like: cpu, cuda, cuda:1, mps.")] = "cpu",
    jobs: Jobs = 1,
    planner: Planner = None, model: Model = None, tools: Tools = None, budget: Budget = None, seed: Seed = None,
    no_catalogue: NoCatalogue = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Learn how likely it is that something was planted, and how sure findings are, from audits whose subjects are known.

    `auditor calibrate FIT --on JUDGE` fits on one suite's bench and judges on another's. `auditor calibrate --like ADAPTER
    --base M` plants known behaviours and nulls in the base as the adapter was made, and audits them as the other options
    say. `auditor audit --calibration FILE` then uses what was written, where it is an audit of the same base, done in the
    same way.
    """
    from auditor.errors import SpecError

    if (like is None) == (fit is None) or (fit is None) != (on is None) or (like is None) != (base is None):
        raise SpecError("pass FIT with --on JUDGE, or --like ADAPTER with --base M")
    if like is not None and conditions is not None:
        raise SpecError("--conditions says what a fit is judged on, and --like judges on its own models: leave it out")
    if like is None:
        if given := [name for name in OF_LIKE if context.get_parameter_source(name).name != "DEFAULT"]:  # type: ignore[union-attr]
            raise SpecError(
                f"--{given[0].replace('_', '-')} belongs to --like, and a fit takes audits as they were made: leave it out"
            )
        assert fit is not None, "it was asked for above"
        assert on is not None, "it was asked for above"
        made, lines, path = _from_suites(fit, on, out or Path("calibration.json"), prior, conditions)
    else:
        assert base is not None, "it was asked for above"
        options = {"planner": planner, "model": model, "tools": tools, "budget": budget, "seed": seed,
                   "no_catalogue": no_catalogue or None}  # fmt: skip
        amounts = {"n_behaviours": organisms, "n_nulls": nulls, "jobs": jobs, "prior": prior}
        made, lines, path = _from_like(like, base, out, prompts, device, lora_oracle, amounts, options)
    if as_json:
        typer.echo(json.dumps({**made.model_dump(mode="json"), "path": str(path), "sha256": made.sha256}))
        return
    typer.echo("\n".join([*lines, "", f"written to {path}"]))


def _from_suites(
    fit: Path, on: Path, out: Path, prior: float, conditions: str | None
) -> tuple[Calibration, list[str], Path]:
    """Return a calibration that was fitted on one bench and judged on another, written with its figure."""
    from auditor.errors import SpecError
    from reports.figures import reliability_figure
    from scenarios.calibrating import calibrate as do_calibrate
    from scenarios.calibrating import table
    from scenarios.folders import complete_file
    from tools.calibration.file import read_calibration
    from tools.errors import ToolInputError

    if out.exists():
        try:
            read_calibration(out)
        except ToolInputError as error:
            raise SpecError(
                f"{out} is there and is no calibration, so it is left as it is; pass another --out"
            ) from error
    kinds = [kind.strip() for kind in conditions.split(",")] if conditions else []
    made = do_calibrate(fit, on, prior, kinds)
    assert made.judged is not None, "a fit on a suite is judged"
    with writing(out):
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        with complete_file(out) as file:
            file.write(made.model_dump_json(indent=1) + "\n")
        out.with_name(f"{out.stem}.reliability.svg").write_bytes(reliability_figure(made.judged))
    return made, list(table(made)), out


def _from_like(
    like: str, base: str, out: Path | None, prompts: Path | None, device: str, lora_oracle: str | None,
    amounts: dict[str, Any], options: dict[str, Any],
) -> tuple[Calibration, list[str], Path]:  # fmt: skip
    """Return a calibration on models planted as an adapter was, with its table; all is kept in a folder."""
    from auditor.audit import check_ledger, check_oracles
    from auditor.cli.audits import overridden
    from auditor.config import AuditSpec
    from auditor.planners import make_planner
    from scenarios.calibrating import table
    from scenarios.like import Wanted, calibrate_like
    from scenarios.load import GENERAL_CATALOGUE, GENERAL_PROMPTS, read_catalogue, read_prompts
    from scenarios.models import model_path
    from tools.base import load_tools
    from tools.checkpoint import resolve

    adapter, trusted = resolve(like, holds="adapter_config.json"), resolve(model_path(base))
    folder = out or Path(f"calibration-{adapter.name}")
    spec = AuditSpec(subject=str(trusted), adapter=str(adapter), device=device, prompts=read_prompts(prompts or GENERAL_PROMPTS),
                     catalogue=read_catalogue(GENERAL_CATALOGUE), lora_oracle=lora_oracle)  # fmt: skip
    spec = overridden(spec, "", options)
    load_tools(spec.tools)
    check_oracles(spec)
    make_planner(spec)
    check_out(folder)
    if folder.exists():
        check_ledger(folder / "auditor.db")
    with writing(folder):
        made, lines = calibrate_like(Wanted(adapter, trusted, folder.resolve(), spec, **amounts), _say)
    return made, [*lines, "", *table(made)], folder / "calibration.json"
