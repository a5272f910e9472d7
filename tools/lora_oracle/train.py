"""Train an oracle of weights: one folder with a reader that ranks claims and an interpreter that answers in words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.activation_oracle.fit import REPORT, Recipe
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.lora_oracle.claim_training import load_claim_reader, train_claim_reader
from tools.lora_oracle.interpreter import FILE, Interpreter, LoracleContract, train_interpreter
from tools.lora_oracle.library import BENIGN, NOTHING, ChangeRecipe, read_library, split_off, write_changes
from tools.lora_oracle.readers import ByClaims, ByInterpreter, Lens, Majority, Nearest, QuestionOnly, WeightReader
from tools.subject import Subject

REFERENCES, N_REFERENCES = "references.safetensors", 4
"""Harmless adapters that were not learned from: what an answer is held against."""
Values = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class LoraRecipe:
    """How an oracle of weights is trained.

    Args:
        base: Name of the base.
        question: What the interpreter is asked.
        nothing: Its answer where nothing was planted.
        n_ranks: Directions a module that it is given.
        rank: Of its LoRA.
        epochs: Its passes over the library.
        steps: The claim reader's steps.
        batch: Adapters a step of its own.
        lr: The interpreter's peak rate; None is the usual one.
        seed: Of weights and order.
        first: Learn from so many adapters of the library, drawn by the seed; None is all.
    """

    base: str
    question: str
    nothing: str
    n_ranks: int = 1
    rank: int = 32
    epochs: float = 60.0
    steps: int = 1500
    batch: int = 32
    lr: float | None = None
    seed: int = 0
    first: int | None = None


def train_lora_oracle(
    subject: Subject, data: Path, out: Path, recipe: LoraRecipe, values: Values, device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train both readers on the library in `data` and write them into `out`; return their reports.

    An interpreter that ignores what it is given is not written; its report then says why (`refused`).

    Raises:
        ToolInputError: the library can't be used, is of another base or too small.
    """
    library = list(read_library(data, subject.base_sha256))
    if recipe.first is not None:
        library = random.Random(recipe.seed).sample(library, min(recipe.first, len(library)))
    quiet = [known.deltas for known in split_off(library, recipe.seed)[1] if known.family in (NOTHING, BENIGN)]
    claims = train_claim_reader(subject, library, values, out, recipe.seed, recipe.steps, say=say)
    write_changes(quiet[:N_REFERENCES], out / REFERENCES)
    contract = LoracleContract(
        base=recipe.base, base_sha256=subject.base_sha256, encoding=f"svd_fixed_k{recipe.n_ranks}_mag7_rankfirst_sized",
        site=min(1, subject.n_layers - 1), question=recipe.question, nothing=recipe.nothing, verified=True,
    )  # fmt: skip
    how = Recipe(
        layers=(tuple(range(1, recipe.n_ranks + 1)),), rank=recipe.rank, lr=recipe.lr, batch=recipe.batch,
        epochs=recipe.epochs, seed=recipe.seed,
    )  # fmt: skip
    try:
        words = train_interpreter(subject, library, out, how, contract, device, say)
    except (
        ToolInputError
    ) as error:  # of few adapters it learns what answers look like and no more; the other reader stands
        words = {"refused": str(error)}
    report = {"claim_reader": claims, "interpreter": words}
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    return report


def readers_of(
    base: str, folder: Path, values: Values, library: Path | None = None
) -> tuple[list[WeightReader], Lens, frozenset[ChangeRecipe]]:
    """Return the readers in a folder with the baselines, the lens, and the recipes that the oracle was trained on.

    Raises:
        AdapterError: the oracle was trained on another base, or can't be read.
        ToolInputError: the library can't be used.
    """
    subject = load_subject(base)
    loaded = load_claim_reader(subject, folder, values)
    readers: list[WeightReader] = [ByClaims(loaded)]
    if (folder / FILE).exists():
        interpreter = Interpreter.load(subject, folder)
        readers += [ByInterpreter(interpreter, loaded.shapes), QuestionOnly(interpreter, loaded.shapes)]
    if library is not None:
        known = list(read_library(library, subject.base_sha256))
        readers += [Majority(known), Nearest(known, loaded.words)]
    return readers, Lens(loaded.words), loaded.recipes
