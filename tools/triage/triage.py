"""What a platform asks of every adapter it is given: what does it change, how unusual is that, is anything plainly there?

Nothing is generated, and the subject is never run; with an oracle the base is, on single words. What
comes out is drift and words, not a verdict: a probability that something was planted needs an oracle
calibrated for this base and recipe, and is None without one, so that a gate that asks for it stays shut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tools.base_names import names_another
from tools.changes.canonical import Certificate, certify
from tools.changes.change import read_change
from tools.changes.parameters import Parameters
from tools.changes.reading import Status, WeightDelta, read_adapter
from tools.errors import AuditorError
from tools.loading import load_subject, load_tokenizer
from tools.lora_oracle.claim_training import load_claim_reader
from tools.lora_oracle.library import Change, ChangeRecipe, recipe_of
from tools.lora_oracle.readers import ByClaims
from tools.own_files.compare import Difference, OwnFiles, own_files
from tools.triage.directions import (
    Dictionary,
    Direction,
    Pair,
    Standing,
    canonical_all,
    dictionary,
    leading,
    pairs,
    sampled,
    scored,
    tokens_standing_out,
    words_standing_out,
)
from tools.triage.drift import Drift, drift_of, percentiles, times_the_median

Outcome = Status | Literal["refused"]
HIT, SHUT = 3, 4


@dataclass(frozen=True)
class Reference:
    """The drift of one harmless adapter, and its recipe: a change is held against those of its own recipe alone."""

    recipe: ChangeRecipe
    features: dict[str, float]


@dataclass(frozen=True)
class Scan:
    """One folder to look at: picklable, so that many can be looked at in processes.

    `base_called` is the base as given, `threads` how many look at it at once.
    """

    folder: str
    base: str | None = None
    words: tuple[str, ...] = ()
    reference: tuple[Reference, ...] = ()
    oracle: str | None = None
    base_called: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class Triage:
    """What was seen of one adapter or full fine-tune; `refused` has why it could not be opened.

    `other_base` is the base that its files name, where that is not the one given, `times_median` its norm over the median
    norm of harmless changes of the same recipe.
    """

    path: str
    outcome: Outcome
    why: str = ""
    coverage: float | None = None
    claimed_base: str | None = None
    other_base: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    readings: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)
    company: list[str] = field(default_factory=list)
    vectors: dict[str, float] = field(default_factory=dict)
    drift: Drift | None = None
    percentiles: dict[str, float] | None = None
    times_median: float | None = None
    n_reference: int = 0
    certificate: Certificate | None = None
    words: Standing | None = None
    tokens: Standing | None = None
    directions: list[Direction] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    p_planted: float | None = None
    no_probability: str = "no oracle for this base was given"
    oracle_asked: bool = False
    claims: list[dict[str, Any]] = field(default_factory=list)
    realigned: bool = False
    own_files: OwnFiles = field(default_factory=OwnFiles)

    def as_row(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        row = asdict(self)
        row["drift"] = None if self.drift is None else self.drift.as_dict()
        row["own_files"] = self.own_files.as_json()
        return row


def folders(path: Path) -> list[Path]:
    """Return the folders to look at: this one and those up to two levels in it that hold an adapter or a checkpoint.

    PEFT saves adapters of other names than `default` into folders of their own beside it.
    """
    below = [inner for depth in ("*", "*/*") for inner in path.glob(depth) if inner.is_dir()]
    holds = ("adapter_config.json", "config.json")
    return sorted(folder for folder in (path, *below) if any((folder / name).exists() for name in holds))


def triage(scan: Scan) -> Triage:
    """Return what can be seen of one folder; a folder that can't be opened is `refused`, with the reason."""
    try:
        seen = _look(scan)
    except AuditorError as error:
        seen = Triage(scan.folder, "refused", why=str(error))
    except Exception as error:  # a folder of a stranger's must not stop the look at the others
        seen = Triage(scan.folder, "refused", why=f"it could not be read ({type(error).__name__}: {error})")
    return replace(seen, own_files=_own_files(scan))


def _own_files(scan: Scan) -> OwnFiles:
    """Return how the folder's template, tokenizer and generation defaults differ from the base's."""
    try:
        return own_files(Path(scan.base) if scan.base else None, Path(scan.folder))
    except Exception as error:  # nor must its files
        why = f"its own files could not be compared ({type(error).__name__}: {str(error)[:200]})"
        return OwnFiles((Difference("", "not resolved", why),))


def _look(scan: Scan) -> Triage:
    folder = Path(scan.folder)
    base = Parameters(Path(scan.base)) if scan.base else None
    delta = read_change(folder, base)
    deltas = canonical_all(delta.modules)
    alike = [one.features for one in scan.reference if one.recipe == recipe_of(delta.modules)]
    seen = Triage(
        scan.folder, delta.status, coverage=delta.coverage, claimed_base=delta.claimed_base, recipe=delta.recipe,
        readings=delta.readings, unsupported=delta.unsupported, company=delta.company, vectors=delta.vectors,
        realigned=delta.realigned, drift=drift_of(delta, base, scan.threads),
        n_reference=len(alike),
    )  # fmt: skip
    if scan.base and (other := names_another(delta.claimed_base, Path(scan.base), scan.base_called)):
        said = f"its files name another base, {other}, than the one given, {scan.base_called or Path(scan.base).name}"
        seen = replace(seen, other_base=other, readings=[*seen.readings, said])
    if seen.drift is not None and alike:
        own = seen.drift.features
        seen = replace(seen, percentiles=percentiles(own, alike), times_median=times_the_median(own, alike))
    elif seen.drift is not None and scan.reference:
        note = (
            f"none of the {len(scan.reference)} harmless adapters has this change's recipe, so that no share is given"
        )
        seen = replace(seen, readings=[*seen.readings, note])
    if base is None or scan.base is None or not deltas:
        return _certified(seen, delta, scan)
    try:
        words = dictionary(base, load_tokenizer(Path(scan.base)), scan.words, scan.threads)
    except AuditorError as error:
        seen = replace(seen, readings=[*seen.readings, f"no words were read: {error}"])
        return _certified(seen, delta, scan)
    listed = list(deltas.values())
    oracle = _oracle(scan.base, scan.oracle) if scan.oracle is not None else None
    if oracle is not None:
        seen = _claimed(seen, oracle, delta.modules)
    read, written = words_standing_out(listed, words), tokens_standing_out(listed, words)
    few = sampled(words, read, written)
    seen = _certified(seen, delta, scan, lambda change: _first(change, few, oracle))
    return replace(
        seen, words=read, tokens=written, directions=leading(deltas, words), pairs=pairs(deltas, words),
    )  # fmt: skip


def _certified(
    seen: Triage, delta: WeightDelta, scan: Scan, answer: Callable[[Change], object] | None = None
) -> Triage:
    """Return the triage with what comes of rewriting a LoRA's factors; of another change there are none to rewrite."""
    if not delta.factors:
        return seen
    return replace(seen, certificate=certify(delta.factors, answer, threads=scan.threads))


def _first(change: Change, words: Dictionary, oracle: ByClaims | None) -> tuple[object, ...]:
    """Return what is said first of a change: the word read, the token written, the oracle's claim."""
    read, written = (scores.tolist() for scores in scored(list(change.values()), words))
    first = tuple(max(range(len(s)), key=s.__getitem__) if s else None for s in (read, written))
    return first if oracle is None else (*first, *(a.statement for a in oracle.read([change])[0].answers[:1]))


@lru_cache(maxsize=1)
def _oracle(base: str, folder: str) -> ByClaims:
    """Return the oracle's claim reader on the base, once for each process; it runs the base on the values of its slots."""
    return ByClaims(load_claim_reader(load_subject(base), Path(folder)))


def _claimed(seen: Triage, oracle: ByClaims, change: Change) -> Triage:
    """Return the triage with the oracle's claims, and its probability where it was trained on changes of this sort."""
    (said,) = oracle.read([change])
    why = oracle.loaded.why_no_probability(change) if seen.outcome == "read" else "a part of this change was not read"
    why = "norms or biases changed as well, which the oracle does not read" if seen.vectors and not why else why
    claims = [{"statement": a.statement, "family": a.family, "p": None if why else a.p} for a in said.answers if a.told]
    p_planted = None if why else said.p_planted
    return replace(seen, oracle_asked=True, claims=claims, p_planted=p_planted, no_probability=why)


def references(folder: Path) -> list[Reference]:
    """Return the drift of every adapter of a folder of harmless ones; those that can't be read are left out."""
    found = []
    for one in folders(folder):
        try:
            delta = read_adapter(one)
        except AuditorError:
            continue
        drift = drift_of(delta)
        if drift is not None:
            found.append(Reference(recipe_of(delta.modules), drift.features))
    return found


def why_shut(one: Triage, above: float) -> str:
    """Return why a gate does not let this one through, an empty text where it does."""
    if one.p_planted is not None and not one.p_planted <= above:
        return f"the probability that something was planted is {one.p_planted:.2f}"
    if one.own_files.grave:
        return one.own_files.grave[0].sentence
    if one.outcome != "read":
        return f"its change is {one.outcome}"
    return f"there is no probability: {one.no_probability}" if one.p_planted is None else ""


def gate(seen: Sequence[Triage], above: float) -> int:
    """Return 3 where some probability is above the bound, else 4 where some is not let through, else 0: a gate fails closed."""
    if any(t.p_planted is not None and t.p_planted > above for t in seen):
        return HIT
    return SHUT if not seen or any(why_shut(t, above) for t in seen) else 0
