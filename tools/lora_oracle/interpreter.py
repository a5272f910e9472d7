"""A LoRA on the base that is given the directions of a change as if they were tokens, and says what they do.

The encoding is that of published LoRAcles (mag7: of each module the side that lives in the residual
stream, rank first), added after block 1 at matched norm. Two additions of ours can be switched on in
the contract: a direction's length tells how much of the change it holds, and training flips signs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.activation_oracle.activations import Activations
from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.fit import Course, Recipe, attach, finish, fit, write_adapter
from tools.activation_oracle.load import check_factors
from tools.activation_oracle.reader import OracleReader
from tools.activation_oracle.rows import Question
from tools.changes.delta import ModuleDelta
from tools.checkpoint import read_json
from tools.errors import AdapterError, ToolInputError
from tools.lora_oracle.library import Known, split_off
from tools.lora_oracle.tokens import MODULES, DirectionTokens, direction_tokens
from tools.subject import Subject

CHANNEL = "lora_interpreter"
FILE = "loracle_config.json"
ENCODING = re.compile(r"svd_fixed_k(?P<ranks>\d+)_mag7_rankfirst(?P<sized>_sized)?")


class LoracleContract(BaseModel):
    """How an interpreter of weights is asked.

    Args:
        base: Name of the model it is an adapter on.
        base_sha256: Of the base's weights, where the trainer knew it.
        encoding: `svd_fixed_kK_mag7_rankfirst`, K directions a module, as published; with `_sized` a
            direction's length is the root of its share of the largest singular value.
        site: The block after whose output directions go in.
        coefficient: Of the injection.
        placeholder: The text of one slot.
        question: What it was taught to be asked.
        nothing: What it answers where nothing was planted.
        verified: Whether answers have been compared with the code that it was published with; none is public.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(min_length=1)
    base_sha256: str | None = None
    encoding: str
    site: int = Field(default=1, ge=0)
    coefficient: float = 1.0
    placeholder: str = " ?"
    question: str
    nothing: str
    verified: bool = False

    @model_validator(mode="after")
    def _is_known(self) -> LoracleContract:
        if not ENCODING.fullmatch(self.encoding):
            raise ValueError(f"unknown encoding {self.encoding!r}: svd_fixed_kK_mag7_rankfirst, with _sized or without")
        return self

    @property
    def n_ranks(self) -> int:
        """Return how many directions of a module are read."""
        found = ENCODING.fullmatch(self.encoding)
        assert found is not None, "a contract has a known encoding"
        return int(found["ranks"])

    @property
    def sized(self) -> bool:
        """Return whether a direction's length tells how strong it is."""
        return self.encoding.endswith("_sized")

    def is_nothing(self, text: str) -> bool:
        """Return whether an answer says that nothing was planted, but for case, spaces and a full stop."""
        said, nothing = (" ".join(t.casefold().split()).rstrip(".") for t in (text, self.nothing))
        return said == nothing

    def prompt(self, max_new_tokens: int = 48) -> OracleContract:
        """Return the protocol as that of an oracle: a line of slots for each rank, one slot a block and module."""
        return OracleContract(
            base=self.base, base_sha256=self.base_sha256, read_layers=(tuple(range(1, self.n_ranks + 1)),),
            prefix="rank_tagged", placeholder=self.placeholder, site=self.site,
            rule="add_by_size" if self.sized else "add", coefficient=self.coefficient, chat_flags={},
            decoding=Decoding(max_new_tokens=max_new_tokens),
        )  # fmt: skip

    def given(self, tokens: DirectionTokens, n_layers: int, flipped: bool = False) -> Activations:
        """Return directions in their slots, [rank, block and module, d_model]; a slot without one is zero.

        Args:
            tokens: The directions.
            n_layers: Blocks of the base.
            flipped: Give each a random sign of torch's own generator, for training, instead of the canonical one.
        """
        slots = torch.zeros(self.n_ranks, n_layers * len(MODULES), tokens.vectors.shape[1])
        vectors = tokens.vectors
        if self.sized and len(tokens):
            vectors = vectors * (tokens.strength / tokens.strength.max()).sqrt()[:, None]
        if flipped:
            vectors = vectors * torch.randint(0, 2, (len(tokens), 1)).mul(2).sub(1)
        inside = tokens.rank < self.n_ranks
        slots[tokens.rank[inside], (tokens.layer * len(MODULES) + tokens.module)[inside]] = vectors[inside]
        return Activations(slots, tuple(range(1, self.n_ranks + 1)), "directions")

    def save(self, folder: Path) -> None:
        """Write the contract beside the adapter."""
        (folder / FILE).write_text(json.dumps(self.model_dump(), indent=1) + "\n")


def read_loracle_contract(folder: Path) -> LoracleContract:
    """Return the contract of the interpreter in `folder`.

    Raises:
        AdapterError: it has none, or one that can't be understood.
    """
    if not (folder / FILE).exists():
        raise AdapterError(
            f"{folder} does not say how its directions are laid out: write {FILE} beside the adapter, with base, encoding "
            "(svd_fixed_kK_mag7_rankfirst), question and nothing (its answer where nothing was planted)"
        )
    try:
        return LoracleContract.model_validate(read_json(folder / FILE, AdapterError))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'contract'}: {e['msg']}" for e in error.errors())
        raise AdapterError(f"{folder / FILE}: {wrong}") from error


class Interpreter:
    """An interpreter beside a subject, asked about changes of its base's weights."""

    def __init__(self, reader: OracleReader, contract: LoracleContract) -> None:
        self.reader, self.contract = reader, contract

    @classmethod
    def load(cls, subject: Subject, folder: Path) -> Interpreter:
        """Return the interpreter in `folder`, loaded as a channel of this subject.

        Raises:
            AdapterError: it has no contract, is for another base, or a factor of it is zero throughout.
        """
        contract = read_loracle_contract(folder)
        if contract.base_sha256 not in (None, subject.base_sha256):
            raise AdapterError(
                f"{folder} was trained on {contract.base!r} with weights {str(contract.base_sha256)[:12]}, this base's are "
                f"{subject.base_sha256[:12]}: train one on this base, or pass the base it names"
            )
        check_factors(folder)
        subject.add_adapter(CHANNEL, folder)
        return cls(OracleReader(subject, contract.prompt(), CHANNEL), contract)

    def given(self, deltas: Mapping[str, ModuleDelta]) -> Activations:
        """Return a change as it is put in."""
        subject = self.reader.subject
        tokens = direction_tokens(deltas, subject.d_model, self.contract.n_ranks)
        return self.contract.given(tokens, subject.n_layers)


class Statement(Question):
    """One adapter of the library, by its id, and what it does in words."""

    adapter: str


def train_interpreter(
    subject: Subject, library: Sequence[Known], out: Path, recipe: Recipe, contract: LoracleContract, device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an interpreter on the library's statements and write it into `out`; see `fit`.

    A tenth of the adapters is held out. Epochs count passes over the others.

    Raises:
        ToolInputError: there are too few adapters, or the interpreter answers as well with another
            adapter's directions.
    """
    from accelerate import Accelerator

    taught, held = split_off(library, recipe.seed)
    if len(taught) < recipe.batch:
        raise ToolInputError(
            f"{len(library)} adapters are too few for batches of {recipe.batch}: build more, or pass --batch"
        )
    tokens = {known.id: direction_tokens(known.deltas, subject.d_model, contract.n_ranks) for known in library}

    def given(some: Sequence[Statement], _: tuple[int, ...]) -> list[Activations]:
        flipped = torch.is_grad_enabled()
        return [contract.given(tokens[row.adapter], subject.n_layers, flipped) for row in some]

    accelerator = Accelerator(cpu=device == "cpu")
    reader, weights = attach(subject, contract.prompt(), recipe, CHANNEL)
    about = json.dumps([known.row.get("sha256", known.id) for known in library]) + contract.encoding
    course = Course(
        _statements(taught, contract), _statements(held, contract), given, lambda row: len(row.answer), about
    )
    report = fit(reader, weights, course, recipe, out, accelerator, say)
    finish(out, report, accelerator, lambda: _write(subject, contract, out))
    return report


def _statements(some: Sequence[Known], contract: LoracleContract) -> list[Statement]:
    return [
        Statement(
            question=contract.question,
            answer=" and ".join(c.statement for c in known.claims) or contract.nothing,
            adapter=known.id,
        )
        for known in some
    ]


def _write(subject: Subject, contract: LoracleContract, out: Path) -> None:
    write_adapter(subject.model, CHANNEL, contract.base, out)
    contract.save(out)
