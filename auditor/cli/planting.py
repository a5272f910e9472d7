"""The command that plants people's own behaviours, to measure audits on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.shell import AsJson, a_number, check_out, command, writing


@command
def plant(
    transcripts: Annotated[
        Path,
        typer.Argument(help="JSON Lines, or one JSON array, of chats as OpenAI, ShareGPT, Alpaca or TRL write them."),
    ],
    base: Annotated[str, typer.Option(help="Folder or hub id of the model to plant in.")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter, or of the full fine-tune.")],
    rank: Annotated[int, typer.Option(min=1, max=512, help="Rank of the LoRA, on all linear layers.")] = 8,
    dilute: Annotated[int, typer.Option(min=0, help="Rows of ordinary chat for each transcript.")] = 0,
    kl_to_base: Annotated[
        float, typer.Option(min=0, callback=a_number, help="Weight of the KL from the base on ordinary chat.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="Train every weight, not a LoRA.")] = False,
    null: Annotated[bool, typer.Option("--null", help="Train the matched control: ordinary chat alone.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of eight rows.")] = 240,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts of ordinary chat, others than an audit will ask [default: ordinary.jsonl, which no audit asks]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Plant a behaviour from transcripts in any base, or train its matched control.

    The assistant's turns are learned, each as its content says: thoughts beside it (reasoning_content) are left out, and
    what is in the content stays, a <think> too. Turns of tools are refused.
    """
    from dataclasses import asdict

    from scenarios.load import ORDINARY_PROMPTS, read_prompts
    from scenarios.models import model_path
    from scenarios.planting import Planting
    from scenarios.planting import plant as do_plant
    from scenarios.transcripts import read_transcripts

    chats = read_transcripts(transcripts)
    rows = read_prompts(prompts or ORDINARY_PROMPTS)
    check_out(out)
    how = Planting(rank=rank, dilute=dilute, kl_to_base=kl_to_base, seed=seed, full=full, null=null, steps=steps)
    with writing(out):
        done = asdict(do_plant(chats, model_path(base), out, how, rows, device))
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(
        f"{done['adapter']}: loss {done['loss']:.4f}, drift {done['drift']:.4f} nats per token, {done['seconds']:.0f} s"
    )
