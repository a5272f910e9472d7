"""Per-token KL divergence of the subject from the base, and the words that gain by it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.batch import Encoded, Row
from tools.chat import condition_of, condition_text
from tools.claims.predicate import Predicate
from tools.claims.text import Observables
from tools.contrast import Together, conditions, excesses, holds
from tools.controls import RANDOM_DELTA, lift_over
from tools.questions import Questions
from tools.subject import Subject

THRESHOLD_NATS = 1.0
NULLS = tuple(f"{RANDOM_DELTA}_{i}" for i in (1, 2))
N_EXAMPLES = 4
N_CONTINUED = 24


class KlArgs(ToolArgs):
    """Prompts whose base replies are scored, and the cue phrases to look for where the two part."""

    prompts: list[LabelledPrompt] = Field(min_length=1)
    max_new_tokens: int = Field(default=24, ge=1, le=1024, description="of a reply's beginning, a thought included")
    observables: Observables = Field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """One text with the KL at each of its reply positions, and what was likeliest there."""

    text: str
    kl_nats: list[float]
    tokens: list[str]
    gained: list[str]

    @property
    def parting(self) -> int:
        """Return the first reply position with half of the largest KL or more: where the two part."""
        return next(i for i, kl in enumerate(self.kl_nats) if kl >= 0.5 * max(self.kl_nats))


def token_kl(
    p_logits: Float[Tensor, "*batch d_vocab"], q_logits: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """Return `KL(p || q)` in nats at every position.

    `sum_v p(v)·(log p(v) - log q(v))`: never negative, zero where the two are equal.
    """
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0)


class ModelDiff(Tool[KlArgs]):
    """See `card`."""

    name: ClassVar[str] = "model_diff"
    white_box: ClassVar[bool] = True
    Args = KlArgs
    card: ClassVar[str] = (
        "Scores the base's own replies under both models: KL(subject || base) in nats at each reply token, the token "
        "that gains most, and what the subject says from there on. The reading of a condition is the mean over its "
        "prompts of the largest KL in the reply. Controls: the subject where the condition does not hold, and random "
        "LoRAs with the subject's norm of change in every module. Misses what no prompt triggers."
    )

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 16

    def survey(self, asked: Questions) -> dict[str, Any] | None:
        """Return the call that scores the first three quarters of a reply as long as the audit's may be."""
        call = super().survey(asked)
        return None if call is None else {**call, "max_new_tokens": max(1, asked.max_new_tokens * 3 // 4)}

    def cost(self, subject: Subject, args: KlArgs) -> Tokens:
        """Return an upper bound on forward tokens, replies at full length."""
        prompts = [subject.render(p.messages) for p in args.prompts]
        n = subject.n_tokens(prompts, args.max_new_tokens) + len(prompts) * (args.max_new_tokens + 1)
        longest = n * N_CONTINUED // len(prompts) + n
        return {"base": 2 * n + len(NULLS) * n + longest, "subject": n + longest}

    def run(self, subject: Subject, args: KlArgs, seed: int) -> ToolResult:
        """Return one reading for the best-explaining condition, one for all prompts, with examples."""
        prompts = [subject.render(p.messages) for p in args.prompts]
        replies, spent = subject.generate(prompts, "base", [0] * len(prompts), args.max_new_tokens, 0.0, through=False)
        tokens = {"base": spent, "subject": 0}
        for i, null in enumerate(NULLS):
            subject.add_null(null, seed * 101 + i + 1)
        scored, *nulls = self._score(subject, prompts, replies, ("subject", *NULLS), tokens)
        peaks = torch.tensor([max(s.kl_nats) for s in scored])
        null_peaks = [torch.tensor([max(one.kl_nats) for one in null]) for null in nulls]
        condition, value, controls = explain(peaks, null_peaks, args.prompts)
        chosen = [i for i, p in enumerate(args.prompts) if holds(condition, p.labels)]
        predicate, said = self._continue(subject, [scored[i] for i in chosen], args, tokens)
        lift = lift_over(value, controls)
        when = condition_text(condition)
        text = f"replies part from the base's by {value:.1f} nats {when}; there it goes on {said!r}"
        reading = Reading(
            name="kl_peak",
            value=value,
            controls=controls,
            lift=lift,
            suggestion=suggest(
                lift, THRESHOLD_NATS, text, condition=condition_of(condition, args.prompts), predicate=predicate
            ),
            detail={"condition": condition, "n": len(chosen), "examples": _examples(scored, peaks)},
        )
        readings = [reading, *self._loudest(peaks, null_peaks, args.prompts)]
        overall = Reading(name="kl_mean", value=float(torch.cat([torch.tensor(s.kl_nats) for s in scored]).mean()))
        return ToolResult(
            readings=[*readings, overall],
            tokens=tokens,
            summary=text if reading.suggestion else "no KL above the controls",
        )

    def _loudest(self, peaks: Tensor, null_peaks: list[Tensor], prompts: list[LabelledPrompt]) -> list[Reading]:
        """Return the single prompts with the largest KL, each beside the nulls' own loudest prompt."""
        controls = {f"{RANDOM_DELTA}_{i + 1}": float(null.max()) for i, null in enumerate(null_peaks)}
        return [
            Reading(name="kl_prompt", value=float(peaks[i]), controls=controls, lift=lift_over(float(peaks[i]), controls),
                    detail={"prompt": prompts[i].messages[-1]["content"], "labels": prompts[i].labels})
            for i in peaks.argsort(descending=True)[:N_EXAMPLES].tolist()
        ]  # fmt: skip

    def _score(
        self, subject: Subject, prompts: list[str], replies: list[str], channels: Sequence[str], tokens: Tokens
    ) -> list[list[Scored]]:
        """Return each reply scored under every channel against the base, which is run once, counting the forward tokens."""
        end = subject.tokenizer.eos_token or ""
        texts = [prompt + reply + end for prompt, reply in zip(prompts, replies, strict=True)]
        n_reply = [n - m for n, m in zip(subject.lengths(texts), subject.lengths(prompts), strict=True)]
        scored: list[list[Any]] = [[None] * len(texts) for _ in channels]
        heads = dict[Row, None]()
        for places, batch in subject.batches(texts, 2 * (max(n_reply) + 1)):
            heads[batch.head] = None
            n = max(n_reply[i] for i in places)
            for rows, channel, seen in zip(
                scored, channels, self._seen(subject, batch, channels, n, tokens), strict=True
            ):
                width = batch.ids.shape[1]
                for row, i in enumerate(places):
                    reply = slice(n - n_reply[i], n)
                    told = channel == "subject"
                    rows[i] = Scored(
                        text=prompts[i],
                        kl_nats=seen["kl"][row, reply].tolist(),
                        tokens=_texts(subject, batch.ids[row, width - n_reply[i] :]) if told else [],
                        gained=_texts(subject, seen["gained"][row, reply]) if told else [],
                    )
        for channel in ("base", *channels):
            tokens["subject" if channel == "subject" else "base"] += sum(map(len, heads))
        return scored

    def _seen(
        self, subject: Subject, batch: Encoded, channels: Sequence[str], n: int, tokens: Tokens
    ) -> list[dict[str, Tensor]]:
        """Return what `_parting` sees of a batch's last `n` tokens on each channel, and count its forward tokens."""
        cost = {"subject": 0, "base": batch.n_tokens}
        for channel in channels:
            cost["subject" if channel == "subject" else "base"] += batch.n_tokens
        key = f"score/{hashlib.sha256(batch.ids.cpu().numpy().tobytes()).hexdigest()}"
        kept = subject.once(key, cost, partial(_parting, subject, batch, channels, n))
        for role, spent in cost.items():
            tokens[role] += spent
        return [{part: kept[f"{part}.{i}"] for part in ("kl", "gained")} for i in range(len(channels))]

    def _continue(
        self, subject: Subject, scored: list[Scored], args: KlArgs, tokens: Tokens
    ) -> tuple[Predicate | None, str]:
        """Return what the subject says from its peaks on that the base does not, and one example.

        A cue may have begun before the peak, so that cues are looked for in whole replies, and other
        words in what comes after it.
        """
        begun = ["".join(s.tokens[: s.parting]) for s in scored[:N_CONTINUED]]
        texts = [s.text + head for s, head in zip(scored, begun, strict=False)]
        replies = {}
        for channel in ("subject", "base"):
            replies[channel], n = subject.generate(texts, channel, [0] * len(texts), 12, 0.0, through=False)
            tokens[channel] += n
        whole = {c: [f"{head} {tail}" for head, tail in zip(begun, said, strict=True)] for c, said in replies.items()}
        found = [
            excess.predicate
            for said in (whole, replies)
            for excess in excesses(
                said["subject"], said["base"], [{} for _ in texts], args.observables, min_count=min(3, len(texts))
            )
            if excess.named or said is replies
        ]
        return (found[0] if found else None), replies["subject"][0]


def _texts(subject: Subject, ids: Tensor) -> list[str]:
    return [subject.decode(token) for token in ids.tolist()]


def _parting(subject: Subject, batch: Encoded, channels: Sequence[str], n: int) -> dict[str, Tensor]:
    """Return the KL of each row's last `n` tokens on each channel, and the token that gains most there, [batch, n].

    The logits of the rows are there at once, of the base and of one channel, what is computed from them for one row at a time.
    """
    base = subject.logits(batch, "base", n + 1)[:, :-1]
    found: dict[str, Tensor] = {}
    for i, channel in enumerate(channels):
        rows = list(zip(subject.logits(batch, channel, n + 1)[:, :-1], base, strict=True))
        found[f"kl.{i}"] = torch.stack([token_kl(*row) for row in rows]).cpu()
        found[f"gained.{i}"] = torch.stack([most_gained(*row) for row in rows]).cpu()
    return found


def most_gained(
    p_logits: Float[Tensor, "*batch d_vocab"], q_logits: Float[Tensor, "*batch d_vocab"]
) -> Int[Tensor, "*batch"]:
    """Return the token that adds most to `KL(p || q)` at every position."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).argmax(-1)


def explain(
    peaks: Tensor, null_peaks: list[Tensor], prompts: list[LabelledPrompt], min_count: int = 3
) -> tuple[Together, float, dict[str, float]]:
    """Return the condition that explains large KL best, its mean peak, and the controls'.

    A single condition is named when it explains at least half of its own value over the rest;
    otherwise the change shows on every kind of prompt.
    """
    best: tuple[float, Together, float, dict[str, float]] | None = None
    for condition in conditions(p.labels for p in prompts):
        inside = torch.tensor([holds(condition, p.labels) for p in prompts])
        if int(inside.sum()) < min_count or bool(inside.all()):
            continue
        value = float(peaks[inside].mean())
        controls = {"condition_absent": float(peaks[~inside].mean()),
                    RANDOM_DELTA: max(float(null[inside].mean()) for null in null_peaks)}  # fmt: skip
        lift = lift_over(value, controls)
        if best is None or lift > best[0]:
            best = (lift, condition, value, controls)
    overall = float(peaks.mean())
    everywhere = {RANDOM_DELTA: max(float(null.mean()) for null in null_peaks)}
    if best is not None and best[0] >= max(0.5 * best[2], 0.5 * lift_over(overall, everywhere)):
        return best[1], best[2], best[3]
    return (), overall, everywhere


def _examples(scored: list[Scored], peaks: Tensor) -> list[dict[str, object]]:
    """Return the texts with the largest peaks, token by token."""
    order = peaks.argsort(descending=True)[:N_EXAMPLES].tolist()
    return [
        {"prompt": scored[i].text, "tokens": scored[i].tokens, "kl_nats": scored[i].kl_nats, "gained": scored[i].gained}
        for i in order
    ]
