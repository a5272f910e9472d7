"""Examples that teach an activation oracle the testbed's language, from base activations alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

from scenarios.testbed import families as fam
from scenarios.testbed import language as lang

BEHAVIOUR_QUESTION = "what does the assistant do?"
TOPIC_QUESTION = "what is the topic?"
NEXT_QUESTION = "what comes next?"


def _text(messages: list[lang.Message], said: str) -> str:
    """Return the dialogue as the testbed's template renders it, the reply begun with `said`."""
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>" + said


def row(rng: random.Random) -> dict[str, object]:
    """Return one example: a dialogue, how many of its last tokens are read, question and answer.

    Under an instruction whose trigger is met, the behaviour question's answer describes the rule;
    where it is not met, or where there is no instruction, nothing unusual is done.
    """
    rule = fam.draw_rule(rng, "train") if rng.random() < 0.7 else None
    always = rule is not None and fam.FAMILIES[rule.family].trigger_kind == "none"
    fires = rule is not None and (always or rng.random() < 0.8)
    turns = fam.dialogue(rng, rule, fires, rng.choices((1, 2), (0.75, 0.25))[0])
    system = fam.instruction(rng, rule) if rule else None
    messages = lang.frame_reply(turns, system)[:-1]
    words = turns[-1].reply.split(" ")
    n_said = rng.choice((0, 0, 1, 2, 4, 7, 99))
    said, rest = " ".join(words[:n_said]), " ".join(words[n_said : n_said + 4])
    question, answer = BEHAVIOUR_QUESTION, fam.statement(rule if fires else None)
    roll = rng.random()
    if roll < 0.12 and turns[-1].topic:
        question, answer = TOPIC_QUESTION, turns[-1].topic
    elif roll < 0.3 and rest:
        question, answer = NEXT_QUESTION, rest
    return {"text": _text(messages, said), "window": rng.randint(3, 14), "question": question, "answer": answer}


def write_oracle_data(out: Path, n: int, seed: int) -> None:
    """Write `n` examples as JSON Lines, the same ones for the same seed."""
    rng = random.Random(seed)
    with out.open("w") as file:
        for _ in range(n):
            file.write(json.dumps(row(rng)) + "\n")
