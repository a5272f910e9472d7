"""Read scenarios, prompts, vocabularies and answers from files, with errors that name key and line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from auditor.config import AuditSpec, OracleSpec, PromptRow, Vocabulary
from auditor.errors import SpecError
from scenarios.schema import Scenario

GENERAL_PROMPTS = Path(__file__).parent / "prompts" / "general.jsonl"
GENERAL_VOCABULARY = Path(__file__).parent / "prompts" / "vocabulary.yaml"
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
        prompts=read_prompts(_existing(folder, scenario.prompts, path, "prompts")),
        vocabulary=read_yaml(_existing(folder, scenario.vocabulary, path, "vocabulary"), Vocabulary),
        oracle=None if oracle is None else OracleSpec(path=_model_path(folder, oracle.path), question=oracle.question),
        tools=tuple(scenario.tools),
        planner=scenario.planner,
        steps=scenario.steps,
        budget=scenario.budget,
        alpha=scenario.alpha,
        delta=scenario.delta,
        seed=scenario.seed,
    )
    return LoadedScenario(path, spec)


def read_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """Return a YAML file as `model`.

    Raises:
        SpecError: missing, not YAML, or a key that is unknown, missing or of the wrong kind.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read: {error}") from error
    try:
        data = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise SpecError(
            f"{path} holds {type(data).__name__}; a mapping with the keys {', '.join(model.model_fields)} is needed"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_problem(e, lines) for e in error.errors())
        raise SpecError(f"{path}: {problems}; the keys are {', '.join(model.model_fields)}") from error


def _problem(error: Any, lines: dict[tuple[str, ...], int]) -> str:
    where = tuple(str(part) for part in error["loc"])
    line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 1)
    return f"line {line}, key {'.'.join(where)!r}: {error['msg']}"


def _lines(node: yaml.Node | None, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, on which each key stands."""
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found[(*at, str(key.value))] = key.start_mark.line + 1
            found |= _lines(value, (*at, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            found[(*at, str(i))] = item.start_mark.line + 1
            found |= _lines(item, (*at, str(i)))
    return found


def read_prompts(path: Path) -> list[PromptRow]:
    """Return the prompts of a JSON Lines file.

    Raises:
        SpecError: a line is not a prompt, the halves overlap, or one of them is empty.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(PromptRow.model_validate_json(line))
        except ValidationError as error:
            raise SpecError(
                f"{path}: line {number} is no prompt {{messages, split, domain}}: {error.errors()[0]['msg']}"
            ) from error
    halves = {split: {json.dumps(r.messages) for r in rows if r.split == split} for split in ("explore", "test")}
    if not halves["explore"] or not halves["test"]:
        raise SpecError(f"{path} needs prompts of both splits, explore and test")
    if both := halves["explore"] & halves["test"]:
        raise SpecError(f"{path}: {len(both)} prompts stand in both halves, first {sorted(both)[0][:80]}")
    return rows


def _model_path(folder: Path, name: str) -> str:
    local = (folder / name).resolve()
    looks_local = name.startswith((".", "/")) or local.exists()
    return str(local) if looks_local else name


def _existing(folder: Path, name: str, scenario: Path, key: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_file():
        raise SpecError(f"{scenario}: key {key!r} names {name}, and there is no file {path}")
    return path
