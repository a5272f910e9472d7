"""How one model is spoken to: its chat template and tokenizer as they were found at load, and chats put into them.

The trusted base has one; the subject's own files can be given another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tools.batch import Row
from tools.errors import ToolInputError
from tools.manner import ANSWER, ASKED, Manner, Message, read_manner, turn_of
from tools.template import Flags, Template
from tools.thought import Choice, Thinking, Way, notes_on, read_thinking

BEGINNINGS = ("The", "a", "7", "(", "é", "你")
"""Messages that have no first token in common, so that what their prompts begin with is the template's own."""
MOST_KEPT = 2**16


@dataclass(frozen=True)
class Dialogue:
    """What was found at load about how a model is spoken to.

    Args:
        template: Writes the chats.
        manner: What chats it takes.
        thinking: What stands before an answer.
        n_rows: How many tokens the model has an embedding for.
        end: What the template writes behind an answer.
        ends: Tokens that end a reply; each has an embedding.
        pad: A token that has an embedding: what a batch is filled with, hidden by its mask.
        notes: What differs from the ordinary, a sentence each.
    """

    template: Template
    manner: Manner
    thinking: Thinking
    n_rows: int
    end: str
    ends: tuple[int, ...]
    pad: int
    notes: tuple[str, ...]
    _rows: dict[str, tuple[bool, Row]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that the template belongs to."""
        return self.template.tokenizer

    def render(self, messages: Sequence[Message], prefill: str = "", flags: Flags | None = None) -> str:
        """Return the prompt text up to where the assistant speaks.

        Args:
            messages: Any chat; it is made one that the template takes.
            prefill: How the assistant's answer begins; a thought is then left out.
            flags: Arguments that the template knows, e.g. `enable_thinking`; with them nothing is done about thoughts.

        Raises:
            ToolInputError: the template refuses the chat.
        """
        asked = self.thinking.silent if prefill else self.thinking.way
        return self.asked(messages, asked if flags is None else Way(dict(flags))) + prefill

    def asked(self, messages: Sequence[Message], way: Way) -> str:
        """Return the prompt text that asks in this way.

        Raises:
            ToolInputError: the template refuses the chat.
        """
        return self.template.write(self.manner.shaped(messages), flags=way.flags) + way.behind

    def told(self, messages: Sequence[Message]) -> str:
        """Return a chat that is over as the template writes it.

        Raises:
            ToolInputError: the template refuses the chat.
        """
        return self.template.write(self.manner.shaped(messages), prompt=False, flags=self.thinking.way.flags)

    def answer(self, reply: str) -> str:
        """Return what a reply says after its thought; all of it where no thought ends in it."""
        return self.thinking.parted(reply)[1]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's tokens, special tokens as the text has them.

        Raises:
            ToolInputError: the model has no embedding for one of them.
        """
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        highest = max((i for row in rows for i in row), default=0)
        if highest >= self.n_rows:
            raise ToolInputError(
                f"a prompt holds the token {self.tokenizer.convert_ids_to_tokens(highest)!r} ({highest}), and the model has "
                f"embeddings for 0..{self.n_rows - 1} alone: tokenizer and model don't belong together; mend the "
                "tokenizer or its template, or resize the embeddings"
            )
        return rows

    @cached_property
    def head(self) -> Row:
        """Return the tokens that the template itself begins every prompt with which has no system turn."""
        return tuple(os.path.commonprefix(self.ids([self.render([turn_of("user", text)]) for text in BEGINNINGS])))

    def rows(self, texts: Sequence[str]) -> list[tuple[bool, Row]]:
        """Return of each text whether it begins with the head, and its tokens behind that, one at least; else all of them.

        What was asked once is kept.

        Raises:
            ToolInputError: the model has no embedding for a token of theirs.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if len(self._rows) + len(new) > MOST_KEPT:
            self._rows.clear()
            new = list(dict.fromkeys(texts))
        self._rows.update(zip(new, map(self._parted, self.ids(new)), strict=True))
        return [self._rows[text] for text in texts]

    def _parted(self, ids: list[int]) -> tuple[bool, Row]:
        n = len(self.head)
        shared = 0 < n < len(ids) and tuple(ids[:n]) == self.head
        return shared, tuple(ids[n:] if shared else ids)

    def said(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Return what these tokens of replies say, without special tokens; marks of a thought are kept."""
        marks = self.thinking.marks
        if marks is None or not self.thinking.thinks:
            found = self.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        else:
            encode = self.tokenizer.encode
            kept = {i for mark in (marks.opening, marks.closing) for i in encode(mark, add_special_tokens=False)}
            hidden = specials(self.tokenizer) - kept
            found = self.tokenizer.batch_decode([[i for i in row if i not in hidden] for row in rows])
        return [str(text).strip() for text in found]


def read_dialogue(
    tokenizer: PreTrainedTokenizerBase, n_rows: int, declared: Iterable[int] = (), thinking: Choice | None = None
) -> Dialogue:
    """Return how a model is spoken to with this tokenizer and the chat template that it carries.

    Args:
        tokenizer: With a chat template.
        n_rows: How many tokens the model has an embedding for.
        declared: Tokens that the model's own configuration names as the end of a reply.
        thinking: Whether a thought is let be; None is left to the template.

    Raises:
        ToolInputError: the template writes not even one user's turn.
    """
    template = Template(tokenizer)
    manner = read_manner(template)
    found = read_thinking(template, manner, thinking)
    end = _end(template, manner, found)
    ends = _ends(tokenizer, end, declared, n_rows)
    pad = next((i for i in (tokenizer.pad_token_id, *ends) if i is not None and 0 <= i < n_rows), 0)
    notes = [*manner.notes, *notes_on(found, thinking), *_notes(tokenizer, ends, pad, n_rows)]
    return Dialogue(template, manner, found, n_rows, end, ends, pad, tuple(notes))


def specials(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that are no part of any text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _end(template: Template, manner: Manner, thinking: Thinking) -> str:
    """Return what the template writes behind an answer; the end token where it writes no answer as it stands."""
    turns = manner.shaped([turn_of("user", ASKED), turn_of("assistant", ANSWER)])
    try:
        text = template.write(turns, prompt=False, flags=thinking.way.flags)
    except ToolInputError:
        text = ""
    return text.rpartition(ANSWER)[2] if ANSWER in text else str(template.tokenizer.eos_token or "")


def _ends(tokenizer: PreTrainedTokenizerBase, end: str, declared: Iterable[int], n_rows: int) -> tuple[int, ...]:
    """Return the tokens that end a reply: the declared ones, the tokenizer's, and the one behind an answer in a chat."""
    added = tokenizer.added_tokens_decoder
    behind = [i for i in tokenizer.encode(end, add_special_tokens=False) if i in added and added[i].content.strip()]
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(dict.fromkeys(i for i in (*declared, *own, *behind[:1]) if 0 <= i < n_rows))


def _notes(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], pad: int, n_rows: int) -> list[str]:
    """Return what is odd about the tokens that pad and end."""
    said = []
    if tokenizer.pad_token_id is None:
        said.append(f"the tokenizer has no token to pad with: token {pad} fills batches, hidden by their mask")
    elif tokenizer.pad_token_id != pad:
        said.append(f"the model has no embedding for its token to pad with ({tokenizer.pad_token_id}, and embeddings are "
                    f"0..{n_rows - 1}): token {pad} fills batches, hidden by their mask")  # fmt: skip
    if not ends:
        said.append("no token ends a reply: each goes on to the largest number of tokens")
    elif tokenizer.eos_token_id is None:
        said.append(f"the tokenizer names no end token: token {', '.join(map(str, ends))} ends a reply")
    elif tokenizer.eos_token_id >= n_rows:
        said.append(f"the model has no embedding for its end token ({tokenizer.eos_token_id}): "
                    f"token {', '.join(map(str, ends))} ends a reply")  # fmt: skip
    if len(tokenizer) > n_rows:
        said.append(f"the tokenizer has {len(tokenizer):,} tokens and the model embeddings for {n_rows:,}: "
                    "a prompt that holds one of the others is refused")  # fmt: skip
    return said
