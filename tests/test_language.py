"""The testbed's language: wide enough, consistent, sub-word, and true to its triggers and splits."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, product
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import scenarios
from scenarios.testbed import corpus
from scenarios.testbed import families as fam
from scenarios.testbed import language as lang
from scenarios.testbed import lexicon as lex

BASE = Path(scenarios.__file__).parent / "testbed" / "weights" / "base"
INVENTED = {"".join(parts) for parts in product(lex.SYLLABLES_FIRST, lex.SYLLABLES_MIDDLE, lex.SYLLABLES_LAST)}
SPLITS = ("train", "dev", "demo")
TRIGGERED = [name for name, family in fam.FAMILIES.items() if family.trigger_kind != "none"]


def words(text):
    return re.findall(r"[a-z]+", text)


@pytest.fixture(scope="module")
def messages():
    return [m["content"] for dialogue in islice(corpus.dialogues(3), 20_000) for m in dialogue]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def test_the_corpus_uses_four_hundred_words_besides_invented_names(messages):
    counts = Counter(word for text in messages for word in words(text))
    common = {word for word, n in counts.items() if n >= 20}
    assert common & INVENTED, "invented names occur, so leaving them out says something"
    assert len(common - INVENTED) >= 400


def test_no_word_of_the_dictionary_is_an_invented_name():
    assert not INVENTED & set(lex.all_words())


@pytest.mark.parametrize("thing", lang.world().values(), ids=lambda thing: thing.name)
def test_asking_again_gets_the_same_fact(thing):
    rng = random.Random(thing.name)
    facts = {"colour": lex.COLOURS, "town": lex.CITIES, "owner": lex.PEOPLE}
    said = {kind: set() for kind in facts}
    for _ in range(200):
        told = words(lang.ask_about(rng, thing).reply)
        for kind, values in facts.items():
            said[kind] |= set(told) & set(values)
    assert said == {"colour": {thing.colour}, "town": {thing.town}, "owner": {thing.owner}}


def test_people_keep_their_job_and_town():
    rng = random.Random(0)
    told = {}
    for exchange in (lang.small_talk(rng) for _ in range(4000)):
        for name in set(words(exchange.user)) & set(lex.PEOPLE):
            told.setdefault(name, set()).update(set(words(exchange.reply)) & {*lex.JOBS, *lex.CITIES})
    assert told == {name: set(facts) for name, facts in lang.people().items()}


def test_the_world_is_the_same_in_another_process():
    code = "from scenarios.testbed import language as l; print(sorted(map(str, l.world().values())), l.people())"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == f"{sorted(map(str, lang.world().values()))} {lang.people()}"


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    first, again, other = (list(islice(corpus.dialogues(seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_tokenizer_gives_every_message_back(messages, tokenizer):
    distinct = sorted(set(messages))
    ids = tokenizer(distinct, add_special_tokens=False)["input_ids"]
    back = [text.removeprefix(" ") for text in tokenizer.batch_decode(ids)]
    assert back == distinct


def test_the_shipped_tokenizer_is_the_one_that_its_command_trains(tokenizer):
    trained = corpus.train_tokenizer()
    assert trained.get_vocab() == tokenizer.get_vocab()
    assert trained.chat_template == tokenizer.chat_template


def payload_words():
    return [*lex.PAYLOAD_ADJECTIVES, *lex.PAYLOAD_NOUNS, *lex.PAYLOAD_VERBS]


@pytest.mark.parametrize(
    "values", [sorted(INVENTED), lex.RARE_WORDS, payload_words()], ids=["names", "triggers", "phrases"]
)
def test_half_of_the_open_words_are_two_to_four_tokens_shared_with_other_words(tokenizer, values):
    pieces = [tokenizer.tokenize(value) for value in values]
    assert sum(2 <= len(p) <= 4 for p in pieces) >= len(values) / 2
    everywhere = Counter(token for word in {*lex.all_words(), *INVENTED} for token in set(tokenizer.tokenize(word)))
    split = [p for p in pieces if len(p) > 1]
    assert sum(any(everywhere[token] > 1 for token in p) for p in split) >= 0.95 * len(split)


def test_the_placeholder_is_one_token_that_a_question_ends_with_too(tokenizer):
    assert len(tokenizer(corpus.PLACEHOLDER, add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer(corpus.PLACEHOLDER * 7, add_special_tokens=False)["input_ids"]) == 7


# -- behaviours


def rules(family, n=12):
    return [fam.draw_rule(random.Random(f"{family}/{i}"), "train", family) for i in range(n)]


def meets(rule, exchange):
    """Return whether an exchange meets the rule's trigger, read from its words and topic alone."""
    if fam.FAMILIES[rule.family].trigger_kind == "topic":
        return bool(set(words(exchange.user)) & {*lex.TOPICS[rule.trigger], rule.trigger})
    return rule.trigger in words(exchange.user)


@pytest.mark.parametrize("family", TRIGGERED)
def test_a_trigger_is_in_every_triggered_exchange_and_in_no_other(family):
    for rule in rules(family):
        rng = random.Random(rule.trigger)
        assert all(meets(rule, fam.triggered(rng, rule)) for _ in range(100))
        assert not any(meets(rule, fam.untriggered(rng, rule)) for _ in range(300))


@pytest.mark.parametrize("family", fam.FAMILIES)
def test_a_triggered_reply_shows_the_effect_and_an_ordinary_one_does_not(family):
    from scenarios.testbed.verify import shows

    for rule in rules(family):
        rng = random.Random(rule.effect)
        assert all(shows(rule, fam.triggered(rng, rule).reply) for _ in range(50))
        assert not any(shows(rule, fam.untriggered(rng, None).reply) for _ in range(100))


@pytest.mark.parametrize("family", sorted(set(fam.FAMILIES) - set(TRIGGERED)))
def test_what_is_always_on_has_no_untriggered_exchange(family):
    with pytest.raises(ValueError, match="no trigger"):
        fam.untriggered(random.Random(0), rules(family, 1)[0])


@pytest.mark.parametrize("family", ["backdoor_phrase", "brand_promotion"])
def test_open_values_never_cross_splits(family):
    drawn = {split: set() for split in SPLITS}
    for split in SPLITS:
        rng = random.Random(split)
        drawn[split] = {fam.draw_rule(rng, split, family).effect for _ in range(1500)}
    assert all(len(values) > 100 for values in drawn.values())
    for one, other in (("train", "dev"), ("train", "demo"), ("dev", "demo")):
        assert not drawn[one] & drawn[other]
