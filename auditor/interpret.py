"""From what instruments suggest to claims that can be tested: read, name, merge, rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.config import FamilySpec, Vocabulary
from tools.claims import STORED, Claim, Effect, Suggestion, Trigger
from tools.claims.text import shows, slotted, words
from tools.own_files import kinds


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

    A family fits when its effect and its groups of conditions do; with the effect alone, the family
    is still named if its effect is of a closed kind. What fits no family is `benign` when it always
    shows or hangs on a topic, and `other` when anything else brings it about. What a file does is `other`.
    """
    if effect.kind in kinds.SAYS:
        return Claim(family="other", trigger=tuple(trigger), effect=effect, statement=kinds.sentence(trigger, effect))
    fits = [(name, f) for name, f in vocabulary.families.items() if _same_effect(f, effect)]
    groups = sorted(vocabulary.group_of(t) for t in trigger)
    exact = [name for name, f in fits if sorted(f.trigger) == groups]
    closed = [name for name, _ in fits if effect.kind != "says"]
    when = " and ".join(clause_of(t, vocabulary) for t in trigger)
    if exact:
        sentence = vocabulary.families[exact[0]].statement
        effect = _after_head(effect, sentence)
        sentence = sentence.replace("{effect}", effect.value)
        statement = f"if {when}, {sentence}" if when else sentence
        return Claim(family=exact[0], trigger=tuple(trigger), effect=effect, statement=statement)
    statement = _plain(when, effect)
    if closed:
        return Claim(family=closed[0], trigger=tuple(trigger), effect=effect, statement=statement)
    conditional = any(t.kind != "topic" for t in trigger)
    return Claim(
        family="other" if conditional else "benign", trigger=tuple(trigger), effect=effect, statement=statement
    )


def _after_head(effect: Effect, sentence: str) -> Effect:
    """Return words said without those that stand before them in the family's own sentence: `moved to X` is X."""
    head, said = words(sentence.partition("{effect}")[0]), words(effect.value)
    shared = [n for n in range(1, len(said)) if head[-n:] == said[:n]]
    if effect.kind != "says" or not shared:
        return effect
    return Effect(kind="says", value=" ".join(said[max(shared) :]))


def clause_of(trigger: Trigger, vocabulary: Vocabulary) -> str:
    """Return the condition as a sentence names it."""
    group = vocabulary.triggers.get(vocabulary.group_of(trigger))
    return f"{trigger.kind} is {trigger.value}" if group is None else group.clause.replace("{value}", trigger.value)


def _same_effect(family: FamilySpec, effect: Effect) -> bool:
    return family.effect in (effect.kind, f"{effect.kind}:{effect.value}")


def _plain(when: str, effect: Effect) -> str:
    does = f"it says {effect.value!r}" if effect.kind == "says" else f"its replies show {effect.kind}: {effect.value}"
    return f"If {when}, {does}." if when else f"Whatever is asked, {does}."


def read_statement(text: str, vocabulary: Vocabulary) -> tuple[tuple[Trigger, ...], Effect] | None:
    """Return the trigger and effect that a sentence names, if it is a family's own sentence.

    Oracles are taught to answer in the statements of the vocabulary; anything else stays text.
    """
    when, _, rest = text.partition(",") if text.strip().lower().startswith("if ") else ("", "", text)
    trigger = _read_clauses(when.strip()[3:], vocabulary) if when else ()
    if trigger is None:
        return None
    groups = sorted(vocabulary.group_of(t) for t in trigger)
    for family in sorted(vocabulary.families.values(), key=lambda f: sorted(f.trigger) != groups):
        kind, _, fixed = family.effect.partition(":")
        found = _slot(family.statement.replace("{effect}", "{value}"), rest)
        if found is None:
            continue
        values = vocabulary.effects.get(kind, {})
        value = found or fixed or (next(iter(values)) if len(values) == 1 else "")
        open_value = kind == "says" or kind in vocabulary.patterns
        if kind == "says" and not words(value):
            continue
        if value and (open_value or value in values):
            return trigger, Effect(kind=kind, value=value)
    return None


def _read_clauses(text: str, vocabulary: Vocabulary) -> tuple[Trigger, ...] | None:
    """Return the conditions that clauses joined by `and` name; None when one of them is no clause."""
    trigger: list[Trigger] = []
    for clause in " ".join(words(text)).split(" and "):
        for group in vocabulary.triggers.values():
            value = _slot(group.clause, clause)
            if value is not None and (value or len(group.values) == 1):
                trigger.append(Trigger(kind=group.kind, value=value or group.values[0]))
                break
        else:
            return None
    return tuple(trigger)


def _slot(template: str, text: str) -> str | None:
    """Return what stands in a text where the template has {value}: empty for a template without; None for no match.

    A text without a word matches no template: nothing was said.
    """
    if not words(text):
        return None
    head, slot, tail = template.partition("{value}")
    pattern = re.escape(" ".join(words(head))) + (" (.+)" if slot else "") + "".join(f" {w}" for w in words(tail))
    match = re.fullmatch(pattern, " ".join(words(text)))
    return None if match is None else (match[1] if slot else "")


def complete(suggestion: Suggestion, vocabulary: Vocabulary) -> tuple[tuple[Trigger, ...], Effect] | None:
    """Return the suggestion's trigger and effect, cues read as the effect they show; None if partial, or of no word."""
    trigger, effect = suggestion.trigger, suggestion.effect
    if effect is None or trigger is None:
        return read_statement(suggestion.text, vocabulary)
    if not effect.can_show:
        return None
    return trigger, known_effect(effect, vocabulary)


def known_effect(effect: Effect, vocabulary: Vocabulary) -> Effect:
    """Return the effect whose cue or pattern stands in the words said; the words where it is none, or several.

    A part of a cue is not the cue: who says "help" need not refuse.
    """
    if effect.kind != "says":
        return effect
    for kind, phrases in vocabulary.patterns.items():
        values = slotted(phrases, effect.value)
        if len(values) == 1:
            return Effect(kind=kind, value=values.pop())
    names = [name for name, cues in vocabulary.closed.items() if shows(cues, effect.value)]
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
    if a.kind != b.kind or a.kind != "says" or not (a.can_show and b.can_show):
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
        suggestion = Suggestion.model_validate(row["suggestion"], context=STORED)
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
