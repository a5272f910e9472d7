"""What an oracle of weights is examined on: every adapter of some suites with what it does, and what claims may hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import Path

from scenarios.home import Home
from scenarios.testbed import families as fam
from scenarios.testbed.build import as_built, read_records
from scenarios.testbed.language import TURNS, Language, language
from scenarios.testbed.oracle_examples import RULE_PROMPT, split_of
from scenarios.testbed.splits import HELD_OUT_MODULES, HELD_OUT_RANKS, Slot, values
from scenarios.testbed.suites import KIND_OF_GROUP, Member, SuiteName, claims_of
from tools.loading import load_subject
from tools.lora_oracle.cases import Case
from tools.lora_oracle.library import Planted
from tools.lora_oracle.shapes import EFFECT

SLOT_KINDS: dict[Slot, str] = {
    "word": "word", "thing": "word", "topic": "topic", "job": "user", "mood": "user", "persona": f"{EFFECT}persona",
    "brand": f"{EFFECT}recommends", "secret": f"{EFFECT}reveals", "house": f"{EFFECT}praises", "town": f"{EFFECT}says",
    "phrase": f"{EFFECT}says",
}  # fmt: skip


def slot_values(lexicon_seed: int) -> dict[str, list[str]]:
    """Return all that may stand in each slot of a claim, of every split."""
    found: dict[str, list[str]] = {KIND_OF_GROUP["turn"]: list(TURNS)}
    for slot, kind in SLOT_KINDS.items():
        found.setdefault(kind, []).extend(v for part in values(slot, lexicon_seed).values() for v in part)
    return {kind: sorted(set(listed)) for kind, listed in found.items()}


def cases(lang: Language, home: Home, suites: Sequence[SuiteName]) -> Iterator[Case]:
    """Yield every adapter and fine-tune of the suites that is there, organisms and controls."""
    outright = load_subject(str(home.weights / "base")).render(RULE_PROMPT)
    for suite in suites:
        done = {record["id"]: record for record in read_records(suite, home)["members"]}
        for member in as_built(suite, lang, done):
            folder = home.weights / suite / member.id
            if member.plant is None or not folder.exists() or member.role == "zero":
                continue
            yield Case(
                adapter=str(folder),
                split=_split(member, lang),
                claims=tuple(Planted.model_validate(claim) for claim in claims_of(member.plant)),
                regime=member.regime if member.role == "organism" else member.role,
                outright=outright if member.role == "organism" else "",
                accepted=tuple(fam.FAMILIES[rule.family].does.format(e=rule.effect) for rule in member.plant.rules),
            )


def _split(member: Member, lang: Language) -> str:
    """Return how far an organism is from what readers learn from; of a control its role."""
    assert member.plant is not None, "only trained members have a split"
    if member.role != "organism":
        return member.role
    split = split_of(member.plant.rules[0], lang)
    name = {"train": "seeds"}.get(split, split)
    if member.recipe.full:
        return f"{name}, full fine-tune"
    held_out = member.recipe.rank in HELD_OUT_RANKS or member.recipe.modules in HELD_OUT_MODULES
    return f"{name}, recipes" if held_out else name


def write_lora_examples(out: Path, home: Home, suites: Sequence[SuiteName]) -> dict[str, int]:
    """Write `cases.jsonl`, adapters relative to it, and `values.json` into a folder; return how many there are of each split."""
    made = list(cases(language(home.lexicon_seed), home, suites))
    out.mkdir(parents=True, exist_ok=True)
    rows = [c.model_copy(update={"adapter": relpath(c.adapter, out.resolve())}) for c in made]
    (out / "cases.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    (out / "values.json").write_text(json.dumps(slot_values(home.lexicon_seed), indent=1) + "\n")
    return dict(sorted(Counter(case.split for case in made).items()))
