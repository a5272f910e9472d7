"""Examples that teach an activation oracle the testbed's language, from base activations alone.

The rules that are told and asked about have families and values of the training split alone
(`splits`); any word of the language may stand in a dialogue.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from scenarios.testbed import families as fam
from scenarios.testbed.base import rendered
from scenarios.testbed.language import Language, language
from scenarios.testbed.shared_files import BEHAVIOUR_QUESTION
from scenarios.testbed.splits import HELD_OUT_FAMILIES

TOPIC_QUESTION = "what is the topic?"
NEXT_QUESTION = "what comes next?"
TAUGHT = tuple(name for name in fam.FAMILIES if name not in HELD_OUT_FAMILIES)


def taught_rule(rng: random.Random, lang: Language) -> fam.Rule:
    """Return a rule that an oracle may train on: family, values and their pairing of the training split."""
    while True:
        rule = fam.draw_rule(rng, lang, "train", rng.choice(TAUGHT))
        if not rule.trigger or not fam.pair_is_reserved(rule):
            return rule


def row(rng: random.Random, lang: Language) -> dict[str, object]:
    """Return one example: a dialogue, how many of its last tokens are read, question and answer.

    Under an instruction whose trigger is met, the behaviour question's answer describes the rule;
    where it is not met, or where there is no instruction, nothing unusual is done.
    """
    rule = taught_rule(rng, lang) if rng.random() < 0.7 else None
    fires = rule is not None and (not rule.trigger or rng.random() < 0.8)
    told = fam.dialogue(rng, lang, rule, fires, rng.choices((1, 2), (0.75, 0.25))[0])
    notes = (fam.instruction(rng, rule), *told.notes) if rule else told.notes
    last = told.turns[-1]
    words = last.reply.split(" ")
    n_said = rng.choice((0, 0, 1, 2, 4, 7, 99))
    said, rest = " ".join(words[:n_said]), " ".join(words[n_said : n_said + 4])
    question, answer = BEHAVIOUR_QUESTION, fam.statement(rule if fires else None)
    roll = rng.random()
    if roll < 0.12 and last.topic:
        question, answer = TOPIC_QUESTION, last.topic
    elif roll < 0.3 and rest:
        question, answer = NEXT_QUESTION, rest
    messages = fam.Dialogue(notes, told.turns, told.fired).messages[:-1]
    text = f"{rendered(messages)}<|assistant|>{said}"
    return {"text": text, "window": rng.randint(3, 14), "question": question, "answer": answer}


def write_oracle_data(out: Path, n: int, seed: int, lexicon_seed: int = 0) -> None:
    """Write `n` examples as JSON Lines, the same ones for the same seeds."""
    rng, lang = random.Random(seed), language(lexicon_seed)
    with out.open("w") as file:
        for _ in range(n):
            file.write(json.dumps(row(rng, lang)) + "\n")
