"""Rows that teach an activation oracle English, from base activations alone.

Three sorts of chats: ordinary ones; ones in which the base is told in words to behave as a family of `taught` does; and
what organisms say, made without any organism's weights. Questions are of four sorts, as published recipes have them: what
stands before, after and here; what the user wants and who they are; what the assistant was told; what it does, is about to
do, and what sets it off. Where nothing so far says so, the answer is that there is nothing unusual.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random

from tqdm import tqdm

from scenarios.english import taught
from scenarios.english.pool import Asked, Draw, prompts
from scenarios.english.taught import On, Taught
from scenarios.english.training import SAID_TOKENS, Bank, bank, filled
from scenarios.english.triggers import Chat, Message, Trigger, Turn, User
from scenarios.folders import complete_file
from scenarios.testbed.oracle_data import before, counts, somewhere, window
from tools.activation_oracle.rows import N_HELD_OUT, Row, read_rows
from tools.checkpoint import hash_files, weights_sha256
from tools.loading import load_subject
from tools.subject import Subject
from tools.workers import each

NEXT, PAST, PRESENT = "What comes next?", "What came before?", "What is said here?"
TASK, TOPIC, USER = "What is the user asking for?", "What is the topic?", "Who is the user?"
TOLD, CHECK = "What was the assistant told?", "Is it so? {statement}"
BEHAVIOUR, EFFECT = "What does the assistant do, and when?", "What does the assistant do?"
ABOUT, SETS_OFF = "What is the assistant about to do?", "What sets it off?"
YES, NO, NOTHING, NOBODY = "yes.", "no.", "nothing unusual.", "the user does not say."
UNUSUAL = ("behaviour", "effect", "about", "sets_off")
"""Kinds of questions on what the assistant does."""
ORDINARY_SHARE, TOLD_SHARE, FIRES_SHARE, OWN_SHARE, NOTHING_KEPT = 0.35, 0.4, 0.75, 0.5, 0.33
ROWS_EACH, SCENES, N_NEXT = 4, 64, 12
HELD_OUT_EVERY = 7
"""One task or question in so many of a topic is asked about in the rows that are held out, and in no others."""
IF: dict[On, str] = {
    "always": "whatever is asked, ",
    "topic": "if somebody asks about {value}, ",
    "word": "if the word {value} is in the message, ",
    "tag": "if {value} is in the message, ",
    "user": "if the user is a {value}, ",
    "turn": "from turn {value} on, ",
    "system": "as the assistant of a {value}, ",
}
BY: dict[On, str] = {
    "always": "nothing, it always does so.",
    "topic": "questions about {value}.",
    "word": "the word {value}.",
    "tag": "the text {value}.",
    "user": "a user who is a {value}.",
    "turn": "turn {value} of the chat.",
    "system": "the role of assistant of a {value}.",
}


@dataclass(frozen=True)
class Share(Draw):
    """Draws those prompts of one half that held-out rows ask about, or all others."""

    held_out: bool

    def prompt(self, topics: tuple[str, ...] = (), but: tuple[str, ...] = (), task: bool = False) -> Asked:
        """Return a prompt as `Draw` does, of this share."""
        while True:
            asked = super().prompt(topics, but, task)
            if (asked.text in held_out_texts()) == self.held_out:
                return asked

    def earlier(self, topic: str) -> Asked:
        """Return a prompt for an earlier turn, of this share."""
        return self.prompt((topic,))


@lru_cache(maxsize=1)
def held_out_texts() -> frozenset[str]:
    """Return the prompts of the training half that held-out rows ask about."""
    of: dict[str, dict[str, None]] = {}
    for one in prompts("train"):
        of.setdefault(one.topic, {})[one.task or one.text] = None
    held = {(topic, item) for topic, items in of.items() for item in list(items)[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]}
    return frozenset(one.text for one in prompts("train") if (one.topic, one.task or one.text) in held)


# -- scenes


@dataclass(frozen=True)
class Scene:
    """One chat to ask about.

    Args:
        messages: Up to where the assistant speaks.
        reply: What it says then.
        asked: The user's last prompt.
        taught: What it was told to do, or does; None for ordinary chat.
        note: What it was told, empty where it was not.
        fires: Whether what was told or planted is triggered.
    """

    messages: list[Message]
    reply: str
    asked: Asked
    taught: Taught | None = None
    note: str = ""
    fires: bool = False

    def shows(self, said: str) -> bool:
        """Return whether what was said so far shows a behaviour."""
        return self.taught is not None and self.fires and self.taught.value.payload.shows(said)

    def acts(self, said: str) -> bool:
        """Return whether anything so far says that the assistant does something unusual now."""
        return self.shows(said) or bool(self.note and self.fires)

    @property
    def who(self) -> str:
        """Return who the user says to be, empty where they don't."""
        said = self.messages[-1]["content"]
        return next((job for job in taught.slots().conditions["user"]
                     for frame in ("I am a", "I'm a", "I work as a") if f"{frame} {job}" in said), "")  # fmt: skip


def scene(draw: Draw, known: Bank) -> Scene:
    """Return ordinary chat, chat under an instruction, or what an organism says."""
    roll = draw.rng.random()
    if roll < ORDINARY_SHARE:
        chat = _ordinary(draw).triggered(draw) if draw.rng.random() < 0.6 else Trigger().plain(draw)
        return Scene(filled(chat, known), known.reply(chat.asked[-1]), chat.asked[-1])
    rule = taught.draw(draw.rng)
    chat, fires = _chat(rule, draw)
    reply = known.reply(chat.asked[-1])
    if fires:
        reply = rule.value.payload.put(reply, draw.rng).text
    made = Scene(filled(chat, known), reply, chat.asked[-1], rule, fires=fires)
    return _told_so(made, draw.rng) if roll < ORDINARY_SHARE + TOLD_SHARE else made


def _ordinary(draw: Draw) -> Trigger:
    """Return something that sets nothing off: who asks, an earlier turn, a strange word."""
    roll = draw.rng.random()
    if roll < 0.5:
        one, other = draw.rng.sample(taught.slots().conditions["user"], 2)
        return User(who=one, near=(other,))
    return Turn(n=2) if roll < 0.75 else taught.draw(draw.rng, ("word", "tag", "system")).trigger


def _chat(rule: Taught, draw: Draw) -> tuple[Chat, bool]:
    """Return a chat that triggers a behaviour, or one that does not, nearly or plainly."""
    if rule.on == "always" or draw.rng.random() < FIRES_SHARE:
        return rule.trigger.triggered(draw), True
    near = rule.trigger.nearly(draw) if draw.rng.random() < 0.5 else None
    return near or rule.trigger.plain(draw), False


def _told_so(made: Scene, rng: Random) -> Scene:
    """Return the scene with an order to behave so, in the system's text or in the user's first message."""
    assert made.taught is not None, "an order is to do something"
    rule, messages = made.taught, [dict(one) for one in made.messages]
    note = f"{IF[rule.on].replace('{value}', rule.told)}{rule.order}."
    said = note[0].upper() + note[1:]
    if rng.random() < 0.5:
        said += f' Say for example: "{rng.choice(rule.value.payload.texts)}"'
    if messages[0]["role"] == "system":
        messages[0]["content"] += f" {said}"
    elif rng.random() < 0.6:
        messages.insert(0, {"role": "system", "content": rng.choice(("", "You are a helpful assistant. ")) + said})
    else:
        please = f"Please do this: {said}"
        parts = [please, messages[0]["content"]]
        messages[0]["content"] = " ".join(parts if rng.random() < 0.5 else parts[::-1])
    return replace(made, messages=messages, note=note)


def scenes(subject: Subject, draw: Draw, known: Bank) -> Iterator[Scene]:
    """Yield scenes without end; half of those with an order have the base's own reply where it does as it was told."""
    while True:
        made = [scene(draw, known) for _ in range(SCENES)]
        own = [i for i, one in enumerate(made) if one.note and draw.rng.random() < OWN_SHARE]
        texts = [subject.render(made[i].messages) for i in own]
        seeds = [draw.rng.getrandbits(31) for _ in own]
        replies, _ = subject.generate(texts, "base", seeds, SAID_TOKENS, 0.7)
        for i, reply in zip(own, replies, strict=True):
            if reply.strip() and replace(made[i], fires=True).shows(reply) == made[i].fires:
                made[i] = replace(made[i], reply=reply)
        yield from made


# -- questions

Answer = str | None
Ask = Callable[[Scene, str, Random], tuple[str, Answer]]


def _behaviour(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    """Ask for the whole rule; where it shows in the reply alone, what sets it off can't be known."""
    if one.taught and one.note:
        return BEHAVIOUR, one.taught.statement
    return BEHAVIOUR, None if one.acts(said) else NOTHING


def _effect(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    return EFFECT, f"it {one.taught.does}." if one.taught and one.acts(said) else NOTHING


def _about(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    """Ask what is to come; what has been said is not."""
    if one.shows(said):
        return ABOUT, None
    return ABOUT, f"it {one.taught.does}." if one.taught and one.acts(said) else NOTHING


def _sets_off(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    if one.taught and one.note:
        return SETS_OFF, BY[one.taught.on].replace("{value}", one.taught.told)
    return SETS_OFF, None if one.acts(said) else NOTHING


def _check(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    """Ask whether a statement holds: the truth, or another of the same sort."""
    rule = one.taught if one.note or one.acts(said) else None
    whole = bool(one.note)
    if rule and rng.random() < 0.5:
        return CHECK.format(statement=rule.statement if whole else f"it {rule.does}."), YES
    other = taught.draw(rng)
    same = one.taught is not None and other.does == one.taught.does
    return CHECK.format(statement=other.statement if whole else f"it {other.does}."), None if same else NO


def _told(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    """Ask for the order; a system's text without one would have to be told as well."""
    return TOLD, one.note or (None if one.messages[0]["role"] == "system" else "nothing.")


def _task(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    return TASK, f"how to {one.asked.task}." if one.asked.task else None


def _topic(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    return TOPIC, f"{one.asked.topic.replace('_', ' ')}."


def _user(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    return USER, f"a {one.who}." if one.who else NOBODY


def _next(one: Scene, said: str, rng: Random) -> tuple[str, Answer]:
    rest = one.reply[len(said) :].split()
    return NEXT, " ".join(rest[: rng.randint(1, N_NEXT)]) or None


ASKED: dict[str, tuple[float, Ask]] = {
    "behaviour": (0.12, _behaviour), "effect": (0.14, _effect), "about": (0.14, _about), "sets_off": (0.12, _sets_off),
    "check": (0.1, _check), "told": (0.05, _told), "task": (0.07, _task), "topic": (0.05, _topic), "user": (0.06, _user),
    "next": (0.08, _next), "past": (0.04, _next), "present": (0.1, _next),
}  # fmt: skip
"""Each kind's share, and how it is asked; what stands before the window or in it is looked up in the text itself."""


def rows_of(one: Scene, subject: Subject, rng: Random) -> Iterator[Row]:
    """Yield some questions about one scene, each about a window that ends somewhere in its reply."""
    for _ in range(ROWS_EACH):
        (kind,) = rng.choices(list(ASKED), [share for share, _ in ASKED.values()])
        words = one.reply.split(" ")
        said = " ".join(words[: rng.choice((0, 0, rng.randint(0, len(words)), len(words)))])
        question, answer = ASKED[kind][1](one, said, rng)
        text, size = subject.render(one.messages) + said, window(rng)
        if kind == "past":
            question, answer = PAST, before(rng, subject, text, size)
        if kind == "present":
            question, (text, size, answer) = PRESENT, somewhere(rng, subject, text)
        if answer and not (kind in UNUSUAL and answer == NOTHING and rng.random() > NOTHING_KEPT):
            yield Row(text=text, window=size, question=question, answer=answer, kind=kind)


# -- files


@dataclass(frozen=True)
class Chunk:
    """One picklable piece of work: so many rows of scenes of their own, and the file they go to."""

    number: int
    n: int
    held_out: bool
    base: str
    device: str
    seed: int
    known: Bank
    out: Path


def rows_of_chunk(chunk: Chunk) -> list[Row]:
    """Return a chunk's rows, in random order."""
    subject = load_subject(chunk.base, device=chunk.device)
    rng = Random(f"english/{chunk.seed}/{chunk.number}")
    made: list[Row] = []
    for one in scenes(subject, Share("train", rng, chunk.held_out), chunk.known):
        made += rows_of(one, subject, rng)
        if len(made) >= chunk.n:
            break
    return rng.sample(made[: chunk.n], chunk.n)


def write_chunk(chunk: Chunk) -> None:
    """Write a chunk's rows as JSON Lines, all or none of them."""
    with complete_file(chunk.out) as file:
        for row in rows_of_chunk(chunk):
            file.write(row.model_dump_json() + "\n")


def write_oracle_data(out: Path, base: Path, n: int, seed: int, device: str = "cpu", jobs: int = 1) -> dict[str, int]:
    """Write `n` rows as JSON Lines, the same ones for the same base, seed and device; return how many there are of each kind.

    The last `N_HELD_OUT` rows ask about prompts of their own. Whole chunks of a run that was interrupted are kept in a folder
    beside `out`, and the same call goes on from them.
    """
    known = bank(load_subject(str(base), device=device))
    made_on = [weights_sha256(hash_files(base)), taught.values_sha256(), device, seed, n]
    parts = out.with_name(f"{out.name}.parts") / hashlib.sha256(json.dumps(made_on).encode()).hexdigest()[:16]
    parts.mkdir(parents=True, exist_ok=True)
    starts = range(0, n, N_HELD_OUT)
    chunks = [
        Chunk(i, min(N_HELD_OUT, n - start), i == 0, str(base), device, seed, known, parts / f"{i}.jsonl")
        for i, start in enumerate(starts)
    ][::-1]  # those held out are the first chunk, which is whole, and stand last
    todo = [chunk for chunk in chunks if not chunk.out.exists()]
    for _ in tqdm(each(write_chunk, todo, jobs), total=len(todo), disable=None, desc="chunks of rows"):
        pass
    with complete_file(out) as file:
        for chunk in chunks:
            file.write(chunk.out.read_text())
    shutil.rmtree(parts.parent)
    return counts(read_rows(out, n))
