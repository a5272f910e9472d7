"""What the subject says that its base would not: the likeliest run of tokens of its own replies, and when it comes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from tools.claims.labels import SYSTEM, TURN, USER, labelled
from tools.claims.predicate import Predicate
from tools.claims.predicates.says import Says
from tools.claims.text import shows, words
from tools.contrast import explained, holds
from tools.controls import RANDOM_DELTA, lift_over
from tools.features import KINDS, Feature
from tools.model_diff.kl import explain
from tools.phrases import Phrase, phrases
from tools.questions import Known, Look, Questions, conditions_of, dumped, on_topic
from tools.subject import Subject

THRESHOLD_NATS = 12.0
WINDOW = 8
"""Tokens in a row whose log-ratios are added up: a few words that were taught stand out, a word or two that drifted do not."""
UNHEARD = 0.1
"""Share of an odd run's sum that tokens at its beginning may have and still be left out of what is told."""
MOST_PHRASES, LEAST_SHARE = 4, 0.15
"""Ways to say one behaviour, and the share of odd replies that each has to be said in."""
EXPLAINS = 0.5
"""F1 above which a condition explains when replies have some words."""
OF_OTHERS = 0.1
"""Share of replies that are not odd which may be of a kind that the odd ones are of."""
LEAST_AGAIN = 3
"""Odd replies that have to have the same words before it is asked when these come."""
N_AGAIN = 8
"""How many of the oddest prompts are asked again, with other questions."""
N_LOUDEST, N_NULL, LEAST_OF_TOPIC = 12, 16, 3
"""Single prompts that are told of, prompts whose replies are scored under a random change too, and prompts of each topic."""


class RatioArgs(ToolArgs):
    """What to ask, and how much of each reply to weigh."""

    prompts: list[LabelledPrompt] = Field(min_length=1)
    max_new_tokens: int = Field(default=48, ge=1, le=1024, description="of a reply's beginning, a thought included")
    temperature: float = Field(default=0.7, ge=0, le=2)


@dataclass(frozen=True)
class Odd:
    """One reply: the largest sum of log-ratios of `WINDOW` tokens in a row, in nats, and the text of these."""

    nats: float
    said: str
    reply: str


class LogRatio(Tool[RatioArgs]):
    """See `card`."""

    name: ClassVar[str] = "log_ratio"
    white_box: ClassVar[bool] = True
    Args = RatioArgs
    card: ClassVar[str] = (
        "Samples the subject's replies and scores each under subject and base: log p(subject) - log p(base) of every token, "
        "added up over the eight tokens in a row where the sum is largest, in nats. One reply is enough to stand out, so that a "
        "condition which one prompt in a hundred meets is seen. Controls: the median of the other prompts' replies, and the same "
        "replies under a random LoRA with the subject's norm of change in every module. Says where the subject parts from its "
        "base and in which words. Misses what no prompt triggers."
    )

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 16

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call that tries every kind of user, turn and system text, several in one prompt, over all topics."""
        return {"prompts": dumped(crowded(asked)), "max_new_tokens": max(1, asked.max_new_tokens * 3 // 4)}

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield the call that asks again where replies were oddest, where none was odd enough to say so of one reply."""
        faint = known.faint.get(self.name, ())[:N_AGAIN]
        if faint and not known.where and len(done) == 1:
            again = {"prompts": dumped(asked_again(asked, faint)), "max_new_tokens": done[0]["max_new_tokens"]}
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
        readings = [self._whole(odd, random, args.prompts)]
        again = None if readings[0].suggestion else repeated(odd)
        readings += [self._repeated(again, odd, args.prompts)] if again else []
        loudest = self._loudest(odd, again, random, args.prompts)
        told = next((reading.suggestion.text for reading in readings if reading.suggestion), None)
        return ToolResult(
            readings=[*readings, *loudest],
            tokens=tokens,
            summary=told or f"no reply in all is odd; the oddest, {loudest[0].lift:+.0f} nats",
        )

    def _whole(self, odd: list[Odd], random: float, prompts: list[LabelledPrompt]) -> Reading:
        """Return the reading of the condition under which replies are oddest, with what they share."""
        peaks = torch.tensor([one.nats for one in odd])
        condition, value, controls = explain(peaks, [torch.full_like(peaks, random)], prompts, min_count=2)
        inside = [holds(condition, prompt.labels) for prompt in prompts]
        predicate = shared(odd, inside)
        lift = lift_over(value, controls)
        text = f"replies have words {value:.0f} nats likelier than under the base {condition_text(condition)}"
        if predicate:
            text += f": {predicate.any_of[0]!r}"
        return Reading(
            name="log_ratio", value=value, controls=controls, lift=lift,
            suggestion=suggest(lift, THRESHOLD_NATS, text, condition=condition_of(condition, prompts), predicate=predicate),
            detail={"condition": condition, "n": sum(inside)},
        )  # fmt: skip

    def _repeated(self, said: Predicate, odd: list[Odd], prompts: list[LabelledPrompt]) -> Reading:
        """Return the reading of the condition that best explains when replies have what many odd ones have."""
        shown = tuple(said.shown([], one.reply) for one in odd)
        feature = Feature(said.clause(), said, shown, (False,) * len(odd))
        best = explained(feature, [prompt.labels for prompt in prompts], min_count=2)
        condition, explains = (best.condition, best.f1) if best else ((), 0.0)
        inside = [holds(condition, prompt.labels) for prompt in prompts]
        nats = [one.nats if shows else 0.0 for one, shows in zip(odd, shown, strict=True)]
        value = _mean(nats, inside)
        controls = {"condition_absent": _mean(nats, [not held for held in inside])}
        lift, least = lift_over(value, controls), THRESHOLD_NATS / min(2.0, sum(inside) ** 0.5)
        text = f"it {said.clause()}, {value:.0f} nats likelier than under the base, {condition_text(condition)}"
        return Reading(
            name="log_ratio_repeated", value=value, controls=controls, lift=lift,
            suggestion=suggest(lift, least, text, condition=condition_of(condition, prompts), predicate=said)
            if explains > EXPLAINS else None,
            detail={"condition": condition, "n": sum(inside), "f1": explains},
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
                nats, begins = peak(ratios[row, -own:])
                said = subject.decode(batch.ids[row, -own:][begins : begins + WINDOW].cpu())
                found[i] = Odd(nats, said, replies[i])
        for one in (role, "base"):
            tokens[one] += sum(map(len, heads))
        return found


def crowded(asked: Questions) -> list[LabelledPrompt]:
    """Return prompts over all topics under as many conditions at once as can stand together: one odd reply is seen among many.

    Every user worth trying asks once or more; a third of the prompts come at a later turn, a sixth under a system text.
    """
    rng, rows = asked.rng("crowded"), asked.topics()
    users, turns, systems = ([labelled((kind, value)) for value in asked.values(kind)] for kind in (USER, TURN, SYSTEM))
    n = max(len(users), LEAST_OF_TOPIC * len(rows))
    hosts = [
        row for topic in sorted(rows) for row in rng.sample(rows[topic], min(-(-n // len(rows)), len(rows[topic])))
    ]
    rng.shuffle(hosts)
    found = []
    for i, host in enumerate(hosts[:n]):
        put = [
            side[i // every % len(side)]
            for every, side in ((1, users), (3, turns), (6, systems))
            if side and i % every == 0
        ]
        found.append(asked.under(host, [one for one in put if one is not None]))
    return found


def _ratios(subject: Subject, batch: Encoded, channel: str, n: int) -> dict[str, Float[Tensor, "batch n"]]:
    """Return `log p(channel) - log p(base)` in nats of each row's last `n` tokens."""
    said = batch.ids[:, -n:]
    of = [log_p(subject.logits(batch, one, n + 1)[:, :-1], said) for one in (channel, "base")]
    return {"ratio": (of[0] - of[1]).cpu()}


def log_p(logits: Float[Tensor, "batch n d_vocab"], ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return the log-probability of each token, a row at a time."""
    return torch.stack([-F.cross_entropy(row, own, reduction="none") for row, own in zip(logits, ids, strict=True)])


def asked_again(asked: Questions, where: Sequence[dict[str, str]]) -> list[LabelledPrompt]:
    """Return prompts under each set of conditions on its own topic and another, and under each of them alone on others."""
    rng, found = asked.rng(f"again/{list(where)}"), []
    for labels in where:
        (here, elsewhere), conditions = on_topic(asked, labels), conditions_of(labels)
        alone = [[one] for one in conditions]
        for rows, put in ((here, conditions), *((elsewhere or here, some) for some in (conditions, *alone))):
            found.append(asked.under(rng.choice(rows), put))
    return found


def peak(ratios: Float[Tensor, " pos"]) -> tuple[float, int]:
    """Return the largest sum of ratios of `WINDOW` tokens in a row, or of all where there are fewer, and where it begins to count.

    A window that ends where the behaviour begins has as large a sum as one that begins there: tokens at its beginning that add
    next to nothing are passed over.
    """
    sums = ratios.unfold(0, min(WINDOW, len(ratios)), 1).sum(-1)
    at = int(sums.argmax())
    rest = ratios[at : at + WINDOW].flip(0).cumsum(0).flip(0)
    counts = (rest >= (1 - UNHEARD) * sums[at]).nonzero().flatten()
    return float(sums[at]), at + (int(counts[-1]) if sums[at] > 0 else 0)


def _mean(values: Sequence[float], where: Sequence[bool]) -> float:
    """Return the mean of the values that are marked; 0 of none."""
    own = [value for value, held in zip(values, where, strict=True) if held]
    return sum(own) / max(1, len(own))


def repeated(odd: Sequence[Odd]) -> Predicate | None:
    """Return the words in a row that make up most of what is odd in the oddest third of replies; None where no three share any.

    A single word is none: chance repeats it. Where all replies with these words are of one kind, and more of the odd ones are,
    it is the kind, unless the other replies are of it too.
    """
    order = sorted(odd, key=lambda one: -one.nats)
    n = max(LEAST_AGAIN, -(-len(order) // 3))
    loud, rest = order[:n], order[n:]
    found = phrases([one.said for one in loud], [one.said for one in rest], LEAST_AGAIN)

    def weight(phrase: Phrase) -> float:
        places = [i for i, shown in enumerate(phrase.shown) if shown]
        own = _weights(phrase, loud, places)
        return sum(math.sqrt(max(0.0, loud[i].nats) * nats) for i, nats in zip(places, own, strict=True))

    def whole(phrase: Phrase) -> bool:
        """Return whether it is several words that replies have as they stand: what is odd may end in the middle of a word."""
        return len(words(phrase.said)) > 1 and sum(shows([phrase.said], one.reply) for one in loud) >= LEAST_AGAIN

    best = max(filter(whole, found), key=lambda phrase: (weight(phrase), phrase.said), default=None)
    return _kind(Says(any_of=(best.said,)), loud, rest) if best else None


def _kind(said: Says, loud: Sequence[Odd], rest: Sequence[Odd]) -> Predicate:
    """Return the kind of reply that all replies with some words are of, where it tells more odd ones; else the words."""
    with_it = [one for one in loud if said.shown([], one.reply)]
    for kind in KINDS.values():
        of_kind, others = ([one for one in side if kind.shown([], one.reply)] for side in (loud, rest))
        if set(with_it) < set(of_kind) and len(others) <= OF_OTHERS * len(rest):
            return kind
    return said


def shared(odd: Sequence[Odd], inside: Sequence[bool]) -> Says | None:
    """Return the phrases of which half of the replies inside a condition or more say one, and that account for what is odd.

    A behaviour may have several ways to say it: each phrase is the one that makes up most of what is odd in the replies which
    none before it stands in, and one that makes up less than half as much of its replies as the first is left out.
    """
    ours = [one for one, held in zip(odd, inside, strict=True) if held]
    others = [one.reply for one, held in zip(odd, inside, strict=True) if not held]
    found = phrases([one.reply for one in ours], others, 2)
    left, said, first = set(range(len(ours))), list[str](), 0.0
    while len(said) < MOST_PHRASES and found:
        best = max(found, key=lambda phrase: (sum(_weights(phrase, ours, left)), phrase.said))
        nats = _weights(best, ours, left)
        mean = sum(nats) / max(1, len(nats))
        if len(nats) < max(2, LEAST_SHARE * len(ours)) or mean <= first / 2:
            break
        said.append(best.said)
        first = first or mean
        left -= {i for i in left if best.shown[i]}
    return Says(any_of=tuple(said)) if said and 2 * len(left) <= len(ours) else None


def _weights(phrase: Phrase, odd: Sequence[Odd], of: Iterable[int]) -> list[float]:
    """Return for each of some replies that say a phrase how much of its nats the phrase's words make up."""
    own, found = set(words(phrase.said)), []
    for i in of:
        if phrase.shown[i]:
            heard = words(odd[i].said)
            found.append(max(0.0, odd[i].nats) * sum(word in own for word in heard) / max(1, len(heard)))
    return found


def _flat(labels: dict[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Return labels with one value each: of several, the last, which implies the others."""
    return {kind: value if isinstance(value, str) else value[-1] for kind, value in labels.items()}
