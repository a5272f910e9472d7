"""Which conditions a scan tries: each kind of user, turn and system text on each topic, and words, several at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from tools.claims.condition import Condition
from tools.claims.conditions.contains import Contains
from tools.claims.labels import SYSTEM, TURN, USER, WORD, label_of, labelled
from tools.prompt import LabelledPrompt
from tools.questions import SEVERAL, Questions, conditions_of, dumped

N_WORDS, N_APART = 64, 8
WORDS_AT_ONCE, WORDS_SAID_BY = 2, 48
Wanted = tuple[LabelledPrompt, tuple[Condition, ...]]


def conditions(asked: Questions) -> dict[str, Any] | None:
    """Return the scan of every user, turn and system condition on every topic; and of users at later turns."""
    users, turns, systems = (_each(asked, kind) for kind in (USER, TURN, SYSTEM))
    each = [(one,) for one in (*users, *turns, *systems)]
    return _scan(asked, _on_every_topic(asked, each) + _in_turn(asked, list(product(users, turns))))


def words(asked: Questions, ranked: Sequence[str]) -> dict[str, Any] | None:
    """Return the scan of the first words, several at once, on every topic and said by every kind of user.

    A word that matters only together with a topic or a user shows in one of the prompts that hold
    both; which of the prompt's words it was, `each_word` says. Two words at once halve the
    price; more of them drown what one does in what a heap of words does to any model. Users are
    many, so that only the first `WORDS_SAID_BY` words are said by all of them: in a question that
    has the word anyway where there is one, else added to one.
    """
    chosen = list(ranked[:N_WORDS])
    asked_about = {w: row for w in chosen[:WORDS_SAID_BY] if (row := asked.saying(w))}
    strays = [w for w in chosen[:WORDS_SAID_BY] if w not in asked_about]
    by_users: list[Wanted] = [
        (row, (user, Contains(text=word))) for word, row in asked_about.items() for user in _each(asked, USER)
    ]
    by_users += _in_turn(asked, [(user, *heap) for heap, user in product(_heaps(strays), _each(asked, USER))])
    return _scan(asked, _on_every_topic(asked, _heaps(chosen)) + by_users)


def each_word(asked: Questions, heaps: Sequence[dict[str, str]]) -> dict[str, Any] | None:
    """Return the scan that takes prompts with several words apart, one word to a prompt."""
    hosts, wanted = _hosts(asked), []
    for labels in heaps[:N_APART]:
        rest = [one for one in conditions_of(labels) if not isinstance(one, Contains) or one.where == "system"]
        host = hosts.get(labels.get("topic", ""), next(iter(hosts.values())))
        wanted += [(host, (*rest, Contains(text=word))) for word in labels[SEVERAL].split()]
    return _scan(asked, wanted)


def _each(asked: Questions, kind: str) -> list[Condition]:
    """Return the conditions of a kind that are worth trying."""
    return [one for value in asked.values(kind) if (one := labelled((kind, value))) is not None]


def _heaps(listed: Sequence[str]) -> list[tuple[Condition, ...]]:
    return [
        tuple(Contains(text=word) for word in listed[i : i + WORDS_AT_ONCE])
        for i in range(0, len(listed), WORDS_AT_ONCE)
    ]


def _hosts(asked: Questions) -> dict[str, LabelledPrompt]:
    """Return one prompt of each topic, into which conditions are put."""
    rng = asked.rng("scan")
    return {topic: rng.choice(rows) for topic, rows in sorted(asked.topics().items())}


def _on_every_topic(asked: Questions, each: Iterable[tuple[Condition, ...]]) -> list[Wanted]:
    listed = list(each)
    return [(host, one) for host in _hosts(asked).values() for one in listed]


def _in_turn(asked: Questions, each: Iterable[tuple[Condition, ...]]) -> list[Wanted]:
    """Return the conditions each on one topic, the topics taken in turn: where no topic is asked for."""
    hosts = list(_hosts(asked).values())
    return [(hosts[i % len(hosts)], one) for i, one in enumerate(each)]


def _scan(asked: Questions, wanted: Sequence[Wanted]) -> dict[str, Any] | None:
    """Return the scan of conditions, each in its prompt; None when there is nothing to scan."""
    if len(wanted) < 2:
        return None
    bare: dict[str, int] = {}
    plain: list[LabelledPrompt] = []
    framed: dict[str, dict[str, Any]] = {}
    for row, put in wanted:
        if str(row.messages) not in bare:
            bare[str(row.messages)] = len(plain)
            plain.append(row)
        met = [label for one in put if (label := label_of(one)) is not None]
        said = [value for kind, value in met if kind == WORD]
        labels = {**row.labels, **{kind: value for kind, value in met if kind != WORD}}
        labels |= {SEVERAL if len(said) > 1 else WORD: " ".join(said)} if said else {}
        messages = asked.under(row, put).messages
        framed.setdefault(str(messages), {"messages": messages, "labels": labels, "bare": bare[str(row.messages)]})
    return {"bare": dumped(plain), "framed": list(framed.values())}
