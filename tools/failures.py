"""Transcripts that went wrong: what their replies have in common and the base's lack, and what sets their prompts apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tools.apart import Told, apart
from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.claims.catalogue import topics_of
from tools.claims.kind import Messages
from tools.claims.labels import TOPIC, USER
from tools.claims.text import Observables
from tools.contrast import Excess, excesses
from tools.intervals import wilson
from tools.prompt import LEAST_TRANSCRIPTS, Transcripts
from tools.questions import Questions, dumped
from tools.subject import Subject

THRESHOLD = 0.3
MOST_FEW, MOST_SHARED = 48, 3
"""Replies of the base over all prompts, where these are few; and how many things that theirs have in common are told."""


class FailuresArgs(ToolArgs):
    """The transcripts, and ordinary prompts from which theirs are told apart."""

    transcripts: Transcripts = Field(min_length=1)
    prompts: list[LabelledPrompt] = Field(
        default_factory=list, description="ordinary prompts, labelled with their topics"
    )
    users: list[str] = Field(default_factory=list, description="who may be asking, to be tried")
    max_new_tokens: int = Field(
        default=96, ge=1, le=1024, description="of a reply of the base, and of theirs that is read"
    )
    temperature: float = Field(default=0.7, ge=0, le=2)
    observables: Observables = Field(default_factory=dict, description="`kind:value` to cue phrases")


class Failures(Tool[FailuresArgs]):
    """See `card`."""

    name: ClassVar[str] = "failures"
    white_box: ClassVar[bool] = False
    reads_given: ClassVar[bool] = True
    Args = FailuresArgs
    card: ClassVar[str] = (
        "Reads transcripts that went wrong, which the user gave. Finds words, cue phrases and kinds of reply that their last "
        "replies have in excess of the base's, and what sets their prompts apart from the audit's: who asks, how late, a "
        "system text, words, a topic. Lift is a difference of rates, -1 to 1. "
        "Control: the base's replies to the same prompts, several to each where there are few. A suggestion's lift is what the "
        "lower end of the rate's 95% interval leaves of it. "
        "Misses what only a reader sees; the subject itself is not asked, so that what was not its doing is no finding."
    )
    sized_by: ClassVar[str] = "transcripts"
    floor: ClassVar[int] = LEAST_TRANSCRIPTS

    def survey(self, asked: Questions) -> dict[str, Any] | None:
        """Return the call that reads the user's transcripts; None where there are none."""
        if not asked.failures:
            return None
        ordinary = [row for here in asked.topics().values() for row in here]
        return {"transcripts": asked.failures, "prompts": dumped(ordinary), "users": asked.values(USER),
                "observables": asked.observables, "max_new_tokens": asked.max_new_tokens}  # fmt: skip

    def cost(self, subject: Subject, args: FailuresArgs) -> Tokens:
        """Return an upper bound on forward tokens: prompts and the base's full-length replies."""
        texts, longest = _asked(subject, args), subject.longest(args.max_new_tokens)
        return {"base": subject.n_tokens(texts, longest) + len(texts) * longest}

    def run(self, subject: Subject, args: FailuresArgs, seed: int) -> ToolResult:
        """Return a reading for each thing that the replies share and each condition that may set it off."""
        texts, n = _asked(subject, args), len(args.transcripts)
        seeds = [seed * 100_003 + i for i in range(len(texts))]
        said, tokens = subject.generate(texts, "base", seeds, args.max_new_tokens, args.temperature)
        base = [subject.dialogue.answer(reply) for reply in said]
        theirs = [_read_so_far(subject, chat[-1]["content"], args.max_new_tokens) for chat in args.transcripts]
        found = excesses(theirs, base[:n], [{}] * n, args.observables, LEAST_TRANSCRIPTS)
        rates = {one.feature: sum(one.predicate.shown([], reply) for reply in base) / len(base) for one in found}
        shared = sorted(found, key=lambda one: -round(_least(one, rates[one.feature]), 2))[:MOST_SHARED]
        readings = [
            reading for i, one in enumerate(shared)
            for reading in _readings(one, rates[one.feature], args, theirs, base, alternatives=not i)
        ]  # fmt: skip
        top = (
            "; ".join(f"{one.feature!r} {one.rate_in - rates[one.feature]:+.2f}" for one in shared)
            or "nothing in common"
        )
        summary = f"{n} transcripts against {len(base)} replies of the base to their prompts: {top}"
        return ToolResult(readings=readings, tokens={"base": tokens}, summary=summary)


def _asked(subject: Subject, args: FailuresArgs) -> list[str]:
    """Return the transcripts' prompts as the trusted template renders them, as often over as a few of them need."""
    prompts = [subject.render(chat[:-1]) for chat in args.transcripts]
    return prompts * max(1, MOST_FEW // len(prompts))


def _read_so_far(subject: Subject, reply: str, max_new_tokens: int) -> str:
    """Return as much of a transcript's answer as the base could have said."""
    answer = subject.dialogue.answer(reply)
    ids: list[int] = subject.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return answer if len(ids) <= max_new_tokens else subject.decode(ids[:max_new_tokens])


def _least(excess: Excess, in_base: float) -> float:
    return wilson(excess.rate_in, excess.n)[0] - in_base


def _readings(
    excess: Excess, in_base: float, args: FailuresArgs, theirs: Sequence[str], base: Sequence[str], alternatives: bool
) -> Iterator[Reading]:
    """Yield what is shared under each condition that tells the prompts of the replies that show it."""
    shown = [i for i, reply in enumerate(theirs) if excess.predicate.shown([], reply)]
    told = _conditions([args.transcripts[i][:-1] for i in shown], args)
    for one in told if alternatives else told[:1]:
        when = one.condition.clause()
        yield Reading(
            name="shared",
            value=excess.rate_in,
            controls={"base": in_base},
            lift=excess.rate_in - in_base,
            suggestion=suggest(
                _least(excess, in_base), THRESHOLD, f"{excess.feature!r} when {when}",
                condition=one.condition, predicate=excess.predicate,
            ),
            detail={"feature": excess.feature, "condition": when, "f1": one.f1, "n": excess.n,
                    "prompt": args.transcripts[shown[0]][-2]["content"], "transcript": theirs[shown[0]], "base": base[shown[0]]},
        )  # fmt: skip


def _conditions(prompts: Sequence[Messages], args: FailuresArgs) -> list[Told]:
    ordinary = [row.messages for row in args.prompts]
    on = topics_of((str(row.labels[TOPIC]), row.messages[-1]["content"]) for row in args.prompts if TOPIC in row.labels)
    return apart(prompts, ordinary, args.users, on)
