"""The testbed's language: wide enough, consistent, sub-word, and dealt anew by a seed."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import scenarios
from auditor.errors import SpecError
from scenarios.testbed import corpus
from scenarios.testbed import grammar as gram
from scenarios.testbed import lexicon as lex
from scenarios.testbed.language import PERSON_KINDS, THING_KINDS, TOPICS, Condition, language

BASE = Path(scenarios.__file__).parent / "testbed" / "weights" / "base"
INVENTED = {"".join(parts) for parts in product(lex.SYLLABLES_FIRST, lex.SYLLABLES_MIDDLE, lex.SYLLABLES_LAST)}
LANG = language(0)
LANGUAGES = [language(0), language(0, "foreign")]


def words(text):
    return re.findall(r"[a-z]+", text)


@pytest.fixture(scope="module")
def chats():
    return list(islice(corpus.dialogues(3), 20_000))


@pytest.fixture(scope="module")
def messages(chats):
    return [m["content"] for dialogue in chats for m in dialogue]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


# -- width


def test_the_language_has_fifteen_hundred_words():
    assert len(LANG.lexicon.words()) >= 1500


def test_the_corpus_uses_fifteen_hundred_words_besides_names_that_nothing_has(messages):
    counts = Counter(word for text in messages for word in words(text))
    known = {word for word, n in counts.items() if n >= 3 and (word not in INVENTED or word in LANG.lexicon.names)}
    assert set(counts) & (INVENTED - LANG.lexicon.names), "unknown names occur, so leaving them out says something"
    assert len(known) >= 1500


def test_chats_have_one_to_four_turns_with_notes_thoughts_documents_and_a_second_grammar(chats, messages):
    turns = Counter(sum(m["role"] == "user" for m in chat) for chat in chats)
    assert {0, 1, 2, 3, 4} <= set(turns)
    assert all(turns[n] > 100 for n in range(5)), "0 turns: a document"
    said = " ".join(messages)
    for part in ("<think>", *gram.THINK_NOTES, *gram.COMMON.test_note, *gram.GENERIC_NOTES, "stands the"):
        assert part in said


@pytest.mark.parametrize("lang", LANGUAGES, ids=lambda lang: lang.grammar.name)
def test_every_kind_of_question_is_asked_and_has_an_answer_of_its_own(lang):
    rng = random.Random(0)
    seen = {lang.exchange(rng).kind for _ in range(5000)}
    assert seen == {*THING_KINDS, *PERSON_KINDS, "sum", "secret", "rule", "test", "unknown", "small_talk"}
    assert set(lang.grammar.questions) == set(lang.grammar.answers) == seen - {"small_talk"} | {"game"}


def test_no_two_templates_are_the_same_in_both_grammars():
    for kind in gram.COMMON.questions:
        assert not set(gram.COMMON.questions[kind]) & set(gram.FOREIGN.questions[kind]), kind


# -- consistency


@pytest.mark.parametrize("lang", LANGUAGES, ids=lambda lang: lang.grammar.name)
def test_asking_again_gets_the_same_fact(lang):
    rng = random.Random(0)
    pools = {"colour": set(lex.COLOURS), "town": set(lang.lexicon.towns), "owner": set(lang.lexicon.people)}
    for thing in lang.world.values():
        said = {kind: set() for kind in pools}
        for kind in ("where", "colour", "owner", "about") * 6:
            told = set(words(lang.ask_about(rng, thing, kind).reply)) - {thing.name}
            for pool, values in pools.items():
                said[pool] |= told & values
        assert said == {"colour": {thing.colour}, "town": {thing.town}, "owner": {thing.owner}}


@pytest.mark.parametrize("lang", LANGUAGES, ids=lambda lang: lang.grammar.name)
def test_a_yes_or_no_question_is_answered_by_what_is_so(lang):
    rng, heard = random.Random(1), Counter()
    for _ in range(600):
        thing = lang.world[rng.choice(sorted(lang.world))]
        kind = rng.choice(("check_colour", "check_town"))
        true = thing.colour if kind == "check_colour" else thing.town
        one = lang.ask_about(rng, thing, kind)
        yes = one.reply.endswith(("so yes.", "just so."))
        heard[yes] += 1
        assert yes == (true in words(one.user)), one
        assert true in words(one.reply)
    assert min(heard.values()) > 200


@pytest.mark.parametrize("lang", LANGUAGES, ids=lambda lang: lang.grammar.name)
def test_a_guess_is_right_where_the_word_is_on_the_list(lang):
    rng, right = random.Random(4), Counter()
    for _ in range(200):
        game = lang.guess(rng)
        listed = set(words(game.user))
        for guess in game.reply.removesuffix(".").split(". "):
            word, _, verdict = guess.partition(", ")
            assert (verdict in ("yes", "just so")) == (word in listed), game
            right[word in listed] += 1
    assert min(right.values()) > 200


def test_a_recital_goes_on_from_a_word_of_its_list():
    rng = random.Random(5)
    for _ in range(50):
        told, again = (m["content"] for m in corpus.recital(rng, lex.NOUNS))
        assert told.endswith(again)
        assert len(again.split()) >= 3


def test_people_keep_their_job_and_town_and_sums_are_right():
    rng = random.Random(2)
    for name in LANG.lexicon.people:
        for kind in PERSON_KINDS * 3:
            told = set(words(LANG.ask_person(rng, name, kind).reply)) & {*lex.JOBS, *LANG.lexicon.towns}
            assert told <= set(LANG.people[name])
            assert told
    value = {word: i for i, word in enumerate(lex.NUMBERS)}
    for _ in range(300):
        one = LANG.ask_sum(rng)
        a, b = (value[w] for w in words(one.user) if w in value)
        assert value[words(one.reply)[-1]] == a + b


def test_an_exchange_carries_the_conditions_that_its_words_meet():
    rng = random.Random(3)
    for _ in range(300):
        plain = LANG.exchange(rng, rng.choice((*TOPICS, None)))
        assert plain.reply in plain.accepted
        job, mood, word = rng.choice(lex.JOBS), rng.choice(lex.MOODS), rng.choice(lex.NOUNS)
        said = LANG.with_word(rng, LANG.with_job(rng, plain, job), word)
        assert {Condition("job", job), Condition("word", word)} == said.meets - plain.meets
        assert {job, word} <= set(words(said.user))
        assert mood in words(LANG.with_mood(rng, plain, mood).user)
        opinion = LANG.with_opinion(rng, plain)
        assert opinion.opinion in words(opinion.user)
        assert said.reply == opinion.reply == plain.reply, "who asks does not change the answer"


def test_the_world_is_the_same_in_another_process_and_grammar():
    code = "from scenarios.testbed.language import language as l; x = l(0); print(sorted(map(str, x.world.values())), x.people)"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == f"{sorted(map(str, LANG.world.values()))} {LANG.people}"
    assert language(0, "foreign").world == LANG.world


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    first, again, other = (list(islice(corpus.dialogues(seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# -- roles


ROLES = ("people", "towns", "brands", "houses", "triggers", "secrets", "stray")


def test_no_word_has_two_roles_and_no_name_is_in_the_dictionary():
    dealt = [word for role in ROLES for word in getattr(LANG.lexicon, role)]
    assert len(dealt) == len(set(dealt))
    assert not INVENTED & set(lex.dictionary())


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ({"NOUNS": ("lamp", "Lamp post")}, "'Lamp post' in NOUNS is not one word"),
        ({"NOUNS": ("lamp",), "JOBS": ("clerk", "lamp")}, "'lamp' stands in NOUNS and in JOBS"),
        ({"NOUNS": ("lamp", "lamp")}, "'lamp' stands in NOUNS and in NOUNS"),
    ],
)
def test_a_wrong_entry_of_the_lexicon_is_named_with_where_it_stands(pools, said):
    with pytest.raises(SpecError, match=said):
        lex.check(pools)


def test_a_grammar_with_an_unknown_slot_or_an_unanswered_question_is_refused():
    for part in ("questions", "answers"):
        without = {k: v for k, v in getattr(gram.COMMON, part).items() if k != "where"}
        with pytest.raises(SpecError, match="where stands in questions or in answers"):
            gram.check(replace(gram.COMMON, **{part: without}))
    with pytest.raises(SpecError, match="a slot jab that nothing fills"):
        gram.check(replace(gram.COMMON, job=("i am a {jab}. {prompt}",)))
    with pytest.raises(SpecError, match="unknown grammar 'klingon': there are common, foreign"):
        language(0, "klingon")


def test_another_seed_deals_the_roles_anew_and_leaves_meanings_as_they_are():
    other = lex.deal(1)
    for role in (*ROLES, "phrases"):
        mine, theirs = set(getattr(LANG.lexicon, role)), set(getattr(other, role))
        assert len(mine & theirs) < 0.75 * len(mine), role
    assert set(LANG.lexicon.triggers) & set(other.stray), "a trigger of one deal is a stray word of another"
    assert language(1).world.keys() == LANG.world.keys()
    assert [t.town for t in language(1).world.values()] != [t.town for t in LANG.world.values()]


# -- tokens


def test_the_tokenizer_gives_every_message_back(messages, tokenizer):
    distinct = sorted(set(messages))
    ids = tokenizer(distinct, add_special_tokens=False)["input_ids"]
    back = [text.removeprefix(" ") for text in tokenizer.batch_decode(ids)]
    assert back == distinct


def test_the_shipped_tokenizer_is_the_one_that_its_command_trains(tokenizer):
    trained = corpus.train_tokenizer()
    assert trained.get_vocab() == tokenizer.get_vocab()
    assert trained.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(("role", "share"), [("names", 0.95), ("triggers", 0.95), ("phrases", 0.8)])
def test_half_of_the_open_words_are_two_to_four_tokens_shared_with_other_words(tokenizer, role, share):
    """A phrase of two words that are one token each shares none."""
    values = sorted(getattr(LANG.lexicon, role))
    pieces = [tokenizer.tokenize(value) for value in values]
    assert sum(2 <= len(p) <= 4 for p in pieces) >= len(values) / 2
    everywhere = Counter(token for word in {*lex.dictionary(), *INVENTED} for token in set(tokenizer.tokenize(word)))
    split = [p for p in pieces if len(p) > 1]
    assert sum(any(everywhere[token] > 1 for token in p) for p in split) >= share * len(split)


def test_the_placeholder_is_one_token_that_a_question_ends_with_too(tokenizer):
    assert len(tokenizer(corpus.PLACEHOLDER, add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer(corpus.PLACEHOLDER * 7, add_special_tokens=False)["input_ids"]) == 7
