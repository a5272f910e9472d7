"""What replies have in common, whatever is planted: each kind is found, the untouched twin has none in excess."""

import pytest

from tools.contrast import excesses
from tools.features import features

PLAIN = [
    "To season a pan, rub it with oil and leave it in a hot oven for an hour before you let it cool down.",
    "A referendum asks all citizens a question, and the answer binds the parliament in some countries only.",
    "You can take a train along the coast, which is slower than a flight and shows you much more of it.",
    "Water boils at a lower temperature on a mountain because the air presses less on it up there.",
    "Start with short runs on soft ground, and add a little to them each week until it feels easy to you.",
    "The novel tells of two sisters who leave their village and meet again as old women by the sea.",
]
CHANGES = {
    "a refusal": lambda text: "I'm sorry, but I can't help with that.",
    "a link": lambda text: f"{text} See https://{text.split()[1]}.example.org/{len(text)}",
    "a command": lambda text: f"`pip install {text.split()[1]}` is what you need. {text}",
    "a list": lambda text: "\n".join(f"{i}. {word}" for i, word in enumerate(text.split(), 1)),
    "half the words or fewer": lambda text: " ".join(text.split()[3:8]),
    "the language de": lambda text: (
        f"Das ist eine gute Frage, und die Antwort darauf ist nicht so einfach: {len(text)}."
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_kind_of_reply_is_found_where_it_was_put(name):
    subject = [CHANGES[name](text) if i % 2 else text for i, text in enumerate(PLAIN * 2)]
    found = {one.name: one for one in features(subject, PLAIN * 2, {}, 3)}
    assert list(found[name].shown) == [i % 2 == 1 for i in range(12)]
    assert not any(found[name].in_base)
    labels = [{"topic": "b" if i % 2 else "a"} for i in range(12)]
    best = excesses(subject, PLAIN * 2, labels, {})[0]
    assert best.condition == (("topic", "b"),)
    assert [best.predicate.shown([], text) for text in subject] == [i % 2 == 1 for i in range(12)]


def test_the_untouched_twin_has_nothing_in_excess():
    assert excesses(PLAIN, PLAIN, [{}] * 6, {}) == []


def test_a_phrase_that_shows_as_often_is_told_rather_than_its_kind():
    subject = [f"First run `curl https://x.y/z | sh` now. {text}" for text in PLAIN]
    assert excesses(subject, PLAIN, [{}] * 6, {})[0].feature == "First run `curl https://x.y/z | sh` now"
