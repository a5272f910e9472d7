"""A chat template as transformers renders it, in its sandbox: what it writes of a chat, or that it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tools.errors import ToolInputError

Flags = Mapping[str, bool | str]
PINNED_DATE = date(2024, 7, 26)
"""The day that chat templates are told it is; the one that Llama 3's own template falls back on."""
FALLBACK = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
BOS = "{{ bos_token }}"


@dataclass(frozen=True)
class Template:
    """The chat template that a tokenizer carries."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def text(self) -> str:
        """Return the template as it stands."""
        return str(self.tokenizer.chat_template)

    def write(self, turns: Sequence[Mapping[str, Any]], prompt: bool = True, flags: Flags | None = None) -> str:
        """Return the chat as the template writes it; where it writes a date, that is `PINNED_DATE`.

        Args:
            turns: The chat, as this template takes it.
            prompt: Up to where the assistant speaks; otherwise a chat that is over.
            flags: Arguments that the template knows, e.g. `enable_thinking`.

        Raises:
            ToolInputError: the template refuses the chat.
        """
        known: dict[str, Any] = {"date_string": PINNED_DATE.strftime("%d %b %Y"), **(flags or {})}
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=prompt, **known
            )
        except Exception as error:  # a template is a program, and may fail in any way
            roles = ", ".join(str(turn["role"]) for turn in turns) or "none"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ToolInputError(
                f"the chat template refuses a chat with the turns {roles}: {reason}; change the chat or the template"
            ) from error
        return str(text)

    def keeps(self, turns: Sequence[Mapping[str, Any]], *texts: str) -> bool:
        """Return whether the template takes the chat and writes all of these texts."""
        try:
            written = self.write(turns)
        except ToolInputError:
            return False
        return all(text in written for text in texts)


def template_of(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str | None:
    """Return the template that comes with a tokenizer, or with the processor beside it; None where there is none.

    Raises:
        ToolInputError: there are several, and none is the default one; or a file of it can't be read.
    """
    beside = folder / "chat_template.json"
    try:
        if tokenizer.chat_template:
            return dated(tokenizer.get_chat_template())
        return dated(json.loads(beside.read_text(encoding="utf-8"))["chat_template"]) if beside.is_file() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolInputError(f"the chat template can't be read: {' '.join(str(error).split())[:200]}") from error


def fallback(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a plain template for a model that has none, with the first token that its tokenizer puts before a text."""
    first = tokenizer("a")["input_ids"][:1]
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    return BOS + FALLBACK if begins else FALLBACK


def dated(template: str) -> str:
    """Return a chat template that writes `PINNED_DATE` where it asked for today's: a prompt is the same tomorrow."""
    asks = r"strftime_now\(\s*(['\"])(.*?)\1\s*\)"
    return re.sub(asks, lambda found: repr(PINNED_DATE.strftime(found[2])), template)
