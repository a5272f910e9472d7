"""One template at work: what it writes around texts, and in what a rendering departs from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.own_files.difference import Change, difference, flat, without_thought
from tools.own_files.renderer import Rendered, Renderer
from tools.own_files.talks import ASKED, Talk, mark


@dataclass
class Side:
    """One template, its frames, and the literals that it was seen to ask for.

    Args:
        template: Its text; None where there is none.
        variables: Special tokens as it knows them.
        asked: What it held messages against.
        pending: Texts of its own that it has not written yet.
        errors: How it failed.
        parts: Whether it takes texts as lists of parts alone; None while that is not known.
    """

    renderer: Renderer
    template: str | None
    variables: Mapping[str, Any]
    asked: dict[str, None] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    errors: dict[str, None] = field(default_factory=dict)
    parts: bool | None = None
    _done: dict[tuple[Talk, tuple[str, ...]], Rendered] = field(default_factory=dict)

    def rendered(self, talk: Talk, texts: Sequence[str], **more: Any) -> Rendered:
        """Return a talk rendered. Without a template it is the texts alone."""
        if self.template is None:
            return Rendered("".join(texts))
        messages = [{"role": r, "content": self._content(t)} for r, t in zip(talk.roles, texts, strict=True)]
        done = self.renderer.render(self.template, messages, talk.day, {**self.variables, **more})
        self.asked.update(dict.fromkeys(done.asked))
        self.errors.update({} if done.text is not None else {done.error: None})
        written = flat(done.text or "")
        self.pending = {one for one in self.pending if one not in written}
        return done

    def _content(self, text: str) -> str | list[dict[str, str]]:
        """Return a text as the template takes it: as a list of parts where it writes nothing of a plain one."""
        if self.parts is None:
            self.parts = False
            self.parts = not self._writes_mark()
            self.parts = self.parts and self._writes_mark()
            self.errors.clear()
        return [{"type": "text", "text": text}] if self.parts else text

    def _writes_mark(self) -> bool:
        return mark(0) in (self.rendered(ASKED, ASKED.texts()).text or "")

    def once(self, talk: Talk, texts: Sequence[str]) -> Rendered:
        """Return a talk rendered, each once."""
        key = talk, tuple(texts)
        if key not in self._done:
            self._done[key] = self.rendered(talk, texts)
        return self._done[key]

    def frame(self, talk: Talk) -> str | None:
        """Return what it writes around texts that mean nothing, which stand in it as `mark` has them; None where it raises."""
        return self.once(talk, talk.texts()).text

    def change(self, talk: Talk, texts: Sequence[str]) -> Change:
        """Return in what a rendering differs from the frame with these texts in it; that a thought is cut off is no difference."""
        frame, done = self.frame(talk), self.once(talk, texts)
        if frame is None or done.text is None:
            return Change(error="" if frame is None else done.error)
        said = done.text
        as_read = [_as_read(text, said) for text in texts]
        expected = [_filled(frame, given) for given in (texts, as_read)]
        if flat(said) in map(flat, expected):
            return Change()
        return min((difference(one, said) for one in dict.fromkeys(expected)), key=_size)


def _as_read(text: str, said: str) -> str:
    """Return a text as it stands in a prompt: whole, trimmed, or without its thought."""
    forms = (text, *(form.strip() for form in (text, *without_thought(text))))
    return next((form for form in forms if form in said), text)


def _filled(frame: str, texts: Sequence[str]) -> str:
    for i, text in enumerate(texts):
        frame = frame.replace(mark(i), text)
    return frame


def _size(change: Change) -> int:
    return sum(map(len, (*change.adds, *change.drops)))
