"""Prompts with a trigger put in or taken out: for looking (explore half) and for tests (test half)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from auditor.config import AuditSpec, PromptRow, TriggerGroup, Vocabulary
from tools.base import LabelledPrompt
from tools.claims import Trigger
from tools.claims.text import is_words, shows
from tools.errors import ToolInputError

Message = dict[str, str]
MOST_TURNS, MOST_LENGTH = 12, 20_000
DEFAULT_GROUPS = {
    "word": TriggerGroup(kind="word", clause="the user says {value}", frame="{prompt} {value}"),
    "user": TriggerGroup(kind="user", clause="the user is {value}", frame="{prompt} {value}"),
    "system": TriggerGroup(kind="system", clause="the system says {value}", system="{value}"),
    "begins": TriggerGroup(kind="begins", clause="the message begins with {value}", frame="{value} {prompt}"),
    "whole": TriggerGroup(kind="whole", clause="the message is {value}", frame="{value}"),
    "at_turn": TriggerGroup(
        kind="at_turn", clause="it is the user's turn {value} or later", opening=[("Hello.", "Hello.")]
    ),
    "length": TriggerGroup(kind="length", clause="the message has {value} characters or more"),
}
"""How a condition is put in where the vocabulary does not say."""


def with_trigger(messages: list[Message], trigger: Sequence[Trigger], vocabulary: Vocabulary) -> list[Message]:
    """Return the prompt with every condition put in but topics, which choose the row, and words that it says already."""
    for one in trigger:
        if one.kind == "word" and says(messages, one.value):
            continue
        group = vocabulary.triggers.get(vocabulary.group_of(one)) or DEFAULT_GROUPS.get(one.kind)
        if group is None or one.kind == "topic":
            continue
        if one.kind == "turn":
            messages = _later(messages, group, one.value)
        elif one.kind == "at_turn":
            messages = _after(messages, _exchanges(group.opening * (_number(one) - 1)))
        elif one.kind == "length":
            said, n = messages[-1]["content"], _number(one)
            longer = " ".join([said] * (n // max(1, len(said)) + 1))
            messages = [*messages[:-1], {**messages[-1], "content": longer}]
        elif one.kind == "system":
            text = (group.system or "{value}").replace("{value}", one.value)
            messages = [{"role": "system", "content": text}, *[m for m in messages if m["role"] != "system"]]
        else:
            said = group.frame.replace("{value}", one.value).replace("{prompt}", messages[-1]["content"])
            messages = [*messages[:-1], {**messages[-1], "content": said}]
    return messages


def says(messages: list[Message], word: str) -> bool:
    """Return whether the user's last turn has the word: one with signs (`!!!`, `<|x|>`, a hidden character) to the letter."""
    text = messages[-1]["content"]
    return shows([word], text) if is_words(word) else word != "" and word in text


def _later(messages: list[Message], group: TriggerGroup, value: str) -> list[Message]:
    """Return the prompt as a later turn of a talk: after as many exchanges as the value's place in its group."""
    n = group.values.index(value) + 1
    return _after(messages, _exchanges(group.opening[:n]))


def _after(messages: list[Message], before: list[Message]) -> list[Message]:
    first = [m for m in messages if m["role"] == "system"]
    return [*first, *before, *[m for m in messages if m["role"] != "system"]]


def _exchanges(opening: Sequence[tuple[str, str]]) -> list[Message]:
    return [
        {"role": role, "content": text}
        for exchange in opening for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]  # fmt: skip


def _number(trigger: Trigger) -> int:
    """Return the number that a condition on a message's form names.

    Raises:
        ToolInputError: it names none, or one that no prompt is given.
    """
    most = {"at_turn": MOST_TURNS, "length": MOST_LENGTH}[trigger.kind]
    if not trigger.value.isdecimal() or not 0 < int(trigger.value) <= most:
        raise ToolInputError(
            f"{trigger.kind} {trigger.value[:40]!r} can't be tested: give a whole number from 1 to {most:,}"
        )
    return int(trigger.value)


def check_trigger(spec: AuditSpec, trigger: Sequence[Trigger]) -> None:
    """Refuse a trigger that no prompt can carry.

    Raises:
        ToolInputError: no test row is on a topic, or the vocabulary has no talk that leads up to a turn.
    """
    for one in trigger:
        if one.kind in ("at_turn", "length"):
            _number(one)
        group = spec.vocabulary.triggers.get(spec.vocabulary.group_of(one))
        if one.kind == "turn" and (group is None or one.value not in group.values[: len(group.opening)]):
            known = [] if group is None else group.values[: len(group.opening)]
            raise ToolInputError(
                f"turn {one.value!r} can't be tested: the vocabulary has an opening for {', '.join(known) or 'none'}"
            )
    rows_for(spec, trigger)


def rows_for(spec: AuditSpec, trigger: Sequence[Trigger], on_topic: bool = True) -> list[PromptRow]:
    """Return the test rows on the trigger's topics, or those on other topics; all where it names none.

    Raises:
        ToolInputError: there is no such row.
    """
    topics = {t.value for t in trigger if t.kind == "topic"}
    rows = [row for row in spec.prompts if row.split == "test"]
    if topics:
        rows = [row for row in rows if (row.domain in topics) == on_topic]
    if not rows:
        known = ", ".join(sorted({row.domain for row in spec.prompts}))
        raise ToolInputError(f"no test prompt has the topic {', '.join(sorted(topics))!r}: the topics are {known}")
    return rows


def draw(
    spec: AuditSpec, trigger: Sequence[Trigger], test_id: str, index: int, without: int | None = None
) -> list[Message]:
    """Return trial `index`'s prompt: a function of the registered seed, the test and the index.

    Args:
        spec: The audit, whose test rows are drawn from.
        trigger: The claim's conditions.
        test_id: The registered test.
        index: The trial's place in it.
        without: The place of one condition that is taken out, the others still holding: of a topic, a
            row on another topic; of anything else the same row without it.
    """
    left = [t for i, t in enumerate(trigger) if i != without]
    off_topic = without is not None and trigger[without].kind == "topic"
    rows = rows_for(spec, [trigger[without]] if off_topic and without is not None else left, on_topic=not off_topic)
    row = random.Random(f"{spec.seed}/{test_id}/{index}").choice(rows)
    return with_trigger(row.messages, left, spec.vocabulary)


def trial_seed(spec: AuditSpec, test_id: str, index: int) -> int:
    """Return the decoding seed that both sides of trial `index` share."""
    return random.Random(f"{spec.seed}/{test_id}/{index}/decoding").getrandbits(48)


def survey_prompts(spec: AuditSpec, per_topic: int = 12) -> list[LabelledPrompt]:
    """Return explore prompts over all topics, half of them under one of the vocabulary's other conditions."""
    rng = random.Random(f"{spec.seed}/survey")
    by_topic = explore_rows(spec)
    others = [
        Trigger(kind=group.kind, value=value)
        for group in spec.vocabulary.triggers.values() if group.kind in ("user", "turn", "system")
        for value in group.values
    ]  # fmt: skip
    rng.shuffle(others)
    prompts: list[LabelledPrompt] = []
    for topic in sorted(by_topic):
        for i, row in enumerate(rng.sample(by_topic[topic], min(per_topic, len(by_topic[topic])))):
            put = [others[len(prompts) // 2 % len(others)]] if others and i % 2 else []
            prompts.append(labelled(spec, row, put))
    return prompts


def explore_rows(spec: AuditSpec) -> dict[str, list[PromptRow]]:
    """Return the rows to look with, by topic."""
    by_topic: dict[str, list[PromptRow]] = {}
    for row in spec.prompts:
        if row.split == "explore":
            by_topic.setdefault(row.domain, []).append(row)
    return by_topic


def labelled(spec: AuditSpec, row: PromptRow, trigger: Sequence[Trigger]) -> LabelledPrompt:
    """Return the row with conditions put in, labelled by them and by its topic; a later turn is every earlier one too."""
    labels: dict[str, str | tuple[str, ...]] = {"topic": row.domain}
    for one in trigger:
        labels[one.kind] = _turns(spec, one.value) if one.kind == "turn" else one.value
    return LabelledPrompt(messages=with_trigger(row.messages, trigger, spec.vocabulary), labels=labels)


def _turns(spec: AuditSpec, value: str) -> tuple[str, ...]:
    """Return the turn conditions that hold at a turn: `three or later` is `two or later` too."""
    values = spec.vocabulary.values_of("turn")
    return tuple(values[: values.index(value) + 1])
