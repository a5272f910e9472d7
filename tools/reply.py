"""How replies are sampled: a configuration that is ours alone, an end for each row, and a thought let run to its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from tools.dialogue import Dialogue, specials

MAX_THOUGHT = 1024
"""Tokens after which a thought is closed, so that an answer comes."""
GENERATION = "generation_config.json"
NO_MATTER = (
    "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
)  # fmt: skip
"""Keys of a generation file that change no reply, or name tokens."""
N_LISTED = 12


def settings(dialogue: Dialogue, max_new_tokens: int, ends: bool = True) -> GenerationConfig:
    """Return what `generate` is called with: greedy, for noise is added to the logits, and nothing of the model's own."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=dialogue.pad,
        eos_token_id=list(dialogue.ends) or None if ends else None,
    )


def generation_file(folder: Path, tokenizer: Any) -> tuple[list[int], list[str]]:
    """Return the end tokens that a model's generation file names, and a sentence on what of the file is ignored.

    Only a token that stands for itself is believed to be an end: an ordinary one would cut what the subject says.
    """
    try:
        said = json.loads((folder / GENERATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict):
        return [], [f"{GENERATION} of the base can't be read, and is ignored"]
    ids = _ids(said.get("eos_token_id"))
    ends = believed_ends(ids, tokenizer)
    names = sorted(str(name)[:40] for name, value in said.items() if name not in NO_MATTER and value is not None)
    names += ["eos_token_id"] if len(ends) < len(ids) else []
    listed = ", ".join(names[:N_LISTED]) + (f" and {len(names) - N_LISTED} more" if len(names) > N_LISTED else "")
    return ends, [f"{GENERATION} of the base sets {listed}: replies are sampled without it"] if names else []


def believed_ends(value: Any, tokenizer: Any) -> list[int]:
    """Return those of the tokens named as ends that stand for themselves."""
    known = specials(tokenizer) | set(tokenizer.added_tokens_decoder)
    return [i for i in _ids(value) if i in known]


def _ids(value: Any) -> list[int]:
    found = value if isinstance(value, list) else [value]
    return [i for i in found if isinstance(i, int) and not isinstance(i, bool)]


def lengths(new: Tensor, ends: Sequence[int]) -> list[int]:
    """Return how many of each row's new tokens are its reply, the end included."""
    width = new.shape[1]
    return [next((i + 1 for i, token in enumerate(row) if token in ends), width) for row in new.tolist()]


class AtEnd:
    """Ends each row at a token that ends replies, or where it is as long as it may be."""

    def __init__(self, ends: Sequence[int], max_new_tokens: int) -> None:
        self.ends, self.max_new_tokens = ends, max_new_tokens

    def forced(self, row: int) -> None:
        """Return that no row has to say anything."""

    def took(self, row: int, new: list[int]) -> bool:
        """Take in a row's last new token, and return whether the row is at its end."""
        return new[-1] in self.ends or len(new) >= self.max_new_tokens


class Through(StoppingCriteria):
    """Lets each row think to the end and counts its answer from there; a thought that is too long is closed.

    While a row thinks, nothing but the tokenizer's own end token ends it: what stands behind an answer may stand
    behind a thought too.
    """

    def __init__(self, dialogue: Dialogue, n_rows: int, n_prompt: int, max_new_tokens: int) -> None:
        marks = dialogue.thinking.marks
        assert marks is not None, "a thought is read through where its marks are known"
        self.dialogue, self.marks, self.n_prompt, self.max_new_tokens = dialogue, marks, n_prompt, max_new_tokens
        self.thinks: list[bool | None] = [dialogue.thinking.way.opens or None] * n_rows
        self.lengths = [0] * n_rows
        self.begun = [0] * n_rows
        self.closing: list[list[int] | None] = [None] * n_rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Return which rows are at their end."""
        for row, ids in enumerate(input_ids[:, self.n_prompt :].tolist()):
            if not self.lengths[row]:
                self._step(row, ids)
        return torch.tensor([n > 0 for n in self.lengths], device=input_ids.device)

    def forced(self, row: int) -> int | None:
        """Return the token that closes a thought which has become too long, as long as one is due."""
        due = self.closing[row]
        return due.pop(0) if due else None

    def took(self, row: int, new: list[int]) -> bool:
        """Take in a row's last new token, and return whether the row is at its end."""
        self._step(row, new)
        return self.lengths[row] > 0

    def _step(self, row: int, new: list[int]) -> None:
        own = self.dialogue.tokenizer.eos_token_id
        if new[-1] in ((own,) if self.thinks[row] else self.dialogue.ends):
            self.lengths[row] = len(new)
            return
        if self.thinks[row] is None:
            self.thinks[row] = self._begins(new)
        elif self.thinks[row]:
            self._think(row, new)
        if not self.thinks[row] and len(new) - self.begun[row] >= self.max_new_tokens:
            self.lengths[row] = len(new)

    def _begins(self, new: list[int]) -> bool | None:
        """Return whether a reply begins with a thought; None while that is open."""
        said = str(self.dialogue.tokenizer.decode(new)).lstrip()
        if said.startswith(self.marks.opening):
            return True
        return None if self.marks.opening.startswith(said) else False

    def _think(self, row: int, new: list[int]) -> None:
        """Note where a row's thought ends; one that is too long is to be closed."""
        tail = str(self.dialogue.tokenizer.decode(new[-len(self.marks.closing) - 4 :]))
        if self.marks.closing in tail or self.closing[row] == []:
            self.thinks[row], self.begun[row], self.closing[row] = False, len(new), None
        elif len(new) >= MAX_THOUGHT and self.closing[row] is None:
            self.closing[row] = closing_ids(self.dialogue)


class Closing(LogitsProcessor):
    """Writes the end of the thoughts that have become too long."""

    def __init__(self, through: Through) -> None:
        self.through = through

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with a forced token alone where one is due."""
        due = {row: ids.pop(0) for row, ids in enumerate(self.through.closing) if ids}
        if not due:
            return scores
        scores = scores.clone()
        for row, token in due.items():
            scores[row] = float("-inf")
            scores[row, token] = 0.0
        return scores


def closing_ids(dialogue: Dialogue) -> list[int]:
    """Return the tokens that close a thought."""
    marks = dialogue.thinking.marks
    return [] if marks is None else list(dialogue.ids([f"\n{marks.closing}\n\n"])[0])


def longest(dialogue: Dialogue, max_new_tokens: int) -> int:
    """Return how many tokens one reply may have at most, its thought included."""
    if not dialogue.thinking.thinks:
        return max_new_tokens
    return MAX_THOUGHT + len(closing_ids(dialogue)) + max_new_tokens
