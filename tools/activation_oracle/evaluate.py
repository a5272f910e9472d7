"""How often an oracle is right, beside everything that needs no oracle, and how far its agreement can be trusted.

Trials and swaps come as rows from files: what a right answer is, whose activations are read, and what
a probe may learn from is said there, so that nothing here knows a language or a family.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tqdm import tqdm

from tools.activation_oracle.activations import Activations, last, read
from tools.activation_oracle.baselines import Probe, lens, outright, windows
from tools.activation_oracle.load import load_oracle
from tools.activation_oracle.reader import Agreed, OracleReader
from tools.activation_oracle.rows import Swap, Trial
from tools.errors import ToolInputError
from tools.intervals import calibration_error, pooled_interval, withheld_wrong
from tools.loading import load_subject

N_SAMPLES, AT_ONCE = 10, 64
INFORMED = {True: "informed", False: "uninformed", None: "nothing to see"}
BASELINES = ("no_activation", "outright", "probe", "logit_lens", "majority")


@dataclass(frozen=True)
class Judged:
    """One trial with what was answered: by the oracle, with its agreement, and by each baseline that could."""

    trial: Trial
    answer: Agreed
    right: bool
    baselines: dict[str, bool]


class Evaluation(BaseModel):
    """All figures of one oracle.

    `rows` has counts by family, split, subject and whether the window holds the fact; `exact` of
    `n` are right, and at `threshold` so many are `wrong` and `abstained`. `ece` is over all trials.
    `baselines` are shares exact of the trials that each can answer; `compared` has how many those are
    and the oracle's own share on the same.
    """

    rows: list[dict[str, Any]]
    totals: list[dict[str, Any]]
    n: int
    ece: float
    ece_by: dict[str, float]
    threshold: float
    abstention: dict[str, float | None]
    baselines: dict[str, float]
    compared: dict[str, dict[str, float]]
    swaps: dict[str, float]
    layers: tuple[int, ...]


def evaluate(
    base: str, oracle: Path, trials: Sequence[Trial], swaps: Sequence[Swap], folder: Path,
    layers: tuple[int, ...] | None = None, threshold: float | None = None, seed: int = 0, device: str = "cpu",
) -> Evaluation:  # fmt: skip
    """Return an oracle's figures over trials and swaps.

    Args:
        base: Folder or hub id of its base.
        oracle: Its folder.
        trials: What it is asked; those with `fit` set teach the probe and are not scored.
        swaps: Pairs for faithfulness.
        folder: What the adapters' paths are relative to.
        layers: Where to read; None is the first set of its contract.
        threshold: Agreement below which it abstains; None keeps four in five right answers.
        seed: Of samples and resampling.
        device: Where the weights go.

    Raises:
        ToolInputError: there is no trial to score.
    """
    scored = [t for t in trials if not t.fit]
    if not scored:
        raise ToolInputError("no trial to score: every row of the file is one that a probe may learn from")
    teacher = next(_readers(base, oracle, [t for t in trials if t.adapter is None][:1] or scored[:1], folder, device))[
        0
    ]
    where = layers or teacher.contract.read_layers[0]
    probe = Probe.fitted(teacher, [t for t in trials if t.fit and t.label and t.adapter is None], where)
    common = Counter(t.answer for t in trials if t.fit).most_common(1)
    majority = common[0][0] if common else None
    judged: list[Judged] = []
    for reader, group in tqdm(_readers(base, oracle, scored, folder, device), disable=None, desc="subjects"):
        for start in range(0, len(group), AT_ONCE):
            part = group[start : start + AT_ONCE]
            judged += _judge(reader, part, where, probe, majority, seed)
    return _summary(judged, threshold, _faithful(teacher, swaps, where), where)


def _readers(
    base: str, oracle: Path, trials: Sequence[Trial], folder: Path, device: str
) -> Iterator[tuple[OracleReader, list[Trial]]]:
    """Yield each subject with the oracle beside it, and the trials that read it."""
    groups: dict[str | None, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.adapter, []).append(trial)
    for adapter, group in groups.items():
        path = None if adapter is None else folder / adapter
        whole = path is not None and not (path / "adapter_config.json").exists()
        where = str(path) if whole else base
        subject = load_subject(where, None if whole or path is None else str(path), base if whole else None, device)
        yield load_oracle(subject, oracle), group


def _judge(
    reader: OracleReader,
    trials: list[Trial],
    layers: tuple[int, ...],
    probe: Probe | None,
    majority: str | None,
    seed: int,
) -> list[Judged]:
    """Return the trials of one subject with answers; those with one question are asked together."""
    mine = windows(reader, trials, layers)
    seeds = {id(a): _seed_of(trial, seed) for a, trial in zip(mine, trials, strict=True)}
    given = _ask_each(
        reader, mine, trials,
        lambda a, q: [row[0] for row in reader.agreed(a, [q], N_SAMPLES, seed=[seeds[id(one)] for one in a])],
    )  # fmt: skip
    silent = _ask_each(
        reader,
        [replace(a, silent=True) for a in mine],
        trials,
        lambda a, q: [row[0][0] for row in reader.answers(a, [q])],
    )
    spoken, seen = outright(reader, trials), lens(reader, trials)
    out = []
    for i, trial in enumerate(trials):
        baselines = {"no_activation": same(silent[i], trial.answer)}
        if majority is not None:
            baselines["majority"] = same(majority, trial.answer)
        if (reply := spoken[i]) is not None:
            baselines["outright"] = any(a.rstrip(".") in reply for a in (trial.answer, *trial.accepted))
        if (shown := seen[i]) is not None:
            baselines["logit_lens"] = shown
        if probe is not None and trial.label in probe.labels:
            baselines["probe"] = probe.label(mine[i].vectors) == trial.label
        out.append(Judged(trial, given[i], same(given[i].answer, trial.answer), baselines))
    return out


def _seed_of(trial: Trial, seed: int) -> int:
    """Return a trial's own seed, whichever trials stand beside it."""
    return zlib.crc32(f"{seed}/{trial.adapter}/{trial.window}/{trial.question}/{trial.text}".encode())


def same(a: str, b: str) -> bool:
    """Return whether two answers are one, but for case, spaces and a full stop."""
    return " ".join(a.casefold().split()).rstrip(".") == " ".join(b.casefold().split()).rstrip(".")


def _ask_each(
    reader: OracleReader, given: Sequence[Activations], trials: Sequence[Trial], ask: Callable[[list[Any], str], list[Any]]
) -> list[Any]:  # fmt: skip
    """Return the answer to each trial's own question."""
    out: list[Any] = [None] * len(trials)
    for question in dict.fromkeys(t.question for t in trials):
        rows = [i for i, t in enumerate(trials) if t.question == question]
        for row, answer in zip(rows, ask([given[i] for i in rows], question), strict=True):
            out[row] = answer
    return out


# -- a cause that we set


def _faithful(reader: OracleReader, swaps: Sequence[Swap], layers: tuple[int, ...]) -> dict[str, float]:
    """Return how often the answer follows the vectors put in, and how often other answers stay."""
    if not swaps:
        return {}
    follows, follows_right, stays, before_right = [], [], [], []
    for swap in tqdm(swaps, disable=None, desc="swaps"):
        (a, b), _ = read(reader.subject, list(swap.texts), "base", layers, [last(swap.window)] * 2)
        put_in = a.replaced(b.vectors, "swapped")
        asked = [swap.question, *swap.unrelated]
        before, after = ([texts[0] for texts in row] for row in reader.answers([a, put_in], asked))
        follows.append(same(after[0], swap.answers[1]))
        before_right.append(same(before[0], swap.answers[0]))
        if before_right[-1]:
            follows_right.append(follows[-1])
        stays += [same(x, y) for x, y in zip(before[1:], after[1:], strict=True)]
    return {
        "n": float(len(swaps)),
        "right_before": _share(before_right),
        "follows": _share(follows),
        "follows_where_right_before": _share(follows_right),
        "unrelated_stay": _share(stays),
        "n_unrelated": float(len(stays)),
    }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


# -- figures


def _summary(
    judged: Sequence[Judged], threshold: float | None, swaps: dict[str, float], layers: tuple[int, ...]
) -> Evaluation:
    confidence, right = [j.answer.agreement for j in judged], [j.right for j in judged]
    chosen, withheld = _abstention(judged)
    at = threshold if threshold is not None else chosen
    compared = {name: figures for name in BASELINES if (figures := _baseline(judged, name))}
    by: dict[str, list[Judged]] = {}
    for j in judged:
        seen = INFORMED[j.trial.informed]
        for name in dict.fromkeys(
            (seen, j.trial.subject, seen if j.trial.informed is None else f"{seen}: {j.trial.split}")
        ):
            by.setdefault(name, []).append(j)
    return Evaluation(
        rows=[_row(key, group, at) for key, group in sorted(_grouped(judged).items(), key=lambda item: str(item[0]))],
        totals=[_row(("all", "all", key, None), group, at) for key, group in sorted(by.items())],
        n=len(judged),
        ece=calibration_error(confidence, right),
        ece_by={k: calibration_error([j.answer.agreement for j in g], [j.right for j in g]) for k, g in by.items()},
        threshold=at,
        abstention={"wrong_withheld_at_80_of_right": withheld, **{k: _abstention(g)[1] for k, g in by.items()}},
        baselines={name: figures["exact"] for name, figures in compared.items()},
        compared=compared,
        swaps=swaps,
        layers=layers,
    )


def _abstention(judged: Sequence[Judged]) -> tuple[float, float | None]:
    try:
        return withheld_wrong([j.answer.agreement for j in judged], [j.right for j in judged])
    except ValueError:
        return 0.0, None


Key = tuple[str, str, str, bool | None]


def _grouped(judged: Sequence[Judged]) -> dict[Key, list[Judged]]:
    groups: dict[Key, list[Judged]] = {}
    for j in judged:
        groups.setdefault((j.trial.family, j.trial.split, j.trial.subject, j.trial.informed), []).append(j)
    return groups


def _row(key: Key, group: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """Return counts of one group; the interval is of the share exact, whole subjects resampled."""
    clusters: dict[str, list[float]] = {}
    for i, j in enumerate(group):
        clusters.setdefault(j.trial.cluster or f"row {i}", []).append(float(j.right))
    kept = [j for j in group if j.answer.agreement >= threshold]
    family, split, subject, informed = key
    return {
        "family": family, "split": split, "subject": subject, "informed": informed, "n": len(group),
        "exact": sum(j.right for j in group), "interval": pooled_interval(clusters),
        "kept_right": sum(j.right for j in kept), "wrong": sum(not j.right for j in kept), "abstained": len(group) - len(kept),
    }  # fmt: skip


def _baseline(judged: Sequence[Judged], name: str) -> dict[str, float]:
    """Return a baseline's share exact on the trials that it can answer, and the oracle's on the same."""
    some = [j for j in judged if name in j.baselines]
    if not some:
        return {}
    return {
        "n": float(len(some)),
        "exact": _share([j.baselines[name] for j in some]),
        "oracle": _share([j.right for j in some]),
    }


def table(found: Evaluation) -> Iterator[str]:
    """Yield the figures as Markdown."""
    yield "| family | split | whose activations | fact in the window | n | exact (95% interval) | kept: right, wrong | abstained |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in [*found.totals, *found.rows]:
        between = "one cluster" if row["interval"] is None else "{:.2f}–{:.2f}".format(*row["interval"])
        told = {True: "yes", False: "no", None: ""}[row["informed"]]
        yield (
            f"| {row['family']} | {row['split']} | {row['subject']} | {told} | {row['n']} | "
            f"{row['exact'] / row['n']:.2f} ({between}) | {row['kept_right']}, {row['wrong']} | {row['abstained']} |"
        )
    yield ""
    yield "| baseline | trials it can answer | exact | the oracle on the same |"
    yield "| --- | --- | --- | --- |"
    for name, figures in found.compared.items():
        yield f"| {name} | {figures['n']:.0f} | {figures['exact']:.2f} | {figures['oracle']:.2f} |"
    yield ""
    yield f"expected calibration error of the agreement of {N_SAMPLES} samples: {found.ece:.3f} (n={found.n})"
    yield (
        f"abstaining below {found.threshold:.2f}, wrong answers withheld where four in five right ones are kept: "
        + ", ".join(
            f"{name} {'undefined' if share is None else f'{share:.2f}'}" for name, share in found.abstention.items()
        )
    )
    if found.swaps:
        yield "swaps: " + ", ".join(f"{name} {value:.3g}" for name, value in found.swaps.items())
