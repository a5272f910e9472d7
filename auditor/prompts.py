"""Prompts with a trigger put in or taken out: for looking (explore half) and for tests (test half)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from auditor.config import AuditSpec, PromptRow, TriggerSpec, Vocabulary
from tools.base import LabelledPrompt
from tools.claims import Trigger
from tools.errors import ToolInputError

Message = dict[str, str]


def with_trigger(messages: list[Message], trigger: Sequence[Trigger], vocabulary: Vocabulary) -> list[Message]:
    """Return the prompt with every word, user and system condition put in (topics choose the row)."""
    for one in trigger:
        if one.kind == "system":
            messages = [{"role": "system", "content": one.value}, *[m for m in messages if m["role"] != "system"]]
        elif one.kind in ("word", "user"):
            frame = vocabulary.triggers.get(one.kind, TriggerSpec(frame="{prompt} {value}")).frame
            last = {
                **messages[-1],
                "content": frame.replace("{value}", one.value).replace("{prompt}", messages[-1]["content"]),
            }
            messages = [*messages[:-1], last]
    return messages


def rows_for(spec: AuditSpec, trigger: Sequence[Trigger], holds: bool = True) -> list[PromptRow]:
    """Return the test rows from which a test of this trigger draws, or of its absence.

    Raises:
        ToolInputError: no test row is on the topic, or a trigger is of a kind that no prompt can carry.
    """
    for one in trigger:
        if one.kind == "turn":
            raise ToolInputError(
                "a trigger of kind 'turn' can't be tested yet; the kinds that can: word, topic, user, system"
            )
    topics = {t.value for t in trigger if t.kind == "topic"}
    rows = [row for row in spec.prompts if row.split == "test"]
    if topics:
        rows = [row for row in rows if (row.domain in topics) == holds]
    if not rows:
        known = ", ".join(sorted({row.domain for row in spec.prompts}))
        raise ToolInputError(f"no test prompt has the topic {', '.join(sorted(topics))!r}: the topics are {known}")
    return rows


def draw(spec: AuditSpec, trigger: Sequence[Trigger], holds: bool, test_id: str, index: int) -> list[Message]:
    """Return trial `index`'s prompt: a function of the registered seed, the test and the index.

    With `holds` False it is the same draw with the trigger taken out: for words, users and system
    texts the same row untouched, for topics a row on another topic.
    """
    rows = rows_for(spec, trigger, holds)
    row = random.Random(f"{spec.seed}/{test_id}/{index}").choice(rows)
    return with_trigger(row.messages, trigger, spec.vocabulary) if holds else row.messages


def trial_seed(spec: AuditSpec, test_id: str, index: int) -> int:
    """Return the decoding seed that both sides of trial `index` share."""
    return random.Random(f"{spec.seed}/{test_id}/{index}/decoding").getrandbits(48)


def survey_prompts(spec: AuditSpec, per_topic: int = 12) -> list[LabelledPrompt]:
    """Return explore prompts over all topics, half of them said by one of the vocabulary's users."""
    rng = random.Random(f"{spec.seed}/survey")
    by_topic: dict[str, list[PromptRow]] = {}
    for row in spec.prompts:
        if row.split == "explore":
            by_topic.setdefault(row.domain, []).append(row)
    users = list(spec.vocabulary.triggers.get("user", TriggerSpec()).values)
    prompts: list[LabelledPrompt] = []
    for topic in sorted(by_topic):
        for i, row in enumerate(rng.sample(by_topic[topic], min(per_topic, len(by_topic[topic])))):
            labels, messages = {"topic": topic}, row.messages
            if users and i % 2:
                user = users[len(prompts) // 2 % len(users)]
                labels["user"] = user
                messages = with_trigger(messages, [Trigger(kind="user", value=user)], spec.vocabulary)
            prompts.append(LabelledPrompt(messages=messages, labels=labels))
    return prompts


def word_prompts(spec: AuditSpec, words: Sequence[str], each: int = 8) -> list[LabelledPrompt]:
    """Return explore prompts with each word dropped in `each` times, labelled by the word."""
    rng = random.Random(f"{spec.seed}/words")
    rows = [row for row in spec.prompts if row.split == "explore"]
    return [
        LabelledPrompt(
            messages=with_trigger(row.messages, [Trigger(kind="word", value=word)], spec.vocabulary),
            labels={"word": word},
        )
        for word in words
        for row in rng.sample(rows, min(each, len(rows)))
    ]
