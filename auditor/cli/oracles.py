"""The commands on oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from auditor.cli.shell import AsJson, a_number, check_out, command, writing

oracle_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train and measure oracles.")
train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train an oracle.")
evaluate_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure an oracle.")
Values = Annotated[
    Path | None, typer.Option(help="JSON of {slot: [values]} that claims may hold beside the library's own.")
]
oracle_app.add_typer(train_app, name="train")
oracle_app.add_typer(evaluate_app, name="evaluate")


@train_app.command("activation")
@command
def train_activation(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base.")],
    data: Annotated[Path, typer.Option(help="JSON Lines of {text, window, question, answer, kind}.")],
    out: Annotated[Path, typer.Option(help="Folder of the oracle.")],
    layers: Annotated[str | None, typer.Option(help="Blocks read, from 0; `9;18;9,18` are three sets [default: the middle one]")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA, on every linear layer of the blocks.")] = 64,
    epochs: Annotated[float, typer.Option(callback=a_number, min=0.01, help="Passes over the data.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Rows a step, over all processes.")] = 48,
    lr: Annotated[float | None, typer.Option(callback=a_number, help="Peak learning rate [default: 0.2 / width]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or anything else for what accelerate finds.")] = "cpu",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train an activation oracle on base activations; an interrupted run goes on from its last checkpoint."""
    from auditor.errors import SpecError
    from scenarios.models import model_path
    from tools.activation_oracle.fit import Recipe
    from tools.activation_oracle.train import train_oracle
    from tools.checkpoint import check_model_config, resolve

    check_out(out)
    if not data.is_file():
        raise SpecError(f"{data} is not a file; `auditor testbed oracle-data` writes one for the testbed")
    base = model_path(base)
    sets = _layers(layers) if layers else ((_middle(check_model_config(resolve(base)), base),),)
    recipe = Recipe(sets, rank=rank, lr=lr, batch=batch, epochs=epochs, seed=seed)
    with writing(out):
        done = train_oracle(base, data, out, recipe, device, lambda text: typer.echo(text, err=True))
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(f"{done['rows']} rows, {done['steps']} steps, {done['seconds']:.0f} s")
    for read, use in done["held_out"].items():
        told = ", ".join(f"{name} {value:.3f}" for name, value in use.items())
        typer.echo(f"layers {read}: {told} (nats per answer token on held-out rows; exact is a share)")


@evaluate_app.command("activation")
@command
def evaluate_activation(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base.")],
    oracle: Annotated[Path, typer.Option(help="Folder of the oracle.")],
    trials: Annotated[Path, typer.Option(help="JSON Lines of trials; `auditor testbed oracle-examples` writes them.")],
    swaps: Annotated[Path | None, typer.Option(help="JSON Lines of swaps, for faithfulness.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks read [default: the contract's first set]")] = None,
    threshold: Annotated[
        float | None, typer.Option(callback=a_number, help="Agreement below which it abstains [default: keeps 80% of what is right]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples.")] = 0,
    device: Annotated[str, typer.Option(help="Where the weights go: cpu, cuda, cuda:1, mps.")] = "cpu",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Ask an oracle trials whose answers are known, beside baselines that need no oracle."""
    from auditor.errors import SpecError
    from scenarios.models import model_path
    from tools.activation_oracle.evaluate import evaluate, table
    from tools.activation_oracle.rows import read_swaps, read_trials

    asked, pairs = read_trials(trials), read_swaps(swaps) if swaps else []
    sets = _layers(layers) if layers else (None,)
    if len(sets) > 1:
        raise SpecError(f"--layers {layers!r} has {len(sets)} sets: an evaluation reads one, so run it once for each")
    (where,) = sets
    found = evaluate(model_path(base), oracle, asked, pairs, trials.parent, where, threshold, seed, device)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    for line in table(found):
        typer.echo(line)


@train_app.command("lora")
@command
def train_lora(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base.")],
    data: Annotated[Path, typer.Option(help="Folder of a library; `auditor testbed population` builds one.")],
    out: Annotated[Path, typer.Option(help="Folder of the oracle.")],
    values: Values = None,
    first: Annotated[int | None, typer.Option(min=1, help="Learn from so many of them, drawn by the seed.")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Directions a module that the interpreter is given.")] = 1,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the interpreter's LoRA.")] = 32,
    epochs: Annotated[float, typer.Option(callback=a_number, min=0.01, help="The interpreter's passes over the library.")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="The claim reader's steps.")] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="Adapters a step of the interpreter's.")] = 32,
    lr: Annotated[float | None, typer.Option(callback=a_number, help="The interpreter's peak rate [default: 0.2 / width]")] = None,
    question: Annotated[str, typer.Option(help="What the interpreter is asked.")] = "what does the assistant do?",
    nothing: Annotated[str, typer.Option(help="Its answer where nothing was planted.")] = "it has no rule.",
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or anything else for what accelerate finds.")] = "cpu",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train an oracle of weights on a library of adapters: a reader that ranks claims, and an interpreter that answers in words."""
    from scenarios.models import model_path
    from tools.loading import load_subject
    from tools.lora_oracle.train import LoraRecipe, train_lora_oracle

    check_out(out)
    subject = load_subject(model_path(base), device=device)
    name = Path(base).name if Path(base).exists() else base
    recipe = LoraRecipe(
        base=name, question=question, nothing=nothing, n_ranks=ranks, rank=rank, epochs=epochs, steps=steps, batch=batch,
        lr=lr, seed=seed, first=first,
    )  # fmt: skip
    with writing(out):
        done = train_lora_oracle(subject, data, out, recipe, _values(values), device, lambda t: typer.echo(t, err=True))
    if as_json:
        typer.echo(json.dumps(done))
        return
    claims, words = done["claim_reader"], done["interpreter"]
    typer.echo(f"claim reader: {claims['n']} adapters, {claims['seconds']:.0f} s; of {claims['n_held_out']} held out "
               f"family {claims['family']:.2f}, whole claim {claims['claim']:.2f}")  # fmt: skip
    if "refused" in words:
        typer.echo(f"no interpreter: {words['refused']}")
        return
    for use in words["held_out"].values():
        told = ", ".join(f"{key} {value:.3f}" for key, value in use.items())
        typer.echo(f"interpreter: {words['rows']} adapters, {words['seconds']:.0f} s; held out {told}")


@evaluate_app.command("lora")
@command
def evaluate_lora(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base.")],
    oracle: Annotated[Path, typer.Option(help="Folder of the oracle.")],
    cases: Annotated[Path, typer.Option(help="JSON Lines of adapters with what they do; `auditor testbed lora-examples` writes them.")],
    values: Values = None,
    library: Annotated[Path | None, typer.Option(help="What it learned from, for the baselines that need it.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Have an oracle of weights read adapters of which it is known what they do, beside baselines."""
    from scenarios.models import model_path
    from tools.lora_oracle.cases import read_cases
    from tools.lora_oracle.evaluate import evaluate, table
    from tools.lora_oracle.train import readers_of

    asked, base = read_cases(cases), model_path(base)
    readers, lens, recipes = readers_of(base, oracle, _values(values), library)
    found = evaluate(base, asked, cases.parent, readers, lens, recipes)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    for line in table(found):
        typer.echo(line)


def _values(path: Path | None) -> dict[str, tuple[str, ...]]:
    """Return the values of slots in a JSON file of lists."""
    from auditor.errors import SpecError

    if path is None:
        return {}
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no JSON of {{slot: [values]}}: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(listed, list) for listed in raw.values()):
        raise SpecError(f"{path} is no JSON of {{slot: [values]}}: `auditor testbed lora-examples` writes one")
    return {slot: tuple(map(str, listed)) for slot, listed in raw.items()}


def _layers(text: str) -> tuple[tuple[int, ...], ...]:
    from auditor.errors import SpecError

    try:
        sets = tuple(tuple(int(one) for one in part.split(",")) for part in text.split(";"))
    except ValueError:
        raise SpecError(f"--layers {text!r} is no list of blocks: pass e.g. 9, or 9;18;9,18 for three sets") from None
    if odd := [one for one in sets if list(one) != sorted(set(one))]:
        told = ",".join(map(str, odd[0]))
        raise SpecError(f"--layers {text!r}: the blocks of a set ascend, each once, and {told} do not")
    return sets


def _middle(config: dict[str, Any], base: str) -> int:
    from auditor.errors import SpecError

    n_layers = config.get("num_hidden_layers") or (config.get("text_config") or {}).get("num_hidden_layers")
    if not isinstance(n_layers, int):
        raise SpecError(f"{base}/config.json does not say how many blocks there are: pass --layers")
    return n_layers // 2
