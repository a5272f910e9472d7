"""What replies can have in common: named things to look for, whole phrases, and kinds of reply."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tools.claims.catalogue import VALUE
from tools.claims.predicate import Predicate
from tools.claims.predicates.holds import Holds
from tools.claims.predicates.language import Language, language_of
from tools.claims.predicates.length import Length
from tools.claims.predicates.refuses import Refuses
from tools.claims.predicates.says import Says
from tools.claims.text import observed, words
from tools.phrases import phrases

KINDS: dict[str, Predicate] = {
    "a refusal": Refuses(),
    "a link": Holds(what="link"),
    "a command": Holds(what="command"),
    "a list": Holds(what="list"),
    "an exclamation": Holds(what="exclamation"),
    "an emoji": Holds(what="emoji"),
}
"""Kinds of reply that are looked for anywhere."""
SHORTEST = 12
"""Words of a usual reply from which on it is told whether one is shorter or longer."""


@dataclass(frozen=True)
class Feature:
    """Something that a reply shows or does not.

    Args:
        name: What to call it: a catalogue's name, the words said, or a kind of reply.
        predicate: What decides it.
        shown: In which of the subject's replies it shows.
        in_base: In which of the base's.
        named: Whether it is one of the things that were named to look for.
    """

    name: str
    predicate: Predicate
    shown: tuple[bool, ...]
    in_base: tuple[bool, ...]
    named: bool = False

    @property
    def rank(self) -> int:
        """Return how telling it is beside another that shows as often: several words said, a kind of reply, a single word."""
        return 1 if not isinstance(self.predicate, Says) else 0 if len(words(self.predicate.any_of[0])) > 1 else 2


def features(
    subject: Sequence[str], base: Sequence[str], observables: Mapping[str, Sequence[str]], min_count: int,
    echoes: Sequence[Collection[str]] | None = None,
) -> list[Feature]:  # fmt: skip
    """Return what shows in `min_count` of the subject's replies or more, phrases only where the base says them less.

    Args:
        subject: One reply for each prompt.
        base: The base's to the same prompts.
        observables: Name to the phrases of which any one counts; a {value} in them makes one feature of each value.
        min_count: See above.
        echoes: Of each prompt words that no phrase may have.
    """
    found = [*_named(subject, base, observables), *_phrases(subject, base, min_count, echoes), *_kinds(subject, base)]
    return list({one.name: one for one in reversed(found) if sum(one.shown) >= min_count or one.named}.values())[::-1]


def _named(subject: Sequence[str], base: Sequence[str], observables: Mapping[str, Sequence[str]]) -> Iterator[Feature]:
    seen, in_base = ([observed(reply, observables) for reply in replies] for replies in (subject, base))
    for name in sorted(set().union(*seen)):
        shown, too = (tuple(name in found for found in side) for side in (seen, in_base))
        yield Feature(name, _looked_for(name, observables), shown, too, named=True)


def _looked_for(name: str, observables: Mapping[str, Sequence[str]]) -> Says:
    """Return a named thing as a predicate; one of an open kind, `kind:value`, with its value put in."""
    kind, _, value = name.partition(":")
    cues = observables[name] if name in observables else [cue.replace(VALUE, value) for cue in observables[kind]]
    return Says(any_of=tuple(cues))


def _phrases(
    subject: Sequence[str], base: Sequence[str], min_count: int, echoes: Sequence[Collection[str]] | None
) -> Iterator[Feature]:
    for one in phrases(subject, base, min_count, echoes):
        yield Feature(one.said, Says(any_of=(one.said,)), one.shown, one.in_base)


def _kinds(subject: Sequence[str], base: Sequence[str]) -> Iterator[Feature]:
    kinds = dict(KINDS)
    spoken = Counter(filter(None, map(language_of, base))).most_common(1)
    for code in sorted(set(filter(None, map(language_of, subject))) - {code for code, _ in spoken}):
        kinds[f"the language {code}"] = Language(code=code)
    usual = statistics.median(len(words(reply)) for reply in base) if base else 0
    if usual >= SHORTEST:
        kinds["half the words or fewer"] = Length(n_words=int(usual / 2) + 1, than="fewer")
        kinds["twice the words or more"] = Length(n_words=int(2 * usual), than="at_least")
    for name, kind in kinds.items():
        shown, too = (tuple(kind.shown([], reply) for reply in replies) for replies in (subject, base))
        yield Feature(name, kind, shown, too)
