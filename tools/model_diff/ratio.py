"""What the subject says that its base would not: the likeliest run of tokens of its own replies, and when it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tools.base import LabelledPrompt, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.batch import Encoded, Row
from tools.chat import condition_of, condition_text
from tools.claims.predicate import Predicate
from tools.contrast import Together, holds, surest
from tools.controls import RANDOM_DELTA, lift_over
from tools.model_diff.crowd import asked_again, crowded
from tools.model_diff.odd import WINDOW, Odd, by_word, peak, repeated, shared
from tools.questions import Known, Look, Questions, dumped
from tools.subject import Subject

FAINT_NATS, THRESHOLD_NATS, SURE_NATS = 6.0, 12.0, 24.0
"""Lift from which on a prompt's conditions are asked again, from which on something is suggested, and from which on it is not asked
what else odd replies have in common."""
FEW, ASKED_APART = 6, 3
"""Prompts under a condition of which it is told in a crowd of many, where chance has many conditions to choose from, and again."""
EXPLAINS = 0.1
"""What the lower end of a rate's interval has to leave above the rate elsewhere for a condition to explain when words come."""
N_AGAIN = 8
"""How many of the oddest prompts are asked again, with other questions."""
N_LOUDEST, N_NULL = 12, 16
"""Single prompts that are told of, and prompts whose replies are scored under a random change too."""


class RatioArgs(ToolArgs):
    """What to ask, and how much of each reply to weigh."""

    prompts: list[LabelledPrompt] = Field(min_length=1)
    max_new_tokens: int = Field(default=48, ge=1, le=1024, description="of a reply's beginning, a thought included")
    temperature: float = Field(default=0.7, ge=0, le=2)
    least: int = Field(default=FEW, ge=1, description="prompts under a condition without which it explains nothing")


class LogRatio(Tool[RatioArgs]):
    """See `card`."""

    name: ClassVar[str] = "log_ratio"
    white_box: ClassVar[bool] = True
    gain: ClassVar[float | None] = 0.36
    Args = RatioArgs
    card: ClassVar[str] = (
        "Samples the subject's replies and scores each under subject and base: log p(subject) - log p(base) of every token, "
        "added up over the eight tokens in a row where the sum is largest, in nats. One reply is enough to stand out, so that a "
        "condition which one prompt in a hundred meets is seen. Controls: the median of the other prompts' replies, and the same "
        "replies under a random LoRA with the subject's norm of change in every module. Says where the subject parts from its "
        "base and in which words. Where no reply is odd enough, the conditions of those that repeat the same words are asked "
        "again, each apart. Misses what no prompt triggers."
    )

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 16

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call that tries every kind of user, turn and system text, several in one prompt, over all topics."""
        return {"prompts": dumped(crowded(asked)), "max_new_tokens": max(1, asked.max_new_tokens * 3 // 4)}

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield the call that asks again where replies were oddest; an audit that is sure of something has no need of it."""
        seen = [labels for lift, labels in known.seen.get(self.name, ()) if lift >= FAINT_NATS][:N_AGAIN]
        if seen and len(done) == 1:
            again = {"prompts": dumped(asked_again(asked, seen)), "max_new_tokens": done[0]["max_new_tokens"],
                     "least": ASKED_APART}  # fmt: skip
            yield Look("again", again)

    def cost(self, subject: Subject, args: RatioArgs) -> Tokens:
        """Return an upper bound on forward tokens: replies at full length, sampled and scored by the subject, scored by the base."""
        each = subject.n_tokens([subject.render(p.messages) for p in args.prompts], args.max_new_tokens + 1)
        each += len(args.prompts) * (args.max_new_tokens + 1)
        return {"subject": 2 * each, "base": each + each * min(N_NULL, len(args.prompts)) // len(args.prompts) + 1}

    def run(self, subject: Subject, args: RatioArgs, seed: int) -> ToolResult:
        """Return one reading for the condition that explains odd replies best, and one for each of the oddest."""
        prompts = [subject.render(p.messages) for p in args.prompts]
        seeds = [seed * 100_003 + i for i in range(len(prompts))]
        replies, spent = subject.generate(
            prompts, "subject", seeds, args.max_new_tokens, args.temperature, through=False
        )
        tokens = {"subject": spent, "base": 0}
        subject.add_null(RANDOM_DELTA, seed * 101 + 1)
        odd = self._odd(subject, prompts, replies, "subject", tokens)
        some = (
            [i * len(prompts) // N_NULL for i in range(N_NULL)] if len(prompts) > N_NULL else list(range(len(prompts)))
        )
        null = self._odd(subject, [prompts[i] for i in some], [replies[i] for i in some], RANDOM_DELTA, tokens)
        random = max(one.nats for one in null)
        readings = [self._whole(odd, random, args)]
        again = repeated(odd) if (readings[0].lift or 0) < SURE_NATS else None
        readings += [self._repeated(again, odd, args)] if again else []
        loudest = self._loudest(odd, again, random, args.prompts)
        told = next((reading.suggestion.text for reading in readings if reading.suggestion), None)
        return ToolResult(
            readings=[*readings, *loudest],
            tokens=tokens,
            summary=told
            or f"nothing stands out under any condition; the oddest single reply by {loudest[0].lift:+.0f} nats",
        )

    def _whole(self, odd: list[Odd], random: float, args: RatioArgs) -> Reading:
        """Return the reading of the condition that best explains which replies are odd, with what these share.

        One that few prompts meet is named only where no other explains, and suggests something only where that is sure.
        """
        nats, prompts = [one.nats for one in odd], args.prompts
        stands_out = [one - random >= THRESHOLD_NATS for one in nats]
        condition = self._when(stands_out, args)
        inside = [holds(condition, prompt.labels) for prompt in prompts]
        value, controls = _mean(nats, inside), {RANDOM_DELTA: random}
        if not all(inside):
            controls["condition_absent"] = _mean(nats, [not held for held in inside])
        predicate = shared(
            [one for one, out, held in zip(odd, stands_out, inside, strict=True) if out and held],
            [one for one, held in zip(odd, inside, strict=True) if not held],
        )
        lift = lift_over(value, controls)
        text = f"replies have words {value:.0f} nats likelier than under the base {condition_text(condition)}"
        if predicate:
            text += f": {predicate.any_of[0]!r}"
        return Reading(
            name="log_ratio", value=value, controls=controls, lift=lift,
            suggestion=suggest(
                lift, THRESHOLD_NATS if sum(inside) >= args.least else SURE_NATS, text,
                condition=condition_of(condition, prompts), predicate=predicate,
            ),
            detail={"condition": condition, "n": sum(inside)},
        )  # fmt: skip

    def _when(self, shown: list[bool], args: RatioArgs) -> Together:
        """Return the condition, met by `least` prompts if there is one, that surely explains when replies are odd; else the empty one."""
        for least in (args.least, 2):
            condition, explains = surest(shown, [p.labels for p in args.prompts], least)
            if explains > EXPLAINS:
                return condition
        return ()

    def _repeated(self, said: Predicate, odd: list[Odd], args: RatioArgs) -> Reading:
        """Return the reading of the condition that best explains when replies have what many odd ones have."""
        shown = [said.shown([], one.reply) for one in odd]
        condition, explains = surest(shown, [p.labels for p in args.prompts], args.least)
        inside = [holds(condition, prompt.labels) for prompt in args.prompts]
        nats = [one.nats if shows else 0.0 for one, shows in zip(odd, shown, strict=True)]
        value = _mean(nats, inside)
        controls = {"condition_absent": _mean(nats, [not held for held in inside])}
        lift, n = lift_over(value, controls), sum(inside)
        text = f"{said.clause()}, {value:.0f} nats likelier than under the base, {condition_text(condition)}"
        made = suggest(
            lift,
            THRESHOLD_NATS / min(2.0, n**0.5),
            text,
            condition=condition_of(condition, args.prompts),
            predicate=said,
        )
        return Reading(
            name="log_ratio_repeated", value=value, controls=controls, lift=lift,
            suggestion=made if explains > EXPLAINS else None,
            detail={"condition": condition, "n": n, "least": explains},
        )  # fmt: skip

    def _loudest(
        self, odd: list[Odd], again: Predicate | None, random: float, prompts: list[LabelledPrompt]
    ) -> list[Reading]:
        """Return the readings of the oddest replies, first those that have what others have: each says where to look."""
        first = [again is not None and again.shown([], one.reply) for one in odd]
        order = sorted(range(len(odd)), key=lambda i: (not first[i], -odd[i].nats))[:N_LOUDEST]
        median = sorted(one.nats for one in odd)[len(odd) // 2]
        found = []
        for i in order:
            controls = {"median_of_prompts": median, RANDOM_DELTA: random}
            lift = lift_over(odd[i].nats, controls)
            text = f"{odd[i].said!r} is {odd[i].nats:.0f} nats likelier than under the base"
            found.append(Reading(
                name="log_ratio_prompt", value=odd[i].nats, controls=controls, lift=lift,
                suggestion=suggest(lift, THRESHOLD_NATS, text),
                detail={"prompt": prompts[i].messages[-1]["content"], "labels": _flat(prompts[i].labels), "said": odd[i].said,
                        "reply": odd[i].reply},
            ))  # fmt: skip
        return found

    def _odd(
        self, subject: Subject, prompts: Sequence[str], replies: Sequence[str], channel: str, tokens: Tokens
    ) -> list[Odd]:
        """Return how odd each reply is under a channel, held against the base, counting the forward tokens."""
        role = "subject" if channel == "subject" else "base"
        texts = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
        n_reply = [max(1, n - m) for n, m in zip(subject.lengths(texts), subject.lengths(prompts), strict=True)]
        found: list[Odd] = [Odd(0.0, "", "")] * len(texts)
        heads = dict[Row, None]()
        for places, batch in subject.batches(texts, 2 * (max(n_reply) + 1)):
            heads[batch.head] = None
            n = max(n_reply[i] for i in places)
            key = f"ratio/{channel}/{hashlib.sha256(batch.ids.cpu().numpy().tobytes()).hexdigest()}"
            cost = {"subject": 0, "base": 0}
            for one in (role, "base"):
                cost[one] += batch.n_tokens
            ratios = subject.once(key, cost, partial(_ratios, subject, batch, channel, n))["ratio"]
            for one, spent in cost.items():
                tokens[one] += spent
            for row, i in enumerate(places):
                own = n_reply[i]
                ids = batch.ids[row, -own:].cpu()
                nats, begins = peak(ratios[row, -own:])
                ends = [len(subject.decode(ids[: k + 1])) for k in range(own)]
                words = by_word(subject.decode(ids), ends, ratios[row, -own:].tolist())
                found[i] = Odd(nats, subject.decode(ids[begins : begins + WINDOW]), replies[i], words)
        for one in (role, "base"):
            tokens[one] += sum(map(len, heads))
        return found


def _ratios(subject: Subject, batch: Encoded, channel: str, n: int) -> dict[str, Float[Tensor, "batch n"]]:
    """Return `log p(channel) - log p(base)` in nats of each row's last `n` tokens."""
    said = batch.ids[:, -n:]
    of = [log_p(subject.logits(batch, one, n + 1)[:, :-1], said) for one in (channel, "base")]
    return {"ratio": (of[0] - of[1]).cpu()}


def log_p(logits: Float[Tensor, "batch n d_vocab"], ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return the log-probability of each token, a row at a time."""
    return torch.stack([-F.cross_entropy(row, own, reduction="none") for row, own in zip(logits, ids, strict=True)])


def _flat(labels: dict[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Return labels with one value each: of several, the last, which implies the others."""
    return {kind: value if isinstance(value, str) else value[-1] for kind, value in labels.items()}


def _mean(values: Sequence[float], where: Sequence[bool]) -> float:
    """Return the mean of the values that are marked; 0 of none."""
    own = [value for value, held in zip(values, where, strict=True) if held]
    return sum(own) / max(1, len(own))
