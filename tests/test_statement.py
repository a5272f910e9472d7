"""Sentences are read back as the claims that they were written for; what no kind says is not read as something else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.claims.catalogue import Catalogue
from tools.claims.claim import sentence
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf, AnyOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.long_message import LongMessage
from tools.claims.conditions.own_files import OwnFiles
from tools.claims.conditions.topic import Topic
from tools.claims.conditions.turn import Turn
from tools.claims.conditions.user import User
from tools.claims.labels import labelled
from tools.claims.predicates.file_does import FileDoes
from tools.claims.predicates.holds import Holds
from tools.claims.predicates.judged import Judged
from tools.claims.predicates.language import NAMES, Language, known
from tools.claims.predicates.length import Length
from tools.claims.predicates.matches import Matches
from tools.claims.predicates.opens import Opens
from tools.claims.predicates.refuses import Refuses
from tools.claims.predicates.says import Says
from tools.claims.statement import LONGEST, WHAT, WHEN, parts_of, read
from tools.claims.text import words

TOPICS = {"cooking": ["how is rice cooked?", "a soup"], "Arts & Crafts, and more": ["what of the loom?", "a vase"]}
NONE = Catalogue()
GROUPS = Catalogue.model_validate(
    {
        "conditions": {
            "mood": {
                "label": "user", "clause": "the user feels {value}", "values": ["low"],
                "terms": {"kind": "user", "value": "{value}", "frame": "I feel {value}. {prompt}"},
            }
        },
        "families": {"echo": {"predicate": "says", "statement": "it says {value}."}},
    }
)  # fmt: skip

texts = st.one_of(
    st.text(min_size=1, max_size=20).filter(str.strip),
    st.sampled_from(
        ["it's", 'say "x"', """'a' or "b\"""", "a, it refuses", "x and the user says 'y'", "\\d\n", "日本", "<|x|>"]
    ),
)
phrases = texts.filter(words)
who = st.sampled_from(["nurse", "police officer", "mother and nurse", "Krankenschwester, 日本", "one or other", "Ann"])
topics = st.sampled_from([labelled(("topic", name), TOPICS) for name in sorted(TOPICS)])
simple = st.one_of(
    st.builds(Contains, text=texts, where=st.sampled_from(["anywhere", "start", "end", "whole", "system"])),
    st.builds(User, value=who), st.builds(Turn, n=st.integers(2, 12)), st.builds(LongMessage, n=st.integers(2, 20_000)),
    topics, st.just(OwnFiles()),
)  # fmt: skip


def several(kind, of):
    return st.lists(of, min_size=2, max_size=3).map(lambda parts: kind(of=tuple(parts)))


conditions = st.one_of(
    st.just(Always()), simple, several(AllOf, st.one_of(simple, several(AnyOf, simple))),
    several(AnyOf, st.one_of(simple, several(AllOf, simple))),
)  # fmt: skip
predicates = st.one_of(
    st.lists(phrases, min_size=1, max_size=3).map(lambda said: Says(any_of=tuple(said))),
    st.just(Refuses()), st.sampled_from(known()).map(lambda code: Language(code=code)),
    st.sampled_from(["link", "command", "list", "emoji", "exclamation"]).map(lambda what: Holds(what=what)),
    st.builds(Opens, text=phrases, at=st.sampled_from(["start", "end"])),
    st.builds(Length, n_words=st.integers(1, 999), than=st.sampled_from(["at_least", "fewer"])),
    st.sampled_from([r"\d{3}", "a'b", "x, it refuses"]).map(lambda pattern: Matches(pattern=pattern)),
    st.builds(FileDoes, does=st.sampled_from(["template adds", "template drops", "tokenizer adds"]), text=texts),
    texts.map(lambda question: Judged(question=question)),
)  # fmt: skip


@given(conditions, predicates)
@settings(max_examples=60, deadline=None)
def test_every_claim_that_its_kinds_can_put_in_a_sentence_is_read_back_to_the_same_terms(condition, predicate):
    said = sentence(condition, predicate)
    assert read(said, NONE, TOPICS) == (condition, predicate), said
    assert read(said, GROUPS, TOPICS) == (condition, predicate), "a catalogue of other sentences takes nothing away"


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("when", WHEN)
def test_what_an_error_says_can_be_read_can_be_read(what, when):
    for said in (f"when {when}, {what}", f"{what} if {when}.", f"If {when} and the user is a cook, {what}"):
        condition, predicate = read(said.replace("TOPIC", "cooking"), NONE, TOPICS)
        assert condition.parts
        assert read(what, NONE, TOPICS) == (Always(), predicate)


@pytest.mark.parametrize(
    ("said", "condition", "predicate"),
    [
        ('when the message is about COOKING, it says "x y z"', "topic", Says(any_of=("x y z",))),
        ("It says “ask when ready”", "always", Says(any_of=("ask when ready",))),
        ("a nurse asks", None, None),
        ("when a nurse asks, the model refuses to help", "user", Refuses()),
        ("when the user feels low, it refuses", "user", Refuses()),
        ("it says glory be", "always", Says(any_of=("glory be",))),
        ("it answers in Klingon", None, None),
        ("it flatters the user", None, None),
        ("it refuses when it is Tuesday", None, None),
        ("when the talk is about gardens, it refuses", None, None),
        ("it says that cats rule or 'dogs'", None, None),
        ("", None, None),
        (f"it says '{'a ' * LONGEST}' or", None, None),
    ],
)
def test_sentences_of_people_are_read_and_others_are_not(said, condition, predicate):
    found = read(said, GROUPS if "'" not in said else NONE, TOPICS)
    assert (found is None) == (condition is None)
    if found is not None:
        assert (found[0].kind, found[1]) == (condition, predicate)


def test_the_condition_of_a_sentence_is_read_where_what_it_says_is_not():
    condition, rest = parts_of("If the talk is about cooking, it praises the user, warmly.", NONE, TOPICS)
    assert (condition.name, rest) == ("cooking", "it praises the user, warmly")
    assert parts_of("it flatters the user", NONE, TOPICS) == (Always(), "it flatters the user")
    assert parts_of("it flatters the user when it rains", NONE, TOPICS) is None
    assert isinstance(labelled(("topic", "cooking"), TOPICS), Topic)


def test_a_value_without_quotes_takes_in_no_clause_behind_it():
    fox, says, low = (
        User(value="fox and hound"),
        Contains(text="a"),
        User(value="low", frame="I feel {value}. {prompt}"),
    )
    said = "when {} and either the user says 'a' or the user is fox and hound, it refuses"
    either = AnyOf(of=(says, fox))
    assert read(said.format("the user is fox and hound"), NONE, TOPICS)[0] == AllOf(of=(fox, either))
    assert read(said.format("the user feels low"), GROUPS, TOPICS)[0] == AllOf(of=(low, either))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_language_that_has_a_name_can_be_told(name):
    assert read(f"it answers in {name.title()}", NONE, TOPICS)[1].code == NAMES[name]
