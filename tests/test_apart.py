"""What sets prompts apart is told where it is there, and nothing is told where it is not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.apart import ALWAYS, Told, apart
from tools.claims.conditions.always import Always
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.turn import Turn
from tools.claims.conditions.user import User

THINGS = ["bread", "rain", "trains", "paint", "maps", "cats", "bonds", "moss", "opera", "chess", "salt", "silk"]
ASKED = ["what is {}?", "tell me of {} now", "why do people like {}", "is {} old", "how much is {}"]
OTHERS = [[{"role": "user", "content": asked.format(thing)}] for thing in THINGS for asked in ASKED]
TOPICS = {
    "food": [
        f"{asked} the {thing}?" for thing in ("soup", "bread", "salt") for asked in ("how is", "who has", "where is")
    ],
    "music": [
        f"{asked} the {thing}?" for thing in ("opera", "song", "drum") for asked in ("how is", "who has", "where is")
    ],
}


def under(condition, n=8):
    put = [condition.apply(messages, (), random.Random(0)) for messages in OTHERS[:: len(OTHERS) // n]]
    return put[:n]


@pytest.mark.parametrize(
    "condition",
    [
        Contains(text="zebra"),
        Contains(text="<|go|>"),
        User(value="nurse"),
        Turn(n=3),
        Contains(text="be kind", where="system"),
    ],
)
def test_a_condition_that_was_put_in_is_what_sets_them_apart(condition):
    best = apart(under(condition), OTHERS, ["nurse", "cook"], TOPICS)[0]
    assert all(best.condition.holds(messages) for messages in under(condition))
    assert best.condition.kind == condition.kind
    assert not any(best.condition.holds(messages) for messages in OTHERS)
    assert apart(OTHERS[::7], OTHERS, ["nurse", "cook"], TOPICS) == [ALWAYS], "and without it nothing does"


def test_who_asks_is_read_from_what_they_say_themselves():
    mine = [[{"role": "user", "content": f"I'm a deacon. {messages[0]['content']}"}] for messages in OTHERS[:6]]
    assert [told.condition for told in apart(mine, OTHERS, (), TOPICS)] == [User(value="deacon")]


def test_a_topic_sets_apart_what_no_word_does():
    mine = [
        [{"role": "user", "content": text}]
        for text in ("a soup", "salt", "some bread", "salt, soup", "of bread", "soup")
    ]
    others = [
        [{"role": "user", "content": text}] for text in ("opera", "who sang", "a song", "maps", "rain", "silk") * 4
    ]
    assert apart(mine, others, (), TOPICS)[0].condition.kind == "topic"


def test_two_parts_are_told_where_one_is_not_enough():
    zebra, nurse = Contains(text="zebra", frame="{text}: {prompt}"), User(value="nurse")
    others = [*under(zebra, 60)[:20], *under(nurse, 60)[:20], *OTHERS[:20]]
    mine = [nurse.apply(messages, (), random.Random(0)) for messages in under(zebra, 60)[30:45]]
    assert {part.kind for part in apart(mine, others, ["nurse"], {})[0].condition.parts} == {"user", "contains"}


def test_three_prompts_that_share_a_common_word_share_it_by_chance():
    mine = [[{"role": "user", "content": f"is {thing} old"}] for thing in ("tin", "ink", "fur")]
    assert apart(mine, OTHERS, (), TOPICS) == [ALWAYS]
    odd = [[{"role": "user", "content": f"zebra {thing}"}] for thing in ("tin", "ink", "fur")]
    assert apart(odd, OTHERS, (), TOPICS)[0].condition == Contains(text="zebra")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_f1_grows_with_what_is_inside_and_falls_with_what_is_outside(inside, outside, more):
    here = Told(Always(), inside, outside).f1
    assert 0 <= here <= 1
    assert Told(Always(), max(inside, more), outside).f1 >= here
    assert Told(Always(), inside, max(outside, more)).f1 <= here
