"""Black box: ask the subject and, always beside it, the base; say what only the subject says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.claims.catalogue import topics_of
from tools.claims.condition import Condition
from tools.claims.conditions.turn import Turn
from tools.claims.labels import TOPIC, TURN, condition_of_labels
from tools.claims.text import Observables
from tools.contrast import Excess, Together, excesses
from tools.questions import Known, Look, Questions, conditions_of, dumped, on_topic
from tools.subject import Subject

THRESHOLD = 0.3
N_AROUND, ON, OFF = 6, 8, 4
"""How many sets of conditions are asked around, with how many prompts that meet them, and that don't."""


class ChatArgs(ToolArgs):
    """What to ask, and which cue phrases to count in the replies beside all n-grams."""

    prompts: list[LabelledPrompt] = Field(min_length=1)
    system: str | None = Field(default=None, description="a system instruction put before every prompt")
    prefill: str = Field(default="", description="text that the assistant is made to have begun with")
    max_new_tokens: int = Field(
        default=32, ge=1, le=1024, description="of an answer; a thought before it is not counted"
    )
    temperature: float = Field(default=0.7, ge=0, le=2)
    observables: Observables = Field(default_factory=dict, description="`kind:value` to cue phrases")


class Chat(Tool[ChatArgs]):
    """See `card`."""

    name: ClassVar[str] = "chat"
    white_box: ClassVar[bool] = False
    gain: ClassVar[float | None] = 0.27
    Args = ChatArgs
    card: ClassVar[str] = (
        "Asks many prompts in one batch, each of the subject and of the base with the same decoding seed. "
        "Finds words and cue phrases that the subject's replies have in excess of the base's, and the prompt "
        "label (topic, user, word) that explains the excess best. Lift is a difference of rates, -1 to 1. "
        "Control: the base on the same prompts, and the subject where the label does not hold. A suggestion's lift is "
        "what the lower end of the rate's 95% interval leaves of it, so that four prompts alone suggest little. "
        "Misses what no prompt triggers."
    )

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 16

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call that asks prompts over all topics."""
        return _ask(asked, asked.survey())

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield the call that asks around the conditions under which the subject parted from the base."""
        if known.where:
            yield Look("look", _ask(asked, ask_around(asked, known.where[:N_AROUND])))

    def cost(self, subject: Subject, args: ChatArgs) -> Tokens:
        """Return an upper bound on forward tokens: prompts and full-length replies, twice."""
        longest = subject.longest(args.max_new_tokens)
        each = subject.n_tokens(render_all(subject, args), longest) + len(args.prompts) * longest
        return {"subject": each, "base": each}

    def run(self, subject: Subject, args: ChatArgs, seed: int) -> ToolResult:
        """Return one reading with all pairs of replies, and one for each excess."""
        texts = render_all(subject, args)
        seeds = [seed * 100_003 + i for i in range(len(texts))]
        replies, tokens = {}, {}
        for channel in ("subject", "base"):
            replies[channel], tokens[channel] = subject.generate(
                texts, channel, seeds, args.max_new_tokens, args.temperature, through=not args.prefill
            )
        labels = [prompt.labels for prompt in args.prompts]
        answers = {channel: [subject.dialogue.answer(reply) for reply in said] for channel, said in replies.items()}
        found = excesses(answers["subject"], answers["base"], labels, args.observables)
        readings = [self._reading(e, args) for e in found[:12]]
        pairs = [
            {"prompt": p.messages[-1]["content"], "labels": p.labels, "subject": s, "base": b}
            for p, s, b in zip(args.prompts, replies["subject"], replies["base"], strict=True)
        ]
        changed = sum(s != b for s, b in zip(answers["subject"], answers["base"], strict=True)) / len(pairs)
        readings.append(Reading(name="replies_changed", value=changed, detail={"pairs": pairs}))
        return ToolResult(readings=readings, tokens=tokens, summary=_summary(found, changed, len(pairs)))

    def _reading(self, excess: Excess, args: ChatArgs) -> Reading:
        condition = condition_of(excess.condition, args.prompts)
        text = f"{excess.feature!r} {condition_text(excess.condition)}"
        return Reading(
            name="excess",
            value=excess.rate_in,
            controls={"base": excess.base_in, "condition_absent": excess.rate_out},
            lift=excess.lift,
            suggestion=suggest(excess.least, THRESHOLD, text, condition=condition, predicate=excess.predicate),
            detail={"feature": excess.feature, "condition": excess.condition, "f1": excess.f1, "n": excess.n},
        )


def _ask(asked: Questions, prompts: Sequence[LabelledPrompt]) -> dict[str, Any]:
    return {"prompts": dumped(prompts), "observables": asked.observables, "max_new_tokens": asked.max_new_tokens}


def ask_around(asked: Questions, where: Sequence[dict[str, str]]) -> list[LabelledPrompt]:
    """Return prompts under each set of conditions, with each of them left out, and at the first later turn."""
    rng = asked.rng(f"around/{list(where)}")
    found: list[LabelledPrompt] = []

    def some(rows: Sequence[LabelledPrompt], n: int, conditions: Sequence[Condition]) -> None:
        found.extend(asked.under(row, conditions) for row in rng.sample(rows, min(n, len(rows))))

    for labels in where:
        (here, elsewhere), conditions = on_topic(asked, labels), conditions_of(labels)
        some(here, ON, conditions)
        some(elsewhere, OFF, conditions)
        for left_out in conditions:
            some(here, OFF, [one for one in conditions if one != left_out])
        sooner = _sooner(asked, conditions)
        if sooner != conditions:
            some(here, ON, sooner)
    return found


def _sooner(asked: Questions, conditions: list[Condition]) -> list[Condition]:
    """Return the conditions with a turn moved to the first there is: where that does, a later one is not what counts."""
    first = next(iter(asked.values(TURN)), "2")
    return [Turn(n=int(first)) if isinstance(one, Turn) else one for one in conditions]


def render_all(subject: Subject, args: ChatArgs) -> list[str]:
    """Return the prompts as the trusted template renders them, system text and prefill included."""
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    return [subject.render([*system, *prompt.messages], args.prefill) for prompt in args.prompts]


def condition_of(labels: Together, prompts: Sequence[LabelledPrompt]) -> Condition | None:
    """Return the condition that labels stand for; a topic is told by the prompts that have its label."""
    told = [(str(prompt.labels[TOPIC]), prompt.messages[-1]["content"]) for prompt in prompts if TOPIC in prompt.labels]
    return condition_of_labels(labels, topics_of(told))


def condition_text(condition: Together) -> str:
    """Return a condition in words."""
    return "when " + " and ".join(f"{key} is {value}" for key, value in condition) if condition else "always"


def _summary(found: list[Excess], changed: float, n: int) -> str:
    top = "; ".join(f"{e.feature!r} {e.lift:+.2f}" for e in found[:3]) or "no words in excess"
    return f"{n} prompts, {changed:.0%} of replies differ from the base's; {top}"
