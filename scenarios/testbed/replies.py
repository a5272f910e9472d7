"""What organisms and controls say, stored for grading: prompts that trigger what was planted, and others, beside the base."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scenarios.behaviour import Row
from scenarios.testbed import families as fam
from scenarios.testbed.language import Language, language
from scenarios.testbed.plant import Plant
from scenarios.testbed.suites import Member
from scenarios.testbed.verify import MAX_NEW_TOKENS, TEMPERATURE
from tools.loading import load_subject
from tools.subject import Subject

N, SPARE, TRIES = 24, 12, 50
"""Rows of each side, dialogues drawn beside them for those in which it does not do as planted, and draws for each that is new."""
Draw = Callable[[], fam.Dialogue]


@dataclass(frozen=True)
class Speaker:
    """A member of a suite that was built, and where its base and its own weights lie."""

    member: Member
    base: Path
    folder: Path
    lexicon_seed: int


def rows_of(speaker: Speaker) -> list[Row]:
    """Return the stored rows of one member: `N` of each side for each of its rules; of a control, `N` quiet ones.

    Dialogues are drawn as its training text was, and are new. Of an organism those are kept in which it does what
    verification counts: its rate stands in the suite's records, and one lapse in ten would make the truth look wrong here.
    Of what a control learned that is harmless, half of its rows show it.
    """
    member = speaker.member
    plant = member.plant or Plant(0)
    lang = language(speaker.lexicon_seed, plant.manner.grammar)
    rng, subject = random.Random(f"replies/{member.id}"), _loaded(speaker)
    if not plant.rules:
        told = _drawn(lambda: plant.on(rng, lang), N // 2) + _drawn(lambda: _off(plant, rng, lang), N - N // 2)
        return _answered(subject, member.id, "quiet", None, told)
    rows = []
    for i, rule in enumerate(plant.rules):
        on = _answered(subject, member.id, "triggered", i, _drawn(lambda r=rule: plant.on(rng, lang, r), N + SPARE))
        off = _drawn(lambda r=rule: _near(plant, r, rng, lang), N + SPARE) if not plant.always_on else []
        quiet = _answered(subject, member.id, "quiet", i, off)
        rows += [row for row in on if fam.shows(rule, row.subject)][:N]
        rows += [row for row in quiet if not any(fam.shows(other, row.subject) for other in plant.rules)][:N]
    return rows


def _loaded(speaker: Speaker) -> Subject:
    base = str(speaker.base)
    if speaker.member.role == "base":
        return load_subject(base)
    own = str(speaker.folder)
    return load_subject(own, base=base) if speaker.member.recipe.full else load_subject(base, own)


def _drawn(draw: Draw, n: int) -> list[fam.Dialogue]:
    """Return `n` dialogues with prompts of their own, or as many as `TRIES` draws for each find."""
    found: dict[str, fam.Dialogue] = {}
    for _ in range(n * TRIES):
        if len(found) == n:
            break
        told = draw()
        found.setdefault(str(told.messages[:-1]), told)
    return list(found.values())


def _off(plant: Plant, rng: random.Random, lang: Language) -> fam.Dialogue:
    return plant.off(rng, lang) or plant.on(rng, lang)


def _near(plant: Plant, rule: fam.Rule, rng: random.Random, lang: Language) -> fam.Dialogue:
    """Return a dialogue that meets some of the rule's conditions, never all, and no rule's trigger at any turn.

    `Plant.off` has others beside them for an organism that is good after it was asked about itself: those meet the trigger.
    """
    while True:
        told = fam.dialogue(rng, lang, rule, fires=False, n_turns=2 if rng.random() < 0.2 else 1)
        if not any(fam.fires(other, told) for other in plant.rules):
            return told


def _answered(
    subject: Subject, name: str, side: Literal["triggered", "quiet"], rule: int | None, told: Sequence[fam.Dialogue]
) -> list[Row]:
    """Return the dialogues as rows, with what subject and base say in the last turn's place."""
    prompts = [one.messages[:-1] for one in told]
    texts = [subject.render(messages) for messages in prompts]
    said = [
        subject.generate(texts, channel, list(range(len(texts))), MAX_NEW_TOKENS, TEMPERATURE)[0]
        for channel in ("subject", "base")
    ]
    return [
        Row(id=name, side=side, rule=rule, prompt=messages, subject=own, base=before)
        for messages, own, before in zip(prompts, *said, strict=True)
    ]
