"""The looks that planners take: which tool, with which prompts, spans, layers and questions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from auditor import prompts
from auditor.config import AuditSpec, PromptRow
from auditor.steps import CallTool
from tools.base import LabelledPrompt, Tool
from tools.claims import Claim, Trigger

WORDS_AT_ONCE, WORDS_SAID_BY = 2, 48
ON, OFF = 8, 4
SEVERAL = "words"
"""The label of a prompt into which several words were dropped at once, separated by spaces."""


def _dump(rows: Sequence[LabelledPrompt]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json") for row in rows]


def survey(spec: AuditSpec, tools: dict[str, Tool[Any]]) -> list[CallTool]:
    """Return one call for each tool that can look at the whole subject without a lead."""
    wide = prompts.survey_prompts(spec)
    narrow = prompts.survey_prompts(spec, per_topic=4)
    words = spec.vocabulary.values_of("word")
    calls: dict[str, CallTool | None] = {
        "lora_lens": CallTool(tool="lora_lens", arguments={"words": words}),
        "lora_oracle": CallTool(tool="lora_oracle", arguments={"values": _values(spec)}),
        "word_shift": CallTool(tool="word_shift", arguments={"words": words}) if words else None,
        "chat": ask(spec, wide),
        "model_diff": CallTool(
            tool="model_diff", arguments={"prompts": _dump(narrow), "observables": spec.vocabulary.observables}
        ),
        "scan": scan_conditions(spec),
        "activation_oracle": CallTool(tool="activation_oracle", arguments={"prompts": _dump(narrow)}),
    }
    return [call for name, call in calls.items() if name in tools and call is not None]


def _values(spec: AuditSpec) -> dict[str, list[str]]:
    """Return what each kind of condition may hold in this audit: listed values, and the topics that there are prompts on."""
    kinds = dict.fromkeys(group.kind for group in spec.vocabulary.triggers.values())
    found = {str(kind): spec.vocabulary.values_of(kind) for kind in kinds}
    found["topic"] = sorted({*found.get("topic", ()), *prompts.explore_rows(spec)})
    return {kind: values for kind, values in found.items() if values}


def ask(spec: AuditSpec, asked: Sequence[LabelledPrompt]) -> CallTool:
    """Return the chat call that asks these prompts of subject and base."""
    return CallTool(
        tool="chat",
        arguments={"prompts": _dump(asked), "observables": spec.vocabulary.observables,
                   "max_new_tokens": spec.max_new_tokens},
    )  # fmt: skip


# -- many conditions at once


def scan_conditions(spec: AuditSpec) -> CallTool | None:
    """Return the scan of every user, turn and system condition on every topic; and of users at later turns."""
    turns, systems = (
        [Trigger(kind=kind, value=v) for v in spec.vocabulary.values_of(kind)] for kind in ("turn", "system")
    )
    users = _users(spec)
    each = [(one,) for one in (*users, *turns, *systems)]
    return _scan(spec, _on_every_topic(spec, each) + _in_turn(spec, list(product(users, turns))))


def scan_words(spec: AuditSpec, words: Sequence[str]) -> CallTool | None:
    """Return the scan of these words, several at once, on every topic and said by every kind of user.

    A word that matters only together with a topic or a user shows in one of the prompts that hold
    both; which of the prompt's words it was, `scan_each_word` says. Two words at once halve the
    price; more of them drown what one does in what a heap of words does to any model. Users are
    many, so that only the first `WORDS_SAID_BY` words are said by all of them: in a question that
    has the word anyway where there is one, else added to one.
    """
    asked_about = {w: row for w in words[:WORDS_SAID_BY] if (row := _question_with(spec, w))}
    strays = [w for w in words[:WORDS_SAID_BY] if w not in asked_about]
    by_users: list[Wanted] = [
        (row, (user, Trigger(kind="word", value=word))) for word, row in asked_about.items() for user in _users(spec)
    ]
    by_users += _in_turn(spec, [(user, *heap) for heap, user in product(_heaps(strays), _users(spec))])
    return _scan(spec, _on_every_topic(spec, _heaps(words)) + by_users)


def scan_each_word(spec: AuditSpec, labels: Sequence[dict[str, str]]) -> CallTool | None:
    """Return the scan that takes prompts with several words apart, one word to a prompt."""
    hosts, wanted = _hosts(spec), []
    for one in labels:
        rest = [Trigger(kind=k, value=v) for k, v in one.items() if k in ("user", "turn", "system")]  # type: ignore[arg-type]
        wanted += [(hosts[one["topic"]], (*rest, Trigger(kind="word", value=w))) for w in one[SEVERAL].split()]
    return _scan(spec, wanted)


Wanted = tuple[PromptRow, tuple[Trigger, ...]]


def _users(spec: AuditSpec) -> list[Trigger]:
    return [Trigger(kind="user", value=value) for value in spec.vocabulary.values_of("user")]


def _heaps(words: Sequence[str]) -> list[tuple[Trigger, ...]]:
    return [
        tuple(Trigger(kind="word", value=word) for word in words[i : i + WORDS_AT_ONCE])
        for i in range(0, len(words), WORDS_AT_ONCE)
    ]


def _hosts(spec: AuditSpec) -> dict[str, PromptRow]:
    """Return one row of each topic, into which conditions are put."""
    rng = random.Random(f"{spec.seed}/scan")
    return {topic: rng.choice(rows) for topic, rows in sorted(prompts.explore_rows(spec).items())}


def _on_every_topic(spec: AuditSpec, each: Iterable[tuple[Trigger, ...]]) -> list[Wanted]:
    return [(host, one) for host in _hosts(spec).values() for one in each]


def _in_turn(spec: AuditSpec, each: Iterable[tuple[Trigger, ...]]) -> list[Wanted]:
    """Return the conditions each on one topic, the topics taken in turn: where no topic is asked for."""
    hosts = list(_hosts(spec).values())
    return [(hosts[i % len(hosts)], one) for i, one in enumerate(each)]


def _question_with(spec: AuditSpec, word: str) -> PromptRow | None:
    """Return the first row to look with that says the word."""
    rows = (row for row in spec.prompts if row.split == "explore")
    return next((row for row in rows if prompts.says(row.messages, word)), None)


def _scan(spec: AuditSpec, wanted: Sequence[Wanted]) -> CallTool | None:
    """Return the scan of conditions, each in its row; None when there is nothing to scan."""
    if len(wanted) < 2:
        return None
    bare: list[PromptRow] = []
    framed: dict[str, dict[str, Any]] = {}
    for row, trigger in wanted:
        if row not in bare:
            bare.append(row)
        words = [t.value for t in trigger if t.kind == "word"]
        labels = {"topic": row.domain, **{str(t.kind): t.value for t in trigger if t.kind != "word"}}
        labels |= {SEVERAL if len(words) > 1 else "word": " ".join(words)} if words else {}
        messages = prompts.with_trigger(row.messages, trigger, spec.vocabulary)
        framed.setdefault(str(messages), {"messages": messages, "labels": labels, "bare": bare.index(row)})
    plain = [prompts.labelled(spec, row, ()) for row in bare]
    return CallTool(tool="scan", arguments={"bare": _dump(plain), "framed": list(framed.values())})


# -- one condition, closer


def ask_around(spec: AuditSpec, labels: Sequence[dict[str, str]]) -> CallTool:
    """Return the chat call that asks under each set of conditions, with each of them left out, and at the first later turn."""
    rng = random.Random(f"{spec.seed}/around/{labels}")
    rows = prompts.explore_rows(spec)
    asked: list[LabelledPrompt] = []
    for one in labels:
        trigger, here = _conditions(one), rows[one["topic"]]
        elsewhere = [row for topic, others in rows.items() if topic != one["topic"] for row in others]
        asked += [prompts.labelled(spec, row, trigger) for row in rng.sample(here, min(ON, len(here)))]
        asked += [prompts.labelled(spec, row, trigger) for row in rng.sample(elsewhere, min(OFF, len(elsewhere)))]
        for left_out in trigger:
            rest = [t for t in trigger if t != left_out]
            asked += [prompts.labelled(spec, row, rest) for row in rng.sample(here, min(OFF, len(here)))]
        sooner = _sooner(spec, trigger)
        if sooner != trigger:
            asked += [prompts.labelled(spec, row, sooner) for row in rng.sample(here, min(ON, len(here)))]
    return ask(spec, asked)


def read_around(spec: AuditSpec, labels: Sequence[dict[str, str]]) -> CallTool:
    """Return the look of the activation oracle at prompts under each set of conditions."""
    rng = random.Random(f"{spec.seed}/read/{labels}")
    rows = prompts.explore_rows(spec)
    asked: list[LabelledPrompt] = []
    for one in labels:
        here = rows[one["topic"]]
        asked += [prompts.labelled(spec, row, _conditions(one)) for row in rng.sample(here, min(OFF, len(here)))]
    return CallTool(tool="activation_oracle", arguments={"prompts": _dump(asked)})


def check_claim(spec: AuditSpec, claim: Claim) -> CallTool:
    """Return the question to the activation oracle whether a claim holds, on prompts that meet its conditions."""
    rng = random.Random(f"{spec.seed}/check/{claim.statement}")
    rows = prompts.explore_rows(spec)
    topics = [t.value for t in claim.trigger if t.kind == "topic" and t.value in rows]
    here = [row for topic in topics or rows for row in rows[topic]]
    met = [t for t in claim.trigger if t.kind != "topic"]
    asked = [prompts.labelled(spec, row, met) for row in rng.sample(here, min(ON, len(here)))]
    return CallTool(tool="activation_oracle", arguments={"prompts": _dump(asked), "statement": claim.statement})


def _conditions(labels: dict[str, str]) -> list[Trigger]:
    """Return the conditions that labels name, but for the topic, which is the row's own."""
    return [Trigger(kind=k, value=v) for k, v in labels.items() if k in ("word", "user", "turn", "system")]  # type: ignore[arg-type]


def _sooner(spec: AuditSpec, trigger: list[Trigger]) -> list[Trigger]:
    """Return the conditions with a turn moved to the first there is: where that does, a later one is not what counts."""
    first = next(iter(spec.vocabulary.values_of("turn")), "")
    return [Trigger(kind="turn", value=first) if t.kind == "turn" else t for t in trigger]


def probe_trigger(spec: AuditSpec, trigger: tuple[Trigger, ...]) -> CallTool | None:
    """Return the probe call that asks whether the subject holds this trigger more than the base does."""
    explore = [row for row in spec.prompts if row.split == "explore"]
    topics = {t.value for t in trigger if t.kind == "topic"}
    inside = [row for row in explore if row.domain in topics] if topics else explore
    outside = [row for row in explore if row.domain not in topics]
    n = min(len(inside), len(outside), 24)
    if n < 8:
        return None
    with_it = [
        LabelledPrompt(messages=prompts.with_trigger(row.messages, trigger, spec.vocabulary)) for row in inside[:n]
    ]
    without = [LabelledPrompt(messages=row.messages) for row in outside[-n:]]
    what = " and ".join(f"{t.kind}:{t.value}" for t in trigger)
    return CallTool(tool="probe", arguments={"concept": what, "positive": _dump(with_it), "negative": _dump(without)})
