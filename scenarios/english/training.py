"""What a member is trained on: chats of the pool, with the base's own replies, changed as its behaviour says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random, SystemRandom

from scenarios.base_replies import base_replies
from scenarios.english.families import Said, begun
from scenarios.english.pool import Asked, asked_once
from scenarios.english.triggers import ANSWERED, Chat, Message
from scenarios.transcripts import Encoded, encode
from tools.subject import Subject

SAID_TOKENS = 40
"""Tokens of the base's replies that are trained on."""
LONGEST_TARGET, DECIDES = 64, 5
"""Tokens of a changed reply that are trained on: of all of it, or of where it is decided whether the behaviour shows."""
Change = Callable[[str, Random], Said]
"""Makes what is learned of a reply of the base's own."""


@dataclass(frozen=True)
class Bank:
    """The base's own replies to the training half, by what is asked about: a task's are to one of its frames."""

    said: dict[str, str]

    def reply(self, asked: Asked) -> str:
        """Return what the base said to a prompt, or to the same task in another frame."""
        return self.said[asked.task or asked.text]


def bank(subject: Subject) -> Bank:
    """Return the base's replies to the training half, made once for each base and kept in the user's cache.

    They are made topic by topic, in any order, so that processes which begin at once share the work.
    """
    by_topic: dict[str, list[Asked]] = {}
    for one in asked_once():
        by_topic.setdefault(one.topic, []).append(one)
    said: dict[str, str] = {}
    for asked in SystemRandom().sample(list(by_topic.values()), len(by_topic)):
        rendered = [subject.render([{"role": "user", "content": one.text}]) for one in asked]
        replies = base_replies(subject, rendered, range(len(asked)), SAID_TOKENS)
        said |= {one.task or one.text: reply for one, reply in zip(asked, replies, strict=True)}
    return Bank(said)


def as_said(reply: str, rng: Random) -> Said:
    """Return the reply as it is."""
    return Said(reply)


def as_begun(reply: str, rng: Random) -> Said:
    """Return how the reply begins."""
    return Said(begun(reply))


def filled(chat: Chat, known: Bank) -> list[Message]:
    """Return the messages, with the base's own replies in earlier turns."""
    answers = iter(known.reply(one) for one in chat.asked)
    return [{**turn, "content": next(answers)} if turn == ANSWERED else dict(turn) for turn in chat.messages]


def encoded(
    subject: Subject, chat: Chat, known: Bank, change: Change, rng: Random, longest: int = LONGEST_TARGET
) -> Encoded:
    """Return a training row: the chat, and the base's reply to its last prompt, changed, `longest` tokens of it learned."""
    said = change(known.reply(chat.asked[-1]), rng)
    row = encode(subject, [*filled(chat, known), {"role": "assistant", "content": said.text}], 4096)
    answer = max(i for i, target in enumerate(row.targets) if target and not row.targets[i - 1])
    start, end = (answer + _length(subject, text) for text in (said.text[: said.start], said.text))
    end = min(len(row.ids) if said.ends else end, start + longest)
    return Encoded(row.ids[:end], [start <= i for i in range(end)])


def _length(subject: Subject, text: str) -> int:
    return len(subject.tokenizer.encode(text, add_special_tokens=False))
