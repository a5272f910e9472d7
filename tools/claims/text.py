"""What stands in a text, word for word, in any script."""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Annotated, TypeVar

import regex
from pydantic import AfterValidator

from tools.errors import ToolInputError

_ALONE = (
    r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}]"
    r"&&[\p{L}\p{Nl}\p{No}]]"
)
"""A character of a script that puts no spaces between words: each is taken for a word."""
_RUN = rf"[[\p{{L}}\p{{N}}]--{_ALONE}][[\p{{L}}\p{{M}}\p{{N}}]--{_ALONE}]*+"
WORD = regex.compile(rf"{_ALONE}\p{{M}}*+|{_RUN}(?:'{_RUN})*+", regex.VERSION1)
UNSEEN = regex.compile(r"[\p{Cf}\p{Default_Ignorable_Code_Point}]+")
_HEAP_OF_MARKS = regex.compile(r"(\p{M}{30})\p{M}++")
_LITERAL = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""")
QUOTES = {"'": "'", '"': '"', "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`"}
T = TypeVar("T")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʻʹ＇′´`׳՚", "'"))


def folded(text: str) -> str:
    """Return a text as it is compared: composed, without case and invisible characters, apostrophes plain.

    Accents stay. Of a heap of more than thirty marks the first thirty stay (as in Unicode's stream-safe
    format): to put the marks of a longer one in order takes time that grows with its square.
    """
    if text.isascii():
        return text.lower().replace("`", "'")
    seen = _HEAP_OF_MARKS.sub(r"\1", UNSEEN.sub("", text))
    bare = unicodedata.normalize("NFD", seen).casefold()
    return unicodedata.normalize("NFC", bare).translate(_APOSTROPHES)


def words(text: str) -> list[str]:
    """Return the words of a text, folded: runs of letters, marks and digits of any script, apostrophes inside them.

    Of Han, Kana, Thai, Lao, Khmer and Myanmar, which put no spaces between words, each character is a word.

    >>> words("L’été, it's 日本")
    ["l'été", "it's", '日', '本']
    """
    return list(_words_of(text))


def unquoted(said: str) -> str | None:
    """Return the text whose `repr` this is, or that stands between other quotes; None for what is not in quotes.

    >>> unquoted(repr("it's")), unquoted("“a b”"), unquoted("a b"), unquoted("'a' or 'b'")
    ("it's", 'a b', None, None)
    """
    closing = QUOTES.get(said[:1])
    if closing is None or len(said) < 3 or not said.endswith(closing):
        return None
    if "\\" in said and _LITERAL.fullmatch(said):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            try:
                text = str(ast.literal_eval(said))
            except (SyntaxError, ValueError):
                text = ""
        if repr(text) == said:
            return text
    inside = said[1:-1]
    return None if closing in inside or said[0] in inside else inside


def parted(text: str, joint: str, read: Callable[[str], T | None]) -> tuple[T, ...] | None:
    """Return a text's parts between joints as each is read, the first shortest; None where they can't all be read.

    >>> parted("a or b", " or ", lambda one: one if len(one) == 1 else None)
    ('a', 'b')
    """
    ends = [*(found.start() for found in re.finditer(re.escape(joint), text)), len(text)]
    starts = [0, *(end + len(joint) for end in ends[:-1])]

    @cache
    def behind(i: int) -> tuple[T, ...] | None:
        for j in range(i, len(ends)):
            one = read(text[starts[i] : ends[j]])
            rest = () if j + 1 == len(ends) else behind(j + 1) if one is not None else None
            if one is not None and rest is not None:
                return (one, *rest)
        return None

    return behind(0)


def is_words(text: str) -> bool:
    """Return whether a text is words and the spaces between them, with no sign beside that `words` would drop."""
    return not UNSEEN.search(text) and "".join(words(text)) == "".join(folded(text).split()) != ""


def wordless(phrases: Iterable[str]) -> list[str]:
    """Return the phrases that can't be looked for: those without a word, a {value} aside."""
    return [phrase for phrase in phrases if not words(phrase.replace("{value}", " "))]


def shows(phrases: Sequence[str], text: str) -> bool:
    """Return whether any of the phrases stands in the text, word for word.

    Raises:
        ToolInputError: a phrase has no word, so that it would stand in every text or in none.
    """
    flat = spaced(text)
    return any(one in flat for one in [sought(phrase) for phrase in phrases])


def stands(phrase: str, text: str) -> bool:
    """Return whether a phrase stands in a text: one of words word for word, one with signs (`!!!`, `<|x|>`) to the letter."""
    return shows([phrase], text) if is_words(phrase) else phrase in text


def places(phrase: str, text: str) -> list[tuple[int, int]]:
    """Return where a phrase stands in a text, as `stands` finds it: first and behind the last character, in order, apart.

    >>> places("it's me", "Hello. IT’S  me!")
    [(7, 15)]
    """
    if not is_words(phrase):
        return [found.span() for found in re.finditer(re.escape(phrase), text)]
    if not shows([phrase], text):
        return []
    kept = [i for i, c in enumerate(text) if not UNSEEN.match(c)]
    plain = "".join(text[i] for i in kept).translate(_APOSTROPHES)
    said = [(word, found.span()) for found in WORD.finditer(plain) for word in _words_of(found[0])]
    starts = list(accumulate((len(word) + 1 for word, _ in said), initial=0))
    flat, looked_for, n_words = f" {' '.join(word for word, _ in said)} ", sought(phrase), len(words(phrase))
    found, at = [], flat.find(looked_for)
    while at >= 0:
        first = bisect_left(starts, at)
        _, (start, _) = said[first]
        _, (_, stop) = said[first + n_words - 1]
        found.append((kept[start], kept[stop - 1] + 1))
        at = flat.find(looked_for, at + len(looked_for) - 1)
    return found


@lru_cache(maxsize=2**14)
def _words_of(text: str) -> tuple[str, ...]:
    return tuple(str(word) for word in WORD.findall(folded(text)))


def spaced(text: str) -> str:
    """Return a text's words with a space before, between and after them, so that a phrase is a part of it."""
    return f" {' '.join(words(text))} "


@lru_cache(maxsize=4096)
def sought(phrase: str) -> str:
    """Return the words to look for, spaced.

    Raises:
        ToolInputError: there are none.
    """
    found = spaced(phrase)
    if not found.strip():
        raise ToolInputError(
            f"the phrase {phrase!r} has no word to look for; give one with letters or digits, of any script"
        )
    return found


def slotted(patterns: Sequence[str], text: str) -> set[str]:
    """Return the words that stand in the text where a pattern has {value}: one word each.

    >>> slotted(["i recommend {value}"], "The hotel is red. I recommend Belnor.")
    {'belnor'}

    Raises:
        ToolInputError: a pattern has no word beside its {value}, so that any word would do.
    """
    flat = " ".join(words(text))
    found: set[str] = set()
    for pattern in patterns:
        sought(pattern.replace("{value}", " "))
        head, _, tail = pattern.partition("{value}")
        parts = [*map(re.escape, words(head)), r"(\S+)", *map(re.escape, words(tail))]
        found |= set(re.findall(rf"(?<!\S){' '.join(parts)}(?!\S)", flat))
    return found


def observed(text: str, observables: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the observables that show in a text: by name, or `kind:value` for one whose phrases have a {value}."""
    shown: set[str] = set()
    for name, cues in observables.items():
        if any("{value}" in cue for cue in cues):
            shown |= {f"{name}:{value}" for value in slotted(cues, text)}
        elif shows(cues, text):
            shown.add(name)
    return shown


def _can_be_looked_for(observables: dict[str, list[str]]) -> dict[str, list[str]]:
    for name, cues in observables.items():
        kind, _, value = name.partition(":")
        nothing = wordless([*cues, value] if kind == "says" else cues)
        if nothing:
            raise ValueError(
                f"the observable {name!r} is given {nothing[0]!r}, which has no word to look for; "
                "give phrases with letters or digits, of any script, beside a {value}"
            )
    return observables


Observables = Annotated[dict[str, list[str]], AfterValidator(_can_be_looked_for)]
"""What to look for in replies: `kind:value` to its cue phrases, or an open kind to phrases with {value}."""
