"""The commands on judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.shell import AsJson, command, plain

if TYPE_CHECKING:
    from tools.claims.judge import Judge

judge_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Measure who is asked what no rule can decide."
)


@judge_app.callback()
def _judge() -> None:
    """Measure who is asked what no rule can decide."""


@judge_app.command()
@command
def examine(
    judge: Annotated[str | None, typer.Option(help="PROVIDER:NAME of a chat model, e.g. openai:NAME; OPENAI_BASE_URL is honoured.")] = None,
    base: Annotated[str | None, typer.Option(help="Folder or hub id of a trusted base, to judge by itself.")] = None,
    device: Annotated[str, typer.Option(help="Where the base's weights go: cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask a judge questions whose answers are known, 60 of each kind, half of them near misses; exit 1 unless it passes all."""
    from tqdm import tqdm

    from tools.claims.examination import examine, read_pairs, report

    one, pairs = _judge_of(judge, base, device), read_pairs()
    with tqdm(total=len(pairs), disable=None, leave=False, desc="judgements") as bar:
        done = examine(one, pairs, bar.update)
    typer.echo(done.model_dump_json() if as_json else plain("\n".join(report(done))))
    if not done.passed:
        raise typer.Exit(1)


@judge_app.command("concern")
@command
def concern(
    renew: Annotated[bool, typer.Option(help="Fit the reader anew first, and write it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a category of concern is told, on the half of the labelled sentences that it was not fitted to."""
    import json

    from tools.concern import fit
    from tools.concern.reader import reader

    done = fit.renew() if renew else fit.measure(reader(), fit.labelled("held"))
    typer.echo(json.dumps(done) if as_json else "\n".join(fit.table(done)))


def _judge_of(judge: str | None, base: str | None, device: str) -> Judge:
    """Return the judge that was named."""
    from auditor.errors import SpecError
    from auditor.judge import ProviderJudge

    if (judge is None) == (base is None):
        raise SpecError("name one judge: pass either --judge PROVIDER:NAME or --base FOLDER")
    if judge is not None:
        return ProviderJudge(judge)
    from scenarios.models import model_path
    from tools.claims.base_judge import BaseJudge
    from tools.loading import load_subject

    return BaseJudge(load_subject(model_path(str(base)), device=device))
