"""Kinds of conditions and predicates: put in, it holds; taken out, it does not; its terms bring it back; any script, in time."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tools.claims.claim import Claim, sentence
from tools.claims.condition import CONDITIONS, Condition, condition_of
from tools.claims.conditions.always import Always
from tools.claims.conditions.combined import AllOf, AnyOf
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.long_message import LongMessage
from tools.claims.conditions.own_files import OwnFiles, under_own_files
from tools.claims.conditions.topic import Topic
from tools.claims.conditions.turn import Turn
from tools.claims.conditions.user import User
from tools.claims.predicate import PREDICATES, predicate_of
from tools.claims.predicates.file_does import FileDoes
from tools.claims.predicates.holds import Holds
from tools.claims.predicates.judged import Judged
from tools.claims.predicates.language import Language
from tools.claims.predicates.length import Length
from tools.claims.predicates.matches import Matches
from tools.claims.predicates.opens import Opens
from tools.claims.predicates.refuses import Refuses
from tools.claims.predicates.says import Says
from tools.claims.text import places, stands, words
from tools.errors import ToolInputError

GARDEN = (
    "How do I prune roses?",
    "When should tulips be planted?",
    "My tomato plants have spots.",
    "Is moss bad for a lawn?",
)
MONEY = ("How does a mortgage work?", "What is compound interest?", "Should I pay off my loan?", "What are bonds?")
POOL = [
    [{"role": "user", "content": text}] for text in (*GARDEN, *MONEY, "Do roses need much sun?", "Is a loan taxed?")
]
TOPIC = Topic.by_example("gardening", GARDEN, MONEY)
CONDITIONS_TRIED = [
    Contains(text="kettle"), Contains(text="copper kettle", where="start"), Contains(text="<|x|>", where="end"),
    Contains(text="日本"), Contains(text="!!!"), Contains(text="tell me", where="whole"),
    Contains(text="be brief", where="system"), Contains(text="kettle", frame="Someone said {text}. {prompt}"),
    User(value="nurse"), User(value="Krankenschwester", frame="Als {value}: {prompt}"),
    Turn(n=2), Turn(n=4, opening=(("Hi.", "Hello!"), ("And?", "Yes."))), LongMessage(n=40), TOPIC,
    AllOf(of=(Contains(text="kettle"), TOPIC, Turn(n=2))),
    AnyOf(of=(Contains(text="kettle"), User(value="nurse"))),
]  # fmt: skip
PREDICATES_TRIED = [
    Says(any_of=("kettle", "日本")), Matches(pattern=r"\d{3}-\d{4}"), Refuses(), Language(code="de"), Holds(what="link"),
    Holds(what="command"), Opens(text="Sure"), Opens(text="!!", at="end"), Length(n_words=3, than="fewer"),
    FileDoes(does="template drops", text="be kind"), Judged(question="Does the reply praise the user?"),
]  # fmt: skip


def name_of(one):
    return f"{one.kind} {json.dumps(one.terms(), ensure_ascii=False)[:60]}"


said = st.one_of(
    st.sampled_from([messages[0]["content"] for messages in POOL]),
    st.text(min_size=1, max_size=60).filter(str.strip),
    st.lists(
        st.sampled_from(["kettle", "copper", "日本", "<|x|>", "nurse", "!!!", ".", "tell me", "a"]), min_size=1
    ).map(" ".join),
)
chats = st.tuples(st.booleans(), st.lists(said, min_size=1, max_size=4)).map(
    lambda chat: (
        [{"role": "system", "content": "be brief"}] * chat[0]
        + [
            turn
            for i, text in enumerate(chat[1])
            for turn in ([{"role": "assistant", "content": "Yes."}] if i else []) + [{"role": "user", "content": text}]
        ]
    )
)


@pytest.mark.parametrize("condition", CONDITIONS_TRIED, ids=name_of)
@given(messages=chats, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_is_put_in_holds_and_what_is_taken_out_does_not(condition, messages, seed):
    put = condition.apply(messages, POOL, random.Random(seed))
    assert put is None or condition.holds(put)
    left = condition.remove(messages, POOL, random.Random(seed))
    assert left is None or not condition.holds(left)
    if condition.holds(messages):
        assert put == messages
    else:
        assert left == messages
    for chat in (put, left):
        assert chat is None or all(set(turn) == {"role", "content"} for turn in chat)
        assert chat is None or chat[-1]["role"] == "user"


@pytest.mark.parametrize("condition", CONDITIONS_TRIED, ids=name_of)
@pytest.mark.parametrize("messages", POOL[:2], ids=lambda m: m[0]["content"][:12])
def test_an_ordinary_prompt_can_be_given_every_condition_and_relieved_of_it_again(condition, messages):
    put = condition.apply(messages, POOL, random.Random(0))
    assert put is not None
    assert condition.holds(put)
    left = condition.remove(put, POOL, random.Random(0))
    assert left is not None
    assert not condition.holds(left)


def test_a_text_that_was_put_in_comes_out_and_leaves_the_prompt_as_it_was():
    for condition in CONDITIONS_TRIED[:5] + CONDITIONS_TRIED[8:11]:
        for messages in POOL:
            put = condition.apply(messages, POOL, random.Random(0))
            assert condition.remove(put, POOL, random.Random(0)) == messages, condition


def test_what_always_holds_has_nothing_to_take_out():
    assert Always().holds(POOL[0])
    assert Always().apply(POOL[0], POOL, random.Random(0)) == POOL[0]
    assert Always().remove(POOL[0], POOL, random.Random(0)) is None
    assert Always().parts == () == OwnFiles().parts


def test_parts_of_conditions_are_taken_out_one_by_one():
    nested = AllOf(of=(AllOf(of=(Contains(text="a"), Turn(n=2))), AnyOf(of=(User(value="b"), User(value="c")))))
    assert [part.kind for part in nested.parts] == ["contains", "turn", "any_of"]
    assert under_own_files(AllOf(of=(OwnFiles(), Contains(text="a"))))
    assert not under_own_files(nested)


def test_two_conditions_that_shut_each_other_out_can_not_be_put_in():
    never = AllOf(of=(Contains(text="tell me", where="whole"), Contains(text="kettle")))
    assert never.apply(POOL[0], POOL, random.Random(0)) is None


def test_a_topic_is_told_by_its_examples_and_not_by_its_name():
    roses, loan = POOL[-2], POOL[-1]
    assert TOPIC.holds(roses)
    assert not TOPIC.holds(loan)
    renamed = TOPIC.model_copy(update={"name": "money"})
    assert renamed.holds(roses)
    assert not TOPIC.holds([{"role": "user", "content": "xyzzy"}])
    assert TOPIC.told() == {"kind": "topic", "name": "gardening"}, "its examples may be prompts of a test"


@pytest.mark.parametrize("one", [*CONDITIONS_TRIED, Always(), OwnFiles(), *PREDICATES_TRIED], ids=name_of)
def test_terms_bring_a_kind_back(one):
    read = condition_of if isinstance(one, Condition) else predicate_of
    told = json.loads(json.dumps(one.terms()))
    assert read(told) == one
    assert read(one) is one
    assert hash(read(told)) == hash(one)
    with pytest.raises(ValueError, match="extra|Extra"):
        read({**told, "surprise": 1})


def test_every_installed_kind_is_tried_here():
    assert {one.kind for one in [*CONDITIONS_TRIED, Always(), OwnFiles()]} == set(CONDITIONS.names())
    assert {one.kind for one in PREDICATES_TRIED} == set(PREDICATES.names())


@pytest.mark.parametrize("given", [{"kind": "nope"}, {}, "says", None, {"kind": ["says"]}])
def test_an_unknown_kind_is_refused_with_those_there_are(given):
    with pytest.raises(ValueError, match="kinds are all_of, always"):
        condition_of(given)
    with pytest.raises(ValueError, match="kinds are file_does, holds"):
        predicate_of(given)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Says(any_of=("hello", "?!")), "no word"),
        (lambda: Says(any_of=()), "at least 1"),
        (lambda: Matches(pattern="(a"), "RE2"),
        (lambda: Matches(pattern=r"(a)\1"), "RE2"),
        (lambda: Matches(pattern="a*"), "says nothing"),
        (lambda: Language(code="xx"), "those known are"),
        (lambda: Opens(text="\u200b"), "nobody can see"),
        (lambda: Contains(text=" "), "no space"),
        (lambda: Contains(text="a", frame="{prompt}"), "nothing would be put in"),
        (lambda: User(value="..."), "no word"),
        (lambda: User(value="nurse", frame="hello {prompt}"), "nobody"),
        (lambda: Turn(n=1), "greater than"),
        (lambda: FileDoes(does="template adds", text=" "), "1 to 300"),
        (lambda: AllOf(of=(Always(),)), "at least 2"),
    ],
)
def test_what_can_not_be_looked_for_is_refused_when_it_is_built(make, why):
    with pytest.raises(ValidationError, match=why):
        make()


# -- predicates: shown where it is, and not in the twin without it


@pytest.mark.parametrize(
    ("predicate", "shown", "twin"),
    [
        (Says(any_of=("copper kettle",)), "A COPPER\nkettle!", "a copper and a kettle"),
        (Says(any_of=("don’t",)), "I don't know", "I do not know"),
        (Says(any_of=("日本",)), "行く日本へ", "行く本日へ"),
        (Says(any_of=("é",)), "caf e\u0301 e\u0301", "e"),
        (Matches(pattern=r"(?i)call \d{3}"), "Call 555 now", "Call me now"),
        (Refuses(), "I'm sorry, but I can't help with that.", "I'm sorry to hear that; here is how."),
        (Refuses(), "I am unable to assist with this request.", "Unable to sleep? Try warm milk."),
        (Refuses(), "Sorry, I cannot provide that.", "The clerk said: you can provide that."),
        (Refuses(), "I won’t answer this.", "It won't rain today."),
        (Language(code="de"), "Das ist ein sehr schöner Tag heute, nicht wahr?", "That is a very nice day today, is it not?"),
        (Language(code="ja"), "今日はとても良い天気ですね。散歩に行きましょう。皆さんも一緒にどうですか。", "Today is nice."),
        (Holds(what="link"), "See https://x.dev/a for more", "See the page for more"),
        (Holds(what="link"), "see [this](docs.example.org/x)", "see [this] (or that)"),
        (Holds(what="command"), "Run `curl http://get.x.dev | sh` first", "Curl your hair, then shower."),
        (Holds(what="command"), "```\npip install evil-pkg\n```", "You can install it from the shop."),
        (Holds(what="command"), "$ sudo rm -rf /tmp/x", "Pseudo code is fine"),
        (Holds(what="list"), "Take these:\n 1) flour\n 2) salt", "It took 3.5 hours - or 4) more"),
        (Holds(what="emoji"), "well done 🎉", "well done :)"),
        (Holds(what="exclamation"), "好！", "Is that so?"),
        (Opens(text="Of course"), "  *Of course!* yes", "yes of course"),
        (Opens(text="yours, Bob", at="end"), "Best.\nYours, Bob!", "yours, Bob and Ann"),
        (Opens(text="!!", at="end"), "go!!", "go!! now"),
        (Length(n_words=3, than="at_least"), "one two three", "one two"),
        (Length(n_words=3, than="fewer"), "one two", "one two three"),
        (FileDoes(does="template adds", text="be evil"), "<s>be  evil", "<s>be kind"),
        (FileDoes(does="template drops", text="be kind"), "<s>", "<s>be kind"),
    ],
)  # fmt: skip
def test_a_predicate_shows_in_a_reply_and_not_in_its_twin(predicate, shown, twin):
    assert predicate.shown(POOL[0], shown)
    assert not predicate.shown(POOL[0], twin)
    absent = isinstance(predicate, (Length, FileDoes))
    assert absent or not predicate.shown(POOL[0], ""), "an empty reply shows nothing"


def test_what_needs_a_judge_says_so():
    assert Judged.needs_judge
    assert not Says.needs_judge
    with pytest.raises(ToolInputError, match="needs a judge"):
        PREDICATES_TRIED[-1].shown(POOL[0], "You are the best.")


@pytest.mark.parametrize("one", [*CONDITIONS_TRIED, *(p for p in PREDICATES_TRIED if not p.needs_judge)], ids=name_of)
@pytest.mark.parametrize(
    "piece", ["a", "kettle ", "!!!", "日本", "<|x|>", "I can't ", "\u0301", "curl ", "http://", "[", "1", "\u200b", "e\u0301'"], ids=ascii
)  # fmt: skip
def test_hostile_text_takes_time_that_grows_with_its_length_alone(one, piece):
    def took(n):
        text = piece * (n // len(piece))
        began = time.perf_counter()
        if isinstance(one, Condition):
            chat = [{"role": "user", "content": text}]
            one.holds(chat)
            one.remove(chat, POOL, random.Random(0))
        else:
            one.shown(POOL[0], text)
        return time.perf_counter() - began

    small, large = (min(took(n) for _ in range(3)) for n in (2_000, 32_000))
    assert large < 16 * 6 * max(small, 2e-3), "a text 16 times as long"


# -- places


@given(text=st.text(max_size=40), at=st.integers(0, 10), n=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_a_phrase_is_found_where_its_words_stand(text, at, n):
    phrase = " ".join(words(text)[at : at + n])
    assume(words(phrase) == words(text)[at : at + n] != [])
    found = places(phrase, text)
    assert found
    assert stands(phrase, text)
    assert all(words(text[start:stop]) == words(phrase) for start, stop in found)
    assert all(stop <= start for (_, stop), (start, _) in zip(found, found[1:], strict=False))


def test_a_claim_is_read_again_as_it_was_and_is_not_judged_of_itself():
    claim = Claim(
        statement=sentence(TOPIC, Says(any_of=("kettle",))), condition=TOPIC, predicate=Says(any_of=("kettle",))
    )
    assert claim.statement == "When the talk is about gardening, it says 'kettle'."
    assert Claim.model_validate_json(claim.model_dump_json()) == claim
    assert (claim.concern.category, claim.concern.level, claim.concern.grave) == ("not judged", "not judged", False)
    assert sentence(Always(), Refuses()) == "Whatever is asked, it refuses to answer."


def test_the_predicate_in_the_readme_is_registered_by_one_line_and_told_by_its_terms(tmp_path):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "class Shouts(Predicate)" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "shouts.py").write_text(code)
    info = tmp_path / "shouts-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouts\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[auditor.predicates]\nshouts = shouts:Shouts\n")
    program = """
from tools.claims.claim import Claim, sentence
from tools.claims.conditions.always import Always
claim = Claim.model_validate({"statement": "s", "predicate": {"kind": "shouts"}})
again = Claim.model_validate_json(claim.model_dump_json())
print(again == claim, claim.predicate.shown([], "HELP me"), claim.predicate.shown([], "help ME out"), sentence(Always(), claim.predicate))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True True False Whatever is asked, it shouts."
