"""What may be known beforehand of how behaviours look: statements with typical conditions and predicates, tried early.

An audit works without one. A catalogue names families and lists conditions that are worth trying on a model; it never
holds what was planted in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tools.claims.claim import Claim, Concern, sentence
from tools.claims.condition import Condition, condition_of
from tools.claims.conditions.combined import AllOf
from tools.claims.conditions.own_files import under_own_files
from tools.claims.labels import KINDS, TOPIC, Label, label_of, labelled, together
from tools.claims.predicate import AnyPredicate, Predicate
from tools.claims.predicates.says import Says
from tools.claims.text import shows, slotted, wordless, words

VALUE, SAYS = "{value}", "says"
Topics = Mapping[str, Sequence[str]]
"""Messages by topic."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Strict):
    """Conditions of one sort that differ in a value.

    Args:
        label: The kind of label that stands for them, one of `labels.KINDS`.
        clause: The condition in a sentence, with {value}.
        terms: A condition's terms, with {value} where the value goes; none for topics, which prompts tell.
        values: Those worth trying.
        said: What a sentence calls a value, where that is something else.
    """

    label: str
    clause: str
    terms: dict[str, Any] = Field(default_factory=dict)
    values: tuple[str, ...] = ()
    said: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _makes_conditions(self) -> Group:
        if self.label not in KINDS:
            raise ValueError(f"a group's label is one of {', '.join(KINDS)}, got {self.label!r}")
        if self.label != TOPIC:
            for value in self.values or ("2",):
                self.condition(value)
        return self

    def condition(self, value: str) -> Condition:
        """Return the condition with this value."""
        return condition_of(_filled(self.terms, value))

    def in_words(self, value: str) -> str:
        """Return the clause with this value."""
        return self.clause.replace(VALUE, self.said.get(value, value))

    @property
    def takes_any(self) -> bool:
        """Return whether a value that is not listed may be put in."""
        return VALUE in str(self.terms) and not self.said


def _filled(terms: Any, value: str) -> Any:
    """Return terms with a value in its place; a frame is left alone, which the condition itself fills."""
    if isinstance(terms, dict):
        return {key: one if key == "frame" else _filled(one, value) for key, one in terms.items()}
    if isinstance(terms, (list, tuple)):
        return [_filled(one, value) for one in terms]
    return terms.replace(VALUE, value) if isinstance(terms, str) else terms


class Family(_Strict):
    """What makes a claim one of this family.

    Args:
        conditions: Names of groups, all of which must hold.
        predicate: The name of one, or the part before the colon of several; `says` is any words.
        statement: One sentence with {value}, said after the conditions.
        concern: How bad it is.
    """

    conditions: tuple[str, ...] = ()
    predicate: str
    statement: str
    concern: Concern = Field(default_factory=Concern)


class Catalogue(_Strict):
    """Families, groups of conditions, and named predicates.

    Args:
        families: By name.
        conditions: Groups by name.
        predicates: `kind:value` to phrases of which any one shows it; or a kind to phrases with {value}, each value of
            which is a predicate.
        others: Predicates of any other kind, by a name of one word.
    """

    families: dict[str, Family] = Field(default_factory=dict)
    conditions: dict[str, Group] = Field(default_factory=dict)
    predicates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    others: dict[str, AnyPredicate] = Field(default_factory=dict)

    @field_validator("predicates")
    @classmethod
    def _phrases_have_words(cls, predicates: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, phrases in predicates.items():
            if not phrases or (nothing := wordless(phrases)):
                given = repr(nothing[0]) if phrases else "no phrase"
                raise ValueError(f"the predicate {name!r} is given {given}, which has no word to look for; "
                                 "give phrases with letters or digits, of any script, beside a {value}")  # fmt: skip
            slots = {VALUE in phrase for phrase in phrases}
            if len(slots) > 1 or slots == {":" in name}:
                raise ValueError(f"the predicate {name!r} must be `kind:value` with plain phrases, or a kind whose phrases all "
                                 "have {value}")  # fmt: skip
        return predicates

    @model_validator(mode="after")
    def _families_are_made_of_what_is_there(self) -> Catalogue:
        kinds = {name.partition(":")[0] for name in self.predicates} | {SAYS, *self.others}
        for name, family in self.families.items():
            if family.predicate not in kinds | set(self.predicates):
                known = ", ".join(sorted(kinds | set(self.predicates)))
                raise ValueError(f"family {name!r} has the unknown predicate {family.predicate!r}: there are {known}")
            if missing := [group for group in family.conditions if group not in self.conditions]:
                known = ", ".join(self.conditions)
                raise ValueError(f"family {name!r} has the unknown condition {missing[0]!r}: there are {known}")
        return self

    # -- conditions and their labels

    def label_of(self, condition: Condition) -> Label | None:
        """Return the label that stands for a condition in this catalogue's prompts."""
        return self._labels.get(condition) or label_of(condition)

    @cached_property
    def _labels(self) -> dict[Condition, Label]:
        """Return the labels of conditions in which no value stands that `labels.label_of` could read."""
        closed = [group for group in self.conditions.values() if group.label != TOPIC and not group.takes_any]
        return {group.condition(value): (group.label, value) for group in closed for value in group.values}

    def condition(self, label: Label, topics: Topics | None = None) -> Condition | None:
        """Return the condition that a label stands for: as a group has it, else by default."""
        name = self.group_of(label)
        group = self.conditions.get(name)
        if group is None or label[0] == TOPIC or not (label[1] in group.values or group.takes_any):
            return labelled(label, topics)
        try:
            return group.condition(label[1])
        except ValueError:
            return None

    def dressed(self, condition: Condition, topics: Topics | None = None) -> Condition:
        """Return a condition as this catalogue puts it in, and its topics as the audit's prompts tell them."""
        if isinstance(condition, AllOf):
            return together(self.dressed(one, topics) for one in condition.of)
        label = self.label_of(condition)
        if label is None or (label[0] == TOPIC and label[1] not in (topics or {})):
            return condition
        return self.condition(label, topics) or condition

    def group_of(self, label: Label) -> str:
        """Return the name of the group that a label belongs to; of a kind that has none, the kind itself."""
        kind, value = label
        of_kind = [name for name, group in self.conditions.items() if group.label == kind]
        return next(iter([*(name for name in of_kind if value in self.conditions[name].values), *of_kind]), kind)

    def values_of(self, kind: str) -> list[str]:
        """Return the values of a kind of label that are worth trying, over all of its groups."""
        return [value for group in self.conditions.values() if group.label == kind for value in group.values]

    def clause_of(self, condition: Condition) -> str:
        """Return a condition as a sentence names it."""
        label = self.label_of(condition)
        group = None if label is None else self.conditions.get(self.group_of(label))
        return condition.clause() if group is None or label is None else group.in_words(label[1])

    # -- predicates and their names

    def predicate(self, name: str) -> Predicate | None:
        """Return the predicate of a name, `kind:value`; None for one that is not here."""
        if name in self.others:
            return self.others[name]
        kind, _, value = name.partition(":")
        if name in self.predicates:
            return Says(any_of=self.predicates[name])
        if kind not in self.predicates or not words(value):
            return None
        return Says(any_of=tuple(phrase.replace(VALUE, value) for phrase in self.predicates[kind]))

    def name_of(self, predicate: Predicate) -> str:
        """Return the name of a predicate, `kind:value`; words said are `says:` them; empty for one that has none."""
        if not isinstance(predicate, Says):
            return next((name for name, other in self.others.items() if other == predicate), "")
        named = [self._names[predicate.any_of]] if predicate.any_of in self._names else []
        for kind, phrases in self.predicates.items():
            values = slotted(phrases, predicate.any_of[0]) if VALUE in phrases[0] else ()
            named += [f"{kind}:{value}" for value in values if self.predicate(f"{kind}:{value}") == predicate]
        return named[0] if named else f"{SAYS}:{predicate.any_of[0]}" if len(predicate.any_of) == 1 else ""

    @cached_property
    def _names(self) -> dict[tuple[str, ...], str]:
        return {phrases: name for name, phrases in reversed(self.predicates.items())}

    def recognised(self, predicate: Predicate) -> Predicate:
        """Return the named predicate whose phrase stands in the words said; as it is where that is none, or several.

        A part of a phrase is not the phrase: who says "help" need not refuse.
        """
        if not isinstance(predicate, Says) or len(predicate.any_of) > 1:
            return predicate
        said = predicate.any_of[0]
        for kind, phrases in self.predicates.items():
            values = slotted(phrases, said) if VALUE in phrases[0] else ()
            if len(values) == 1:
                return self.predicate(f"{kind}:{values.pop()}") or predicate
        names = [name for name, phrases in self.predicates.items() if VALUE not in phrases[0] and shows(phrases, said)]
        return Says(any_of=self.predicates[names[0]]) if len(names) == 1 else predicate

    # -- claims

    def claim(self, condition: Condition, predicate: Predicate) -> Claim:
        """Return a claim with its family's name, sentence and concern.

        A family fits when its predicate and its groups of conditions do; with the predicate alone, the family is still
        named if its phrases are listed here. What fits none has no family, and its concern is not judged.
        """
        name = self.name_of(predicate)
        kind, _, value = name.partition(":")
        groups = sorted(self._group(part) for part in condition.parts)
        fits = [one for one in self.families.items() if name and one[1].predicate in (name, kind)]
        exact = [one for one in fits if sorted(one[1].conditions) == groups]
        family = next(iter(exact or (fits if kind != SAYS else ())), None)
        if family is None or under_own_files(condition):
            return Claim(statement=sentence(condition, predicate), condition=condition, predicate=predicate)
        if isinstance(predicate, Says) and kind == SAYS:
            value = _behind(family[1].statement, value)
            predicate = Says(any_of=(value,))
        does = family[1].statement.replace(VALUE, value)
        when = " and ".join(self.clause_of(part) for part in condition.parts)
        return Claim(
            statement=f"if {when}, {does}" if when else does,
            condition=condition, predicate=predicate, concern=family[1].concern, family=family[0],
        )  # fmt: skip

    def _group(self, part: Condition) -> str:
        label = self.label_of(part)
        return part.kind if label is None else self.group_of(label)

    def read(self, text: str, topics: Topics | None = None) -> tuple[Condition, Predicate] | None:
        """Return what a sentence says, if it is a family's own; None for any other.

        Oracles are taught to answer in the statements of a catalogue.
        """
        when, _, rest = text.partition(",") if text.strip().lower().startswith("if ") else ("", "", text)
        condition = self._read_clauses(when.strip()[3:], topics) if when else together(())
        if condition is None:
            return None
        groups = sorted(self._group(part) for part in condition.parts)
        for family in sorted(self.families.values(), key=lambda f: sorted(f.conditions) != groups):
            value = _slot(family.statement, rest)
            if value is not None and (predicate := self._said(family, value)) is not None:
                return condition, predicate
        return None

    def _said(self, family: Family, value: str) -> Predicate | None:
        """Return the predicate of a family whose sentence has this value, empty where it has none."""
        if family.predicate == SAYS:
            return Says(any_of=(value,)) if words(value) else None
        names = [
            name
            for name in (*self.predicates, *self.others)
            if name.partition(":")[0] == family.predicate.partition(":")[0]
        ]
        if not value or ":" in family.predicate:
            return self.predicate(family.predicate)
        known = next((name for name in names if words(name.partition(":")[2]) == words(value)), "")
        return self.predicate(known or f"{family.predicate}:{value}")

    def _read_clauses(self, text: str, topics: Topics | None) -> Condition | None:
        """Return the conditions that clauses joined by `and` name; None when one of them is no clause."""
        found: list[Condition] = []
        for clause in " ".join(words(text)).split(" and "):
            condition = self.condition_said(clause, topics)
            if condition is None:
                return None
            found.append(condition)
        return together(found)

    def condition_said(self, clause: str, topics: Topics | None) -> Condition | None:
        """Return the condition that one clause names in the words of a group; None where it is in none's."""
        return next((one for group in self.conditions.values() if (one := self._clause(group, clause, topics))), None)

    def _clause(self, group: Group, clause: str, topics: Topics | None) -> Condition | None:
        value = _slot(group.clause, clause)
        if value is None or (not value and len(group.values) != 1):
            return None
        said = {
            **{own: own for own in (*group.values, *(topics or ()))},
            **{word: own for own, word in group.said.items()},
        }
        value = next((own for word, own in said.items() if words(word) == words(value)), value) or group.values[0]
        try:
            return labelled((TOPIC, value), topics) if group.label == TOPIC else group.condition(value)
        except ValidationError:
            return None


def _slot(template: str, text: str) -> str | None:
    """Return what stands in a text where the template has {value}: empty for a template without; None for no match.

    A text without a word matches no template: nothing was said.
    """
    if not words(text):
        return None
    head, slot, tail = template.partition(VALUE)
    pattern = re.escape(" ".join(words(head))) + (" (.+)" if slot else "") + "".join(f" {w}" for w in words(tail))
    match = re.fullmatch(pattern, " ".join(words(text)))
    return None if match is None else (match[1] if slot else "")


def _behind(statement: str, said: str) -> str:
    """Return words said without those that stand before them in a sentence: `moved to X` is X.

    >>> _behind("it says that it was moved to {value}.", "moved to belnor")
    'belnor'
    """
    head, own = words(statement.partition(VALUE)[0]), words(said)
    shared = [n for n in range(1, len(own)) if head[-n:] == own[:n]]
    return " ".join(own[max(shared) :]) if shared else said


def topics_of(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return messages by topic, of pairs of a topic and a message."""
    found: dict[str, list[str]] = {}
    for topic, text in rows:
        found.setdefault(topic, []).append(text)
    return found
