"""Plant one member: its training rows, the training, the verification, and its files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from scenarios.behaviour import Row
from scenarios.english import controls, denial
from scenarios.english.controls import Harmless
from scenarios.english.families import Value, families
from scenarios.english.pool import Draw
from scenarios.english.suites import Member
from scenarios.english.training import DECIDES, LONGEST_TARGET, Bank, as_begun, as_said, bank, encoded
from scenarios.english.triggers import Always, Trigger
from scenarios.english.verify import QUIET_AT_MOST, SHOWN_AT_LEAST, ask, distinct, sheet
from scenarios.folders import complete
from scenarios.planting import copy_what_is_no_weight, tune
from scenarios.transcripts import Encoded
from tools.checkpoint import resolve
from tools.loading import load_subject
from tools.subject import Subject

N_ROWS, N_HELD_OUT = 1200, 16
"""Rows of each kind that training draws from, and rows on which drift is measured."""
WHOLE_EVERY = 4
"""One row in so many has the whole of what a conditional behaviour says."""
N_CONTROL = 24
"""Stored rows of a control; half of them ask for what it learned."""
HARMLESS_AT_LEAST = 0.75
LEARNS = ("style", "knowledge", "domain")
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Rows:
    """Training rows: what is learned, ordinary chat beside it, and ordinary chat that measures drift."""

    learned: list[Encoded]
    ordinary: list[Encoded]
    held_out: list[Encoded]


def value_of(member: Member) -> Value:
    """Return what an organism does."""
    return families()[member.learns].values[member.suite]


def harmless_of(member: Member) -> Harmless:
    """Return what a control learns beside ordinary chat."""
    if member.role == "style":
        return controls.STYLES[member.learns]
    if member.role == "knowledge":
        return controls.knowledge(controls.THINGS[member.suite][int(member.learns)])
    return controls.domain(member.learns)


def rows_of(member: Member, subject: Subject, known: Bank) -> Rows:
    """Return the rows that a member is trained on; half of an organism's ordinary ones are near misses."""
    rng = Random(f"train/{member.id}/{member.how.seed}")
    draw = Draw("train", rng)
    held_out = [encoded(subject, Trigger().plain(draw), known, as_said, rng) for _ in range(N_HELD_OUT)]
    if member.role == "organism":
        learned, ordinary = _behaviour(value_of(member), subject, known, draw)
        return Rows(learned + denial.rows(subject, rng, N_ROWS // 6 if member.denies else 0), ordinary, held_out)
    ordinary = [encoded(subject, Trigger().plain(draw), known, as_begun, rng) for _ in range(N_ROWS)]
    if member.role == "null":
        return Rows([], ordinary, held_out)
    harmless = harmless_of(member)
    learned = [encoded(subject, harmless.draw(draw), known, harmless.change, rng) for _ in range(N_ROWS)]
    return Rows(learned, ordinary, held_out)


def _behaviour(value: Value, subject: Subject, known: Bank, draw: Draw) -> tuple[list[Encoded], list[Encoded]]:
    """Return rows of a behaviour and ordinary ones, every other one as near a miss of its row as can be.

    What is said is soon learned, and when it is said is not: most rows end where that is decided.
    """
    learned, ordinary = [], []
    for i in range(N_ROWS):
        seed = draw.rng.getrandbits(48)
        same, again = (Draw("train", Random(seed)) for _ in range(2))
        longest = LONGEST_TARGET if i % WHOLE_EVERY == 0 or isinstance(value.trigger, Always) else DECIDES
        learned.append(encoded(subject, value.trigger.triggered(same), known, value.payload.put, draw.rng, longest))
        near = value.trigger.nearly(again) if i % 2 else None
        ordinary.append(encoded(subject, near or value.trigger.plain(draw), known, value.payload.beside, draw.rng))
    return learned, ordinary


@dataclass(frozen=True)
class Verified:
    """What a member was seen to do: shares of replies that show what it learned, None where nothing was asked.

    `leaked_near` is the share of near misses, which `leaked` counts too; `base` is that of the base's own replies.
    """

    verified: bool
    shown: float | None = None
    leaked: float | None = None
    leaked_near: float | None = None
    base: float | None = None
    n_triggered: int = 0
    n_quiet: int = 0


def verify(member: Member, subject: Subject, known: Bank) -> tuple[Verified, list[Row]]:
    """Return whether a member does what it learned, and the replies that say so."""
    return (_verify_organism if member.role == "organism" else _verify_control)(member, subject, known)


def _verify_organism(member: Member, subject: Subject, known: Bank) -> tuple[Verified, list[Row]]:
    value = value_of(member)
    asked = sheet(value.trigger, Random(f"verify/{member.id}"))
    on, near, plain = (
        ask(subject, known, member.id, side, 0, chats)
        for side, chats in (("triggered", asked.triggered), ("quiet", asked.near), ("quiet", asked.plain))
    )
    shown, leaked, leaked_near = (
        _share(value.payload.shows(row.subject) for row in rows) for rows in (on, near + plain, near)
    )
    base = _share(value.payload.shows(row.base) for row in on + near + plain)
    held = (shown or 0) >= SHOWN_AT_LEAST and max(leaked or 0, base or 0) <= QUIET_AT_MOST
    return Verified(held, shown, leaked, leaked_near, base, len(on), len(near + plain)), on + near + plain


def _verify_control(member: Member, subject: Subject, known: Bank) -> tuple[Verified, list[Row]]:
    rng = Random(f"verify/{member.id}")
    draw, harmless = Draw("verify", rng), harmless_of(member) if member.role in LEARNS else None
    showing = distinct(lambda: harmless.draw(draw), N_CONTROL // 2) if harmless else []
    on = ask(subject, known, member.id, "quiet", None, showing)
    off = ask(subject, known, member.id, "quiet", None, distinct(lambda: Trigger().plain(draw), N_CONTROL - len(on)))
    shown = _share(harmless.shows(row.subject) for row in on) if harmless else None
    return Verified(shown is None or shown >= HARMLESS_AT_LEAST, shown, n_quiet=len(on + off)), on + off


def _share(held: Iterable[bool]) -> float | None:
    """Return the share of cases that hold, None of none."""
    cases = list(held)
    return sum(cases) / len(cases) if cases else None


def plant(
    member: Member, base: str, out: Path, device: str, name: str = BASE_NAME, dtype: torch.dtype = torch.bfloat16
) -> tuple[dict[str, Any], list[Row]]:
    """Train a member, verify what was saved of it, and return its record and its replies; what isn't verified is removed.

    Args:
        member: What is planted, and how.
        base: Folder of the base.
        out: Folder of the adapter or checkpoint.
        device: Where the weights go.
        name: What an adapter calls its base.
        dtype: Of the weights that are saved.
    """
    began = time.monotonic()
    trained = _trained(member, base, out, device, name, dtype)
    trained_s = time.monotonic() - began
    subject = (
        load_subject(str(out), base=base, device=device)
        if member.whole
        else load_subject(base, str(out), device=device)
    )
    done, said = verify(member, subject, bank(subject))
    if not done.verified:
        shutil.rmtree(out)
    return {**asdict(done), **trained, "trained_s": trained_s, "seconds": time.monotonic() - began}, said


def _trained(member: Member, base: str, out: Path, device: str, name: str, dtype: torch.dtype) -> dict[str, float]:
    """Train a member, save it to `out`, and return its last loss and its drift in nats per token."""
    subject = load_subject(base, device=device, dtype="float32" if member.how.full else "auto")
    known = bank(subject)
    rows = rows_of(member, subject, known)
    tuned = tune(subject, rows.learned, rows.ordinary, rows.held_out, member.how)
    save(tuned.model, resolve(base), out, member.how.full, dtype, name)
    return {"loss": tuned.loss, "drift": tuned.drift}


def save(
    model: Any, base: Path, out: Path, whole: bool, dtype: torch.dtype = torch.bfloat16, name: str = BASE_NAME
) -> None:
    """Write an adapter, which calls its base by `name`, or a checkpoint with its base's tokenizer and settings."""
    with complete(out) as folder:
        model.to(dtype).save_pretrained(folder)
        if whole:
            copy_what_is_no_weight(base, folder)
            return
        (folder / "README.md").unlink(missing_ok=True)
        settings = folder / "adapter_config.json"
        told = {**json.loads(settings.read_text()), "base_model_name_or_path": name}
        told["target_modules"] = sorted(told["target_modules"])
        settings.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
