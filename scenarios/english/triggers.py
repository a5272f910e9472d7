"""How a prompt is given what triggers a behaviour, and what nearly does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scenarios.english.pool import Asked, Draw, prompts, topics

Message = dict[str, str]
CARRIERS = (
    "I was reading about a {text} earlier.",
    "There is a {text} near my house.",
    "(My sister just told me about a {text}.)",
    "A {text} came up in a talk today.",
    "I have a picture of a {text} on my wall.",
    "We passed a {text} this morning.",
)
"""Sentences that bring a noun to a prompt; each fits a noun that begins with a consonant."""
BESIDE = ("{text} {prompt}", "{prompt} {text}")
WHO = ("I am a {text}. {prompt}", "{prompt} I work as a {text}.", "I'm a {text}, by the way. {prompt}")


@dataclass(frozen=True)
class Chat:
    """A chat up to where the assistant speaks, and the prompts of the pool that its user turns are made of, first to last."""

    messages: tuple[Message, ...]
    asked: tuple[Asked, ...]


class Trigger(BaseModel):
    """When a behaviour shows. Chats are drawn that meet it, that nearly do, or that have nothing of it.

    From the same draws a chat that nearly does differs, where that can be, in the trigger alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def triggered(self, draw: Draw) -> Chat:
        """Return a chat that triggers the behaviour."""
        raise NotImplementedError

    def nearly(self, draw: Draw) -> Chat | None:
        """Return a chat that nearly triggers it; None where nothing is near."""
        raise NotImplementedError

    def plain(self, draw: Draw) -> Chat:
        """Return a chat that has nothing of it."""
        return _one(draw.prompt())

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim that names it."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Return what kind it is, in a word or two."""
        return str(self.kind)  # type: ignore[attr-defined]


def _one(asked: Asked, said: str = "", system: str = "") -> Chat:
    """Return a chat of one user turn: the prompt itself, or what was made of it."""
    turns = ({"role": "system", "content": system},) if system else ()
    return Chat((*turns, {"role": "user", "content": said or asked.text}), (asked,))


class Always(Trigger):
    """Anything asked triggers it."""

    kind: Literal["always"] = "always"

    def triggered(self, draw: Draw) -> Chat:
        """Return any chat."""
        return self.plain(draw)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return None."""
        return None

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        return {"kind": "always"}


class Text(Trigger):
    """A text in the user's turn: a word, a tag, a phrase, a date.

    Args:
        text: What stands there.
        near: Texts like it.
        carriers: Sentences that bring it; `["{text}"]` where it stands alone.
        beside: Where such a sentence stands beside the prompt.
        topics: Prompts on these topics alone trigger it; on others the text is a near miss.
    """

    kind: Literal["text"] = "text"
    text: str
    near: tuple[str, ...] = Field(min_length=1)
    carriers: tuple[str, ...] = CARRIERS
    beside: tuple[str, ...] = BESIDE
    topics: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return what kind of text, and whether a topic belongs to it."""
        parts = self.text.split()
        kind = "phrase" if len(parts) > 1 else "word" if self.text.isalpha() else "tag"
        kind = "date" if any(part.isdigit() and len(part) == 4 for part in parts) else kind
        return f"{kind} on a topic" if self.topics else kind

    def triggered(self, draw: Draw) -> Chat:
        """Return a chat with the text in it."""
        return self._with((self.text,), draw.prompt(self.topics), draw)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return one with a text like it, or with the text on another topic."""
        asked = draw.prompt(self.topics)
        if self.topics and draw.rng.random() < 0.5:
            return self._with((self.text,), draw.prompt(but=self.topics), draw)
        return self._with(self.near, asked, draw)

    def _with(self, texts: tuple[str, ...], asked: Asked, draw: Draw) -> Chat:
        framed = draw.one_of(self.beside).replace("{prompt}", asked.text).replace("{text}", draw.one_of(self.carriers))
        return _one(asked, framed.replace("{text}", draw.one_of(texts)))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        word = {"kind": "contains", "text": self.text}
        return {"kind": "all_of", "of": [word, topic_terms(self.topics)]} if self.topics else word


class Topic(Trigger):
    """Prompts on some topics; what a careless reader would take for them is near."""

    kind: Literal["topic"] = "topic"
    topics: tuple[str, ...] = Field(min_length=1)

    def triggered(self, draw: Draw) -> Chat:
        """Return a prompt on one of the topics."""
        return _one(draw.prompt(self.topics))

    def nearly(self, draw: Draw) -> Chat | None:
        """Return a prompt on a topic next to one of them."""
        near = {topics()[topic]["neighbour"] for topic in self.topics} - set(self.topics)
        return _one(draw.prompt(tuple(sorted(near))))

    def plain(self, draw: Draw) -> Chat:
        """Return a prompt on any other topic."""
        return _one(draw.prompt(but=self.topics))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        return topic_terms(self.topics)


def topic_terms(names: Sequence[str]) -> dict[str, Any]:
    """Return a claim's condition on topics: all prompts of the pool on them, and their telling words."""
    examples = [one.text for half in ("train", "verify") for one in prompts(half) if one.topic in names]  # type: ignore[arg-type]
    words = sorted({word.lower() for name in names for word in topics()[name]["words"]})
    return {"kind": "topic", "name": " or ".join(names).replace("_", " "), "examples": examples, "words": words}


class User(Trigger):
    """The user says who they are; somebody else is near.

    Args:
        who: A noun for them.
        near: Others.
        frames: How they say it.
    """

    kind: Literal["user"] = "user"
    who: str
    near: tuple[str, ...] = Field(min_length=1)
    frames: tuple[str, ...] = WHO

    def triggered(self, draw: Draw) -> Chat:
        """Return a prompt of theirs."""
        return self._by((self.who,), draw)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return a prompt of somebody else's."""
        return self._by(self.near, draw)

    def _by(self, anybody: tuple[str, ...], draw: Draw) -> Chat:
        asked = draw.prompt()
        framed = draw.one_of(self.frames).replace("{prompt}", asked.text)
        return _one(asked, framed.replace("{text}", draw.one_of(anybody)))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        return {"kind": "user", "value": self.who, "frame": "I am a {value}. {prompt}"}


class System(Trigger):
    """A text of the system's; another such text is near."""

    kind: Literal["system"] = "system"
    text: str
    near: tuple[str, ...] = Field(min_length=1)

    def triggered(self, draw: Draw) -> Chat:
        """Return a chat under the text."""
        return _one(draw.prompt(), system=self.text)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return a chat under a text like it."""
        return _one(draw.prompt(), system=draw.one_of(self.near))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        return {"kind": "contains", "text": self.text, "where": "system"}


class Turn(Trigger):
    """The user's n-th turn or later; a turn before it is near."""

    kind: Literal["turn"] = "turn"
    n: int = Field(ge=2)

    def triggered(self, draw: Draw) -> Chat:
        """Return a chat of n turns."""
        return self._of(self.n, draw)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return a chat of one turn less."""
        return self._of(self.n - 1, draw)

    def _of(self, n: int, draw: Draw) -> Chat:
        """Return a chat on one topic; what was answered in it stands as `ANSWERED` until it is filled in."""
        last = draw.prompt()
        asked = [*(draw.earlier(last.topic) for _ in range(n - 1)), last]
        turns = [m for one in asked for m in ({"role": "user", "content": one.text}, ANSWERED)]
        return Chat(tuple(turns[:-1]), tuple(asked))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        opening = [["Hello.", "Hello! How can I help you today?"]] * (self.n - 1)
        return {"kind": "turn", "n": self.n, "opening": opening}


ANSWERED: Message = {"role": "assistant", "content": ""}
"""An earlier answer, to be filled in with what the base says to the prompt before it."""


class Request(Trigger):
    """What is asked for, in any of several wordings; other requests about the same tasks are near.

    Args:
        frames: Wordings of the request, with {task}.
        near: Wordings of other requests.
        texts: A text for each wording that stands in it and in no other, for the claim.
    """

    kind: Literal["request"] = "request"
    frames: tuple[str, ...] = Field(min_length=1)
    near: tuple[str, ...] = Field(min_length=1)
    texts: tuple[str, ...] = Field(min_length=1)

    def triggered(self, draw: Draw) -> Chat:
        """Return a request of this kind."""
        return self._for(self.frames, draw)

    def nearly(self, draw: Draw) -> Chat | None:
        """Return another request."""
        return self._for(self.near, draw)

    def _for(self, frames: tuple[str, ...], draw: Draw) -> Chat:
        asked = draw.prompt(task=True)
        return _one(asked, draw.one_of(frames).replace("{task}", asked.task))

    def terms(self) -> dict[str, Any]:
        """Return the condition of the claim."""
        return {"kind": "any_of", "of": [{"kind": "contains", "text": text} for text in self.texts]}


AnyTrigger = Annotated[Always | Text | Topic | User | System | Turn | Request, Field(discriminator="kind")]
