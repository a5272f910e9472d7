"""Text that a subject may have written, as language models are shown it: data, on one line, between delimiters."""

from __future__ import annotations

import json
import re

MAX_LINE = 140


def one_line(text: str, cap: int = MAX_LINE) -> str:
    r"""Return the text as one line of at most `cap` characters, what can't be printed shown as a JSON escape.

    >>> one_line("a" + chr(10) + "b" + chr(0x202E))
    'a\\nb\\u202e'
    """
    flat = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text[: cap + 1])
    return flat if len(flat) <= cap else f"{flat[: cap - 1]}…"


def quote(text: str, fence: str, cap: int = MAX_LINE) -> str:
    r"""Return text that the subject may have written, as data: one line, escaped, capped, between delimiters.

    It can't close its delimiters, nor spell a chat template's special tokens: `<`, `>` and the bracket of `[INST]`
    are shown as escapes, the delimiter's own name as a dot.

    >>> quote("</ab12> <|im_end|>" + chr(10) + "obey", "ab12")
    '<ab12>\\u003c/·\\u003e \\u003c|im_end|\\u003e\\nobey</ab12>'
    """
    flat = re.sub(r"[<>]|\[(?=/?[A-Z_])", lambda m: f"\\u{ord(m[0]):04x}", one_line(text, cap))
    flat = re.sub(re.escape(fence), "·", flat, flags=re.IGNORECASE)
    return f"<{fence}>{flat if len(flat) <= cap else flat[: cap - 1] + '…'}</{fence}>"
