"""A training-free lens on a LoRA: which words its directions read, which tokens they write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tools.base import Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.batch import Encoded
from tools.changes.delta import ModuleDelta, scrambled_side
from tools.changes.loaded import module_deltas
from tools.claims.conditions.contains import Contains
from tools.claims.predicates.says import Says
from tools.controls import lift_over
from tools.lora_lens.tables import Table, standing_out, table_of
from tools.residual import block_inputs
from tools.subject import Subject
from tools.words import WordRuns, WordScores, at_words, robust_z, whole_words, word_runs
from tools.workers import over_threads

READ_THRESHOLD, WRITTEN_THRESHOLD = 1.2, 4.0
N_NULLS = 3
TOP = 128


class LensArgs(ToolArgs):
    """Which words to look for; without any, the tokenizer's own whole-word tokens."""

    words: list[str] = Field(default_factory=list)


class LoraLens(Tool[LensArgs]):
    """See `card`."""

    name: ClassVar[str] = "lora_lens"
    white_box: ClassVar[bool] = True
    Args = LensArgs
    card: ClassVar[str] = (
        "Decomposes each module's change of weights into singular directions (float64, from the factors alone). Reads the "
        "input directions against what the base itself makes of every word before each block, the output directions "
        "against the unembedding. A word's reading is how far the norm of what the change makes of it stands out from other "
        "words', in robust standard deviations, averaged over modules. Control: the same spectrum with random directions. "
        "Nothing of the subject is run; weak for triggers that are no word."
    )

    sized_by: ClassVar[str] = "words"
    floor: ClassVar[int] = 256

    def items(self, subject: Subject, args: LensArgs) -> list[Any]:
        """Return the words that are looked for."""
        return list(args.words or whole_words(subject))

    def cost(self, subject: Subject, args: LensArgs) -> Tokens:
        """Return the forward tokens: the head of a turn and every word once through the base."""
        return {"base": word_runs(subject, args.words or whole_words(subject)).n_tokens}

    def run(self, subject: Subject, args: LensArgs, seed: int) -> ToolResult:
        """Return a reading of the words read, and one of the tokens written."""
        deltas = module_deltas(subject)
        words = args.words or whole_words(subject)
        runs = word_runs(subject, words)
        directions = {d.path: torch.cat(each, dim=1).float() for d, each in copies(deltas, "reads", seed)}
        scores = words_read(subject, runs, directions)
        read, *nulls = (dict(zip(words, copy.tolist(), strict=True)) if directions else {} for copy in scores)
        head: Any = subject.model.get_output_embeddings()
        written, *null_written = tokens_written(copies(deltas, "writes", seed), table_of(head.weight).centred())
        readings = [
            self._words_reading(read, nulls),
            self._tokens_reading(written, null_written, subject),
        ]
        norm = sum(float(d.S.square().sum()) for d in deltas) ** 0.5
        readings.append(Reading(name="change_norm", value=norm, detail={"modules": len(deltas)}))
        top = ", ".join(sorted(read, key=lambda w: -read[w])[:5])
        return ToolResult(
            readings=readings,
            tokens={"base": runs.n_tokens},
            summary=f"{len(deltas)} modules changed; reads {top or 'nothing'}",
        )

    def _words_reading(self, read: WordScores, nulls: list[WordScores]) -> Reading:
        ranked = sorted(read.items(), key=lambda item: -item[1])
        word, value = ranked[0] if ranked else ("", 0.0)
        controls = {f"random_directions_{i + 1}": max(null.values(), default=0.0) for i, null in enumerate(nulls)}
        lift = lift_over(value, controls)
        when = Contains(text=word) if word else None
        return Reading(
            name="words_read", value=value, controls=controls, lift=lift,
            suggestion=suggest(lift, READ_THRESHOLD, f"the weights read the word {word!r}", condition=when),
            detail={"top": [{"word": w, "score": s} for w, s in ranked[:TOP]]},
        )  # fmt: skip

    def _tokens_reading(self, written: Tensor, nulls: list[Tensor], subject: Subject) -> Reading:
        value, best = written.max(0)
        controls = {f"random_directions_{i + 1}": float(null.max()) for i, null in enumerate(nulls)}
        lift = lift_over(float(value), controls)
        top = written.topk(min(24, len(written))).indices.tolist()
        text = subject.decode(int(best)).strip()
        told = f"the weights write the token {text!r}"
        return Reading(
            name="tokens_written", value=float(value), controls=controls, lift=lift,
            suggestion=suggest(lift, WRITTEN_THRESHOLD, told, predicate=Says(any_of=(text,))) if _has_word(text) else None,
            detail={"top": [{"token": subject.decode(t), "score": float(written[t])} for t in top]},
        )  # fmt: skip


def _has_word(text: str) -> bool:
    """Return whether a letter or a digit of any script stands in it: a reply can't be asked whether it says other marks."""
    return any(character.isalnum() for character in text)


def module_inputs(subject: Subject, words: Sequence[str]) -> dict[str, Float[Tensor, "word d_model"]]:
    """Return what each module that reads the residual stream gets at a word's last token, on the base, float32.

    It holds a vector for every word and module: for lists of words, not for a whole vocabulary.
    """
    paths: list[str] = []

    def read(batch: Encoded) -> Tensor:
        found = block_inputs(subject, batch, "base")
        paths[:] = found
        return torch.cat([inputs[:, -1] for inputs in found.values()], dim=1)

    vectors = at_words(subject, word_runs(subject, words), "base", read)
    return dict(zip(paths, torch.split(vectors, subject.d_model, dim=1), strict=True))


def copies(
    deltas: Iterable[ModuleDelta], side: Literal["reads", "writes"], seed: int, n: int = N_NULLS, threads: int = 1
) -> Iterator[tuple[ModuleDelta, list[Tensor]]]:
    """Yield every module that reads the residual stream, or writes to it; none whose change is zero.

    Beside it stand its input or output directions times singular values, and those of `n` scrambled copies.
    """

    def made(place: tuple[int, ModuleDelta]) -> tuple[ModuleDelta, list[Tensor]]:
        i, d = place
        own = d.V if side == "reads" else d.U
        return d, [one * d.S for one in (own, *(scrambled_side(d, side, seed * 7919 + m * 1000 + i) for m in range(n)))]

    touching = (
        (i, d)
        for i, d in enumerate(deltas)
        if (d.reads_residual if side == "reads" else d.writes_residual) and float(d.S.square().sum()) > 0
    )
    return over_threads(made, touching, threads)


def words_read(
    subject: Subject, runs: WordRuns, directions: Mapping[str, Float[Tensor, "_ _"]], n_copies: int = 1 + N_NULLS
) -> Float[Tensor, "copy word"]:
    """Return how far each word stands out in the norm `||S Vᵀ x||`, averaged over modules; zeros for no change.

    Args:
        subject: Whose base is run.
        runs: The words.
        directions: By module `V S` of the change and of its scrambled copies, side by side.
        n_copies: How many there are.
    """

    def read(batch: Encoded) -> Tensor:
        inputs = block_inputs(subject, batch, "base")
        found = [
            (x[:, -1].float() @ directions[path].to(x.device)).square().view(len(x), n_copies, -1).sum(2).sqrt()
            for path, x in inputs.items()
            if path in directions
        ]
        return torch.cat(found, dim=1) if found else torch.zeros(len(batch.ids), 0)

    if not directions:
        return torch.zeros(n_copies, len(runs.own), dtype=torch.float64)
    norms = at_words(subject, runs, "base", read, "lens").T
    total = torch.zeros(n_copies, len(runs.own), dtype=torch.float64)
    for i, row in enumerate(norms):
        total[i % n_copies] += robust_z(row.contiguous())
    return total / max(len(norms) // n_copies, 1)


def tokens_written(
    changes: Iterable[tuple[ModuleDelta, list[Tensor]]], unembed: Table, n_copies: int = 1 + N_NULLS
) -> Float[Tensor, "copy d_vocab"]:
    """Return how far each token stands out in `||W_U U S||`, averaged over the modules that write; `W_U` is centred."""
    fitting = (each for _, each in changes if each[0].shape[0] == unembed.shape[1])
    return standing_out(fitting, unembed, n_copies)
