"""Train an activation oracle: a LoRA on the base that answers questions about captured vectors.

Only base activations are read, with adapters off. Unlike the paper's recipe the data come as rows
from a file, so that any language and any set of questions can be taught, and an oracle that does
not read what it is given is not written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tools.activation_oracle.contract import Decoding, OracleContract
from tools.activation_oracle.fit import Course, Recipe, attach, finish, fit, write_adapter
from tools.activation_oracle.reader import ORACLE, OracleReader
from tools.activation_oracle.rows import N_HELD_OUT, Row, read_rows
from tools.activation_oracle.token_use import windows
from tools.loading import load_subject
from tools.residual import check_layer
from tools.subject import Subject


def train_oracle(
    base: str, data: Path, out: Path, recipe: Recipe, device: str = "cpu", say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train an oracle on the rows in `data` and write it, with its contract, into `out`; see `fit`.

    The last 512 rows are held out.

    Raises:
        ToolInputError: the data can't be used, a layer does not exist, the checkpoint in `out` is
            of another training, or the oracle ignores what it is given.
    """
    rows: Sequence[Row] = read_rows(data, N_HELD_OUT + recipe.batch)
    accelerator = Accelerator(cpu=device == "cpu")
    subject = load_subject(base, device=str(accelerator.device) if device != "cpu" else "cpu")
    contract = _contract(subject, recipe, base)
    reader, weights = attach(subject, contract, recipe, ORACLE)
    with data.open("rb") as stream:
        about = hashlib.file_digest(stream, "sha256").hexdigest()
    course = Course(
        rows[:-N_HELD_OUT], rows[-N_HELD_OUT:], lambda some, layers: windows(reader, some, layers),
        lambda row: len(row.text), about,
    )  # fmt: skip
    report = fit(reader, weights, course, recipe, out, accelerator, say)
    finish(out, report, accelerator, lambda: _write(reader, out))
    return report


def _contract(subject: Subject, recipe: Recipe, base: str) -> OracleContract:
    """Return how the new oracle will be asked.

    Raises:
        ToolInputError: a layer does not exist.
    """
    for layer in {layer for layers in recipe.layers for layer in layers}:
        check_layer(subject, layer)
    return OracleContract(
        base=Path(base).name if Path(base).exists() else base,
        base_sha256=subject.base_sha256,
        read_layers=recipe.layers,
        site=min(1, subject.n_layers - 1),
        decoding=Decoding(max_new_tokens=recipe.max_new_tokens),
    )


def _write(reader: OracleReader, out: Path) -> None:
    write_adapter(reader.subject.model, reader.channel, reader.contract.base, out)
    reader.contract.save(out)
