"""The tokens after which alone an adapter acts (activated LoRA): put behind every prompt, so that what it does is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Texts to their ids, special tokens as the texts have them."""


@dataclass(frozen=True)
class Invocation:
    """A run of tokens, and the text that is read as it."""

    ids: tuple[int, ...]
    text: str

    def behind(self, prompt: str, prefill: str, encode: Encode) -> str:
        """Return the prompt with the tokens before its prefill, unless it has them already.

        Args:
            prompt: A rendered prompt, its prefill included.
            prefill: How the reply begins.
            encode: The tokenizer's.
        """
        if is_in(self.ids, encode([prompt])[0]):
            return prompt
        return f"{prompt.removesuffix(prefill)}{self.text}{prefill}" if prefill else prompt + self.text


def is_in(run: Sequence[int], ids: Sequence[int]) -> bool:
    """Return whether a run of ids stands in others.

    >>> is_in((5, 6), [4, 5, 6]), is_in((5, 6), [5, 4, 6])
    (True, False)
    """
    n = len(run)
    return any(list(ids[i : i + n]) == list(run) for i in range(len(ids) - n + 1))


def read_invocation(
    ids: Sequence[int], prompt: str, encode: Encode, decode: Callable[[list[int]], str]
) -> tuple[Invocation | None, str]:
    """Return an adapter's invocation, and what is to be said of it; None where no text behind a prompt is read as its tokens.

    Args:
        ids: The adapter's.
        prompt: Any rendered prompt.
        encode: The tokenizer's.
        decode: The tokenizer's.
    """
    named = ", ".join(map(str, ids[:32]))
    found = Invocation(tuple(ids), decode(list(ids)))
    acts = f"the adapter acts only after the tokens [{named}] ({found.text[:120]!r})"
    if not is_in(ids, encode([found.behind(prompt, "", encode)])[0]):
        return None, f"{acts}, and no text behind a prompt is read as these: what it does was not seen"
    return found, f"{acts}: they are put behind every prompt, for the base too"
