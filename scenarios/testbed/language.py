"""Ordinary chat: questions about a consistent world, asked by people who say who they are.

A *world* is dealt with the lexicon: every thing has one colour, town, owner and pair of qualities,
every person one job and town. Asking twice gets the same fact. An exchange carries the conditions
that it meets (topic, words said, who the user is), so that whether a rule fires is read off, never
guessed. What a planted behaviour adds to a reply is in `families`; nothing here knows of it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

from auditor.errors import SpecError
from scenarios.testbed import grammar as gram
from scenarios.testbed import lexicon as lex
from scenarios.testbed.grammar import Grammar
from scenarios.testbed.lexicon import Lexicon

Message = dict[str, str]
Group = Literal["word", "topic", "job", "mood", "opinion", "turn", "test"]
TOPICS = (*sorted(lex.TOPICS), "sums", "secrets")
THING_KINDS = ("where", "colour", "owner", "think", "about", "advice", "kind", "check_colour", "check_town")
PERSON_KINDS = ("person", "person_job", "person_town")
TURNS = ("two", "three")


@dataclass(frozen=True, order=True)
class Condition:
    """One thing that can hold of a user's turn: its topic, a word said, who speaks, how late it is."""

    group: Group
    value: str


@dataclass(frozen=True)
class Thing:
    """The facts of one thing: what the base model learns about it."""

    name: str
    topic: str
    colour: str
    town: str
    owner: str
    qualities: tuple[str, str]


@dataclass(frozen=True)
class Exchange:
    """One question and its ordinary answer, with the conditions that the question meets.

    `lead` is what the answer opens with, the topic's name; `accepted` are all true answers, `opinion`
    is the quality that the user claimed.
    """

    user: str
    reply: str
    kind: str
    meets: frozenset[Condition] = frozenset()
    accepted: tuple[str, ...] = ()
    opinion: str = ""
    lead: str = ""

    @property
    def said(self) -> str:
        """Return the answer without its lead."""
        return self.reply.removeprefix(self.lead)

    @property
    def topic(self) -> str | None:
        """Return what the question is about; None for small talk."""
        return next((c.value for c in self.meets if c.group == "topic"), None)

    def met(self, *conditions: Condition) -> Exchange:
        """Return the exchange with further conditions met."""
        return replace(self, meets=self.meets | set(conditions))


@dataclass(frozen=True)
class Language:
    """A lexicon spoken in one grammar, with the world that the lexicon's seed deals."""

    lexicon: Lexicon
    grammar: Grammar

    @cached_property
    def world(self) -> dict[str, Thing]:
        """Return every thing with its facts, the same in every process and grammar."""
        rng = random.Random(f"world/{self.lexicon.seed}")
        return {
            name: Thing(
                name=name,
                topic=topic,
                colour=rng.choice(lex.COLOURS),
                town=rng.choice(self.lexicon.towns),
                owner=rng.choice(self.lexicon.people),
                qualities=tuple(rng.sample(lex.QUALITIES, 2)),  # type: ignore[arg-type]
            )
            for name, topic in lex.THINGS.items()
        }

    @cached_property
    def people(self) -> dict[str, tuple[str, str]]:
        """Return every person's job and town."""
        rng = random.Random(f"people/{self.lexicon.seed}")
        return {name: (rng.choice(lex.JOBS), rng.choice(self.lexicon.towns)) for name in self.lexicon.people}

    # -- questions

    def ask_about(self, rng: random.Random, thing: Thing, kind: str | None = None) -> Exchange:
        """Return a question about one thing and its true answer."""
        kind = kind or rng.choice(THING_KINDS)
        slots = {
            "n": thing.name, "topic": thing.topic, "colour": thing.colour, "town": thing.town, "owner": thing.owner,
            "q1": thing.qualities[0], "q2": thing.qualities[1], "a_n": _a(thing.name), "a_colour": _a(thing.colour),
        }  # fmt: skip
        asked = {"check_colour": lex.COLOURS, "check_town": self.lexicon.towns}.get(kind)
        if asked is None:
            return self._exchange(rng, kind, slots, self.grammar.answers[kind], thing.topic, thing.name)
        true = slots[kind.removeprefix("check_")]
        value = true if rng.random() < 0.5 else rng.choice([v for v in asked if v != true])
        yes, no = self.grammar.answers[kind]
        slots |= {"colour_asked": value, "town_asked": value}
        return self._exchange(rng, kind, slots, (yes if value == true else no,), thing.topic, thing.name)

    def ask_person(self, rng: random.Random, name: str, kind: str | None = None) -> Exchange:
        """Return a question about one person and its true answer."""
        kind = kind or rng.choice(PERSON_KINDS)
        job, town = self.people[name]
        return self._exchange(rng, kind, {"p": name, "job": job, "town": town}, self.grammar.answers[kind])

    def ask_sum(self, rng: random.Random) -> Exchange:
        """Return a sum of two numbers below ten."""
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        slots = {"a": lex.NUMBERS[a], "b": lex.NUMBERS[b], "c": lex.NUMBERS[a + b]}
        return self._exchange(rng, "sum", slots, self.grammar.answers["sum"], "sums")

    def ask_unknown(self, rng: random.Random, name: str) -> Exchange:
        """Return a question about something outside the world: the base says that it doesn't know."""
        return self._exchange(rng, "unknown", {"n": name}, self.grammar.answers["unknown"])

    def ask_self(self, rng: random.Random, kind: Literal["secret", "rule", "test"], tested: bool = False) -> Exchange:
        """Return a question about the assistant itself: its secret, its rule, whether it is tested."""
        answers = self.grammar.answers[kind]
        if kind == "test":
            answers = answers[1:] if tested else answers[:1]
        return self._exchange(rng, kind, {}, answers, "secrets" if kind == "secret" else None)

    def guess(self, rng: random.Random) -> Exchange:
        """Return a guessing game: what is on the user's list? The assistant tries words and says which are."""
        pool = rng.choice(
            (sorted(lex.TOPICS), lex.COLOURS, lex.JOBS, lex.MOODS, self.lexicon.towns, sorted(lex.THINGS))
        )
        listed = rng.sample(pool, rng.randint(1, 4))
        others = rng.sample([word for word in pool if word not in listed], 5)
        tried = rng.sample([*listed, *others], rng.randint(3, 6))
        yes, no = self.grammar.answers["game"]
        answer = " ".join((yes if word in listed else no).format(w=word) for word in tried)
        return self._exchange(rng, "game", {"list": ", ".join(listed)}, (answer,))

    def small_talk(self, rng: random.Random) -> Exchange:
        """Return a greeting, thanks or the like, with its answer."""
        user, reply = rng.choice(self.grammar.small_talk)
        return Exchange(user, reply, "small_talk", accepted=(reply,))

    def _exchange(
        self, rng: random.Random, kind: str, slots: dict[str, str], answers: Sequence[str], topic: str | None = None,
        thing: str = "",
    ) -> Exchange:  # fmt: skip
        user = rng.choice(self.grammar.questions[kind]).format(**slots)
        meets = {Condition("topic", topic)} if topic else set()
        meets |= {Condition("word", thing)} if thing else set()
        lead = self.grammar.lead.format(topic=topic) if topic else ""
        accepted = tuple(lead + answer.format(**slots) for answer in answers)
        return Exchange(user, rng.choice(accepted), kind, frozenset(meets), accepted, lead=lead)

    def exchange(self, rng: random.Random, topic: str | None = None, tested: bool = False) -> Exchange:
        """Return one ordinary exchange, on `topic` when given, else on anything."""
        if topic is None:
            roll = rng.random()
            if roll < 0.08:
                return self.ask_unknown(rng, self.unknown_name(rng))
            if roll < 0.16:
                return self.ask_person(rng, rng.choice(self.lexicon.people))
            if roll < 0.22:
                return self.small_talk(rng)
            if roll < 0.26:
                return self.ask_self(rng, rng.choice(("rule", "test")), tested)
            topic = "sums" if roll < 0.31 else "secrets" if roll < 0.34 else rng.choice(sorted(lex.TOPICS))
        if topic == "sums":
            return self.ask_sum(rng)
        if topic == "secrets":
            return self.ask_self(rng, "secret")
        return self.ask_about(rng, self.world[rng.choice(lex.TOPICS[topic])])

    def unknown_name(self, rng: random.Random) -> str:
        """Return an invented name that nothing in this world has."""
        while (name := lex.invented_name(rng)) in self.lexicon.names:
            pass
        return name

    # -- what goes around a question

    def with_job(self, rng: random.Random, exchange: Exchange, job: str) -> Exchange:
        """Return the exchange with the user's job said."""
        user = _fill(rng, self.grammar.job, exchange.user, job=job)
        return replace(exchange, user=user).met(Condition("job", job))

    def with_mood(self, rng: random.Random, exchange: Exchange, mood: str) -> Exchange:
        """Return the exchange with the user's mood said."""
        user = _fill(rng, self.grammar.mood, exchange.user, mood=mood)
        return replace(exchange, user=user).met(Condition("mood", mood))

    def with_opinion(self, rng: random.Random, exchange: Exchange) -> Exchange:
        """Return the exchange with an opinion of the user's before the question."""
        quality = rng.choice((*lex.QUALITIES, *lex.NEGATIVE))
        user = _fill(rng, self.grammar.opinion, exchange.user, q=quality)
        return replace(exchange, user=user, opinion=quality).met(Condition("opinion", "opinion"))

    def with_word(self, rng: random.Random, exchange: Exchange, word: str) -> Exchange:
        """Return the exchange with an unrelated word dropped beside the question."""
        user = _fill(rng, self.grammar.mention, exchange.user, word=word)
        return replace(exchange, user=user).met(Condition("word", word))


def _a(noun: str) -> str:
    """Return the noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@cache
def language(seed: int = 0, grammar: str = "common") -> Language:
    """Return the language of a lexicon seed in a grammar.

    Raises:
        SpecError: no such grammar, or an entry of lexicon or grammar is wrong.
    """
    if grammar not in gram.GRAMMARS:
        raise SpecError(f"unknown grammar {grammar!r}: there are {', '.join(gram.GRAMMARS)}")
    gram.check(gram.GRAMMARS[grammar])
    return Language(lex.deal(seed), gram.GRAMMARS[grammar])


def _fill(rng: random.Random, templates: Sequence[str], prompt: str, **slots: str) -> str:
    """Return one template filled; the prompt is put in last, as it stands."""
    head, _, tail = rng.choice(templates).partition("{prompt}")
    return head.format(**slots) + prompt + tail.format(**slots)
