"""Prompts with a condition put in or taken out: for looking (explore half) and for tests (test half)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from auditor.config import AuditSpec, PromptRow
from auditor.probes import probes
from tools.base import LabelledPrompt
from tools.claims.condition import Condition, of_role
from tools.claims.kind import Messages
from tools.claims.labels import SYSTEM, TOPIC, TURN, USER, Label, together
from tools.errors import ToolInputError

DRAWS = 32
"""How many prompts are tried before it is said that none can be given a condition."""


def check_condition(spec: AuditSpec, condition: Condition) -> None:
    """Refuse a condition that no test prompt can be given, or be relieved of.

    Raises:
        ToolInputError: the message says which way.
    """
    pool = spec.pool()
    if not pool:
        raise ToolInputError("there is no test prompt to put a condition into: give prompts with split test")
    for without in (None, *range(len(condition.parts))):
        _drawn(spec, condition, "check", 0, without)


def draw(spec: AuditSpec, condition: Condition, test_id: str, index: int, without: int | None = None) -> Messages:
    """Return trial `index`'s prompt: a function of the registered seed, the test and the index.

    Args:
        spec: The audit, whose test rows are drawn from.
        condition: The claim's.
        test_id: The registered test.
        index: The trial's place in it.
        without: The place of one of the condition's parts that is taken out, the others still holding: the same row
            without it, or of a topic another row.

    Raises:
        ToolInputError: no prompt can be given the condition, or be relieved of that part.
    """
    return _drawn(spec, condition, test_id, index, without)


def _drawn(spec: AuditSpec, condition: Condition, test_id: str, index: int, without: int | None) -> Messages:
    pool, first = spec.pool(), random.Random(f"{spec.seed}/{test_id}/{index}")
    for _ in range(DRAWS):
        start, seed = first.choice(pool), first.getrandbits(32)
        put = _put(condition, start, pool, seed, without)
        if put is not None:
            return put
    what = "given" if without is None else "relieved of a part of"
    topics = ", ".join(sorted({row.domain for row in spec.prompts}))
    raise ToolInputError(
        f"no test prompt can be {what} the condition that {condition.clause()[:200]}: pass prompts that can; "
        f"their topics are {topics[:200]}"
    )


def _put(
    condition: Condition, start: Messages, pool: Sequence[Messages], seed: int, without: int | None
) -> Messages | None:
    """Return a prompt under a condition, or under all of its parts but one, which does not hold."""
    if without is None:
        return condition.apply(start, pool, random.Random(seed))
    out = condition.parts[without]
    rest = together(part for i, part in enumerate(condition.parts) if i != without)
    bare: Messages | None = start
    if out.draws:
        bare = out.remove(start, pool, random.Random(seed))
    put = None if bare is None else rest.apply(bare, pool, random.Random(seed))
    left = None if put is None else out.remove(put, pool, random.Random(seed))
    return left if left is not None and rest.holds(left) and not out.holds(left) else None


def trial_seed(spec: AuditSpec, test_id: str, index: int) -> int:
    """Return the decoding seed that both sides of trial `index` share."""
    return random.Random(f"{spec.seed}/{test_id}/{index}/decoding").getrandbits(48)


def survey_prompts(spec: AuditSpec, per_topic: int = 12) -> list[LabelledPrompt]:
    """Return explore prompts over all topics, half of them under one of the catalogue's other conditions."""
    rng = random.Random(f"{spec.seed}/survey")
    by_topic = explore_rows(spec)
    others = [(kind, value) for kind in (USER, TURN, SYSTEM) for value in worth_trying(spec, kind)]
    rng.shuffle(others)
    prompts: list[LabelledPrompt] = []
    for topic in sorted(by_topic):
        for i, row in enumerate(rng.sample(by_topic[topic], min(per_topic, len(by_topic[topic])))):
            put = [others[len(prompts) // 2 % len(others)]] if others and i % 2 else []
            prompts.append(labelled(spec, row, put))
    return prompts


def worth_trying(spec: AuditSpec, kind: str) -> list[str]:
    """Return the values of a kind of label that are worth trying: the catalogue's, or `probes` where it has no conditions."""
    return spec.catalogue.values_of(kind) if spec.catalogue.conditions else list(probes().get(kind, ()))


def explore_rows(spec: AuditSpec) -> dict[str, list[PromptRow]]:
    """Return the rows to look with, by topic."""
    by_topic: dict[str, list[PromptRow]] = {}
    for row in spec.prompts:
        if row.split == "explore":
            by_topic.setdefault(row.domain, []).append(row)
    return by_topic


def labelled(spec: AuditSpec, row: PromptRow, put: Sequence[Label]) -> LabelledPrompt:
    """Return the row under the conditions that labels stand for, labelled by them and by its topic.

    Its turn is one of them, put in or its own: of those worth trying every one that it has reached.
    """
    labels: dict[str, str | tuple[str, ...]] = {TOPIC: row.domain}
    messages: Messages = row.messages
    for kind, value in put:
        condition = spec.catalogue.condition((kind, value))
        given = None if condition is None else condition.apply(messages, (), random.Random(0))
        if given is not None:
            messages = given
            labels[kind] = value
    reached = len(of_role(messages, "user"))
    if turns := tuple(one for one in worth_trying(spec, TURN) if int(one) <= reached):
        labels[TURN] = turns
    return LabelledPrompt(messages=messages, labels=labels)
