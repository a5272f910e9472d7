"""Phrases that one set of replies says more often than another, of any length and each as long as it is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from tools.claims.text import WORD, folded

WHOLE = 0.8
"""Share of its replies in which a phrase stands in a longer one, from which on the longer one is named."""
MORE_THAN = 2
"""How many times as often as the base the subject has to say it, as shares of replies."""
_ENDS = regex.compile(
    r"[\p{Sentence_Terminal}:;…：；﹔﹕؛]+[\p{Pe}\p{Pf}\"'`*_]*(?:\s+|$)|[\n\p{Zl}\p{Zp}]+|[。！？：；．｡…﹔﹕؛]+|[^\P{Sentence_Terminal}.!?]+"
)
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Phrase:
    """A run of words within a sentence.

    Args:
        said: As most of the subject's replies have it, with the signs between its words.
        shown: Which of the subject's replies say it.
        in_base: Which of the base's do.
    """

    said: str
    shown: tuple[bool, ...]
    in_base: tuple[bool, ...]


@dataclass(frozen=True)
class Run:
    """The words of a sentence, or of a part of one, folded, and where each stands in the folded reply."""

    words: Gram
    spans: tuple[tuple[int, int], ...]

    def grams(self, n: int) -> Iterator[tuple[int, Gram]]:
        """Yield every `n` words in a row with the place of the first."""
        for i in range(len(self.words) - n + 1):
            yield i, self.words[i : i + n]


def phrases(
    subject: Sequence[str], base: Sequence[str], min_count: int, echoes: Sequence[Collection[str]] | None = None
) -> list[Phrase]:
    """Return what the subject says more often than the base, each phrase once and whole, in no order.

    A phrase that mostly stands in a longer one is named by the longest of these. A stop inside a word, as in an address, ends no
    sentence.

    Args:
        subject: Its replies.
        base: The base's, or whatever the subject's are held against.
        min_count: Phrases in fewer of the subject's replies are left out.
        echoes: Of each prompt, which both have answered, words that no phrase may have, as a reply may repeat them.
    """
    apart = [list(echoes or [()] * len(replies)) for replies in (subject, base)]
    ours, theirs = (
        [list(runs(reply, words)) for reply, words in zip(replies, side, strict=True)]
        for replies, side in zip((subject, base), apart, strict=True)
    )
    found = _frequent(ours, min_count)
    in_base = _counted(theirs, found)
    times = MORE_THAN * len(subject) / max(1, len(base))
    more = [gram for gram, bits in found.items() if bits.bit_count() > times * in_base[gram].bit_count()]
    longer = _one_word_longer(found)
    whole = {_whole(gram, found, longer) for gram in more}
    said = _as_said(ours, subject, whole)
    return [
        Phrase(said[gram], _places(found[gram], len(subject)), _places(in_base[gram], len(base)))
        for gram in sorted(whole)
    ]


def runs(reply: str, apart: Collection[str] = ()) -> Iterator[Run]:
    """Yield the runs of words of a reply: its sentences, parted where one of some words stands."""
    flat, start = _flat(reply), 0
    for end, behind in [*(found.span() for found in _ENDS.finditer(flat)), (len(flat), len(flat))]:
        words: list[str] = []
        spans: list[tuple[int, int]] = []
        for found in WORD.finditer(flat, start, end):
            if found[0] in apart:
                yield from _run(words, spans)
                words, spans = [], []
            else:
                words.append(found[0])
                spans.append(found.span())
        yield from _run(words, spans)
        start = behind


def _run(words: list[str], spans: list[tuple[int, int]]) -> Iterable[Run]:
    return [Run(tuple(words), tuple(spans))] if words else []


def _flat(reply: str) -> str:
    """Return the reply folded, which most often is as long, so that places in the one are places in the other."""
    return folded(reply)


def _frequent(replies: Sequence[Sequence[Run]], min_count: int) -> dict[Gram, int]:
    """Return the words in a row that so many replies have, each with a bit for every reply; a word longer each time round."""
    found: dict[Gram, int] = {}
    n, grown = 1, True
    while grown:
        level: dict[Gram, int] = {}
        for i, reply in enumerate(replies):
            for gram in {g for run in reply for _, g in run.grams(n) if n == 1 or (g[1:] in found and g[:-1] in found)}:
                level[gram] = level.get(gram, 0) | 1 << i
        kept = {gram: bits for gram, bits in level.items() if bits.bit_count() >= min_count}
        found |= kept
        n, grown = n + 1, bool(kept)
    return found


def _counted(replies: Sequence[Sequence[Run]], grams: dict[Gram, int]) -> dict[Gram, int]:
    """Return in which replies each of some runs of words stands."""
    found = dict.fromkeys(grams, 0)
    lengths = {len(gram) for gram in grams}
    for i, reply in enumerate(replies):
        for gram in {g for run in reply for n in lengths for _, g in run.grams(n) if g in found}:
            found[gram] |= 1 << i
    return found


def _one_word_longer(found: dict[Gram, int]) -> dict[Gram, list[Gram]]:
    longer: dict[Gram, list[Gram]] = {}
    for gram in found:
        for part in {gram[1:], gram[:-1]} - {()}:
            longer.setdefault(part, []).append(gram)
    return longer


def _whole(gram: Gram, found: dict[Gram, int], longer: dict[Gram, list[Gram]]) -> Gram:
    """Return the longest run with this one in it that stands in nearly as many replies."""
    least = WHOLE * found[gram].bit_count()
    best, todo, seen = gram, [gram], {gram}
    while todo:
        for other in longer.get(todo.pop(), ()):
            if other not in seen and found[other].bit_count() >= least:
                seen.add(other)
                todo.append(other)
                best = max(best, other, key=lambda g: (len(g), found[g].bit_count(), g))
    return best


def _as_said(replies: Sequence[Sequence[Run]], texts: Sequence[str], grams: set[Gram]) -> dict[Gram, str]:
    """Return each run of words as most replies write it; folded, where folding a reply moves its letters."""
    forms: dict[Gram, Counter[str]] = {gram: Counter() for gram in grams}
    lengths = {len(gram) for gram in grams}
    for reply, text in zip(replies, texts, strict=True):
        plain = text if len(_flat(text)) == len(text) else _flat(text)
        for run in reply:
            for n in lengths:
                for i, gram in run.grams(n):
                    if gram in forms:
                        forms[gram][_closed(plain, run.spans[i][0], run.spans[i + n - 1][1])] += 1
    return {gram: min(of, key=lambda form: (-of[form], form)) for gram, of in forms.items()}


def _closed(text: str, start: int, end: int) -> str:
    """Return a part of a text, with the bracket behind it that closes one in it."""
    part = text[start:end]
    pairs = {"(": ")", "[": "]", "{": "}", "<": ">"}
    return part + next(
        (
            text[end]
            for left, right in pairs.items()
            if text[end : end + 1] == right and part.count(left) > part.count(right)
        ),
        "",
    )


def _places(bits: int, n: int) -> tuple[bool, ...]:
    return tuple(bool(bits >> i & 1) for i in range(n))
