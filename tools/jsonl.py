"""JSON Lines that people write: every line a row of one kind, and a message with the line's number where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tools.errors import ToolInputError

R = TypeVar("R", bound=BaseModel)


def read_jsonl(path: Path, kind: type[R], least: int) -> list[R]:
    """Return the rows of a JSON Lines file.

    Raises:
        ToolInputError: the file can't be read, a line is no row (the message has its number), or too few are there.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolInputError(f"{path} can't be read: {error}") from error
    rows: list[R] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(kind.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise ToolInputError(f"{path}: line {number} is not JSON: {error}") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in error.errors())
            raise ToolInputError(f"{path}: line {number}: {wrong}; keys are {', '.join(kind.model_fields)}") from error
    if len(rows) < least:
        raise ToolInputError(f"{path} has {len(rows)} rows; {least} are the least")
    return rows
