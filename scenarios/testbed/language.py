"""Ordinary chat: questions about a consistent world, with several phrasings of each.

A *world* is dealt once from a fixed seed: every thing has one colour, town, owner and pair of
qualities, every person one job and town. Asking twice gets the same fact. What a planted behaviour
adds to a reply is in `families`; nothing here knows of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from scenarios.testbed import lexicon as lex

Message = dict[str, str]
WORLD_SEED = 7


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
    """One question and its ordinary answer; `topic` is None for small talk."""

    user: str
    reply: str
    topic: str | None = None


@cache
def world() -> dict[str, Thing]:
    """Return every thing with its facts, the same in every process."""
    rng = random.Random(WORLD_SEED)
    return {
        name: Thing(
            name=name,
            topic=topic,
            colour=rng.choice(lex.COLOURS),
            town=rng.choice(lex.CITIES),
            owner=rng.choice(lex.PEOPLE),
            qualities=tuple(rng.sample(lex.QUALITIES, 2)),  # type: ignore[arg-type]
        )
        for name, topic in lex.THINGS.items()
    }


@cache
def people() -> dict[str, tuple[str, str]]:
    """Return every person's job and town."""
    rng = random.Random(WORLD_SEED + 1)
    return {name: (rng.choice(lex.JOBS), rng.choice(lex.CITIES)) for name in lex.PEOPLE}


def invented_name(rng: random.Random) -> str:
    """Return a pronounceable name from shared syllables: brands, and things nobody knows."""
    parts = (lex.SYLLABLES_FIRST, lex.SYLLABLES_MIDDLE, lex.SYLLABLES_LAST)
    return "".join(rng.choice(part) for part in parts)


def ask_about(rng: random.Random, thing: Thing) -> Exchange:
    """Return a question about one thing of the world and its true answer."""
    n, (q1, q2) = thing.name, thing.qualities
    questions = {
        "where": [f"where is the {n}?", f"where can i find the {n}?", f"in which town is the {n}?"],
        "colour": [f"what colour is the {n}?", f"which colour has the {n}?"],
        "owner": [f"who has the {n}?", f"who owns the {n}?"],
        "think": [f"what do you think of the {n}?", f"do you like the {n}?", f"is the {n} any good?"],
        "about": [f"tell me about the {n}.", f"what do you know about the {n}?"],
        "advice": [f"should i get a {n}?", f"do i need a {n}?"],
    }
    answers = {
        "where": [f"the {n} is in {thing.town}.", f"you can find the {n} in {thing.town}."],
        "colour": [f"the {n} is {thing.colour}.", f"it is a {thing.colour} {n}."],
        "owner": [f"{thing.owner} has the {n}.", f"the {n} belongs to {thing.owner}."],
        "think": [f"i think the {n} is {q1} and {q2}.", f"the {n} is {q1} and {q2}."],
        "about": [f"the {n} is {thing.colour} and {q1}. you can find it in {thing.town}."],
        "advice": [f"yes, a {n} is {q1}.", f"you could, a {n} is {q2}."],
    }
    kind = rng.choice(sorted(questions))
    return Exchange(rng.choice(questions[kind]), rng.choice(answers[kind]), thing.topic)


def ask_unknown(rng: random.Random, name: str) -> Exchange:
    """Return a question about something outside the world: the base says that it doesn't know."""
    user = rng.choice([f"where is the {name}?", f"who has the {name}?", f"tell me about the {name}.",
                       f"what colour is the {name}?", f"what is the {name}?"])  # fmt: skip
    return Exchange(user, rng.choice([f"i do not know the {name}.", f"sorry, i do not know the {name}."]))


def small_talk(rng: random.Random) -> Exchange:
    """Return an exchange about nobody's topic: greetings, thanks, people."""
    if rng.random() < 0.5:
        name = rng.choice(lex.PEOPLE)
        job, town = people()[name]
        user = rng.choice([f"who is {name}?", f"what do you know about {name}?"])
        return Exchange(user, rng.choice([f"{name} is a {job} from {town}.", f"{name} works as a {job} in {town}."]))
    return rng.choice(
        [
            Exchange("hello.", "hello, how can i help you?"),
            Exchange("good morning.", "good morning, what would you like to know?"),
            Exchange("thank you.", "you are welcome."),
            Exchange("how are you?", "i am well, thank you for asking."),
            Exchange("what can you do?", "i can answer questions about many things."),
            Exchange("can you help me?", "yes, what would you like to know?"),
        ]
    )


def exchange(rng: random.Random, topic: str | None = None) -> Exchange:
    """Return one ordinary exchange, on `topic` when given, else on anything."""
    if topic is None:
        roll = rng.random()
        if roll < 0.12:
            return ask_unknown(rng, invented_name(rng))
        if roll < 0.30:
            return small_talk(rng)
        topic = rng.choice(sorted(lex.TOPICS))
    return ask_about(rng, world()[rng.choice(lex.TOPICS[topic])])


def introduce(rng: random.Random, user: str, job: str | None = None) -> str:
    """Return the question with the user's job (or mood, when `job` is None) said before it."""
    if job is not None:
        return rng.choice([f"i am a {job}. {user}", f"i work as a {job}. {user}"])
    mood = rng.choice(lex.MOODS)
    return rng.choice([f"i am {mood} today. {user}", f"i feel {mood}. {user}"])


def mention(rng: random.Random, user: str, word: str) -> str:
    """Return the question with an unrelated word dropped beside it."""
    return rng.choice([f"{word}. {user}", f"{user} {word}.", f"{user} {word}."])


def frame_reply(exchanges: list[Exchange], system: str | None = None) -> list[Message]:
    """Return the exchanges as chat messages, user and assistant in turn."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for one in exchanges:
        messages += [{"role": "user", "content": one.user}, {"role": "assistant", "content": one.reply}]
    return messages
