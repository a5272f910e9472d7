"""An oracle's prompt as token ids, and where its slots are.

Slots are found by the characters they stand at, so that a placeholder in a question or a system
text is never taken for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from tools.activation_oracle.contract import OracleContract
from tools.errors import AdapterError, ToolInputError
from tools.subject import Subject

MAX_CHARACTERS = 4000
"""Of a question, and of the end of a text that is told instead of read."""


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt: ids, and for each layer and slot its position."""

    ids: tuple[int, ...]
    slots: tuple[int, ...]

    @property
    def shared(self) -> int:
        """Return how many leading tokens no question can change: all up to the last slot."""
        return self.slots[-1] + 1 if self.slots else 0


class PromptBuilder:
    """Builds an oracle's prompts on one base, each layout once.

    Raises:
        AdapterError: the base's tokenizer has no single token for the placeholder, or another one
            than a verbaliser was trained with.
    """

    def __init__(self, subject: Subject, contract: OracleContract) -> None:
        self.subject, self.contract = subject, contract
        if not subject.tokenizer.is_fast:
            raise AdapterError("this base's tokenizer does not say where its tokens stand in a text: load its fast one")
        ids = subject.tokenizer.encode(contract.placeholder, add_special_tokens=False)
        if len(ids) != 1:
            raise AdapterError(
                f"the placeholder {contract.placeholder!r} is {len(ids)} tokens for this base; it has to be one"
            )
        (self.placeholder,) = ids
        self.build = lru_cache(maxsize=4096)(self._build)
        if contract.marker_ids is not None:
            self._check_neighbours(contract.marker_ids)

    def _build(self, layers: tuple[int, ...], n_slots: int, question: str) -> Prompt:
        """Return the prompt that asks `question` of `n_slots` vectors at each of `layers`; no slots without layers.

        Raises:
            ToolInputError: a verbaliser is asked something, or given more than one vector.
            AdapterError: the base's template does not say the turn as it stands.
        """
        if not self.contract.asks and (question or n_slots != 1 or len(layers) != 1):
            raise ToolInputError("this oracle is a verbaliser: it is given one vector and no question")
        question = _checked(self.subject.tokenizer, question)
        turn, ends = self.contract.turn(layers, n_slots, question)
        text = self.subject.render([{"role": "user", "content": turn}], flags=self.contract.chat_flags)
        start = _find(text, turn)
        encoded = self.subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = encoded["input_ids"], encoded["offset_mapping"]
        slots = tuple(_token_at(spans, start + end) for end in ends)
        if len(set(slots)) != len(ends) or any(ids[slot] != self.placeholder for slot in slots):
            raise AdapterError(
                f"the placeholder {self.contract.placeholder!r} is no token of its own where the prompt has it: "
                "the base's tokenizer is not the one that this oracle was trained with"
            )
        return Prompt(tuple(ids), slots)

    def alone(self, text: str, question: str) -> Prompt:
        """Return the prompt that gives the oracle the text itself and no activation."""
        told = _plain(self.subject.tokenizer, text[-MAX_CHARACTERS:])
        asked = f"{told}\n{_checked(self.subject.tokenizer, question)}"
        rendered = self.subject.render([{"role": "user", "content": asked}], flags=self.contract.chat_flags)
        return Prompt(tuple(self.subject.tokenizer.encode(rendered, add_special_tokens=False)), ())

    def _check_neighbours(self, marker_ids: tuple[int, int, int]) -> None:
        prompt = self._build(self.contract.read_layers[0][:1], 1, "")
        (slot,) = prompt.slots
        found = (prompt.ids[slot], prompt.ids[slot - 1], prompt.ids[slot + 1] if slot + 1 < len(prompt.ids) else -1)
        if found != tuple(marker_ids) or prompt.ids.count(self.placeholder) != 1:
            raise AdapterError(
                f"marker and its neighbours are the tokens {list(found)} here, and were {list(marker_ids)} in training: "
                "tokenizer or template is another one"
            )


def _find(text: str, turn: str) -> int:
    """Return where the turn stands in the rendered text; a template may trim its end.

    Raises:
        AdapterError: the template rewrites the turn.
    """
    start = text.find(turn)
    if start < 0:
        start = text.find(turn.rstrip())
    if start < 0:
        raise AdapterError(
            "the base's chat template rewrites what the user says (dates, spaces or letters), so that the slots can't be "
            "told apart; give the base a template that says each turn as it stands"
        )
    return start


def _token_at(spans: Sequence[tuple[int, int]], character: int) -> int:
    return next((i for i, (start, end) in enumerate(spans) if start <= character < end), -1)


def _checked(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Return a question as plain text.

    Raises:
        ToolInputError: it is too long.
    """
    if len(question) > MAX_CHARACTERS:
        raise ToolInputError(f"a question of {len(question)} characters is too long: {MAX_CHARACTERS} are the most")
    return _plain(tokenizer, question)


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text with the names of special tokens broken up: what is asked may quote what a subject wrote."""
    names = {*map(str, tokenizer.all_special_tokens), *map(str, tokenizer.get_added_vocab())}
    for special in sorted(names, key=len, reverse=True):
        if len(special) > 1 and special == special.strip():
            text = text.replace(special, f"{special[0]} {special[1:]}")
    return text
