"""What a judge is worth: its answers to questions whose right answers are known, half of them near misses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tools.claims.judge import Judge, Judgement
from tools.claims.kind import Messages
from tools.errors import ToolInputError

PAIRS = Path(__file__).with_name("examination.jsonl")
ENOUGH = 0.8
"""The share of right answers that the lower end of a kind's 95% interval has to reach."""
GIVE_UP = 10
"""Failed judgements at the beginning of a kind after which its others are not asked for: nobody is there."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pair(_Value):
    """A question about one reply, and its answer; a near miss has what another answer mostly has."""

    kind: str
    question: str
    prompt: str
    reply: str
    answer: Literal["yes", "no"]
    near_miss: bool

    @property
    def messages(self) -> Messages:
        """Return the prompt as a chat."""
        return [{"role": "user", "content": self.prompt}]


class Score(_Value):
    """How a judge did in one kind of question. A failed judgement is a wrong answer.

    Args:
        kind: Of question, by name.
        question: As it was asked.
        n: How many pairs.
        right: How many of them were answered rightly.
        near_misses: How many of them are near misses.
        right_near: How many of these were answered rightly.
        failures: How many judgements failed, those not asked for after `GIVE_UP` among them.
        lower: Lower end of Wilson's 95% interval of the share of right answers.
        passed: Whether that is enough.
        why: The first failure's reason, empty where there was none.
    """

    kind: str
    question: str
    n: int
    right: int
    near_misses: int
    right_near: int
    failures: int
    lower: float
    passed: bool
    why: str = ""


class Examination(_Value):
    """How one judge did, as a row of a ledger holds it: `model_dump` writes it, `model_validate` reads it again.

    Args:
        judge: Its name, which says how it was asked too.
        scores: By kind of question.
        passed: Whether it passed in every kind.
        tokens: What the examination took, by role.
    """

    judge: str
    scores: tuple[Score, ...]
    passed: bool
    tokens: dict[str, int]

    def may_answer(self, question: str) -> bool:
        """Return whether it passed in a question's own kind, or in every kind where the question is of none of them."""
        return next((score.passed for score in self.scores if score.question == question), self.passed)


def read_pairs(path: Path = PAIRS) -> list[Pair]:
    """Return labelled pairs from a file of JSON Lines, by default those that come with the tools.

    Raises:
        ToolInputError: a line is no pair; the message says which.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            pairs.append(Pair.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise ToolInputError(f"{path.name}, line {number}: {where}: {first['msg']}") from error
    return pairs


def examine(judge: Judge, pairs: Iterable[Pair], told: Callable[[int], object] | None = None) -> Examination:
    """Return how a judge does on labelled pairs, kind by kind.

    Args:
        judge: Who is examined.
        pairs: Of one kind of question or of several.
        told: Is given how many pairs a step has dealt with.

    Raises:
        ToolInputError: there are no pairs.
    """
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(pair.kind, []).append(pair)
    if not kinds:
        raise ToolInputError("a judge can't be examined without labelled pairs: pass some, by default `read_pairs()`")
    before = dict(judge.tokens)
    scores = tuple(_score(judge, some, told or (lambda n: None)) for some in kinds.values())
    spent = {role: n - before.get(role, 0) for role, n in judge.tokens.items()}
    return Examination(judge=judge.name, scores=scores, passed=all(score.passed for score in scores), tokens=spent)


def _score(judge: Judge, pairs: list[Pair], told: Callable[[int], object]) -> Score:
    answers: list[Judgement] = []
    for pair in pairs:
        if len(answers) == GIVE_UP and all(answer.shown is None for answer in answers):
            break
        answers.append(judge.judge(pair.question, pair.messages, pair.reply))
        told(1)
    right = [a.shown is not None and a.shown == (p.answer == "yes") for a, p in zip(answers, pairs, strict=False)]
    failed = [answer.why for answer in answers if answer.shown is None]
    lower = _wilson_lower(sum(right), len(pairs))
    return Score(
        kind=pairs[0].kind,
        question=pairs[0].question,
        n=len(pairs),
        right=sum(right),
        near_misses=sum(pair.near_miss for pair in pairs),
        right_near=sum(pair.near_miss for pair, good in zip(pairs, right, strict=False) if good),
        failures=len(failed) + len(pairs) - len(answers),
        lower=lower,
        passed=lower >= ENOUGH,
        why=failed[0] if failed else "",
    )


def _wilson_lower(right: int, n: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson").low)


def report(done: Examination) -> list[str]:
    """Return an examination as lines: who, a table of the kinds of question, what failed, and what follows."""
    lines = [
        f"The judge is {done.judge}.",
        "",
        "| question | asked | right | near misses | right of these | failed | lower end, 95% | passed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for s in done.scores:
        lines.append(
            f"| {s.question} | {s.n} | {s.right} | {s.near_misses} | {s.right_near} | {s.failures} | {s.lower:.2f} | "
            f"{'yes' if s.passed else 'no'} |"
        )
    lines.append("")
    lines += [f"{s.kind}: {s.failures} judgements failed, the first because {s.why}." for s in done.scores if s.why]
    end = "It passed" if done.passed else "It did not pass"
    lines.append(
        f"{end} its examination. A lower end of {ENOUGH} is enough, and each kind of question has to reach it."
    )
    return [*lines, f"The examination took {sum(done.tokens.values()):,} tokens."]
