"""Read scenarios, prompts, catalogues and answers from files, with errors that name key and line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from auditor.config import AuditSpec, PromptRow
from auditor.errors import SpecError
from scenarios.models import model_path
from scenarios.schema import Scenario
from tools.claims.catalogue import Catalogue

GENERAL_PROMPTS = Path(__file__).parent / "prompts" / "general.jsonl"
ORDINARY_PROMPTS = Path(__file__).parent / "prompts" / "ordinary.jsonl"
"""What ordinary chat is made of when a behaviour is planted; no audit asks them."""
GENERAL_CATALOGUE = Path(__file__).parent / "prompts" / "catalogue.yaml"
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario with everything that it names read in."""

    path: Path
    spec: AuditSpec


def load_scenario(path: Path) -> LoadedScenario:
    """Return the scenario in `path` as an audit's specification.

    Raises:
        SpecError: the file, or one that it names, is missing or malformed; the message has key and line.
    """
    scenario = read_yaml(path, Scenario)
    folder = path.resolve().parent
    oracle = scenario.oracle
    spec = AuditSpec(
        name=scenario.id,
        subject=_model_path(folder, scenario.subject),
        adapter=None if scenario.adapter is None else _model_path(folder, scenario.adapter),
        base=None if scenario.base is None else _model_path(folder, scenario.base),
        may_be_base=scenario.may_be_base,
        prompts=read_prompts(_existing(folder, scenario.prompts, path, "prompts")),
        catalogue=Catalogue()
        if scenario.catalogue is None
        else read_catalogue(_existing(folder, scenario.catalogue, path, "catalogue")),
        oracle=None if oracle is None else oracle.model_copy(update={"path": _model_path(folder, oracle.path)}),
        lora_oracle=None if scenario.lora_oracle is None else _model_path(folder, scenario.lora_oracle),
        tools=tuple(scenario.tools),
        planner=scenario.planner,
        steps=scenario.steps,
        budget=scenario.budget,
        alpha=scenario.alpha,
        delta=scenario.delta,
        max_trials=scenario.max_trials,
        temperature=scenario.temperature,
        max_new_tokens=scenario.max_new_tokens,
        thinking=scenario.thinking,
        seed=scenario.seed,
    )
    return LoadedScenario(path, spec)


def read_catalogue(path: Path) -> Catalogue:
    """Return the catalogue in `path`.

    Raises:
        SpecError: it is missing or malformed.
    """
    return read_yaml(path, Catalogue)


def read_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """Return a YAML file as `model`.

    Raises:
        SpecError: missing, not YAML, or a key that is unknown, missing or of the wrong kind.
    """
    return _from_yaml(path, _text(path), model)


@lru_cache(maxsize=64)
def _from_yaml(path: Path, text: str, model: type[ModelT]) -> ModelT:
    """Return the text as `model`: scenarios of a suite share most of their files, which are parsed once.

    Raises:
        SpecError: as `read_yaml`.
    """
    try:
        data = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not YAML that can be read here: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        held = "nothing" if data is None else f"a {type(data).__name__}"
        raise SpecError(f"{path} holds {held}; a mapping with the keys {', '.join(model.model_fields)} is needed")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_problem(e, lines) for e in error.errors())
        raise SpecError(f"{path}: {problems}; the keys of this file are {', '.join(model.model_fields)}") from error


def _problem(error: Any, lines: dict[tuple[str, ...], int]) -> str:
    where = tuple(str(part) for part in error["loc"])
    line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 1)
    key = f"line {line}, key {'.'.join(where)!r}" if where else f"line {line}"
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    return f"{key}: {_said(error)}"


def _said(error: Any) -> str:
    """Return what pydantic says is wrong, with the value where that is short."""
    if error["type"] == "missing":
        return "it is missing"
    return (
        str(error["ctx"]["error"])
        if error["type"] == "value_error"
        else f"{error['msg']}, got {_short(error['input'])}"
    )


def _short(value: object, limit: int = 60) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}…"


def _lines(root: yaml.Node | None) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, on which each key stands; what an alias repeats is followed once.

    Raises:
        ValueError: a mapping has a key twice, or holds itself.
    """
    found: dict[tuple[str, ...], int] = {}
    followed: set[int] = set()
    around: list[int] = []

    def follow(node: yaml.Node | None, at: tuple[str, ...]) -> None:
        if id(node) in around:
            raise ValueError(f"{'.'.join(at)} holds itself")
        if not isinstance(node, yaml.CollectionNode) or id(node) in followed:
            return
        followed.add(id(node))
        around.append(id(node))
        for i, item in enumerate(node.value):
            key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
            name = str(i) if key is None else str(key.value)
            line = (key or value).start_mark.line + 1
            if (*at, name) in found:
                raise ValueError(f"line {line} has the key {name!r}, which line {found[*at, name]} has already")
            found[*at, name] = line
            follow(value, (*at, name))
        around.pop()

    follow(root, ())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path} can't be read: {reason}; pass the path of a text file") from error


def read_prompts(path: Path) -> list[PromptRow]:
    """Return the prompts of a JSON Lines file.

    Raises:
        SpecError: a line is not a prompt, the halves overlap, or one of them is empty.
    """
    return list(_prompts(path, _text(path)))


@lru_cache(maxsize=8)
def _prompts(path: Path, text: str) -> tuple[PromptRow, ...]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(PromptRow.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise SpecError(
                f"{path}: line {number} is no prompt {{messages, split, domain}}: {where}: {_said(first)}"
            ) from error
    halves = {split: {json.dumps(r.messages) for r in rows if r.split == split} for split in ("explore", "test")}
    if not halves["explore"] or not halves["test"]:
        raise SpecError(f"{path} needs prompts of both splits, explore and test")
    if both := halves["explore"] & halves["test"]:
        raise SpecError(f"{path}: {len(both)} prompts stand in both halves, first {sorted(both)[0][:80]}")
    return tuple(rows)


def _model_path(folder: Path, name: str) -> str:
    """Return an absolute path for what stands beside the scenario or the testbed has; anything else may be a hub id.

    Raises:
        SpecError: it is none of these.
    """
    name = model_path(name)
    try:
        local = (folder / name).resolve()
        looks_local = name.startswith((".", "/")) or local.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{_short(name)} can't be a path or a hub id: {reason}") from error
    return str(local) if looks_local else name


def _existing(folder: Path, name: str, scenario: Path, key: str) -> Path:
    path = folder / name
    try:
        found = path.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise SpecError(f"{scenario}: key {key!r} names {_short(name)}, and there is no such file in {folder}")
    return path.resolve()
