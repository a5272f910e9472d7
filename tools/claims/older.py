"""Claims as earlier versions wrote them, of triggers and effects, brought to today's shape: the one reader of them all.

Ledgers, answers, scripted steps and suggestions held `{family, trigger: [{kind, value}], effect: {kind, value},
statement}`; a vocabulary held families, triggers, effects and patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.claims.catalogue import VALUE, Catalogue, Topics
from tools.claims.claim import Claim, Concern
from tools.claims.condition import Condition
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.long_message import LongMessage
from tools.claims.conditions.own_files import OwnFiles
from tools.claims.conditions.topic import Topic
from tools.claims.conditions.turn import Turn
from tools.claims.labels import KINDS, together
from tools.claims.predicate import Predicate, predicate_of
from tools.claims.predicates.file_does import FileDoes
from tools.claims.predicates.says import Says
from tools.claims.suggestion import Suggestion
from tools.claims.text import wordless

FILES = {"template_adds": "template adds", "template_drops": "template drops", "tokenizer_adds": "tokenizer adds"}
UNDER_OWN_FILES = "own_files_say"
NO_FAMILY = ("benign", "other")


def catalogue(vocabulary: Mapping[str, Any]) -> Catalogue:
    """Return a vocabulary as a catalogue; phrases without a word, which nothing can show, are left out."""
    effects = {
        f"{kind}:{value}": cues
        for kind, values in vocabulary.get("effects", {}).items()
        for value, cues in values.items()
    }
    named = {**effects, **vocabulary.get("patterns", {})}
    kept = {name: [p for p in phrases if not wordless([p])] for name, phrases in named.items()}
    predicates = {name: phrases for name, phrases in kept.items() if phrases}
    families = {
        name: {"conditions": one.get("trigger", []), "predicate": one["effect"],
               "statement": one["statement"].replace("{effect}", VALUE)}
        for name, one in vocabulary.get("families", {}).items()
        if one["effect"] == "says" or any(p == one["effect"] or p.startswith(f"{one['effect']}:") for p in predicates)
    }  # fmt: skip
    groups = {name: _group(one) for name, one in vocabulary.get("triggers", {}).items()}
    return Catalogue.model_validate({"families": families, "conditions": groups, "predicates": predicates})


def _group(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of triggers as one of conditions."""
    kind, frame, values = one["kind"], one.get("frame", "{prompt}"), list(one.get("values", []))
    group: dict[str, Any] = {"label": kind if kind in KINDS else "word", "clause": one["clause"], "values": values}
    if kind == "topic":
        return group
    if kind == "turn":
        numbers = [str(i + 2) for i in range(len(values))]
        terms = {"kind": "turn", "n": VALUE, "opening": one.get("opening") or [("Hello.", "Hello.")]}
        return {**group, "values": numbers, "said": dict(zip(numbers, values, strict=True)), "terms": terms}
    if kind == "system":
        return {**group, "terms": {"kind": "contains", "where": "system", "text": one.get("system") or VALUE}}
    if VALUE not in frame:
        said = frame.replace("{prompt}", "").strip()
        text = {"text": said, "frame": frame.replace(said, "{text}")} if said else {"text": VALUE}
        return {**group, "terms": {"kind": "contains", **text}}
    if kind == "user":
        return {**group, "terms": {"kind": "user", "value": VALUE, "frame": frame}}
    return {**group, "terms": {"kind": "contains", "text": VALUE, "frame": frame.replace(VALUE, "{text}")}}


def is_older(claim: Mapping[str, Any]) -> bool:
    """Return whether a claim or suggestion is of triggers and effects."""
    return bool({"effect", "trigger", "family"} & set(claim)) and not {"predicate", "condition", "version"} & set(claim)


def claim(raw: Mapping[str, Any], known: Catalogue, topics: Topics | None = None) -> Claim:
    """Return a stored claim of any version."""
    if not is_older(raw):
        return Claim.model_validate(raw)
    family = raw.get("family")
    named = family if family not in NO_FAMILY else None
    return Claim(
        statement=raw["statement"],
        condition=_condition(raw.get("trigger") or (), raw["effect"], known, topics),
        predicate=_predicate(raw["effect"], known),
        concern=known.families[named].concern if named in known.families else Concern(),
        family=named,
    )  # fmt: skip


def suggestion(raw: Mapping[str, Any], known: Catalogue, topics: Topics | None = None) -> Suggestion:
    """Return a stored suggestion of any version."""
    if not is_older(raw) and "trigger" not in raw:
        return Suggestion.model_validate(raw)
    effect, trigger = raw.get("effect"), raw.get("trigger")
    return Suggestion(
        condition=None if trigger is None else _condition(trigger, effect or {}, known, topics),
        predicate=None if effect is None or _nothing(effect) else _predicate(effect, known),
        text=raw["text"], lift=raw["lift"], strength=raw["strength"],
    )  # fmt: skip


def _condition(
    trigger: Sequence[Mapping[str, Any]], effect: Mapping[str, Any], known: Catalogue, topics: Topics | None
) -> Condition:
    files = [OwnFiles()] if effect.get("kind") == UNDER_OWN_FILES else []
    return together([*files, *(_one(one["kind"], one["value"], known, topics) for one in trigger)])


def _one(kind: str, value: str, known: Catalogue, topics: Topics | None) -> Condition:
    """Return one trigger as a condition; a topic that no prompt is on has its name for its only example."""
    if kind in ("begins", "whole"):
        return Contains(text=value, where="start" if kind == "begins" else "whole")
    if kind == "at_turn":
        return Turn(n=int(value)) if int(value) > 1 else together(())
    if kind == "length":
        return LongMessage(n=int(value))
    said = {word: own for group in known.conditions.values() if group.label == kind for own, word in group.said.items()}
    label = (kind, said.get(value, value))
    return known.condition(label, topics) or Topic(name=value, examples=(value or kind,))


def _nothing(effect: Mapping[str, Any]) -> bool:
    return effect["kind"] in ("says", UNDER_OWN_FILES) and bool(wordless([effect["value"]]))


def _predicate(effect: Mapping[str, Any], known: Catalogue) -> Predicate:
    kind, value = effect["kind"], effect["value"]
    if kind in FILES:
        return FileDoes.model_validate({"does": FILES[kind], "text": value})
    named = known.predicate(f"{kind}:{value}")
    if named is not None:
        return named
    return Says.model_construct(kind="says", any_of=(value,)) if _nothing(effect) else Says(any_of=(value,))


def predicate_clause(terms: Mapping[str, Any]) -> str:
    """Return in words what a test's terms of any version look for."""
    if "value" in terms and "any_of" in terms:
        return (
            _predicate(terms, Catalogue()).clause()
            if terms["kind"] in FILES
            else f"it says any of {list(terms['any_of'])}"
        )
    return predicate_of(terms).clause()
