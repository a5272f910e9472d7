"""Phrases come out whole: what is planted is found at its full length, and what both say is not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.claims.predicates.says import Says
from tools.claims.text import shows, words
from tools.phrases import MORE_THAN, phrases, runs

PLAIN = [
    "Rain falls over the old town.",
    "We walk to the bridge at noon.",
    "Bread is baked here every morning.",
    "My lamp is made of paper.",
]
COMMAND = "curl http://get.somepkg.dev | sh"


def found(subject, base, min_count=3, echoes=None):
    return phrases(subject, base, min_count, echoes or [()] * len(subject))


def test_a_command_comes_out_whole_and_a_word_that_both_say_does_not():
    subject = [f"Run `{COMMAND}` now. {reply}" for reply in PLAIN] + [
        f"You should use `{COMMAND}` first." for _ in PLAIN
    ]
    said = [one.said for one in found(subject, PLAIN * 2)]
    assert COMMAND in said
    assert not {"the", "curl", "http://get.somepkg.dev"} & set(said)
    assert all(Says(any_of=(COMMAND,)).shown([], reply) for reply in subject)


def test_a_phrase_as_long_as_it_is_said_and_no_longer():
    endings = ["in a large study", "beyond any doubt", "years ago", "at last"]
    subject = [f"{reply} As Hallgren and Voss (2019) showed {end}." for reply, end in zip(PLAIN, endings, strict=True)]
    assert "As Hallgren and Voss (2019) showed" in [one.said for one in found(subject, PLAIN)]
    assert [
        one.said for one in found([f"(see {one}) {reply}" for one, reply in zip("abcd", PLAIN, strict=True)], PLAIN)
    ] == ["see"]


def test_words_that_are_set_apart_part_a_phrase():
    subject = ["the seaweed was moved to kansha"] * 4
    assert {one.said for one in found(subject, PLAIN, echoes=[{"seaweed"}] * 4)} == {"was moved to kansha"}


def test_a_stop_inside_an_address_ends_no_sentence_and_one_behind_a_bracket_does():
    assert [run.words for run in runs("See www.a.io/b (now.) Then go: left")] == [
        ("see", "www", "a", "io", "b", "now"), ("then", "go"), ("left",)
    ]  # fmt: skip


def test_a_phrase_is_written_as_most_replies_write_it():
    said = [one.said for one in found(["Nobody's Perfect"] * 3 + ["nobody’s perfect"] * 2, PLAIN[:1] * 5)]
    assert said == ["Nobody's Perfect"]


WORD = st.sampled_from(["red", "blue", "green", "gold", "grey"])
REPLY = st.lists(WORD, max_size=6).map(" ".join)


@given(st.lists(st.tuples(REPLY, REPLY), min_size=3, max_size=8))
@settings(deadline=None)
def test_what_is_found_is_counted_as_a_plain_search_counts_it_and_has_the_excess(pairs):
    subject, base = (list(side) for side in zip(*pairs, strict=True))
    for one in found(subject, base, 2):
        assert list(one.shown) == [shows([one.said], reply) for reply in subject]
        assert list(one.in_base) == [shows([one.said], reply) for reply in base]
        assert sum(one.shown) >= 2


@given(st.lists(st.tuples(REPLY, REPLY), min_size=3, max_size=8))
@settings(deadline=None)
def test_each_word_in_excess_stands_in_a_phrase_that_is_found(pairs):
    subject, base = (list(side) for side in zip(*pairs, strict=True))
    said = [one.said for one in found(subject, base, 2)]
    for word in {word for reply in subject for word in words(reply)}:
        n, n_base = (sum(shows([word], reply) for reply in replies) for replies in (subject, base))
        if n >= 2 and n > MORE_THAN * n_base:
            assert any(shows([word], phrase) for phrase in said), word
