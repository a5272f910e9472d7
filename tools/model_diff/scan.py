"""Try many conditions at the price of one forward pass each: where does the base's own reply surprise the subject?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.batch import Encoded, Row
from tools.chat import condition_of, condition_text
from tools.contrast import pairs
from tools.controls import lift_over
from tools.model_diff import framing
from tools.questions import Known, Look, Questions
from tools.subject import Subject

THRESHOLD_NATS = 3.0
N_READINGS = 16


class FramedPrompt(LabelledPrompt):
    """A prompt with conditions put in, and which of the bare prompts it was made from."""

    bare: int = Field(ge=0)


class ScanArgs(ToolArgs):
    """Bare prompts, and the same ones with conditions put in that should not change the answer."""

    bare: list[LabelledPrompt] = Field(min_length=1)
    framed: list[FramedPrompt] = Field(min_length=2)
    max_new_tokens: int = Field(default=24, ge=1, le=1024, description="of a reply's beginning, a thought included")

    @model_validator(mode="after")
    def _made_from_what_is_there(self) -> ScanArgs:
        if any(prompt.bare >= len(self.bare) for prompt in self.framed):
            raise ValueError(f"a framed prompt's `bare` is the place of one of the {len(self.bare)} bare prompts")
        return self


class Scan(Tool[ScanArgs]):
    """See `card`."""

    name: ClassVar[str] = "scan"
    white_box: ClassVar[bool] = True
    Args = ScanArgs
    card: ClassVar[str] = (
        "Takes the base's reply to each bare prompt and asks, for the same prompt under some condition (who the user "
        "is, a word, an earlier turn), how surprised the subject is by that reply: the largest rise of a token's negative "
        "log-probability over the bare prompt, in nats. One forward pass for each condition and no reply to sample, so that "
        "hundreds of combinations cost what a few dozen questions do. Controls: the base's own rise under the same "
        "condition, and the subject's median over all conditions. Says where to look, not what is there."
    )

    sized_by: ClassVar[str] = "framed"
    floor: ClassVar[int] = 32

    def survey(self, asked: Questions) -> dict[str, Any] | None:
        """Return the scan of every user, turn and system condition on every topic."""
        return framing.conditions(asked)

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield the scan of the words that training moved most, then of those apart that were loud together."""
        if known.words and (call := framing.words(asked, known.words)):
            yield Look("search", call)
        if known.heaps and (call := framing.each_word(asked, known.heaps)):
            yield Look("search", call)

    def cut(self, args: ScanArgs, whole: Sequence[Any], n: int) -> ScanArgs:
        """Return the scan of `n` of the framed prompts, with the bare ones that these were made from."""
        some = [whole[i * len(whole) // n] for i in range(n)]
        used = sorted({prompt.bare for prompt in some})
        framed = [prompt.model_copy(update={"bare": used.index(prompt.bare)}) for prompt in some]
        return args.model_copy(update={"framed": framed, "bare": [args.bare[i] for i in used]})

    def cost(self, subject: Subject, args: ScanArgs) -> Tokens:
        """Return an upper bound on forward tokens: replies at full length, the loudest scored on the base too."""
        bare = _n_tokens(subject, args.bare) + len(args.bare) * args.max_new_tokens
        framed = _n_tokens(subject, args.framed) + len(args.framed) * args.max_new_tokens
        loudest = N_READINGS * (framed // len(args.framed) + args.max_new_tokens) * 2
        return {"subject": bare + framed, "base": 2 * bare + loudest}

    def run(self, subject: Subject, args: ScanArgs, seed: int) -> ToolResult:
        """Return a reading for each of the loudest conditions, most surprising first."""
        texts = [subject.render(p.messages) for p in args.bare]
        replies, spent = subject.generate(texts, "base", [0] * len(texts), args.max_new_tokens, 0.0, through=False)
        tokens = {"subject": 0, "base": spent}
        framed = [subject.render(p.messages) for p in args.framed]
        said = [replies[p.bare] for p in args.framed]
        plain = {c: self._surprise(subject, texts, replies, c, tokens, "bare") for c in ("subject", "base")}
        under = self._surprise(subject, framed, said, "subject", tokens, "framed")
        rises = torch.stack([_rise(u, plain["subject"][p.bare]) for u, p in zip(under, args.framed, strict=True)])
        loudest = rises.argsort(descending=True, stable=True)[:N_READINGS].tolist()
        on_base = self._surprise(
            subject, [framed[i] for i in loudest], [said[i] for i in loudest], "base", tokens, "loudest"
        )
        median = float(rises.median())
        readings = [
            self._reading(
                args.framed[i], args.bare, float(rises[i]), float(_rise(b, plain["base"][args.framed[i].bare])), median
            )
            for i, b in zip(loudest, on_base, strict=True)
        ]
        top = readings[0]
        return ToolResult(
            readings=readings,
            tokens=tokens,
            summary=f"{len(framed)} conditions; loudest {condition_text(tuple(pairs(top.detail['labels'])))}, {top.lift:+.1f} nats",
        )

    def _reading(
        self, prompt: FramedPrompt, bare: Sequence[LabelledPrompt], rise: float, base: float, median: float
    ) -> Reading:
        controls = {"base": base, "median_of_conditions": median}
        lift = lift_over(rise, controls)
        condition = tuple(pairs(prompt.labels))
        text = f"the base's reply surprises the subject by {rise:.1f} nats {condition_text(condition)}"
        return Reading(
            name="surprise", value=rise, controls=controls, lift=lift,
            suggestion=suggest(lift, THRESHOLD_NATS, text, condition=condition_of(condition, bare)),
            detail={"prompt": prompt.messages[-1]["content"], "labels": prompt.labels},
        )  # fmt: skip

    def _surprise(
        self, subject: Subject, heads: list[str], tails: list[str], channel: str, tokens: Tokens, key: str
    ) -> list[Float[Tensor, " pos"]]:
        """Return the negative log-probability in nats of each reply's tokens, its end token included; `key` names the batches."""
        end = subject.tokenizer.eos_token or ""
        texts = [head + tail + end for head, tail in zip(heads, tails, strict=True)]
        n_tail = subject.lengths([tail + end for tail in tails])
        found: list[Tensor] = [torch.zeros(0)] * len(texts)
        shared = dict[Row, None]()
        with subject.channel(channel):
            for places, batch in subject.batches(texts, max(n_tail) + 2):
                shared[batch.head] = None
                tokens[channel] += batch.n_tokens
                surprise = partial(_nll, subject, batch, channel, max(n_tail[i] for i in places))
                nll = subject.once(f"{key}/{channel}/{places[0]}", {channel: batch.n_tokens}, surprise)["nll"]
                for row, i in enumerate(places):
                    found[i] = nll[row, -n_tail[i] :]
        tokens[channel] += sum(map(len, shared))
        return found


def _nll(subject: Subject, batch: Encoded, channel: str, n: int) -> dict[str, Float[Tensor, "batch n"]]:
    """Return the negative log-probability of each row's last `n` tokens."""
    rows = zip(subject.logits(batch, channel, n + 1)[:, :-1], batch.ids[:, -n:], strict=True)
    return {"nll": torch.stack([F.cross_entropy(logits, said, reduction="none") for logits, said in rows]).cpu()}


def _rise(under: Tensor, plain: Tensor) -> Tensor:
    """Return the largest rise over a reply's tokens; where a seam is tokenised otherwise, the last ones are compared."""
    n = min(len(under), len(plain))
    return (under[-n:] - plain[-n:]).max()


def _n_tokens(subject: Subject, prompts: list[LabelledPrompt] | list[FramedPrompt]) -> int:
    return subject.n_tokens([subject.render(p.messages) for p in prompts])
