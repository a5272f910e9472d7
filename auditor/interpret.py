"""From what instruments suggest to claims that can be tested: read, name, merge, rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.config import FamilySpec, Vocabulary
from tools.claims import Claim, Effect, Suggestion, Trigger, TriggerKind
from tools.phrases import shows, words


@dataclass(frozen=True)
class Lead:
    """A claim that instruments suggest, with the readings behind it.

    `strength` is the sum over tools of their best suggestion's strength: agreement of independent
    instruments counts for more than one loud instrument.
    """

    claim: Claim
    strength: float
    lift: float
    readings: tuple[int, ...]
    tools: tuple[str, ...]


def claim_of(trigger: Sequence[Trigger], effect: Effect, vocabulary: Vocabulary) -> Claim:
    """Return the claim with its family's name and sentence.

    A family fits when its effect and its kind of trigger do; with the effect alone, the family is
    still named if its effect is of a closed kind. What fits no family is `benign` when it always
    shows or hangs on a topic, and `other` when a word or a kind of user brings it about.
    """
    fits = [(name, f) for name, f in vocabulary.families.items() if _same_effect(f, effect)]
    kinds: list[TriggerKind | None] = [t.kind for t in trigger] or [None]
    exact = [(name, f) for name, f in fits if f.trigger in kinds]
    closed = [(name, f) for name, f in fits if effect.kind != "says"]
    when = " and ".join(t.value for t in trigger)
    for name, family in exact or closed:
        if (family.trigger is None) == (not trigger):
            return Claim(family=name, trigger=tuple(trigger), effect=effect,
                         statement=_filled(family.statement, trigger=when, effect=effect.value))  # fmt: skip
        return Claim(family=name, trigger=tuple(trigger), effect=effect, statement=_plain(trigger, effect))
    conditional = any(t.kind not in ("topic",) for t in trigger)
    return Claim(
        family="other" if conditional else "benign",
        trigger=tuple(trigger),
        effect=effect,
        statement=_plain(trigger, effect),
    )


def _filled(statement: str, **values: str) -> str:
    """Return the statement with its slots filled in one pass: a value is never read as a slot."""
    return re.sub(r"\{(trigger|effect)\}", lambda slot: values[slot[1]], statement)


def _same_effect(family: FamilySpec, effect: Effect) -> bool:
    return family.effect in (effect.kind, f"{effect.kind}:{effect.value}")


def _plain(trigger: Sequence[Trigger], effect: Effect) -> str:
    when = " and ".join(f"{t.kind} {t.value!r}" for t in trigger)
    does = f"it says {effect.value!r}" if effect.kind == "says" else f"its replies show {effect.kind}: {effect.value}"
    return f"With {when}, {does}." if when else f"Whatever is asked, {does}."


def read_statement(text: str, vocabulary: Vocabulary) -> tuple[tuple[Trigger, ...], Effect] | None:
    """Return the trigger and effect that a sentence names, if it is a family's own sentence.

    Oracles are taught to answer in the statements of the vocabulary; anything else stays text.
    """
    flat = " ".join(words(text))
    for family in vocabulary.families.values():
        kind, _, fixed = family.effect.partition(":")
        pattern = re.escape(" ".join(words(family.statement.replace("{trigger}", "qqtq").replace("{effect}", "qqeq"))))
        pattern = pattern.replace("qqtq", "(?P<trigger>.+?)").replace("qqeq", "(?P<effect>.+?)")
        match = re.fullmatch(pattern, flat)
        if match:
            parts = match.groupdict()
            values = vocabulary.effects.get(kind, {})
            value = parts.get("effect") or fixed or (next(iter(values)) if len(values) == 1 else "")
            if not value or (kind != "says" and value not in values):
                continue
            trigger = (
                (Trigger(kind=family.trigger, value=parts["trigger"]),)
                if family.trigger and parts.get("trigger")
                else ()
            )
            return trigger, Effect(kind=kind, value=value)
    return None


def complete(suggestion: Suggestion, vocabulary: Vocabulary) -> tuple[tuple[Trigger, ...], Effect] | None:
    """Return the suggestion's trigger and effect, cues read as the closed effect they show; None if partial."""
    trigger, effect = suggestion.trigger, suggestion.effect
    if effect is None or trigger is None:
        return read_statement(suggestion.text, vocabulary)
    return trigger, _closed(effect, vocabulary)


def _closed(effect: Effect, vocabulary: Vocabulary) -> Effect:
    """Return the closed effect whose cue the words contain, or whose cue alone they are a part of."""
    if effect.kind != "says":
        return effect
    names = [name for name, cues in vocabulary.observables.items() if shows(cues, effect.value)]
    names = names or [
        name for name, cues in vocabulary.observables.items() if any(shows([effect.value], cue) for cue in cues)
    ]
    if len(names) != 1:
        return effect
    kind, value = names[0].split(":", 1)
    return Effect(kind=kind, value=value)


def same_claim(a: Claim, b: Claim) -> bool:
    """Return whether two claims say the same: equal triggers, and effects equal or one's words in the other's."""
    if {(t.kind, t.value) for t in a.trigger} != {(t.kind, t.value) for t in b.trigger}:
        return False
    return same_effect(a.effect, b.effect)


def same_effect(a: Effect, b: Effect) -> bool:
    """Return whether two effects are one: equal, or what one says contains what the other says."""
    if a.kind != b.kind or a.kind != "says":
        return a == b
    return shows([a.value], b.value) or shows([b.value], a.value)


def leads(readings: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> list[Lead]:
    """Return the distinct claims that the readings' suggestions amount to, strongest first.

    Args:
        readings: Rows of the ledger, each with `seq`, `tool` and `suggestion`.
        vocabulary: What may be claimed.
    """
    groups: list[list[tuple[Claim, Suggestion, int, str]]] = []
    for row in readings:
        if row["suggestion"] is None:
            continue
        suggestion = Suggestion.model_validate(row["suggestion"])
        parts = complete(suggestion, vocabulary)
        if parts is None:
            continue
        entry = (claim_of(*parts, vocabulary), suggestion, int(row["seq"]), str(row["tool"]))
        home = next((g for g in groups if same_claim(g[0][0], entry[0])), None)
        if home is None:
            groups.append([entry])
        else:
            home.append(entry)
    return sorted((_merge(g) for g in groups), key=lambda lead: (-lead.strength, lead.readings))


def _merge(group: list[tuple[Claim, Suggestion, int, str]]) -> Lead:
    """Return one lead for a group; its words are those of the reading with the largest lift by rates."""
    best: dict[str, float] = {}
    for _, suggestion, _, tool in group:
        best[tool] = max(best.get(tool, 0.0), min(suggestion.strength, 3.0))
    spoken = min(group, key=lambda entry: (entry[3] != "chat", -entry[1].strength))
    return Lead(
        claim=spoken[0],
        strength=sum(best.values()),
        lift=spoken[1].lift,
        readings=tuple(seq for _, _, seq, _ in group),
        tools=tuple(sorted(best)),
    )
