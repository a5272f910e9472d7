"""Does the subject represent a condition more strongly than the base does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.claims.condition import AnyCondition, Condition
from tools.claims.labels import TOPIC, label_of
from tools.controls import lift_over
from tools.probe.linear import auroc, difference_of_means, logistic, separation
from tools.questions import Known, Look, Questions, dumped
from tools.residual import capture, check_layer
from tools.subject import Subject

THRESHOLD = 1.0
LEAST, MOST = 8, 24
"""How many prompts of each class are enough, and how many are asked."""


class ProbeArgs(ToolArgs):
    """Prompts with the concept and prompts without it; both are split in two halves, by prompt."""

    concept: AnyCondition = Field(description="the terms of the condition that the prompts differ in")
    positive: list[LabelledPrompt] = Field(min_length=8)
    negative: list[LabelledPrompt] = Field(min_length=8)
    layer: int | None = Field(default=None, description="0-based block; the middle one when not given")


class Probe(Tool[ProbeArgs]):
    """See `card`."""

    name: ClassVar[str] = "probe"
    white_box: ClassVar[bool] = True
    Args = ProbeArgs
    card: ClassVar[str] = (
        "Fits linear probes (difference of means, logistic) for a concept on the residual stream at the last prompt token, "
        "on one half of the prompts, and measures on the other half how far apart the classes lie: d' along the "
        "difference of means, and AUROC of the logistic probe. Controls: the same probe on the base, and on the subject "
        "with shuffled labels. Lift is the subject's d' over the stronger of the two."
    )

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield one look: whether the subject holds the conditions of the best lead that has some more than the base does."""
        best = next((claim for claim in known.claims if claim.condition.parts), None)
        if best is not None and not done and (call := probe_for(asked, best.condition)):
            yield Look("check", call)

    def cost(self, subject: Subject, args: ProbeArgs) -> Tokens:
        """Return the forward tokens: every prompt once through subject and base."""
        n = subject.encode(_texts(subject, args)).n_tokens
        return {"subject": n, "base": n}

    def run(self, subject: Subject, args: ProbeArgs, seed: int) -> ToolResult:
        """Return one reading: d' on the subject beside the base's and the shuffled labels'."""
        layer = subject.n_layers // 2 if args.layer is None else args.layer
        check_layer(subject, layer)
        batch = subject.encode(_texts(subject, args))
        label = torch.tensor([True] * len(args.positive) + [False] * len(args.negative))
        fit = torch.zeros_like(label)
        fit[0::2] = True
        shuffled = _shuffled(label, fit, seed)
        resid = {c: capture(subject, batch, c, layer)[:, -1].float().cpu() for c in ("subject", "base")}
        value = _held_out_separation(resid["subject"], label, fit)
        controls = {
            "base": _held_out_separation(resid["base"], label, fit),
            "shuffled_labels": _held_out_separation(resid["subject"], shuffled, fit),
        }
        lift = lift_over(value, controls)
        when = args.concept.clause()
        text = f"that {when} stands out at layer {layer}: d' {value:.1f}, on the base {controls['base']:.1f}"
        reading = Reading(
            name="separation",
            value=value,
            controls=controls,
            lift=lift,
            suggestion=suggest(lift, THRESHOLD, text, condition=args.concept),
            detail={"concept": when, "layer": layer, "n": len(label),
                    "auroc_logistic": {c: _held_out_auroc(r, label, fit) for c, r in resid.items()}},
        )  # fmt: skip
        return ToolResult(readings=[reading], tokens={"subject": batch.n_tokens, "base": batch.n_tokens}, summary=text)


def probe_for(asked: Questions, condition: Condition) -> dict[str, Any] | None:
    """Return the call that tells prompts which meet a condition from others; None where there are too few of either."""
    rows = asked.topics()
    topics = {label[1] for part in condition.parts if (label := label_of(part)) is not None and label[0] == TOPIC}
    everything = [row for here in rows.values() for row in here]
    inside = [row for topic, here in rows.items() for row in here if topic in topics] if topics else everything
    outside = [row for topic, here in rows.items() for row in here if topic not in topics]
    n = min(len(inside), len(outside), MOST)
    if n < LEAST:
        return None
    put = [part for part in condition.parts if not part.draws]
    with_it = [LabelledPrompt(messages=asked.under(row, put).messages) for row in inside[:n]]
    without = [LabelledPrompt(messages=row.messages) for row in outside[-n:]]
    return {"concept": condition.terms(), "positive": dumped(with_it), "negative": dumped(without)}


def _texts(subject: Subject, args: ProbeArgs) -> list[str]:
    return [subject.render(p.messages) for p in (*args.positive, *args.negative)]


def _shuffled(label: Tensor, fit: Tensor, seed: int) -> Tensor:
    """Return the labels shuffled within each half, so that both halves keep their number of each class."""
    generator, out = torch.Generator().manual_seed(seed), label.clone()
    for half in (fit, ~fit):
        out[half] = label[half][torch.randperm(int(half.sum()), generator=generator)]
    return out


def _held_out_separation(resid: Tensor, label: Tensor, fit: Tensor) -> float:
    """Return d' on the prompts that the direction was not fitted on."""
    direction = difference_of_means(resid[fit], label[fit])
    return separation(resid[~fit] @ direction, label[~fit])


def _held_out_auroc(resid: Tensor, label: Tensor, fit: Tensor) -> float:
    weights, _ = logistic(resid[fit], label[fit])
    return auroc(resid[~fit] @ weights, label[~fit])
