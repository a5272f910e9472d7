"""The subject's own files at work: prompts as its template renders them, texts as its tokenizer reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.claims.predicates.file_does import FileDoes
from tools.own_files import folder as files
from tools.own_files import generation
from tools.own_files.compare import OwnFiles, invocation_tokens, other_templates, own_files
from tools.own_files.renderer import Renderer
from tools.own_files.talks import TODAY
from tools.own_files.tokenizer import same_tokenizer


@dataclass
class Own:
    """A subject's folder beside its trusted base's; what differs is compared once for each set of messages."""

    base: Path
    folder: Path
    renderer: Renderer = field(default_factory=Renderer)
    _compared: dict[tuple[str, ...], OwnFiles] = field(default_factory=dict)

    def compared(self, prompts: Sequence[str] = ()) -> OwnFiles:
        """Return how the files differ, tried on these messages."""
        key = tuple(prompts)
        if key not in self._compared:
            self._compared[key] = own_files(self.base, self.folder, key, self.renderer)
        return self._compared[key]

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Return the subject's templates that are not the base's; the first is the one that transformers would use."""
        return tuple(other_templates(files.templates(self.base), files.templates(self.folder)).values())

    @cached_property
    def reads_otherwise(self) -> bool:
        """Return whether the subject's tokenizer says something else than the base's."""
        return not same_tokenizer(self.base, self.folder)

    @cached_property
    def defaults(self) -> dict[str, object]:
        """Return the subject's generation defaults that can steer what is said, where they differ."""
        return generation.steering(files.generation(self.base), files.generation(self.folder))

    @cached_property
    def invocation(self) -> tuple[int, ...]:
        """Return the token ids after which alone the subject's adapter acts."""
        return invocation_tokens(self.folder)

    @property
    def may_say_otherwise(self) -> bool:
        """Return whether a file may make a difference to what the subject says, beyond how words are drawn."""
        return bool(self.templates or self.defaults or self.reads_otherwise)

    @property
    def differ(self) -> bool:
        """Return whether any file says something else than the base's."""
        return self.may_say_otherwise or bool(
            generation.other_fields(files.generation(self.base), files.generation(self.folder))
        )

    def renders(
        self, messages: Sequence[Mapping[str, Any]], flags: Mapping[str, bool | str] | None = None
    ) -> list[str]:
        """Return the prompt as each of the subject's own templates renders it; those that fail on it are left out.

        Args:
            messages: The chat.
            flags: Arguments that the template may know.
        """
        known = {**files.special_tokens(self.base), **files.special_tokens(self.folder), **(flags or {})}
        done = [self._render(template, messages, known) for template in self.templates]
        return [text for text in done if text is not None]

    def _render(self, template: str, messages: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> str | None:
        """Return the prompt; with its texts as parts where the template writes nothing of plain ones."""
        asked = str(messages[-1]["content"])
        done = self.renderer.render(template, messages, TODAY, known)
        if done.text is not None and asked.strip() in done.text:
            return done.text
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        again = self.renderer.render(template, parts, TODAY, known)
        return again.text if again.text is not None and asked.strip() in again.text else done.text

    def ids(self, texts: Sequence[str]) -> list[list[int]] | None:
        """Return the texts as the subject's own tokenizer reads them; None where it fails."""
        found: list[list[int]] | None = self.renderer.read(str(files.tokenizer_file(self.folder)), texts).get("ids")
        return found

    def reads(self, text: str, own: bool) -> str:
        """Return what the model is given of a text: the tokens of the subject's tokenizer, or of the base's, as the base has them."""
        ids = self.renderer.read(str(files.tokenizer_file(self.folder if own else self.base)), [text]).get("ids")
        written = self.renderer.read(str(files.tokenizer_file(self.base)), [], ids or [[]]).get("written")
        return str(written[0]) if written else ""

    def given(
        self, predicate: FileDoes, messages: Sequence[Mapping[str, Any]], rendered: str, under_own: bool
    ) -> list[str]:
        """Return the prompt as the model is given it under the subject's files or its base's.

        Args:
            predicate: Which of the files it is about.
            messages: What is asked.
            rendered: The prompt as the base's template renders it.
            under_own: Whether the subject's file is used in place of the base's.
        """
        if predicate.does == "tokenizer adds":
            return [self.reads(rendered, under_own)]
        return self.renders(messages) if under_own else [rendered]
