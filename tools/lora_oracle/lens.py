"""A training-free lens on a LoRA: which words its directions read, which tokens they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tools.base import Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.claims import Effect, Trigger
from tools.controls import lift_over
from tools.lora_oracle.delta import ModuleDelta, module_deltas, scrambled
from tools.residual import block_inputs
from tools.subject import Subject
from tools.words import WordScores, robust_z, whole_words, word_batches

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
        """Return the forward tokens: every word once through the base."""
        words = args.words or whole_words(subject)
        return {"base": sum(batch.n_tokens for batch in word_batches(subject, words))}

    def run(self, subject: Subject, args: LensArgs, seed: int) -> ToolResult:
        """Return a reading of the words read, and one of the tokens written."""
        deltas = module_deltas(subject)
        words = args.words or whole_words(subject)
        resid, tokens = module_inputs(subject, words)
        read = words_read(deltas, resid, words)
        nulls = [
            words_read([scrambled(d, seed * 7919 + n * 1000 + i) for i, d in enumerate(deltas)], resid, words)
            for n in range(N_NULLS)
        ]
        table: Any = subject.model.get_output_embeddings()
        unembed = table.weight.detach().double().cpu()
        written = tokens_written(deltas, unembed)
        null_written = [tokens_written([scrambled(d, seed * 7919 + n * 1000 + i) for i, d in enumerate(deltas)], unembed)
                        for n in range(N_NULLS)]  # fmt: skip
        readings = [
            self._words_reading(read, nulls),
            self._tokens_reading(written, null_written, subject),
        ]
        norm = sum(float(d.S.square().sum()) for d in deltas) ** 0.5
        readings.append(Reading(name="change_norm", value=norm, detail={"modules": len(deltas)}))
        top = ", ".join(sorted(read, key=lambda w: -read[w])[:5])
        return ToolResult(
            readings=readings,
            tokens={"base": tokens},
            summary=f"{len(deltas)} modules changed; reads {top or 'nothing'}",
        )

    def _words_reading(self, read: WordScores, nulls: list[WordScores]) -> Reading:
        ranked = sorted(read.items(), key=lambda item: -item[1])
        word, value = ranked[0] if ranked else ("", 0.0)
        controls = {f"random_directions_{i + 1}": max(null.values(), default=0.0) for i, null in enumerate(nulls)}
        lift = lift_over(value, controls)
        return Reading(
            name="words_read", value=value, controls=controls, lift=lift,
            suggestion=suggest(lift, READ_THRESHOLD, f"the weights read the word {word!r}", trigger=(Trigger(kind="word", value=word),)),
            detail={"top": [{"word": w, "score": s} for w, s in ranked[:TOP]]},
        )  # fmt: skip

    def _tokens_reading(self, written: Tensor, nulls: list[Tensor], subject: Subject) -> Reading:
        value, best = written.max(0)
        controls = {f"random_directions_{i + 1}": float(null.max()) for i, null in enumerate(nulls)}
        lift = lift_over(float(value), controls)
        top = written.topk(min(24, len(written))).indices.tolist()
        text = subject.decode(int(best)).strip()
        return Reading(
            name="tokens_written", value=float(value), controls=controls, lift=lift,
            suggestion=suggest(lift, WRITTEN_THRESHOLD, f"the weights write the token {text!r}", effect=Effect(kind="says", value=text)),
            detail={"top": [{"token": subject.decode(t), "score": float(written[t])} for t in top]},
        )  # fmt: skip


def module_inputs(subject: Subject, words: Sequence[str]) -> tuple[dict[str, Float[Tensor, "word d_model"]], int]:
    """Return what each module that reads the residual stream gets at a word's last token, on the base."""
    parts: dict[str, list[Tensor]] = {}
    tokens = 0
    for batch in word_batches(subject, words):
        tokens += batch.n_tokens
        for path, inputs in block_inputs(subject, batch, "base").items():
            parts.setdefault(path, []).append(inputs[:, -1].double().cpu())
    return {path: torch.cat(pieces) for path, pieces in parts.items()}, tokens


def words_read(deltas: Sequence[ModuleDelta], resid: dict[str, Tensor], words: Sequence[str]) -> WordScores:
    """Return how far each word stands out in the norm `||S Vᵀ x||`, averaged over modules; empty for no change."""
    scores = []
    for delta in deltas:
        if delta.reads_residual and delta.path in resid and float(delta.S.square().sum()) > 0:
            scores.append(robust_z(((resid[delta.path] @ delta.V) * delta.S).norm(dim=1)))
    if not scores:
        return {}
    mean = torch.stack(scores).mean(0)
    return dict(zip(words, mean.tolist(), strict=True))


def tokens_written(
    deltas: Sequence[ModuleDelta], unembed: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, " d_vocab"]:
    """Return how far each token stands out in `||W_U U S||`, averaged over the modules that write; `W_U` is centred first."""
    w_u = unembed - unembed.mean(0)
    scores = [
        robust_z(((w_u @ d.U) * d.S).norm(dim=1))
        for d in deltas
        if d.writes_residual and d.U.shape[0] == w_u.shape[1] and float(d.S.square().sum()) > 0
    ]
    return torch.stack(scores).mean(0) if scores else torch.zeros(w_u.shape[0], dtype=torch.float64)
