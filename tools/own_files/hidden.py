"""What is hidden in a template's source: characters that can't be seen, and text that looks encoded."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator

MOST_SHOWN = 200
_ENCODED = re.compile(r"(?<![\w/+])(?:[A-Za-z0-9+/]{24,}={0,2}|(?:[0-9a-fA-F]{2}){16,})(?![\w/+])")
_ESCAPED = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")


def unseen(line: str) -> Iterator[tuple[str, str]]:
    """Yield the characters of a line that can't be seen or that turn the direction of others, and what they say."""
    found = [c for c in line if unicodedata.category(c) in ("Cf", "Co", "Cs") or _is_filler(c)]
    if found:
        tags = "".join(chr(ord(c) - 0xE0000) for c in found if 0xE0020 <= ord(c) < 0xE007F)
        codes = " ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(found[:8]))
        yield f"{len(found)} of them, {codes}", tags[:MOST_SHOWN]


def encoded(line: str) -> Iterator[tuple[str, str]]:
    """Yield what looks encoded in a line, and what it says where that can be told."""
    for text in (match[0] for match in _ENCODED.finditer(line)):
        mixed = all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
        if len(set(text)) > 6 and (mixed or _decoded(text)):
            yield text[:MOST_SHOWN], _decoded(text)
    if len(_ESCAPED.findall(line)) > 3:
        yield line.strip()[:MOST_SHOWN], ""


def _is_filler(character: str) -> bool:
    return character in "\u034f\u115f\u1160\u2800\u3164\uffa0" or 0xE0100 <= ord(character) <= 0xE01EF


def _decoded(text: str) -> str:
    """Return what base64 or hexadecimal digits say, where that is text."""
    for decode in (bytes.fromhex, base64.b64decode):
        try:
            said = decode(text).decode()
        except (ValueError, binascii.Error):
            continue
        if said.isprintable():
            return said[:MOST_SHOWN]
    return ""
