"""Train the claim reader on a library, and keep it: a folder with weights, configuration, candidates and calibration."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tools.activation_oracle.fit import SAY_EVERY
from tools.checkpoint import read_json, read_tensors
from tools.errors import AdapterError, ToolInputError
from tools.lora_oracle.candidates import Candidates, candidates
from tools.lora_oracle.claim_reader import Batch, ClaimReader, ReaderConfig, collate
from tools.lora_oracle.library import NOTHING, Change, ChangeRecipe, Known, recipe_of, split_off
from tools.lora_oracle.shapes import Shape, parts_of, shapes_of
from tools.lora_oracle.tokens import DirectionTokens, direction_tokens
from tools.subject import Subject

N_RANKS, LEAST = 8, 24
KEPT = 0.6
"""Share of the taught values whose embeddings count in one step of training."""
CONFIG, WEIGHTS = "claim_reader.json", "claim_reader.safetensors"
CONFIG_KEYS = ("base_sha256", "config", "shapes", "values", "learned", "temperature", "recipes")


@dataclass(frozen=True)
class Lesson:
    """One adapter as the reader is shown it, and what it is to answer: a family, and the value of each slot."""

    tokens: DirectionTokens
    features: Tensor
    family: int
    slots: dict[str, int]


def lesson(known: Known, words: Candidates, config: ReaderConfig, shapes: dict[str, Shape]) -> Lesson:
    """Return an adapter with its answers; a value that is no candidate is left out."""
    slots: dict[str, int] = {}
    if known.claims:
        claim = known.claims[0]
        wanted = shapes[claim.family].slots if claim.family in shapes else ()
        slots = {s: words.values[s].index(v) for s, v in parts_of(claim) if s in wanted and v in words.values[s]}
    family = config.families.index(known.family) if known.family in config.families else -1
    tokens = direction_tokens(known.deltas, config.d_base, config.n_ranks)
    return Lesson(tokens, words.features(known.deltas), family, slots)


def train_claim_reader(
    subject: Subject, library: Sequence[Known], values: dict[str, tuple[str, ...]], out: Path, seed: int = 0,
    steps: int = 1500, batch: int = 32, lr: float = 1e-3, say: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a claim reader on the library and write it into `out`.

    A tenth of the library chooses when to stop and how far to trust it (a temperature), and is not
    learned from.

    Args:
        subject: The base.
        library: Adapters with their claims.
        values: For each kind of slot the values that it may hold, beside those of the library itself.
        out: Folder to write.
        seed: Of weights and order.
        steps: How many at most.
        batch: Adapters a step.
        lr: Peak learning rate.
        say: Told how it goes.

    Returns:
        `family` and `claim` (shares right on the held-out tenth), `n`, `n_held_out`, `steps`, `seconds`, `temperature`,
        `losses` (nats, each the mean of the steps since the one before).

    Raises:
        ToolInputError: the library is too small to learn from.
    """
    if len(library) < LEAST:
        raise ToolInputError(f"{len(library)} adapters are too few to learn from; {LEAST} are the least")
    began = time.monotonic()
    taught, held = split_off(library, seed)
    shapes = shapes_of(taught)
    words = candidates(subject, _values(taught, values, shapes))
    config = ReaderConfig(
        families=(NOTHING, *shapes), slots=tuple(words.values), n_ranks=N_RANKS, n_layers=subject.n_layers,
        d_base=subject.d_model, n_features=words.n_features,
    )  # fmt: skip
    lessons = [lesson(k, words, config, shapes) for k in tqdm(taught, disable=None, desc="features")]
    exam = [lesson(k, words, config, shapes) for k in held]
    learned = {
        slot: sorted({v for k in taught for c in k.claims for s, v in parts_of(c) if s == slot})
        for slot in words.values
    }
    matched = matched_values(words, learned)
    torch.manual_seed(seed)
    model, generator = ClaimReader(config), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    losses, latest = dict[int, float](), list[float]()
    best, kept, rng = -1.0, {n: t.clone() for n, t in model.state_dict().items()}, random.Random(seed)
    bar = tqdm(range(steps), disable=None, desc="claim reader")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - step / steps)
        some = rng.sample(lessons, min(batch, len(lessons)))
        given = collate([s.tokens for s in some], [s.features for s in some]).signed(generator)
        kept_in = {slot: m * (torch.rand(m.shape, generator=generator) < KEPT) for slot, m in matched.items()}
        logits, scores = model.train()(given, words, kept_in)
        loss = _loss(logits, scores, some)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        latest.append(loss.item())
        if (step + 1) % SAY_EVERY == 0 or step + 1 == steps:
            family, claim, _ = _right(model, words, matched, exam)
            if family + claim > best:
                best, kept = family + claim, {n: t.clone() for n, t in model.state_dict().items()}
            losses[step + 1], latest = sum(latest) / len(latest), []
            bar.set_postfix(loss=f"{losses[step + 1]:.2f}", family=f"{family:.2f}", claim=f"{claim:.2f}")
            if say:
                say(
                    f"step {step + 1}/{steps} loss {losses[step + 1]:.3f} held out family {family:.3f} claim {claim:.3f}"
                )
    model.load_state_dict(kept)
    family, claim, logits = _right(model, words, matched, exam)
    temperature = _temperature(logits, torch.tensor([one.family for one in exam]))
    report = {
        "family": family, "claim": claim, "n": len(taught), "n_held_out": len(exam), "steps": steps,
        "seconds": time.monotonic() - began, "temperature": temperature, "seed": seed, "losses": losses,
    }  # fmt: skip
    recipes = sorted({recipe_of(known.deltas) for known in taught})
    save(out, model, words, shapes, learned, temperature, recipes, subject, report)
    return report


def matched_values(words: Candidates, learned: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Return for each slot which of its values some claim that was taught holds, 1 or 0."""
    return {
        slot: torch.tensor([float(value in set(learned[slot])) for value in listed])
        for slot, listed in words.values.items()
    }


def _values(
    library: Sequence[Known], more: dict[str, tuple[str, ...]], shapes: dict[str, Shape]
) -> dict[str, tuple[str, ...]]:
    """Return every slot that some family leaves open, with the values known for it."""
    open_slots = sorted({slot for shape in shapes.values() for slot in shape.slots})
    found: dict[str, set[str]] = {slot: set(more.get(slot, ())) for slot in open_slots}
    for known in library:
        for claim in known.claims:
            for slot, value in parts_of(claim):
                if slot in found:
                    found[slot].add(value)
    return {slot: tuple(sorted(values)) for slot, values in found.items()}


def _loss(logits: Tensor, values: dict[str, Tensor], some: Sequence[Lesson]) -> Tensor:
    """Return the mean cross-entropy (nats) of families, plus that of every slot that a claim fills."""
    loss = F.cross_entropy(logits, torch.tensor([one.family for one in some]), ignore_index=-1)
    for slot, scores in values.items():
        rows = [i for i, one in enumerate(some) if slot in one.slots]
        if rows:
            wanted = torch.tensor([some[i].slots[slot] for i in rows])
            loss = loss + F.cross_entropy(scores[rows], wanted) * len(rows) / len(some)
    return loss


@torch.no_grad()
def _right(
    model: ClaimReader, words: Candidates, matched: Mapping[str, Tensor], exam: Sequence[Lesson]
) -> tuple[float, float, Tensor]:
    """Return the shares of families and of whole claims that are right, and the logits over families."""
    model.eval()
    families, claims, kept = 0, 0, []
    for start in range(0, len(exam), 64):
        some = exam[start : start + 64]
        logits, values = model(collate([s.tokens for s in some], [s.features for s in some]), words, matched)
        kept.append(logits)
        for i, one in enumerate(some):
            hit = int(logits[i].argmax()) == one.family
            families += hit
            claims += hit and all(int(values[slot][i].argmax()) == v for slot, v in one.slots.items())
    return families / len(exam), claims / len(exam), torch.cat(kept)


def _temperature(logits: Tensor, wanted: Tensor) -> float:
    """Return the temperature at which the held-out families are likeliest."""
    tried = torch.logspace(-0.7, 1.0, 60)
    losses = [float(F.cross_entropy(logits / t, wanted, ignore_index=-1)) for t in tried]
    return float(tried[losses.index(min(losses))])


# -- files


def save(
    out: Path, model: ClaimReader, words: Candidates, shapes: dict[str, Shape], learned: dict[str, list[str]],
    temperature: float, recipes: Sequence[ChangeRecipe], subject: Subject, report: dict[str, Any],
) -> None:  # fmt: skip
    """Write a reader, with no path of this machine."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: t.half().contiguous() for n, t in model.state_dict().items()}, out / WEIGHTS)
    data = {
        "base_sha256": subject.base_sha256,
        "config": model.config.model_dump(),
        "shapes": {family: shape.model_dump() for family, shape in shapes.items()},
        "values": words.values,
        "learned": learned,
        "temperature": temperature,
        "recipes": recipes,
        "training": report,
    }
    (out / CONFIG).write_text(json.dumps(data, indent=1) + "\n")


@dataclass
class LoadedReader:
    """A trained claim reader on a base: what claims are made of, the candidates and which were taught, its temperature.

    `recipes` are those of the library: of a change of any other one no probability should be given.
    """

    model: ClaimReader
    shapes: dict[str, Shape]
    words: Candidates
    matched: dict[str, Tensor]
    temperature: float
    recipes: frozenset[ChangeRecipe]

    def why_no_probability(self, change: Change) -> str:
        """Return why no probability can be given of a change; empty where it is of a recipe that was trained on."""
        rank, modules = recipe_of(change)
        known = (rank, modules) in self.recipes
        return "" if known else f"the oracle was trained on no adapter of rank {rank} on {', '.join(modules)}"

    def batch(self, changes: Sequence[Change]) -> Batch:
        """Return changes (by module) as the model is given them."""
        config = self.model.config
        tokens = [direction_tokens(c, config.d_base, config.n_ranks) for c in changes]
        return collate(tokens, [self.words.features(c) for c in changes])


def read_config(folder: Path, base_sha256: str) -> dict[str, Any]:
    """Return what stands in a claim reader's configuration.

    Args:
        folder: Where it was written.
        base_sha256: Of the weights of the base that it is to be used on.

    Raises:
        AdapterError: it was trained on another one, or has no configuration that says all that is needed.
    """
    raw = read_json(folder / CONFIG, AdapterError)
    if missing := [key for key in CONFIG_KEYS if key not in raw]:
        raise AdapterError(
            f"{folder / CONFIG} lacks {', '.join(missing)}: write it again with `auditor oracle train lora`"
        )
    if raw["base_sha256"] != base_sha256:
        raise AdapterError(
            f"{folder} was trained on a base of weights {str(raw['base_sha256'])[:12]}, this base's are "
            f"{base_sha256[:12]}: train a reader on this base, or pass the base it names"
        )
    return raw


def slot_values(raw: Mapping[str, Any], more: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the values of a configuration's slots, with further ones; slots that it does not have are left out."""
    return {slot: tuple(dict.fromkeys([*listed, *more.get(slot, ())])) for slot, listed in raw["values"].items()}


def load_claim_reader(
    subject: Subject, folder: Path, values: Mapping[str, Sequence[str]] | None = None
) -> LoadedReader:
    """Return the claim reader in `folder`, for this subject's base.

    Args:
        subject: What it reads changes of.
        folder: Where it was written.
        values: Further values of some slots.

    Raises:
        AdapterError: it was trained on another base, or its files can't be read.
    """
    raw = read_config(folder, subject.base_sha256)
    try:
        model = ClaimReader(ReaderConfig.model_validate(raw["config"])).eval()
        tensors = read_tensors(folder / WEIGHTS, AdapterError)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        shapes = {family: Shape.model_validate(shape) for family, shape in raw["shapes"].items()}
        recipes = frozenset((int(rank), tuple(modules)) for rank, modules in raw["recipes"])
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise AdapterError(f"{folder} holds no claim reader that fits its own configuration: {error}") from error
    words = candidates(subject, slot_values(raw, values or {}))
    return LoadedReader(model, shapes, words, matched_values(words, raw["learned"]), float(raw["temperature"]), recipes)
