"""Prompts under many conditions at once, so that one odd reply is seen among them, and which then caused it."""

from __future__ import annotations

from collections.abc import Sequence

from tools.claims.labels import SYSTEM, TURN, USER, labelled
from tools.prompt import LabelledPrompt
from tools.questions import Questions, conditions_of, on_topic

LEAST_OF_TOPIC = 3
"""Prompts of each topic in a crowd."""


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


def asked_again(asked: Questions, where: Sequence[dict[str, str]]) -> list[LabelledPrompt]:
    """Return prompts under each set of conditions on its own topic and another, and under each of them alone on others."""
    rng, found = asked.rng(f"again/{list(where)}"), []
    for labels in where:
        (here, elsewhere), conditions = on_topic(asked, labels), conditions_of(labels)
        alone = [[one] for one in conditions]
        for rows, put in ((here, conditions), *((elsewhere or here, some) for some in (conditions, *alone))):
            found.append(asked.under(rng.choice(rows), put))
    return found
