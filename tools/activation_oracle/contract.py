"""What one oracle checkpoint expects: where it reads, how its prompt looks, how vectors go in.

Published checkpoints describe themselves in one of several files, or not at all. Every format is
turned into one `OracleContract`; what can't be is refused with what was found, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.checkpoint import read_json
from tools.errors import AdapterError

AO_CONFIG, NLA_META, TRAINING_CONFIG = "ao_config.json", "nla_meta.yaml", "training_config.yaml"
EMBEDDING = -1
"""The site before block 0: the vector stands in the place of a token's embedding."""

Rule = Literal["add", "add_by_size", "replace", "scaled_replace", "embedding"]
Prefix = Literal["layer_lines", "layer_lines_tight", "layer_list", "rank_tagged", "verbaliser"]
ChatFlags = dict[str, bool | str]

PREFIX_TEMPLATES: dict[str, Prefix] = {
    "Layer: {layer}\\n{special_token} * {num_positions} \\n": "layer_lines",
    "Layer: {layer}\\n{special_token} * {num_positions}\\n": "layer_lines_tight",
    "L{layer}:{special_token} * {num_positions}.\\n": "layer_list",
}
"""The pseudo-code that `ao_config.json` has for a prefix: matched as a whole, never formatted."""


class Decoding(BaseModel):
    """How an oracle is sampled unless something else is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class OracleContract(BaseModel):
    """The protocol of one oracle.

    Args:
        base: Hub id or name of the model it is an adapter on.
        base_sha256: Of the base's weights, where the trainer knew it.
        read_layers: The sets of layers it was trained to read together, 0-based blocks, ascending; of one that
            reads directions of weights instead, their ranks, from 1.
        prefix: How its prompt names the layers and lays out the placeholders.
        placeholder: The text of one slot, one token of the base.
        template: A verbaliser's whole prompt, with `{injection_char}` once.
        marker_ids: A verbaliser's marker id, and the ids of its left and right neighbours.
        site: The block after whose output vectors go in, or `EMBEDDING`.
        rule: What happens at a slot, see `inject.RULES`.
        coefficient: Of the rule; None puts a vector in as it is.
        chat_flags: Arguments of the chat template, for subject and oracle alike.
        decoding: Its defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(min_length=1)
    base_sha256: str | None = None
    read_layers: tuple[tuple[int, ...], ...] = Field(min_length=1)
    prefix: Prefix = "layer_lines"
    placeholder: str = " ?"
    template: str | None = None
    marker_ids: tuple[int, int, int] | None = None
    site: int = Field(default=1, ge=EMBEDDING)
    rule: Rule = "add"
    coefficient: float | None = 1.0
    chat_flags: ChatFlags = Field(default_factory=lambda: ChatFlags(enable_thinking=False))
    decoding: Decoding = Decoding()

    @model_validator(mode="after")
    def _is_consistent(self) -> OracleContract:
        for layers in self.read_layers:
            if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
                raise ValueError(f"read_layers {list(layers)} must be ascending blocks from 0")
        if (self.site == EMBEDDING) != (self.rule == "embedding"):
            raise ValueError(f"the rule {self.rule!r} does not go with site {self.site}")
        if (self.prefix == "verbaliser") != (self.template is not None):
            raise ValueError("a template belongs to a verbaliser, and a verbaliser needs one")
        if self.template is not None and self.template.count("{injection_char}") != 1:
            raise ValueError("a verbaliser's template has {injection_char} exactly once")
        if self.coefficient is None and self.rule not in ("scaled_replace", "embedding"):
            raise ValueError(f"the rule {self.rule!r} needs a coefficient")
        return self

    @property
    def asks(self) -> bool:
        """Return whether it answers questions; a verbaliser says one thing of one vector."""
        return self.prefix != "verbaliser"

    @property
    def reads_blocks(self) -> bool:
        """Return whether what it is given was read after blocks of the base; directions of weights were not."""
        return self.prefix != "rank_tagged"

    def turn(self, layers: Sequence[int], n_slots: int, question: str) -> tuple[str, list[int]]:
        """Return the user's turn, and at which of its characters each slot's token ends.

        Slots come layer by layer, `n_slots` for each; the last character of a placeholder tells
        its token apart from whatever the tokenizer does with the space before it.
        """
        if self.template is not None:
            head, tail = self.template.split("{injection_char}")
            return head + self.placeholder + tail, [len(head) + len(self.placeholder) - 1]
        text, ends = "", []
        opening, between, closing = _LAYOUTS[self.prefix]
        for i, layer in enumerate(layers):
            text += (between if i else "") + opening.format(layer=layer)
            for _ in range(n_slots):
                text += self.placeholder
                ends.append(len(text) - 1)
            text += "" if self.prefix == "layer_list" else closing
        return text + (closing if self.prefix == "layer_list" else "") + question, ends

    def save(self, folder: Path) -> None:
        """Write `ao_config.json` beside the adapter, in the published keys and what they leave out."""
        known = {name: text for text, name in PREFIX_TEMPLATES.items()}
        data = {
            "schema_version": 1,
            "model_name": self.base,
            "base_sha256": self.base_sha256,
            "act_layer_combinations": [list(layers) for layers in self.read_layers],
            "hook_onto_layer": self.site,
            "injection_rule": self.rule,
            "steering_coefficient": self.coefficient,
            "special_token": self.placeholder,
            "prefix_template": known[self.prefix],
            "chat_flags": self.chat_flags,
            "generation_kwargs": {"do_sample": self.decoding.temperature > 0, **self.decoding.model_dump()},
        }
        (folder / AO_CONFIG).write_text(json.dumps(data, indent=1) + "\n")


_LAYOUTS: dict[str, tuple[str, str, str]] = {
    "layer_lines": ("Layer: {layer}\n", "", " \n"),
    "layer_lines_tight": ("Layer: {layer}\n", "", "\n"),
    "layer_list": ("L{layer}:", " ", ".\n"),
    "rank_tagged": ("<SVD {layer}:>", "", "\n"),
}
"""Opening of a layer's block, what stands between blocks, and what closes one (of a list: the whole)."""

HOW_TO_WRITE_ONE = (
    f"write {AO_CONFIG} beside the adapter, with model_name, act_layer_combinations (lists of 0-based blocks), hook_onto_layer, "
    "steering_coefficient, special_token and prefix_template, and injection_rule where vectors are not added"
)


def read_contract(folder: Path, n_layers: int) -> OracleContract:
    """Return the contract of the oracle in `folder`.

    Args:
        folder: Of the adapter, or of a verbaliser's checkpoint.
        n_layers: Blocks of the base, by which layers given in percent are counted.

    Raises:
        AdapterError: it has none of the files known here and is no known bare adapter, or a file
            leaves out or misspells a part of the protocol.
    """
    readers: dict[str, Callable[[Path, int], OracleContract]] = {
        AO_CONFIG: lambda path, n: _of_ao_config(path, read_json(path, AdapterError), n),
        NLA_META: lambda path, n: _of_nla_meta(path, _read_yaml(path)),
        TRAINING_CONFIG: lambda path, n: _of_ao_config(path, _read_yaml(path), n),
    }
    for name, reader in readers.items():
        if (folder / name).exists():
            try:
                return reader(folder / name, n_layers)
            except ValidationError as error:
                wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'contract'}: {e['msg']}" for e in error.errors())
                raise AdapterError(f"{folder / name}: {wrong}; {HOW_TO_WRITE_ONE}") from error
    return _of_known(folder, n_layers)


def _of_ao_config(path: Path, raw: dict[str, Any], n_layers: int) -> OracleContract:
    """Return what the Karvonen format says; percents of depth are counted as its code counts them.

    Raises:
        AdapterError: a part of the protocol is missing, or the prefix is one that no builder here makes.
    """
    needed = ("model_name", "hook_onto_layer", "steering_coefficient", "special_token", "prefix_template")
    missing = [key for key in needed if key not in raw]
    layers = raw.get("act_layer_combinations") or _blocks_at(raw.get("layer_combinations"), n_layers)
    if missing or not layers:
        missing += [] if layers else ["act_layer_combinations"]
        raise AdapterError(f"{path} lacks {', '.join(missing)}; {HOW_TO_WRITE_ONE}")
    if raw["prefix_template"] not in PREFIX_TEMPLATES:
        known = ", ".join(map(repr, PREFIX_TEMPLATES))
        raise AdapterError(f"{path}: unknown prefix_template {raw['prefix_template']!r}; known are {known}")
    decoding = raw.get("generation_kwargs") or {}
    kept = {key: decoding[key] for key in Decoding.model_fields if decoding.get(key) is not None}
    if not decoding.get("do_sample", True):
        kept["temperature"] = 0.0
    given = {
        "base": raw["model_name"],
        "base_sha256": raw.get("base_sha256"),
        "read_layers": layers,
        "prefix": PREFIX_TEMPLATES[raw["prefix_template"]],
        "placeholder": raw["special_token"],
        "site": raw["hook_onto_layer"],
        "rule": raw.get("injection_rule", "add"),
        "coefficient": raw["steering_coefficient"],
        "decoding": kept,
    }
    if "chat_flags" in raw:
        given["chat_flags"] = raw["chat_flags"]
    return OracleContract.model_validate(given)


def _blocks_at(combinations: object, n_layers: int) -> list[list[int]] | None:
    if not isinstance(combinations, list) or not all(isinstance(combo, list) for combo in combinations):
        return None
    return [[int(n_layers * percent / 100) for percent in combo] for combo in combinations]


def _of_nla_meta(path: Path, raw: dict[str, Any]) -> OracleContract:
    """Return what a verbaliser's sidecar says; unknown keys are let be.

    Raises:
        AdapterError: it is no verbaliser's, or a part of the protocol is missing.
    """
    role = raw.get("role")
    if role not in ("av", "actor"):
        raise AdapterError(f"{path} has the role {role!r}; a verbaliser's is av or actor, and only that answers")
    tokens, extraction = raw.get("tokens") or {}, raw.get("extraction") or {}
    templates = raw.get("prompt_templates") or {}
    layer = extraction.get("layer_index", (raw.get("critic") or {}).get("extraction_layer_index"))
    ids = ("injection_token_id", "injection_left_neighbor_id", "injection_right_neighbor_id")
    found = {
        "base_checkpoint": raw.get("base_checkpoint"),
        "extraction.layer_index": layer,
        "prompt_templates.av": templates.get("av") or templates.get("actor"),
        "tokens.injection_char": tokens.get("injection_char"),
        **{f"tokens.{name}": tokens.get(name) for name in ids},
    }
    missing = [name for name, value in found.items() if value is None]
    if "injection_scale" not in extraction:
        missing.append("extraction.injection_scale")
    if missing:
        raise AdapterError(f"{path} lacks {', '.join(missing)}: add them as the verbaliser was trained")
    scale = extraction["injection_scale"]
    if scale == "sqrt_d_model":
        if not isinstance(raw.get("d_model"), int):
            raise AdapterError(f"{path} has the scale sqrt_d_model and lacks d_model: add the base's width")
        scale = float(raw["d_model"]) ** 0.5
    return OracleContract.model_validate(
        {"base": found["base_checkpoint"], "read_layers": [[layer]], "prefix": "verbaliser", "site": EMBEDDING,
         "rule": "embedding", "coefficient": None if scale in ("raw", "none") else scale,
         "placeholder": tokens["injection_char"], "template": found["prompt_templates.av"],
         "marker_ids": [tokens[name] for name in ids], "chat_flags": {}, "decoding": {"max_new_tokens": 150}}
    )  # fmt: skip


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AdapterError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise AdapterError(f"{path} holds {type(data).__name__}, a mapping is needed")
    return data


# -- adapters that say nothing of themselves

PERCENTS = (25, 50, 75)
_OF = "adamkarvonen/checkpoints_"
KNOWN: tuple[tuple[str, Rule], ...] = (
    (_OF + r"(act_)?(cls_latentqa|latentqa_cls)_(past_lens|pretrain_mix)_.+", "add"),
    (_OF + r"(latentqa_only|cls_only|cls_latentqa_only)_(addition|adding)_.+", "add"),
    (_OF + r"(latentqa_only|cls_only)_gemma-2-9b-it_lr_.+", "replace"),
)
"""Hub names of adapters without a file, each reading one of `PERCENTS` at a time, and their rule.

Of these the replacing ones predate 2025-10-26, when their trainer went over to adding.
"""


def hub_id(folder: Path) -> str | None:
    """Return the id under which the hub cache holds this folder; None for any other folder."""
    for part in folder.parts:
        if found := re.fullmatch(r"models--(.+?)--(.+)", part):
            return f"{found[1]}/{found[2]}"
    return None


def _of_known(folder: Path, n_layers: int) -> OracleContract:
    name = hub_id(folder)
    for pattern, rule in KNOWN:
        if name is not None and re.fullmatch(pattern, name):
            config: Mapping[str, Any] = read_json(folder / "adapter_config.json", AdapterError)
            return OracleContract(
                base=str(config.get("base_model_name_or_path")),
                read_layers=tuple((int(n_layers * percent / 100),) for percent in PERCENTS),
                rule=rule,
            )
    files = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())) or "nothing"
    raise AdapterError(
        f"{folder} does not say how it was trained to be asked: it holds {files}, and none of {AO_CONFIG}, {NLA_META}, "
        f"{TRAINING_CONFIG}; {HOW_TO_WRITE_ONE}"
    )


assert set(_LAYOUTS) | {"verbaliser"} == set(get_args(Prefix)), "every prefix has a layout"
