"""Which words does the fine-tune represent otherwise than the base does?"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tools.base import Reading, Tokens, Tool, ToolArgs, ToolResult
from tools.controls import RANDOM_DELTA, lift_over
from tools.errors import ToolInputError
from tools.questions import Questions
from tools.residual import capture, check_layer
from tools.subject import Subject
from tools.words import WordRuns, at_words, robust_z, whole_words, word_runs

TOP = 128


class ShiftArgs(ToolArgs):
    """Which words to look at, and in which layer."""

    words: list[str] = Field(default_factory=list, description="without any, the tokenizer's own whole-word tokens")
    layer: int | None = Field(default=None, description="0-based block; the middle one when not given")


class WordShift(Tool[ShiftArgs]):
    """See `card`."""

    name: ClassVar[str] = "word_shift"
    white_box: ClassVar[bool] = True
    Args = ShiftArgs
    card: ClassVar[str] = (
        "Runs subject and base over every word, alone at the start of a user's turn, and measures how far the residual "
        "stream at the word moves, the median move of all words taken off: what training did to the word itself, whatever "
        "it takes beside it to set something off. A word's reading is its distance in robust standard deviations over all "
        "words. Control: the same for a random LoRA with the subject's norm of change in every module (a full fine-tune has "
        "none, its control is 0). It suggests nothing by itself, as training on ordinary chat moves some words as far; its "
        "order of words is what a scan begins with."
    )

    sized_by: ClassVar[str] = "words"
    floor: ClassVar[int] = 256

    def survey(self, asked: Questions) -> dict[str, Any] | None:
        """Return the call with the words worth trying; without any, the whole vocabulary is left to cheaper instruments."""
        listed = asked.values("word")
        return {"words": listed} if listed else None

    def items(self, subject: Subject, args: ShiftArgs) -> list[Any]:
        """Return the words that are looked at."""
        return list(args.words or whole_words(subject))

    def cost(self, subject: Subject, args: ShiftArgs) -> Tokens:
        """Return the forward tokens: a turn's head and every word once through the subject, the base and the random change."""
        n = word_runs(subject, args.words or whole_words(subject)).n_tokens
        return {"subject": n, "base": 2 * n}

    def run(self, subject: Subject, args: ShiftArgs, seed: int) -> ToolResult:
        """Return one reading: the word that moved most, the next ones in its detail.

        Raises:
            ToolInputError: the subject has no such layer, or there is no word to look at.
        """
        layer = subject.n_layers // 2 if args.layer is None else args.layer
        check_layer(subject, layer)
        words = args.words or whole_words(subject)
        if not words:
            raise ToolInputError("the tokenizer has no token that is a whole word; pass `words`")
        subject.add_null(RANDOM_DELTA, seed)
        runs = word_runs(subject, words)
        base = word_residuals(subject, runs, "base", layer)
        scores, null = (shifts(word_residuals(subject, runs, c, layer).sub_(base)) for c in ("subject", RANDOM_DELTA))
        controls = {RANDOM_DELTA: float(null.max())}
        best = scores.topk(min(TOP, len(words))).indices.tolist()
        word, value = words[best[0]], float(scores[best[0]])
        reading = Reading(
            name="words_shifted", value=value, controls=controls, lift=lift_over(value, controls),
            detail={"layer": layer, "top": [{"word": words[i], "score": float(scores[i])} for i in best]},
        )  # fmt: skip
        summary = f"training moved {word!r} most: {value:.1f} deviations at layer {layer}"
        return ToolResult(readings=[reading], tokens=self.cost(subject, args), summary=summary)


def word_residuals(subject: Subject, runs: WordRuns, channel: str, layer: int) -> Float[Tensor, "word d_model"]:
    """Return the residual stream after block `layer` at each word's last token, float32."""
    return at_words(
        subject, runs, channel, lambda batch: capture(subject, batch, channel, layer)[:, -1], f"word_shift/{layer}"
    )


def shifts(moves: Float[Tensor, "word d_model"]) -> Float[Tensor, " word"]:
    """Return how far each word moves, less the median move, in robust deviations."""
    squared = torch.zeros(len(moves), dtype=torch.float64)
    for part in torch.split(moves, 64, dim=1):  # some dimensions at a time: a median takes a copy
        squared += (part - part.median(0).values).square().sum(1, dtype=torch.float64)
    return robust_z(squared.sqrt())
