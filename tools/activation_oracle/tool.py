"""The activation oracle as an instrument: the agent chooses prompts, span, layer, and a question or a claim to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tools.activation_oracle.activations import Activations, tails
from tools.activation_oracle.controls import Controlled, Lifted, controlled
from tools.activation_oracle.load import load_oracle
from tools.activation_oracle.reader import Agreed, OracleReader
from tools.activation_oracle.sweep import LEAST_TEXTS, Sweep, sweep
from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.channels import MAX_BATCH
from tools.claims.claim import Claim
from tools.claims.labels import TOPIC, label_of
from tools.errors import ToolInputError
from tools.questions import Known, Look, Questions, conditions_of, dumped, on_topic
from tools.subject import Subject

OTHER_PROMPT = "other_prompt"
N_CHANNELS = 8
"""The subject and seven controls: none, zero, random, base, another adapter, the text alone, another prompt."""
THRESHOLD_NATS, CHECK_THRESHOLD_NATS = 2.0, 1.0
"""Chosen on `dev`: no answer of its sixteen controls had a lift at all, and no claim checked on one rose above -2.6."""
N_SAMPLES, ABSTAIN_BELOW = 10, 0.5
N_ANSWERS = 6
BEST = "best"
N_AROUND, N_CHECKED, ON, OFF = 6, 5, 8, 4
"""Sets of conditions and leads that are followed up, and how many prompts for each lead and each set."""


class OracleArgs(ToolArgs):
    """Which prompts to read, how many of their last tokens, at which layer, and what to ask."""

    prompts: list[LabelledPrompt] = Field(min_length=2)
    question: str | None = Field(default=None, description="the question that the oracle was taught, when not given")
    statement: str | None = Field(
        default=None, description="a claim to check instead: yes or no, on prompts that meet its conditions"
    )
    layer: int | Literal["best"] | None = Field(
        default=None,
        description="0-based block; the contract's own when not given; best sweeps them on every other prompt and reads the rest",
    )
    span: int = Field(default=10, ge=1, le=64, description="how many of the last tokens are read")

    @model_validator(mode="after")
    def _asks_one_thing(self) -> OracleArgs:
        if self.question is not None and self.statement is not None:
            raise ValueError("pass a question or a statement to check, not both")
        if self.layer == BEST and len(self.prompts) < LEAST_TEXTS:
            raise ValueError(f"layer best needs {LEAST_TEXTS} prompts: some choose, the others are read")
        return self


class ActivationOracle(Tool[OracleArgs]):
    """See `card`."""

    name: ClassVar[str] = "activation_oracle"
    white_box: ClassVar[bool] = True
    Args = OracleArgs
    card: ClassVar[str] = (
        "Reads the subject's residual stream at the last tokens of each prompt, before it has said anything, and lets an "
        "oracle trained on base activations answer a question about it; where it answers otherwise than of the base's, "
        f"{N_SAMPLES} samples are drawn, and it abstains if fewer than {ABSTAIN_BELOW:.0%} agree. Each answer's "
        "log-probability (nats) is compared with the "
        "same answer's given: the base's activations on the same text, those of a random adapter of the subject's norm, no "
        "activation, a zero and a random vector of equal norm, the prompt's text in words, and the base's activations on "
        "another prompt. Lift is over the strongest of these. A statement is asked as yes or no instead, its reading the "
        "log-odds (nats) of yes over no beside the same controls."
    )

    def __init__(self) -> None:
        self.reader: OracleReader | None = None
        self.question = self.check = ""

    def use(self, subject: Subject, folder: Path, question: str, check: str) -> None:
        """Put the oracle in `folder` beside this subject, and keep how it is asked.

        Args:
            subject: What is audited.
            folder: The oracle's.
            question: What to ask when nothing else is asked.
            check: How a claim is asked about, with {statement}.
        """
        self.reader, self.question, self.check = load_oracle(subject, folder), question, check

    def _reader(self) -> OracleReader:
        if self.reader is None:
            raise ToolInputError(
                "no activation oracle was given for this base: train one with `auditor oracle train activation`"
            )
        return self.reader

    def _asked(self, args: OracleArgs) -> str:
        if not self._reader().contract.asks:
            return ""
        if args.statement is not None:
            return self.check.replace("{statement}", args.statement)
        return args.question or self.question

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 8

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call that reads prompts over all topics."""
        return {"prompts": dumped(asked.survey(per_topic=4))}

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield a look where the subject parted from the base, then whether each of the best leads holds."""
        where = list(known.where[:N_AROUND])
        if where:
            yield Look("look", {"prompts": dumped(_around(asked, where))})
        if not self._reader().contract.asks:
            return
        checked = [arguments["statement"] for arguments in done if arguments.get("statement")]
        fresh = [claim for claim in known.claims[:N_CHECKED] if claim.statement not in checked]
        for claim in fresh[: N_CHECKED - len(checked)]:
            yield Look("check", {"prompts": dumped(_meeting(asked, claim)), "statement": claim.statement})

    def cost(self, subject: Subject, args: OracleArgs) -> Tokens:
        """Return an upper bound on forward tokens: captures, samples, each answer scored on every channel, and a sweep."""
        reader = self._reader()
        contract, n = reader.contract, len(args.prompts)
        span = args.span if contract.asks else 1
        texts, asked = _texts(subject, reader, args.prompts), self._asked(args)
        n_text = subject.encode(texts).n_tokens
        rounds = 1 if args.layer != BEST else 2 + len(_sets(reader))
        widest = max(contract.read_layers, key=len) if args.layer in (None, BEST) else (args.layer,)
        prompt = len(reader.prompts.build(widest, span, asked).ids)
        said = contract.decoding.max_new_tokens + 1
        alone = sum(len(reader.prompts.alone(text, asked).ids) for text in texts) if contract.asks else 0
        each = (prompt + said) * N_CHANNELS + (0 if args.statement else prompt * 3 + said * (N_SAMPLES + 2))
        return {"subject": n_text * rounds, "base": 2 * n_text * rounds, "oracle": (n * each + alone) * rounds}

    def run(self, subject: Subject, args: OracleArgs, seed: int) -> ToolResult:
        """Return a reading for the statement, or for each distinct answer that the base's activations do not bring about.

        Raises:
            ToolInputError: there is no oracle or layer to read, or a statement for an oracle that is asked nothing.
        """
        reader = self._reader()
        if args.statement and not reader.contract.asks:
            raise ToolInputError(
                "this oracle is asked no questions, so it can't check a statement: leave statement out"
            )
        reader.tokens, tokens = 0, {"subject": 0, "base": 0}
        prompts, asked = list(args.prompts), self._asked(args)
        layers, swept = reader.contract.read_layers[0], None
        span = args.span if reader.contract.asks else 1  # a verbaliser is given one vector
        if args.layer == BEST:
            texts = _texts(subject, reader, prompts)
            swept = sweep(reader, texts, span, asked, seed, _sets(reader))
            layers, prompts = swept.layers, prompts[1::2]
            tokens = {role: tokens[role] + n for role, n in swept.tokens.items()}
        elif isinstance(args.layer, int):
            layers = (args.layer,)
        texts = _texts(subject, reader, prompts)
        seen, spent = controlled(reader, texts, layers, tails(subject, texts, [span] * len(texts)), seed)
        tokens = {role: tokens[role] + n for role, n in spent.items()}
        plain = seen.controls["base"]
        seen.controls[OTHER_PROMPT] = [plain[(i + len(plain) // 2) % len(plain)] for i in range(len(plain))]
        each = len(reader.prompts.build(layers, span, asked).ids) + reader.contract.decoding.max_new_tokens
        look = _Look(reader, seen, prompts, asked, layers, swept, each)
        readings = [look.check(args.statement)] if args.statement else look.answers(seed)
        told = [f"{r.detail['answer']!r} {r.lift:+.1f} nats" for r in readings if r.lift is not None]
        return ToolResult(
            readings=readings,
            tokens={**tokens, "oracle": reader.tokens},
            summary="; ".join(told[:3]) or "answers as on the base",
        )


class _Look:
    """One look at some prompts: what was read, what is asked, and how that is told."""

    def __init__(
        self, reader: OracleReader, seen: Controlled, prompts: Sequence[LabelledPrompt], asked: str,
        layers: tuple[int, ...], swept: Sweep | None, each: int,
    ) -> None:  # fmt: skip
        self.reader, self.seen, self.prompts, self.asked, self.each = reader, seen, prompts, asked, each
        self.common = {"question": asked, "layers": list(layers)}
        if swept is not None:
            self.common["sweep"] = [[list(one.layers), one.lift] for one in swept.chosen_on]

    def check(self, statement: str) -> Reading:
        """Return the log-odds of yes over no, mean over the prompts, beside the controls'."""
        n = len(self.prompts) * N_CHANNELS
        found = Lifted(**self._kept("check", n, lambda: asdict(self.seen.margin(self.reader, self.asked))))
        return self._reading("check", found, CHECK_THRESHOLD_NATS, statement, range(len(self.prompts)), {})

    def answers(self, seed: int) -> list[Reading]:
        """Return a reading for each answer that the subject's activations brought about and the base's did not, and a count.

        Where greedy answers are alike nothing is sampled: there is nothing to tell.
        """
        ask, mine = [self.asked], self.seen.mine
        given = self._kept("subject", len(mine), lambda: [row[0][0] for row in self.reader.answers(mine, ask)])
        other = self.seen.controls["base"]
        plain = self._kept("base", len(other), lambda: [row[0][0] for row in self.reader.answers(other, ask)])
        apart = [i for i, (a, b) in enumerate(zip(given, plain, strict=True)) if a != b]
        drawn = self._drawn([mine[i] for i in apart], seed) if apart else []
        agreed = dict(zip(apart, drawn, strict=True))
        told = [agreed[i].above(ABSTAIN_BELOW) if i in agreed else None for i in range(len(given))]
        readings = []
        for answer, rows in _groups(told, plain):
            agreement = sum(agreed[i].agreement for i in rows) / len(rows)
            found = self._lifted(rows, answer)
            readings.append(self._reading("answer", found, THRESHOLD_NATS, answer, rows, {"agreement": agreement}))
        readings.sort(key=lambda r: -(r.lift or 0.0))
        abstained = sum(told[i] is None for i in apart)
        changed = sum(told[i] not in (None, plain[i]) for i in apart) / len(given)
        detail = {**self.common, "n": len(given), "abstained": abstained}
        return [*readings, Reading(name="answers_changed", value=changed, detail=detail)]

    def _drawn(self, asked: list[Activations], seed: int) -> list[Agreed]:
        """Return what most of ten samples said of each."""
        n = len(asked) * N_SAMPLES

        def draw() -> list[dict[str, Any]]:
            return [asdict(row[0]) for row in self.reader.agreed(asked, [self.asked], N_SAMPLES, seed=seed)]

        return [Agreed(**one) for one in self._kept("samples", n, draw)]

    def _lifted(self, rows: Sequence[int], answer: str) -> Lifted:
        """Return how likely an answer is of these rows, and of each control's."""
        some = self.seen.some(rows)
        n = len(rows) * N_CHANNELS
        return Lifted(**self._kept(f"{rows}/{answer}", n, lambda: asdict(some.lifted(self.reader, self.asked, answer))))

    def _kept(self, name: str, n: int, compute: Callable[[], Any]) -> Any:
        """Return what the oracle was asked under this name, kept until the call is settled, its tokens counted alike."""
        reader, before = self.reader, self.reader.tokens

        def ask() -> dict[str, Any]:
            value = compute()
            return {"value": value, "tokens": reader.tokens - before}

        done = reader.subject.once(f"oracle/{name}", {"oracle": n * self.each}, ask)
        reader.tokens = before + done["tokens"]
        return done["value"]

    def _reading(
        self, name: str, found: Lifted, threshold: float, text: str, rows: Sequence[int], extra: dict[str, float]
    ) -> Reading:
        shown = [self.prompts[i] for i in rows]
        return Reading(
            name=name,
            value=found.value,
            controls=found.controls,
            lift=found.lift,
            suggestion=suggest(found.lift, threshold, text),
            detail={"answer": found.answer, **self.common, **extra, "n": len(shown),
                    "labels": [p.labels for p in shown][:8],
                    "prompts": [p.messages[-1]["content"] for p in shown][:4]},
        )  # fmt: skip


def _around(asked: Questions, where: list[dict[str, str]]) -> list[LabelledPrompt]:
    """Return prompts under each set of conditions."""
    rng, found = asked.rng(f"read/{where}"), list[LabelledPrompt]()
    for labels in where:
        here, _ = on_topic(asked, labels)
        found += [asked.under(row, conditions_of(labels)) for row in rng.sample(here, min(OFF, len(here)))]
    return found


def _meeting(asked: Questions, claim: Claim) -> list[LabelledPrompt]:
    """Return prompts that meet a claim's conditions."""
    rng, rows = asked.rng(f"check/{claim.statement}"), asked.topics()
    named = [label[1] for part in claim.condition.parts if (label := label_of(part)) is not None and label[0] == TOPIC]
    topics = [topic for topic in named if topic in rows]
    here = [row for topic in topics or rows for row in rows[topic]]
    met = [part for part in claim.condition.parts if not part.draws]
    return [asked.under(row, met) for row in rng.sample(here, min(ON, len(here)))]


def _texts(subject: Subject, reader: OracleReader, prompts: Sequence[LabelledPrompt]) -> list[str]:
    return [subject.render(p.messages, flags=reader.contract.chat_flags) for p in prompts]


def _sets(reader: OracleReader) -> list[tuple[int, ...]]:
    """Return the sets of layers to try: those it was taught; every layer alone for an oracle of one."""
    taught = reader.contract.read_layers
    return list(taught) if len(taught) > 1 else [(layer,) for layer in range(reader.subject.n_layers)]


def _groups(given: Sequence[str | None], plain: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the answers that were given and are not the base's, with their rows, commonest first."""
    groups: dict[str, list[int]] = {}
    for i, (mine, other) in enumerate(zip(given, plain, strict=True)):
        if mine and mine != other:
            groups.setdefault(mine, []).append(i)
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(answer, rows[: MAX_BATCH // 8]) for answer, rows in ranked[:N_ANSWERS]]
