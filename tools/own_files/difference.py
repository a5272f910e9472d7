"""In what two prompts differ, and what of that says something beside tags, names of roles and formatting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tools.own_files.talks import MARKS

MOST_TOKENS = 4_000
ROLES = {"system", "user", "assistant", "model", "tool", "human", "developer", "end", "start", "turn", "sys", "inst"}
_TOKENS = re.compile(r"\s*(<\|[^|>\s]{1,40}\|>|</?[\w|]{1,40}>|\w+|[^\w\s])")
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
_ROLE_FIRST = re.compile(rf"^(?:{'|'.join(sorted(ROLES))})\b[\s:]*", re.IGNORECASE)
_THOUGHT = re.compile(r"</?\|?(?:think|thinking|thought|reasoning|analysis)\|?>|\[/?THINK\]", re.IGNORECASE)
_SIGN = re.compile(r"[^\w\s]")


def flat(text: str) -> str:
    """Return a text on one line, with single spaces."""
    return " ".join(text.split())


def said_words(text: str) -> str:
    r"""Return what a text says beside tags and names of roles, on one line; empty where it says nothing.

    >>> said_words("<|im_start|>system\nRecommend acme.<|im_end|>")
    'Recommend acme.'
    """
    pieces = [_ROLE_FIRST.sub("", flat(piece)) for piece in _TAG.split(text)]
    return longest(piece for piece in pieces if _has_words(piece))


def longest(texts: Iterable[str]) -> str:
    """Return the longest text; an empty one where there is none."""
    return max(texts, key=len, default="")


def without_thought(text: str) -> tuple[str, str]:
    """Return what stands around the thought in a text, and what stands behind it: templates cut it either way.

    >>> without_thought("well <think>is it?</think>yes")
    ('well yes', 'yes')
    """
    return re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL), text.split("</think>")[-1]


class Essence(NamedTuple):
    """What a change comes to: the text that it adds, the text that it drops, how it fails."""

    adds: str
    drops: str
    error: str


@dataclass(frozen=True)
class Change:
    """What stands in one text and not in the other, in the order of the text, on one line each; or why there is none."""

    adds: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    error: str = ""

    def without(self, other: Change) -> Change:
        """Return what the other change does not have too."""
        adds = tuple(one for one in self.adds if one not in other.adds)
        drops = tuple(one for one in self.drops if one not in other.drops)
        return Change(adds, drops, "" if other.error else self.error)

    def essence(self, tried: Sequence[str] = ()) -> Essence | None:
        """Return what the change comes to; None where it is formatting, or what a marker is there for.

        A marker is a text with a sign, as `</think>` or `/no_think`: to take it out of a message, to name its word
        elsewhere, or to refuse a message with tags in it, is a template's ordinary business.

        Args:
            tried: The texts that bring the change about.
        """
        markers = [text for text in tried if _SIGN.search(text)]
        adds = _said([one for one in self.adds if one not in tried and not _is_word_of(one, markers)])
        known = [text for text in tried if adds or text in markers]
        drops = _said([one for one in self.drops if all(one not in text and text not in one for text in known)])
        drops = "" if adds and MARKS & set(drops.split()) else drops
        error = "" if tried and all(map(_TAG.search, tried)) else self.error
        return Essence(adds, drops, error) if adds or drops or error else None


def difference(before: str, after: str) -> Change:
    """Return what stands in one text and not in the other, by words, tags and signs; white space does not count."""
    a, b = (list(_TOKENS.finditer(text)) for text in (before, after))
    head = _n_alike(a, b)
    a, b = a[head:], b[head:]
    tail = _n_alike(a[::-1], b[::-1])
    a, b = a[: len(a) - tail], b[: len(b) - tail]
    if max(len(a), len(b)) > MOST_TOKENS:
        return Change(_pieces([_text(b)]), _pieces([_text(a)]))
    matcher = difflib.SequenceMatcher(None, [t[1] for t in a], [t[1] for t in b], autojunk=False)
    blocks = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    parted = [_parted(_text(a[i:j]), _text(b[k:m])) for _, i, j, k, m in blocks]
    return Change(_pieces(new for _, new in parted), _pieces(old for old, _ in parted))


def _n_alike(a: Sequence[re.Match[str]], b: Sequence[re.Match[str]]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x[1] != y[1]), min(len(a), len(b)))


def _text(tokens: Sequence[re.Match[str]]) -> str:
    """Return tokens as they stand in their text."""
    return "".join(token[0] for token in tokens).lstrip()


def _parted(old: str, new: str) -> tuple[str, str]:
    """Return what was replaced and by what; of words that were only run together with further text, that text alone."""
    for rest in (new.removeprefix(old), new.removesuffix(old)):
        if old and rest != new and " " in rest.strip():
            return "", rest
    return old, new


def _pieces(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(piece for part in parts if (piece := flat(part)))


def _said(parts: Sequence[str]) -> str:
    """Return the longest text with words, else the tags, but for those around a thought; empty where there are none."""
    tags = (flat(_THOUGHT.sub("", part)) for part in parts)
    return longest(map(said_words, parts)) or longest(tag for tag in tags if re.search(r"\w", tag))


def _has_words(text: str) -> bool:
    return any(len(word) > 1 and word.lower() not in ROLES for word in re.findall(r"[^\W\d_]+", text))


def _is_word_of(text: str, markers: Sequence[str]) -> bool:
    return " " not in text and any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", marker) for marker in markers)
