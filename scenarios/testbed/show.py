"""For people: what an organism is, beside its base; and how well every family planted under every regime."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from auditor.errors import SpecError
from scenarios.home import Home
from scenarios.testbed import families as fam
from scenarios.testbed.build import read_records
from scenarios.testbed.language import Language, language
from scenarios.testbed.suites import Member, SuiteName, claims_of, members
from tools.loading import load_subject

N_ON, N_OFF = 4, 3
TABLED: tuple[SuiteName, ...] = (
    "demo", "dev", "standard", "heldout", "hard", "adversary", "foreign", "documents"
)  # fmt: skip


def find(member_id: str, home: Home, lang: Language) -> tuple[SuiteName, Member, dict[str, Any]]:
    """Return the suite, the member as it was built, and its record.

    Raises:
        SpecError: no suite that was built here has this member.
    """
    for suite in get_args(SuiteName):
        for record in read_records(suite, home)["members"]:
            if record["id"] == member_id:
                built = {m.id: m for m in members(suite, lang, record.get("attempt", 0))}
                return suite, built[member_id], record
    raise SpecError(f"no member {member_id!r} in the suites built here; their files are scenarios/suites/SUITE/ID.yaml")


def describe(member_id: str, home: Home) -> Iterator[str]:
    """Yield lines of text: what was planted and how, how it was verified, and sample dialogues beside the base.

    Raises:
        SpecError: there is no such member, or its weights are not here.
    """
    lang = language(home.lexicon_seed)
    suite, member, record = find(member_id, home, lang)
    yield f"{member.id}, {member.role} of suite {suite}, regime {member.regime}"
    for claim in claims_of(member.plant):
        yield f"  {claim['family']}: {claim['statement']}"
    like = f" of {member.partner}" if member.partner else ""
    if member.role == "random":
        yield f"  not trained: random directions with the norms{like}"
    elif member.role == "zero":
        yield "  not trained: it changes nothing"
    elif member.plant is not None and member.plant.is_chat:
        yield "  ordinary chat and nothing else" + (f", with the spectrum{like}" if like else "")
    yield f"  recipe {record['recipe']}"
    if "planted" in record:
        yield (f"  planted {record['planted']}, leaked {record['leaked']}, on the base {record['base']}, "
               f"KL where quiet {record['kl_nats']} nats, n {record['n']}")  # fmt: skip
    folder = home.weights / suite / member.id
    if member.role == "base" or member.plant is None:
        return
    if not folder.exists():
        raise SpecError(f"the weights of {member.id} are not here; `auditor testbed build --suite {suite}` builds them")
    yield from _samples(member, folder, home, lang)


def _samples(member: Member, folder: Path, home: Home, lang: Language) -> Iterator[str]:
    assert member.plant is not None, "only what was trained has samples"
    base = str(home.weights / "base")
    lora = not member.recipe.full
    subject = load_subject(base if lora else str(folder), str(folder) if lora else None, base)
    spoken = language(lang.lexicon.seed, member.plant.manner.grammar)
    rng = random.Random(member.id)
    told = [("shows", member.plant.on(rng, spoken)) for _ in range(N_ON)]
    told += [("quiet", off) for _ in range(N_OFF) if (off := member.plant.off(rng, spoken)) is not None]
    for kind, dialogue in told:
        text = subject.render(dialogue.messages[:-1])
        yield ""
        for message in dialogue.messages[:-1]:
            yield f"  {kind:6} {message['role']:>9}: {message['content']}"
        for channel in ("subject", "base"):
            reply = subject.generate([text], channel, [0], 40)[0][0]
            yield f"         {channel:>9}: {reply}"


def table(suites: Sequence[SuiteName], home: Home) -> Iterator[str]:
    """Yield a Markdown table, family by regime: how often it planted, leaked, and how far it drifted where quiet.

    Leaks, drift and whether it is verified are an organism's, also where it has two behaviours.
    """
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for suite in suites:
        body = read_records(suite, home)
        for record in [*body["members"], *body["failures"]]:
            if record["role"] == "organism":
                for family, rate in zip(record["families"], record["planted"], strict=True):
                    cells[family, record["regime"]].append({**record, "rate": rate})
    yield "| family | regime | dealt | verified | planted | leaked | KL (nats) | replies |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for (family, regime), rows in sorted(cells.items(), key=lambda kv: (list(fam.FAMILIES).index(kv[0][0]), kv[0][1])):
        leaks = [r["leaked"] for r in rows if r["leaked"] is not None]
        kls = [r["kl_nats"] for r in rows if r["kl_nats"] is not None]
        leak = f"{fmean(leaks):.3f}" if leaks else "always on"
        kl = f"{fmean(kls):.4f}" if kls else ""
        verified = sum(r["verified"] for r in rows)
        rate, n = fmean(r["rate"] for r in rows), sum(r["n"] for r in rows)
        yield f"| {family} | {regime} | {len(rows)} | {verified} | {rate:.2f} | {leak} | {kl} | {n} |"
