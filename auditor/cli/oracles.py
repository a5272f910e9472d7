"""The commands on oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.shell import AsJson, check_out, command

oracle_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train oracles.")
train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train an oracle.")
oracle_app.add_typer(train_app, name="train")


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

    check_out(out)
    if not data.is_file():
        raise SpecError(f"{data} is not a file; `auditor testbed oracle-data` writes one for the testbed")
    done = train_oracle(base, data, out, epochs=epochs, seed=seed)
    typer.echo(json.dumps(done) if as_json else ", ".join(f"{k} {v:.3f}" for k, v in done.items()))
