"""How text that someone else wrote is put into Markdown: as data, never as markup.

Replies, prompts, file names, errors and what tools say may hold anything. Characters that can't be seen, or that
change how others are seen, are shown as escapes; what is long is cut with the length of the rest; then a text becomes
either a fenced block or one line in which no character means anything to Markdown, HTML or GitHub.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

CAP = 400
"""Characters shown of any one text."""

_LIKE_NOTHING = re.compile("[\u034f\u115f\u1160\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_SIGNIFICANT = re.compile(
    r"[`*{}\[\]<>#|~&@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\\(?![A-Za-z0-9])"
    r"|\.(?=[^\W\d])|:(?=[^\s\d])|^(?:[-+=]|\d+(?=[.)](?: |$)))"
)
_NAMED = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


class Safe(str):
    """Markdown that a filter has made, to be printed as it is."""

    __slots__ = ()


def visible(text: str, keep: str = "") -> str:
    r"""Return the text with control, direction, invisible and odd space characters as escapes.

    >>> print(visible("a\x1b[31m\u202eb"))
    a\x1b[31m\u202eb

    Args:
        text: Any text, half surrogate pairs included.
        keep: Control characters to leave as they are.
    """
    return "".join(c if c in keep or _plain(c) else _escaped(c) for c in text)


def clip(text: str, cap: int | None = CAP) -> str:
    """Return the first `cap` characters and how many were left out, all of it for None.

    >>> clip("abcdef", 4)
    'abcd… (2 more characters)'
    """
    if cap is None or len(text) <= cap:
        return text
    return f"{text[:cap]}… ({len(text) - cap} more characters)"


def fence(text: str, cap: int | None = CAP) -> Safe:
    """Return a code block that nothing in the text can end; it has to stand on lines of its own."""
    body = visible(clip(str(text), cap), keep="\n\t")
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Safe(f"{ticks}text\n{body}\n{ticks}")


def inline(text: object, cap: int | None = CAP) -> Safe:
    """Return one line of plain text: whatever Markdown could read as markup is an entity."""
    if isinstance(text, Safe):
        return text
    line = visible(clip(str(text), cap)).strip(" ")
    return Safe(_SIGNIFICANT.sub(_entities, line))


def cell(text: object, cap: int | None = 160) -> Safe:
    """Return `inline` text for a table's cell, with a word for an empty one."""
    return inline(text, cap) or Safe("(empty)")


def number(value: float | None) -> Safe:
    """Return a number as people read it, three significant digits of a fraction.

    >>> [str(number(x)) for x in (None, 0.006079, 164.49, 1234.5, 2.5e9, 7)]
    ['undefined', '0.00608', '164', '1,234', '2.50e+09', '7']
    """
    if value is None:
        return Safe("undefined")
    if value and not 1e-3 <= abs(value) < 1e6 and not isinstance(value, int):
        return Safe(f"{value:.2e}")
    if isinstance(value, int) or abs(value) >= 100:
        return Safe(f"{value:,.0f}")
    return Safe(f"{value:.3g}")


def count(n: int, one: str, many: str | None = None) -> Safe:
    """Return a number of things; `many` is the plural where an s doesn't make it.

    >>> count(1, "pair"), count(2, "hypothesis", "hypotheses")
    ('1 pair', '2 hypotheses')
    """
    return Safe(f"{n:,} {one if n == 1 else many or one + 's'}")


def cite(seqs: int | Sequence[int], test: int | None = None) -> Safe:
    """Return ledger ids as the report cites them, runs of ids drawn together, of many runs the ends alone.

    >>> cite([4, 1, 2, 3, 9], test=7)
    '[#1–#4, #9, test #7]'

    Args:
        seqs: One id or several.
        test: The id of the registered test that the others belong to.
    """
    ids = sorted({seqs} if isinstance(seqs, int) else set(seqs))
    runs: list[list[int]] = []
    for seq in ids:
        if runs and seq == runs[-1][1] + 1:
            runs[-1][1] = seq
        else:
            runs.append([seq, seq])
    named = [f"#{a}" if a == b else f"#{a}–#{b}" for a, b in runs]
    if len(runs) > 4:
        named = [f"#{ids[0]} … #{ids[-1]}"]
    return Safe("[" + ", ".join(named + ([] if test is None else [f"test #{test}"])) + "]")


def _plain(c: str) -> bool:
    """Return whether a character is seen as what it is."""
    category = unicodedata.category(c)
    return c == " " or not (category[0] in "CZ" or _LIKE_NOTHING.match(c))


def _escaped(c: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    n = ord(c)
    return named.get(c) or (f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}")


def _entities(match: re.Match[str]) -> str:
    return "".join(_NAMED.get(c, f"&#{ord(c)};") for c in match[0])
