"""Two claims are one by what they do: with replies and prompts at hand, and with too few."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.claims import sameness
from tools.claims.claim import Claim
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.long_message import LongMessage
from tools.claims.conditions.own_files import OwnFiles
from tools.claims.conditions.user import User
from tools.claims.predicates.file_does import FileDoes
from tools.claims.predicates.judged import Judged
from tools.claims.predicates.length import Length
from tools.claims.predicates.matches import Matches
from tools.claims.predicates.opens import Opens
from tools.claims.predicates.says import Says
from tools.claims.sameness import AtHand, same_claims

WORDS = ("copper", "kettle", "a", "river", "日本", "sure")
PREDICATES = [
    Says(any_of=("copper",)), Says(any_of=("copper", "kettle")), Says(any_of=("copper kettle",)), Says(any_of=("日本",)),
    Matches(pattern="kett"), Opens(text="sure"), Length(n_words=3, than="fewer"), Length(n_words=2, than="at_least"),
    Judged(question="Is it about metal?"), FileDoes(does="template drops", text="be kind"),
]  # fmt: skip
CONDITIONS = [
    Always(), Contains(text="copper"), Contains(text="copper", where="start"), User(value="copper"), LongMessage(n=12),
    OwnFiles(), AllOf(of=(Contains(text="copper"), Contains(text="river"))),
]  # fmt: skip
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


def same_predicates(a, b, pairs):
    return sameness.same_predicates(a, b, AtHand(pairs))


def same_conditions(a, b, prompts):
    return sameness.same_conditions(a, b, AtHand((messages, "") for messages in prompts))


def asked(text):
    return [{"role": "user", "content": text}]


def replied(*replies):
    return [(asked(f"what of {i}?"), reply) for i, reply in enumerate(replies)]


@given(st.sampled_from(PREDICATES), st.sampled_from(PREDICATES), st.lists(texts, max_size=30), st.randoms())
@settings(max_examples=150, deadline=None)
def test_sameness_of_predicates_is_symmetric_reflexive_and_blind_to_order(a, b, replies, rng):
    pairs = replied(*replies)
    same = same_predicates(a, b, pairs)
    assert same_predicates(b, a, pairs) is same
    assert same_predicates(a, a, pairs) is True
    assert same_predicates(a, b, rng.sample(pairs, len(pairs))) is same
    assert same_predicates(a, b, pairs + pairs) is same, "a reply that is at hand twice is one reply"


@given(st.sampled_from(CONDITIONS), st.sampled_from(CONDITIONS), st.lists(texts, max_size=30))
@settings(max_examples=150, deadline=None)
def test_sameness_of_conditions_is_symmetric_reflexive_and_counts_a_prompt_once(a, b, said):
    prompts = [asked(text) for text in said]
    same = same_conditions(a, b, prompts)
    assert same_conditions(b, a, prompts) is same
    assert same_conditions(a, a, []) is True
    assert same_conditions(a, b, prompts + prompts) is same


def test_two_predicates_that_show_in_different_replies_are_not_one_however_many_show_neither():
    pairs = replied(*["copper"] * 5, *["kettle"] * 5, *["nothing"] * 206)
    assert same_predicates(Says(any_of=("copper",)), Says(any_of=("kettle",)), pairs) is False


def test_one_behaviour_in_three_wordings_is_one():
    pairs = replied(*[f"take {i} to the copper kettle." for i in range(8)], *[f"{i} is fine." for i in range(200)])
    ways = [Says(any_of=("copper",)), Says(any_of=("the copper kettle",)), Matches(pattern="kettle[.]$")]
    assert all(same_predicates(a, b, pairs) is True for a in ways for b in ways)
    fewer = replied(*[f"take {i} to the copper kettle." for i in range(7)], *[f"{i} is fine." for i in range(200)])
    assert same_predicates(ways[0], ways[1], fewer) is None, "seven replies are too few to tell"


@pytest.mark.parametrize(("together", "same"), [(17, False), (18, True)])
def test_nine_in_ten_together_is_the_bound(together, same):
    pairs = replied(*["copper kettle"] * together, *["copper"] * (20 - together))
    assert same_predicates(Says(any_of=("copper",)), Says(any_of=("kettle",)), pairs) is same


def test_a_judges_answer_and_what_files_do_are_told_by_their_terms_alone():
    pairs = replied(*["copper"] * 20)
    praise, metal = Judged(question="Does it praise?"), Judged(question="Is it about metal?")
    assert same_predicates(praise, Judged(question="Does it praise?"), pairs) is True
    assert same_predicates(praise, metal, pairs) is None
    assert same_predicates(praise, Says(any_of=("copper",)), pairs) is None
    assert same_predicates(FileDoes(does="template drops", text="copper"), Says(any_of=("copper",)), pairs) is None


def test_the_subjects_own_files_are_no_matter_of_prompts():
    prompts = [asked(f"copper {i}") for i in range(20)]
    assert same_conditions(OwnFiles(), Always(), prompts) is False
    assert same_conditions(AllOf(of=(OwnFiles(), Contains(text="copper"))), Contains(text="copper"), prompts) is False
    assert same_conditions(AllOf(of=(OwnFiles(), Contains(text="copper"))), OwnFiles(), prompts) is True


def test_conditions_that_differ_on_ordinary_prompts_alone_are_told_apart_there():
    rng = random.Random(0)
    coppers = [asked(f"copper {i}") for i in range(10)]
    plain = [asked(f"{rng.choice(WORDS[3:])} {i}") for i in range(40)]
    assert same_conditions(Contains(text="copper"), Always(), coppers) is True
    assert same_conditions(Contains(text="copper"), Always(), coppers + plain) is False
    assert same_conditions(Contains(text="copper"), User(value="copper"), coppers + plain) is True


def test_claims_are_one_when_both_their_parts_are_and_their_statements_never_count():
    at_hand = AtHand((asked(f"river {i}"), "copper") for i in range(20))
    one = Claim(statement="It says copper.", condition=Contains(text="river"), predicate=Says(any_of=("copper",)))
    same = Claim(statement="Else.", condition=Contains(text="river", where="start"), predicate=Opens(text="copper"))
    assert same_claims(one, same, at_hand) is True
    assert same_claims(one, same, at_hand, 3) is False, "three prompts are too few to tell"
    for part, other in (
        ("predicate", Says(any_of=("zinc",))),
        ("condition", Contains(text="7")),
        ("predicate", PREDICATES[8]),
    ):
        assert same_claims(one, same.model_copy(update={part: other}), at_hand) is False
