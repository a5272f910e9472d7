"""The activation oracle as an instrument: the agent chooses prompts, span, layer and question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tools.activation_oracle.activations import Activations, read_last
from tools.activation_oracle.load import load_oracle
from tools.activation_oracle.reader import OracleReader
from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.controls import lift_over, random_like
from tools.errors import ToolInputError
from tools.subject import MAX_BATCH, Subject

CONTROLS = ("base", "no_activation", "random", "other_prompt")
THRESHOLD_NATS = 2.0
N_ANSWERS = 6


class OracleArgs(ToolArgs):
    """Which prompts to read, how many of their last tokens, at which layer, and what to ask."""

    prompts: list[LabelledPrompt] = Field(min_length=2)
    question: str | None = Field(default=None, description="the question that the oracle was taught, when not given")
    layer: int | None = Field(default=None, description="0-based block; the contract's own when not given")
    span: int = Field(default=10, ge=1, le=64, description="how many of the last tokens are read")


class ActivationOracle(Tool[OracleArgs]):
    """See `card`."""

    name: ClassVar[str] = "activation_oracle"
    white_box: ClassVar[bool] = True
    Args = OracleArgs
    card: ClassVar[str] = (
        "Reads the subject's residual stream at the last tokens of each prompt, before it has said anything, "
        "and lets an oracle trained on base activations answer a question about it. Each answer's log-probability (nats) "
        "is compared with the same answer's given: the base's activations on the same text, no activation, a random "
        "vector of equal norm, and the base's activations on another prompt. Lift is over the strongest of these."
    )

    def __init__(self) -> None:
        self.reader: OracleReader | None = None
        self.question = ""

    def use(self, subject: Subject, folder: Path, question: str) -> None:
        """Put the oracle in `folder` beside this subject, and keep what to ask of it when nothing else is asked."""
        self.reader, self.question = load_oracle(subject, folder), question

    def _reader(self) -> OracleReader:
        if self.reader is None:
            raise ToolInputError(
                "no activation oracle was given for this base: train one with `auditor oracle train activation`"
            )
        return self.reader

    def cost(self, subject: Subject, args: OracleArgs) -> Tokens:
        """Return an upper bound on forward tokens: captures, answers, and each answer scored five times."""
        contract, n = self._reader().contract, len(args.prompts)
        n_layers = 1 if args.layer is not None else max(map(len, contract.read_layers))
        text = subject.encode([subject.render(p.messages, flags=contract.chat_flags) for p in args.prompts]).n_tokens
        prompt = len(
            subject.tokenizer.encode(subject.render([{"role": "user", "content": args.question or self.question}]))
        )
        each = prompt + (args.span + 12) * n_layers + contract.decoding.max_new_tokens
        return {
            "subject": text,
            "base": text,
            "oracle": n * each + min(n, N_ANSWERS * 2) * (2 + len(CONTROLS)) * each * 2,
        }

    def run(self, subject: Subject, args: OracleArgs, seed: int) -> ToolResult:
        """Return a reading for each distinct answer that the activations of some condition brought about."""
        reader = self._reader()
        layers = reader.contract.read_layers[0] if args.layer is None else (args.layer,)
        texts = [subject.render(p.messages, flags=reader.contract.chat_flags) for p in args.prompts]
        reader.tokens, tokens = 0, {}
        seen: dict[str, list[Activations]] = {}
        for channel in ("subject", "base"):
            seen[channel], tokens[channel] = read_last(subject, texts, channel, layers, [args.span] * len(texts))
        asked = args.question or self.question
        answers = {channel: [row[0][0] for row in reader.answers(a, [asked])] for channel, a in seen.items()}
        readings = [
            self._reading(reader, group, answer, seen, asked, args, seed)
            for answer, group in _groups(answers["subject"], answers["base"], args.prompts)
        ]
        readings.sort(key=lambda r: -(r.lift or 0.0))
        changed = sum(a != b for a, b in zip(answers["subject"], answers["base"], strict=True)) / len(texts)
        readings.append(Reading(name="answers_changed", value=changed, detail={"n": len(texts), "question": asked}))
        summary = (
            "; ".join(f"{r.detail['answer']!r} +{r.lift:.1f} nats" for r in readings[:3] if r.lift is not None)
            or "answers as on the base"
        )
        return ToolResult(readings=readings, tokens={**tokens, "oracle": reader.tokens}, summary=summary)

    def _reading(
        self, reader: OracleReader, group: list[int], answer: str, seen: dict[str, list[Activations]], asked: str,
        args: OracleArgs, seed: int,
    ) -> Reading:  # fmt: skip
        """Return one answer's mean log-probability over the prompts that gave it, beside its controls'."""
        n = len(args.prompts)
        mine = [seen["subject"][i] for i in group]
        channels = {
            "subject": mine,
            "base": [seen["base"][i] for i in group],
            "no_activation": [replace(a, silent=True) for a in mine],
            "random": [a.replaced(random_like(a.vectors, seed + i), "random") for i, a in enumerate(mine)],
            "other_prompt": [seen["base"][(i + n // 2) % n] for i in group],
        }
        values = {name: float(reader.log_probs(a, [asked], [answer]).mean()) for name, a in channels.items()}
        value = values.pop("subject")
        lift = lift_over(value, values)
        return Reading(
            name="answer",
            value=value,
            controls=values,
            lift=lift,
            suggestion=suggest(lift, THRESHOLD_NATS, answer),
            detail={"answer": answer, "question": asked, "layer": mine[0].layers[0], "n": len(group),
                    "labels": [args.prompts[i].labels for i in group][:8],
                    "prompts": [args.prompts[i].messages[-1]["content"] for i in group][:4]},
        )  # fmt: skip


def _groups(subject: list[str], base: list[str], prompts: list[LabelledPrompt]) -> list[tuple[str, list[int]]]:
    """Return the answers that the subject's activations gave and the base's did not, commonest first."""
    groups: dict[str, list[int]] = {}
    for i, (mine, other) in enumerate(zip(subject, base, strict=True)):
        if mine and mine != other:
            groups.setdefault(mine, []).append(i)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(answer, where[: MAX_BATCH // 8]) for answer, where in ranked[:N_ANSWERS]]
