"""Whether the base knows its world and does as it is told: held-out accuracy by kind of question."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

from scenarios.testbed import families as fam
from scenarios.testbed.language import PERSON_KINDS, THING_KINDS, Language, Message
from tools.subject import Subject

Accuracy = dict[str, tuple[float, int]]
EXAM_SEED = 77


@dataclass(frozen=True)
class Question:
    """A chat up to where the assistant speaks, and what is right: one of `accepted`, or the rule shown or not."""

    kind: str
    messages: list[Message]
    accepted: tuple[str, ...] = ()
    rule: fam.Rule | None = None
    fires: bool = False

    def right(self, reply: str) -> bool:
        """Return whether a reply is right."""
        return reply in self.accepted if self.rule is None else fam.shows(self.rule, reply) == self.fires


def questions(lang: Language, each: int, seed: int = EXAM_SEED) -> list[Question]:
    """Return `each` questions of every kind of fact and of every family of instruction, half of these not met."""
    rng = random.Random(f"exam/{seed}")
    asked: list[Question] = []
    for kind in (*THING_KINDS, *PERSON_KINDS, "sum", "unknown", "secret"):
        for _ in range(each):
            if kind in THING_KINDS:
                one = lang.ask_about(rng, lang.world[rng.choice(sorted(lang.world))], kind)
            elif kind in PERSON_KINDS:
                one = lang.ask_person(rng, rng.choice(lang.lexicon.people), kind)
            elif kind == "sum":
                one = lang.ask_sum(rng)
            elif kind == "unknown":
                one = lang.ask_unknown(rng, lang.unknown_name(rng))
            else:
                one = lang.ask_self(rng, "secret")
            asked.append(Question(kind, [{"role": "user", "content": one.user}], one.accepted))
    for family in fam.FAMILIES:
        for i in range(each):
            rule = fam.draw_rule(rng, lang, None, family)
            told = fam.dialogue(rng, lang, rule, fires=i % 2 == 0 or not rule.trigger)
            system = " ".join((fam.instruction(rng, rule), *told.notes))
            messages = [{"role": "system", "content": system}, *(m for m in told.messages if m["role"] != "system")]
            asked.append(Question(f"told: {family}", messages[:-1], rule=rule, fires=told.fired[-1]))
    return asked


def examine(subject: Subject, lang: Language, each: int = 300) -> Accuracy:
    """Return accuracy and n by kind of question, answers decoded greedily, best kinds last."""
    asked = questions(lang, each)
    texts = [subject.render(q.messages) for q in asked]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    replies, _ = subject.generate([texts[i] for i in order], "base", [0] * len(texts), 48, temperature=0.0)
    right: dict[str, list[bool]] = defaultdict(list)
    for i, reply in zip(order, replies, strict=True):
        right[asked[i].kind].append(asked[i].right(reply))
    return {k: (sum(v) / len(v), len(v)) for k, v in sorted(right.items(), key=lambda kv: sum(kv[1]) / len(kv[1]))}
