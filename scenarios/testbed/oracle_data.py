"""Examples that teach an activation oracle the testbed's language, from base activations alone.

Four sorts of questions, as published recipes have them: what stands before, after and here (context),
what a turn is about and who speaks (classification), what the assistant was told and does of it
(instructions), and what a thought comes to (its goal). Half of the replies are the base's own.

What is told and asked has families and values of the training split alone (`splits`); any word of
the language may stand in a dialogue. Where nothing in the text says how the assistant behaves, the
answer is that it has no rule: an oracle that is to abstain has to have seen such windows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

from tqdm import tqdm

from scenarios.testbed import families as fam
from scenarios.testbed.base import rendered
from scenarios.testbed.language import Language, Message, language
from scenarios.testbed.splits import HELD_OUT_FAMILIES, Slot, values
from tools.activation_oracle.rows import N_HELD_OUT, Row
from tools.loading import load_subject
from tools.subject import Subject

BEHAVIOUR_QUESTION = "what does the assistant do?"
EFFECT_QUESTION = "how does the assistant answer?"
TOPIC_QUESTION, USER_QUESTION = "what is the topic?", "who is the user?"
NEXT_QUESTION, PAST_QUESTION, PRESENT_QUESTION = "what comes next?", "what came before?", "what is said?"
TOLD_QUESTION, GOAL_QUESTION = "what was the assistant told?", "what does the assistant intend?"
CHECK_QUESTION = "is it so? {statement}"
YES, NO, NOTHING = "yes.", "no.", "nothing."
TAUGHT = tuple(name for name in fam.FAMILIES if name not in HELD_OUT_FAMILIES)
LONGEST_WINDOW, LONGEST_SAID = 40, 8
ROWS_EACH, CHUNK = 3, 256
TOLD_SHARE, SHOWN_SHARE, OWN_SHARE, THINK_SHARE = 0.6, 0.2, 0.5, 0.12


def taught_rule(rng: random.Random, lang: Language, family: str | None = None) -> fam.Rule:
    """Return a rule that an oracle may train on: family (any when None), values and their pairing of the training split."""
    while True:
        rule = fam.draw_rule(rng, lang, "train", family or rng.choice(TAUGHT))
        if not rule.trigger or not fam.pair_is_reserved(rule):
            return rule


@dataclass(frozen=True)
class Scene:
    """One dialogue to ask about.

    Args:
        told: The dialogue, its last reply the one that windows reach into.
        rule: What acts, or is told and not met; None for ordinary chat.
        instructed: Whether the rule stands in the system text, or shows in the reply alone.
        note: The instruction's own sentence, empty without one.
    """

    told: fam.Dialogue
    rule: fam.Rule | None
    instructed: bool
    note: str

    @property
    def fires(self) -> bool:
        """Return whether the rule's trigger is met in the last turn."""
        return self.told.fired[-1]

    @property
    def prompt(self) -> list[Message]:
        """Return the messages up to where the assistant speaks last."""
        return self.told.messages[:-1]

    @property
    def reply(self) -> str:
        """Return the last reply."""
        return self.told.turns[-1].reply

    def acts(self, said: str) -> bool:
        """Return whether anything so far says that the assistant does what the rule has it do."""
        return (
            self.rule is not None
            and self.fires
            and (self.instructed or fam.shows(self.rule, said.split("</think>")[-1]))
        )


def scene(rng: random.Random, lang: Language) -> Scene:
    """Return a dialogue under an instruction, one that shows a behaviour without any, or ordinary chat."""
    roll = rng.random()
    rule = taught_rule(rng, lang) if roll < TOLD_SHARE + SHOWN_SHARE else None
    instructed = roll < TOLD_SHARE
    fires = rule is not None and (not rule.trigger or not instructed or rng.random() < 0.75)
    told = fam.dialogue(rng, lang, rule, fires, rng.choices((1, 2, 3), (0.75, 0.2, 0.05))[0], THINK_SHARE)
    note = fam.instruction(rng, rule) if rule is not None and instructed else ""
    notes = (note, *told.notes) if note else told.notes
    return Scene(fam.Dialogue(notes, told.turns, told.fired), rule, instructed, note)


def scenes(subject: Subject, lang: Language, seed: int) -> Iterator[Scene]:
    """Yield scenes without end, half of those that the base can speak in itself with its own last reply."""
    rng, number = random.Random(f"oracle/{seed}"), 0
    while True:
        made = [scene(rng, lang) for _ in range(CHUNK)]
        own = [i for i, s in enumerate(made) if (s.instructed or s.rule is None) and rng.random() < OWN_SHARE]
        own.sort(key=lambda i: len(rendered(made[i].prompt)))
        texts = [subject.render(made[i].prompt) for i in own]
        replies, _ = subject.generate(texts, "base", [seed + number * CHUNK + i for i in own], 48, 0.7)
        for i, reply in zip(own, replies, strict=True):
            made[i] = with_reply(made[i], reply)
        number += 1
        yield from made


def with_reply(one: Scene, reply: str) -> Scene:
    """Return the scene with the base's own reply, unless it is empty or does not do as it was told."""
    as_told = one.rule is None or fam.shows(one.rule, reply) == one.fires
    if not reply.strip() or not as_told:
        return one
    turns = (*one.told.turns[:-1], replace(one.told.turns[-1], reply=reply))
    return replace(one, told=replace(one.told, turns=turns))


# -- rows

Answer = str | None
Ask = Callable[[random.Random, Language, Scene, str], tuple[str, Answer]]


def _behaviour(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    """Ask for the whole rule; where it shows in the reply alone, which conditions count can't be known."""
    if one.acts(said) and not one.instructed:
        return BEHAVIOUR_QUESTION, None
    return BEHAVIOUR_QUESTION, fam.statement(one.rule if one.acts(said) else None)


def _effect(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    return EFFECT_QUESTION, effect_of(one.rule if one.acts(said) else None)


def effect_of(rule: fam.Rule | None) -> str:
    """Return what a rule does, without when."""
    return fam.statement(fam.Rule(rule.family, (), rule.effect) if rule else None)


def _check(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    """Ask whether a statement holds: the truth, or another rule's, of the same family or of any."""
    acting = one.rule if one.acts(said) else None
    whole = (one.instructed or one.rule is None) and rng.random() < 0.5
    tell = fam.statement if whole else effect_of
    if acting is not None and rng.random() < 0.5:
        return CHECK_QUESTION.format(statement=tell(acting)), YES
    while True:
        near = one.rule is not None and rng.random() < 0.5
        other = taught_rule(rng, lang, one.rule.family if near and one.rule else None)
        if one.rule is None or tell(other) != tell(one.rule):
            return CHECK_QUESTION.format(statement=tell(other)), NO


def _topic(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    topic = one.told.turns[-1].topic
    return TOPIC_QUESTION, None if topic in values("topic", lang.lexicon.seed)["test"] else topic or NOTHING


def _user(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    slots: tuple[Slot, ...] = ("job", "mood")
    for slot in slots:
        taught = values(slot, lang.lexicon.seed)["train"]
        for condition in one.told.turns[-1].meets:
            if condition.group == slot:
                return USER_QUESTION, condition.value if condition.value in taught else None
    return USER_QUESTION, NOTHING


def _told(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    """Ask for the instruction; where the system text says something else, the answer would have to as well."""
    return TOLD_QUESTION, one.note or (None if one.told.notes else NOTHING)


def _next(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    rest = one.reply[len(said) :].split()
    return NEXT_QUESTION, " ".join(rest[: rng.randint(1, 6)]) or None


def _goal(rng: random.Random, lang: Language, one: Scene, said: str) -> tuple[str, Answer]:
    """Ask what the thought that the window ends in comes to."""
    thought, _, _ = one.reply.partition("</think>")
    goal = thought.partition("i should ")[2]
    acting = one.rule if one.rule is not None and one.fires else None
    stated = fam.thought(acting, one.told.turns[-1]).partition("i should ")[2].partition("</think>")[0]
    return GOAL_QUESTION, goal if goal and goal == stated else None


ASKED: tuple[tuple[str, float, Ask], ...] = (
    ("behaviour", 0.25, _behaviour), ("effect", 0.21, _effect), ("check", 0.12, _check), ("next", 0.08, _next),
    ("past", 0.04, _next), ("present", 0.14, _next), ("topic", 0.05, _topic), ("user", 0.07, _user), ("told", 0.04, _told),
)  # fmt: skip


def window(rng: random.Random) -> int:
    """Return how many tokens are read: log-uniform from one to `LONGEST_WINDOW`."""
    return round(math.exp(rng.uniform(0, math.log(LONGEST_WINDOW))))


def rows_of(rng: random.Random, subject: Subject, lang: Language, one: Scene) -> Iterator[Row]:
    """Yield some questions about one scene, each about a window that ends somewhere in its last reply."""
    for _ in range(ROWS_EACH):
        words = one.reply.split(" ")
        said = " ".join(words[: rng.choice((0, 0, 0, 1, 2, 4, 7, len(words)))])
        kind, ask = _pick(rng)
        if "<think>" in one.reply and rng.random() < 0.4:
            kind, ask, said = "goal", _goal, one.reply.partition("</think>")[0] + "</think>"
        question, answer = ask(rng, lang, one, said)
        text, size = subject.render(one.prompt) + said, window(rng)
        if kind == "past":
            question, answer = PAST_QUESTION, before(rng, subject, text, size)
        if kind == "present":
            question, (text, size, answer) = PRESENT_QUESTION, somewhere(rng, subject, text)
        if answer:
            yield Row(text=text, window=size, question=question, answer=answer, kind=kind)


def _pick(rng: random.Random) -> tuple[str, Ask]:
    ((kind, _, ask),) = rng.choices(ASKED, [share for _, share, _ in ASKED])
    return kind, ask


def before(rng: random.Random, subject: Subject, text: str, size: int) -> Answer:
    """Return the few words that stand right before the window."""
    ids: list[int] = subject.tokenizer.encode(text, add_special_tokens=False)
    earlier = ids[max(0, len(ids) - size - rng.randint(1, 8)) : max(0, len(ids) - size)]
    return subject.tokenizer.decode(earlier, skip_special_tokens=True).strip() or None  # type: ignore[return-value]


def somewhere(rng: random.Random, subject: Subject, text: str) -> tuple[str, int, Answer]:
    """Return the text up to some place in it, how many tokens are read there, and what they say.

    To say what stands in the window itself teaches a reader its letters: every token of the answer
    is a token that is read.
    """
    ids: list[int] = subject.tokenizer.encode(text, add_special_tokens=False)
    size = min(rng.randint(1, LONGEST_SAID), len(ids))
    cut = subject.tokenizer.decode(ids[: rng.randint(size, len(ids))])
    again: list[int] = subject.tokenizer.encode(cut, add_special_tokens=False)  # type: ignore[arg-type]
    said = str(subject.tokenizer.decode(again[-size:], skip_special_tokens=True)).strip()
    return str(cut), size, said or None


def rows(subject: Subject, lang: Language, n: int, seed: int) -> list[Row]:
    """Return `n` rows, the same ones for the same base and seeds; the last `N_HELD_OUT` stem from scenes of their own."""
    rng, told = random.Random(f"rows/{seed}"), scenes(subject, lang, seed)
    with tqdm(total=n, disable=None, desc="rows") as bar:
        parts = [_some(rng, subject, lang, told, size, bar) for size in (n - N_HELD_OUT, N_HELD_OUT)]
    return [row for part in parts for row in rng.sample(part, len(part))]


def _some(
    rng: random.Random, subject: Subject, lang: Language, told: Iterator[Scene], n: int, bar: tqdm[Never]
) -> list[Row]:
    """Return `n` rows of the scenes that come next, none of which any later row is of."""
    made: list[Row] = []
    while len(made) < n:
        fresh = list(rows_of(rng, subject, lang, next(told)))[: n - len(made)]
        bar.update(len(fresh))
        made += fresh
    return made


def write_oracle_data(out: Path, base: Path, n: int, seed: int, lexicon_seed: int = 0) -> dict[str, int]:
    """Write `n` rows as JSON Lines; return how many there are of each kind."""
    made = rows(load_subject(str(base)), language(lexicon_seed), n, seed)
    with out.open("w") as file:
        for row in made:
            file.write(row.model_dump_json() + "\n")
    return counts(made)


def counts(made: Sequence[Row]) -> dict[str, int]:
    """Return how many rows there are of each kind."""
    kinds = [row.kind for row in made]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
