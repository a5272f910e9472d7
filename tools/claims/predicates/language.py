"""The language of a reply."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import field_validator

from tools.claims.kind import Messages, like
from tools.claims.predicate import Predicate
from tools.claims.text import unquoted

LEAST_LETTERS, LEAST_P = 20, 0.8
"""A shorter reply, or one that is less surely in a language, is in none."""

NAMES = {
    "afrikaans": "af", "albanian": "sq", "arabic": "ar", "armenian": "hy", "basque": "eu", "belarusian": "be", "bengali": "bn",
    "bosnian": "bs", "bulgarian": "bg", "catalan": "ca", "chinese": "zh", "croatian": "hr", "czech": "cs", "danish": "da",
    "dutch": "nl", "english": "en", "esperanto": "eo", "estonian": "et", "finnish": "fi", "french": "fr", "galician": "gl",
    "georgian": "ka", "german": "de", "greek": "el", "gujarati": "gu", "hebrew": "he", "hindi": "hi", "hungarian": "hu",
    "icelandic": "is", "indonesian": "id", "irish": "ga", "italian": "it", "japanese": "ja", "kazakh": "kk", "korean": "ko",
    "latin": "la", "latvian": "lv", "lithuanian": "lt", "macedonian": "mk", "malay": "ms", "maltese": "mt", "marathi": "mr",
    "norwegian": "no", "persian": "fa", "polish": "pl", "portuguese": "pt", "punjabi": "pa", "romanian": "ro", "russian": "ru",
    "serbian": "sr", "slovak": "sk", "slovenian": "sl", "spanish": "es", "swahili": "sw", "swedish": "sv", "tagalog": "tl",
    "tamil": "ta", "telugu": "te", "thai": "th", "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi",
    "welsh": "cy", "xhosa": "xh", "yoruba": "yo", "zulu": "zu",
}  # fmt: skip
"""English names of languages, for a sentence that says one; any other is said by its letters."""


class Language(Predicate):
    """The reply is in a language, as `py3langid` tells it (Lui and Baldwin 2012, langid.py).

    Args:
        code: Its two letters of ISO 639-1, e.g. "de".
    """

    kind: Literal["language"] = "language"
    code: str

    @field_validator("code")
    @classmethod
    def _is_known(cls, code: str) -> str:
        if code not in known():
            raise ValueError(f"unknown language {code!r}: those known are {', '.join(known())}")
        return code

    @property
    def of_form(self) -> bool:
        """Return true."""
        return True

    def shown(self, prompt: Messages, reply: str) -> bool:
        """Return whether the reply is in the language."""
        return language_of(reply) == self.code

    def clause(self) -> str:
        """Return it in words."""
        name = _names().get(self.code)
        return f"its reply is in {name}" if name else f"its reply is in the language {self.code!r}"

    @classmethod
    def of_clause(cls, clause: str) -> Language | None:
        """Return it for a clause that says a language, by its English name or by its letters in quotes."""
        found = like("(?:IT (?:answers|replies|speaks|writes)|REPLY is) in (?:the language )?(.+)", clause)
        code = None if found is None else unquoted(found[1]) or NAMES.get(found[1].lower())
        return None if code is None else cls(code=code)


@cache
def _names() -> dict[str, str]:
    return {code: name.title() for name, code in NAMES.items()}


def language_of(text: str) -> str | None:
    """Return the language of a text by its two letters; None for a text too short, or not surely in one."""
    if sum(c.isalpha() for c in text) < LEAST_LETTERS:
        return None
    code, p = _identifier().classify(text)
    return str(code) if p >= LEAST_P else None


def known() -> tuple[str, ...]:
    """Return the languages that can be told, sorted."""
    return tuple(sorted(map(str, _identifier().labels)))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
