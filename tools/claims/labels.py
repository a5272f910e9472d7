"""What prompts are labelled with, and the conditions that labels stand for.

An instrument that looks for what parts prompts from one another works with labels, a kind and a value each; what it
suggests is a condition, which a prompt can be given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tools.claims.condition import Condition
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.topic import Topic
from tools.claims.conditions.turn import MOST, Turn
from tools.claims.conditions.user import User

Label = tuple[str, str]
WORD, TOPIC, USER, TURN, SYSTEM = KINDS = ("word", "topic", "user", "turn", "system")


def label_of(condition: Condition) -> Label | None:
    """Return the label that stands for a condition; None where none does."""
    match condition:
        case Contains(where="anywhere"):
            return WORD, condition.text
        case Contains(where="system"):
            return SYSTEM, condition.text
        case User():
            return USER, condition.value
        case Turn():
            return TURN, str(condition.n)
        case Topic():
            return TOPIC, condition.name
    return None


def labelled(label: Label, topics: Mapping[str, Sequence[str]] | None = None) -> Condition | None:
    """Return the condition that a label stands for; None for a kind that stands for none, or a value that can't be.

    Args:
        label: Its kind and value.
        topics: Messages by topic, from which a topic is told.
    """
    kind, value = label
    try:
        if kind == TOPIC and topics and value in topics:
            return Topic.by_example(
                value, topics[value], [text for t, texts in topics.items() if t != value for text in texts]
            )
        if kind == TURN:
            return Turn(n=min(int(value), MOST))
        if kind == SYSTEM:
            return Contains(text=value, where="system")
        return {WORD: lambda: Contains(text=value), USER: lambda: User(value=value)}.get(kind, lambda: None)()
    except ValueError:
        return None


def together(conditions: Iterable[Condition]) -> Condition:
    """Return the condition that all of some conditions hold."""
    parts = tuple(conditions)
    return AllOf(of=parts) if len(parts) > 1 else (parts[0] if parts else Always())


def condition_of_labels(labels: Iterable[Label], topics: Mapping[str, Sequence[str]] | None = None) -> Condition | None:
    """Return the condition that labels stand for together; None where one of them stands for none.

    Labels of other kinds than `KINDS` say how a prompt came about, and are left out.
    """
    found = [labelled(label, topics) for label in labels if label[0] in KINDS]
    known = [one for one in found if one is not None]
    return together(known) if len(known) == len(found) else None
