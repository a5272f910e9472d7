"""What one oracle checkpoint expects: where it reads, how its prompt looks, how vectors go in."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tools.checkpoint import read_json
from tools.errors import AdapterError

CONFIG_FILE = "ao_config.json"
PREFIX_TEMPLATE = "Layer: {layer}\\n{special_token} * {num_positions} \\n"
"""Pseudo-code as published checkpoints write it: matched as a whole, never formatted."""


class OracleContract(BaseModel):
    """Protocol of one activation oracle of the Karvonen format.

    Prompt: one user turn, `Layer: L`, a newline, K placeholders, a space and a newline, the question.
    Injection: at each placeholder, after block `hook_onto_layer`, `h + c·||h||·v/||v||`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: int = 1
    model_name: str
    hook_onto_layer: int = 1
    read_layers: tuple[int, ...]
    special_token: str = " ?"
    prefix_template: str = PREFIX_TEMPLATE
    steering_coefficient: float = 1.0
    max_new_tokens: int = 24
    window: int = 10

    def prompt(self, layer: int, n_slots: int, question: str) -> str:
        """Return the user turn that asks `question` of `n_slots` vectors read at `layer`."""
        return f"Layer: {layer}\n{self.special_token * n_slots} \n{question}"

    def save(self, folder: Path) -> None:
        """Write the contract beside the adapter it belongs to."""
        (folder / CONFIG_FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


def read_contract(folder: Path) -> OracleContract:
    """Return the contract of the oracle in `folder`.

    Raises:
        AdapterError: there is none, or its prefix is of a kind that no builder here makes.
    """
    raw = read_json(folder / CONFIG_FILE, AdapterError)
    if raw.get("prefix_template", PREFIX_TEMPLATE) != PREFIX_TEMPLATE:
        raise AdapterError(
            f"{folder}/{CONFIG_FILE}: unknown prefix_template {raw['prefix_template']!r}; known is {PREFIX_TEMPLATE!r}"
        )
    try:
        return OracleContract.model_validate(raw)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise AdapterError(f"{folder}/{CONFIG_FILE} lacks or misspells: {fields}") from error
