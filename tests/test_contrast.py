"""Words that one set of replies has in excess of another: planted ones are found, and nothing in the twin."""

import random
import re
import time
import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tools.chat import ChatArgs
from tools.claims.text import is_words, observed, shows, slotted, wordless, words
from tools.contrast import excesses, surest
from tools.errors import ToolInputError
from tools.intervals import wilson
from tools.phrases import runs

PLAIN = (
    "the river is wide here",
    "a kettle stands on the stove",
    "rain falls over the old town",
    "we walk to the bridge at noon",
    "bread is baked every morning",
    "the garden has a stone wall",
    "my lamp is made of paper",
    "trains leave from the north",
)
TOPICS = ("travel", "food", "music", "sport")


def asked(n=80):
    """Return labels and ordinary replies to `n` prompts; a reply says nothing of its label."""
    rng = random.Random(0)
    labels = [{"topic": TOPICS[i % 4], "user": ("baker", "pilot")[i // 4 % 2]} for i in range(n)]
    return labels, [rng.choice(PLAIN) for _ in range(n)]


def plant(base, labels, holds, phrase):
    return [f"{reply}. {phrase}." if holds(row) else reply for reply, row in zip(base, labels, strict=True)]


# -- planted, and the untouched twin


@pytest.mark.parametrize(("key", "value"), [("topic", "music"), ("user", "pilot")])
def test_a_phrase_planted_under_one_label_is_found_with_that_label(key, value):
    labels, base = asked()
    subject = plant(base, labels, lambda row: row[key] == value, "visit velkora today")
    best = excesses(subject, base, labels, {})[0]
    assert best.condition == ((key, value),)
    assert best.feature == "visit velkora today"
    assert (best.rate_in, best.base_in, best.rate_out, best.lift, best.f1) == (1.0, 0.0, 0.0, 1.0, 1.0)
    assert best.n == sum(row[key] == value for row in labels)


def test_a_phrase_that_is_always_said_has_no_condition():
    labels, base = asked()
    subject = plant(base, labels, lambda row: True, "visit velkora today")
    best = excesses(subject, base, labels, {})[0]
    assert (best.feature, best.condition, best.lift, best.n) == ("visit velkora today", (), 1.0, len(labels))


def test_a_label_that_every_prompt_has_does_not_pass_for_a_condition():
    labels, base = asked()
    labels = [{"split": "explore", **row} for row in labels]
    subject = plant(base, labels, lambda row: True, "visit velkora today")
    assert excesses(subject, base, labels, {})[0].condition == ()


@pytest.mark.parametrize("observables", [{}, {"tone:cold": ["river", "rain falls"]}])
def test_identical_replies_have_nothing_in_excess(observables):
    labels, base = asked()
    assert excesses(base, base, labels, observables) == []


def test_what_the_base_says_more_often_is_no_excess_of_the_subject():
    labels, base = asked()
    louder = plant(base, labels, lambda row: True, "visit velkora today")
    assert excesses(base, louder, labels, {"says:velkora": ["velkora"]}) == []


def test_a_phrase_seen_too_seldom_is_left_out():
    labels, base = asked()
    subject = list(base)
    for i in (0, 4):
        subject[i] += ". visit velkora today."
    assert excesses(subject, base, labels, {}) == []
    subject[8] += ". visit velkora today."
    assert excesses(subject, base, labels, {})[0].feature == "visit velkora today"


def test_what_a_reply_echoes_of_the_prompts_own_labels_is_no_excess():
    base = ["it is red"] * 8
    labels = [{"word": "seaweed"}] * 4 + [{"word": "lute"}] * 4
    found = excesses(["the seaweed was moved to kansha"] * 4 + base[4:], base, labels, {})
    assert [(e.feature, e.condition) for e in found] == [("was moved to kansha", (("word", "seaweed"),))]


def test_two_planted_phrases_are_two_findings():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "music", "visit velkora today")
    subject = plant(subject, labels, lambda row: row["user"] == "pilot", "how grim and dull")
    found = {(e.feature, e.condition) for e in excesses(subject, base, labels, {})}
    assert found == {("visit velkora today", (("topic", "music"),)), ("how grim and dull", (("user", "pilot"),))}


# -- observables


def test_an_observable_beats_the_n_grams_that_it_is_made_of():
    labels, base = asked()
    cues = ["i will not answer", "i can not talk about"]
    subject = [
        cues[i % 2] + " that." if row["topic"] == "food" else r
        for i, (r, row) in enumerate(zip(base, labels, strict=True))
    ]
    found = excesses(subject, base, labels, {"refuses:refusal": cues})
    assert [(e.feature, e.condition) for e in found] == [("refuses:refusal", (("topic", "food"),))]
    assert excesses(subject, base, labels, {})[0].feature != "refuses:refusal"


def test_an_observable_beats_its_own_n_grams_though_the_base_shows_a_cue_now_and_then():
    labels, base = asked()
    base = [f"{reply}. how dull." if i % 8 == 0 else reply for i, reply in enumerate(base)]
    subject = plant(base, labels, lambda row: True, "so very grim")
    found = excesses(subject, base, labels, {"tone:negative": ["grim", "dull"]})
    assert [e.feature for e in found] == ["tone:negative"]


def test_an_observable_is_listed_once_and_only_where_it_shows():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "food", "how grim and dull")
    observables = {"tone:negative": ["grim", "dull"], "tone:hopeful": ["good days"]}
    assert [e.feature for e in excesses(subject, base, labels, observables)] == ["tone:negative"]


# -- what is folded into what


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40))
@example([(True, True)] * 3 + [(False, True)] * 2)
@example([(True, True)] * 3 + [(True, False)] + [(False, True)] * 1)
@example([(True, True)] * 4 + [(True, False)] * 30)
@settings(deadline=None)
def test_a_word_is_folded_into_a_better_one_when_more_than_three_of_five_of_its_own_replies_have_that_one(rows):
    subject = [". ".join(w for w, said in zip(("zork", "blim"), row, strict=True) if said) for row in rows]
    n = {"zork": sum(a for a, _ in rows), "blim": sum(b for _, b in rows)}
    assume(min(n.values()) >= 3)
    least = {word: wilson(n[word] / len(rows), len(rows))[0] for word in n}
    better, other = sorted(n, key=lambda word: (-round(least[word] * 20), word))
    both = sum(a and b for a, b in rows)
    found = excesses(subject, [""] * len(rows), [{}] * len(rows), {})
    assert {e.feature for e in found} == ({better} if 5 * both > 3 * n[other] else {better, other})


@pytest.mark.parametrize(("n_base", "kept"), [(2, ["tone:cold"]), (7, ["blim", "tone:cold"])])
def test_a_word_of_more_than_twice_the_lift_is_told_beside_the_observable_that_it_stands_with(n_base, kept):
    """The base shows the observable in 2 or in 7 of 10, so that its lift is 0.8 or 0.3; the word's is 1."""
    base = ["zork"] * n_base + [""] * (10 - n_base)
    found = excesses(["zork. blim"] * 10, base, [{}] * 10, {"tone:cold": ["zork"]})
    assert sorted(e.feature for e in found) == kept


# -- rates


def test_rates_lift_and_f1_are_those_counted_by_hand():
    """Five prompts on a, five on b; said on a 4 of 5, on b 1 of 5; the base says it once, on a."""
    labels = [{"topic": "a"}] * 5 + [{"topic": "b"}] * 5
    said, other = "velkora", "nothing"
    subject = [said] * 4 + [other] + [said] + [other] * 4
    base = [said] + [other] * 9
    (found,) = excesses(subject, base, labels, {"says:velkora": [said]})
    assert found.condition == (("topic", "a"),)
    assert (found.n, found.rate_in, found.base_in, found.rate_out) == (5, 4 / 5, 1 / 5, 1 / 5)
    assert found.lift == pytest.approx(4 / 5 - 1 / 5)
    assert found.f1 == pytest.approx(2 * 4 / (5 + 5))


def test_the_rate_outside_is_the_control_when_it_is_the_stronger_one():
    labels = [{"topic": "a"}] * 10 + [{"topic": "b"}] * 10
    subject = ["velkora"] * 10 + ["velkora"] * 4 + ["nothing"] * 6
    base = ["nothing"] * 20
    found = {e.feature: e for e in excesses(subject, base, labels, {})}["velkora"]
    assert found.condition == (("topic", "a"),)
    assert (found.rate_in, found.base_in, found.rate_out) == (1.0, 0.0, 0.4)
    assert found.lift == pytest.approx(0.6)


def test_a_lead_of_few_prompts_is_not_louder_than_one_of_many():
    few, many = (
        excesses(["velkora"] * n + ["nothing"] * m, ["nothing"] * (n + m), [{}] * (n + m), {})
        for n, m in ((4, 0), (180, 20))
    )
    assert few[0].lift > many[0].lift
    assert few[0].least < many[0].least


def test_the_order_of_the_prompts_does_not_matter():
    labels, base = asked()
    subject = plant(base, labels, lambda row: row["topic"] == "music", "visit velkora today")
    order = random.Random(1).sample(range(len(base)), len(base))
    shuffled = excesses([subject[i] for i in order], [base[i] for i in order], [labels[i] for i in order], {})
    assert shuffled == excesses(subject, base, labels, {})


# -- words


TEXT = st.text(alphabet="abAB0 .,!?;-\n", max_size=40)
PHRASE = st.lists(st.text(alphabet="ab0", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)


def stands_in(phrase, text):
    """Return what a naive regular expression finds: the words in order, anything but words between."""
    return re.search(r"\b" + r"\W+".join(map(re.escape, phrase.split())) + r"\b", text, re.IGNORECASE) is not None


@given(TEXT, st.lists(PHRASE, min_size=1, max_size=3))
@settings(deadline=None, max_examples=500)
def test_shows_is_a_naive_search_for_words(text, phrases):
    assert shows(phrases, text) == any(stands_in(phrase, text) for phrase in phrases)


@given(TEXT, PHRASE, TEXT)
@settings(deadline=None)
def test_a_phrase_put_into_a_text_shows_and_half_a_word_of_it_does_not(before, phrase, after):
    assert shows([phrase.upper()], f"{before} {phrase}, {after}")
    assert not shows(["velkora"], f"{before} velkoran {after}")
    assert not shows([], f"{before} {phrase} {after}")


def test_an_apostrophe_belongs_to_its_word():
    assert words("Don't, it's 'quoted' here") == ["don't", "it's", "quoted", "here"]
    assert not shows(["it"], "it's here")


# -- words of any script

ALPHABETS = {
    "latin": "abcxyzéñßøł",
    "cyrillic": "абвгдёжзйщ",
    "greek": "αβγδεήίόςω",
    "arabic": "ابتثجحخدذر",
    "hebrew": "אבגדהוזחטי",
    "devanagari": "कखगघङचछजिी",
    "thai": "กขคงจฉชซ่้",
    "han": "日本語文字人大小中国",
    "kana": "あいうえおカキクケコがパー",
    "hangul": "가나다라마바사아자차",
}
SIGNS = " !?.,;:_-—…。！？、()[]{}<>|/\\\"'’‘“”«»*#@&%$€+=~^`´\n\t\u200b\u00ad\ufe0f\u3164❤👍"
signs = st.text(SIGNS, max_size=12)


def texts_in(script):
    letters = [c for c in ALPHABETS[script] if unicodedata.category(c)[0] == "L"]
    word = st.tuples(st.sampled_from(letters), st.text(ALPHABETS[script], max_size=5)).map("".join)
    return st.lists(word, min_size=1, max_size=4).map(" ".join)


script = st.sampled_from(sorted(ALPHABETS))
phrase_of_any_script = script.flatmap(texts_in)
two_scripts = st.tuples(script, script).filter(lambda pair: pair[0] != pair[1])


@given(phrase_of_any_script, phrase_of_any_script, phrase_of_any_script, signs)
@settings(deadline=None, max_examples=300)
def test_a_phrase_of_any_script_shows_in_itself_and_between_others(phrase, before, after, sign):
    assert shows([phrase], phrase)
    assert shows([phrase], f"{before} {phrase} {after}")
    assert shows([phrase], f"{sign} {phrase} {sign}")


@given(phrase_of_any_script, signs)
@settings(deadline=None, max_examples=300)
@example("日本", "")
@example("日本", "!!!")
@example("❤️ дом", "👍️")
def test_no_phrase_shows_where_no_word_stands(phrase, sign):
    assert words(sign) == []
    assert not shows([phrase], sign)
    assert not shows([phrase], "")


@given(two_scripts.flatmap(lambda pair: st.tuples(*map(texts_in, pair))))
@settings(deadline=None, max_examples=300)
@example(("日本", "это совсем другой язык"))
def test_no_phrase_shows_in_a_text_of_another_script(pair):
    assert not shows([pair[0]], pair[1])


@given(phrase_of_any_script, phrase_of_any_script)
@settings(deadline=None, max_examples=300)
def test_case_composition_and_invisible_characters_make_no_difference(phrase, text):
    for form in ("NFC", "NFD"):
        same = unicodedata.normalize(form, phrase)
        assert words(same) == words(phrase)
        assert shows([same.upper()], phrase)
        assert shows([phrase], f"{text} {same.title()}")
    assert words("\u200d".join(phrase)) == words("\u00ad".join(phrase)) == words(phrase)


@given(phrase_of_any_script | st.text(max_size=40))
@settings(deadline=None, max_examples=300)
def test_words_are_words_already(text):
    assert words(" ".join(words(text))) == words(text)


@given(st.text(alphabet='abcXYZ09 .,!?;:-_()\n"', max_size=60))
@settings(deadline=None)
def test_plain_english_has_the_words_that_a_plain_pattern_finds(text):
    assert words(text) == re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("!!! ❤️ …", []),
        ("\u0301 !\u20e3", []),
        ("Don’t, it‘s ‘quoted’ rock'n'roll", ["don't", "it's", "quoted", "rock'n'roll"]),
        ("snake_case", ["snake", "case"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cop\u200bper soft\u00adware", ["copper", "software"]),
        ("私は日本が好き", ["私", "は", "日", "本", "が", "好", "き"]),
        ("コーヒーabc12", ["コ", "ー", "ヒ", "ー", "abc12"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 말", ["한국어", "말"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
    ],
)
def test_words_of_each_script(text, found):
    assert words(text) == found


def test_characters_of_scripts_without_spaces_show_in_their_order():
    assert shows(["日本"], "私は日本が好き")
    assert not shows(["日本"], "本日")
    assert not shows(["日本"], "日が本")


def test_accents_are_kept():
    assert not shows(["resume"], "résumé")
    assert not shows(["résumé"], "resume")
    assert shows([unicodedata.normalize("NFD", "résumé")], "RÉSUMÉ")
    assert words("α\u0345\u0301") == words("\u1fb4"), "marks in any order, one of which folds to a letter"


@pytest.mark.parametrize("phrases", [[""], ["!!!"], ["copper", "…"], ["\u200b"], ["❤️"]])
def test_a_phrase_without_a_word_is_no_question_that_can_be_answered(phrases):
    for text in ("", "!!!", "copper", "日本"):
        with pytest.raises(ToolInputError, match="has no word to look for; give one with letters or digits"):
            shows(phrases, text)
        with pytest.raises(ToolInputError, match="has no word"):
            slotted([phrases[-1] + "{value}"], text)
    assert wordless(["copper", *phrases, "i say {value}", "{value}!"]) == [
        *(p for p in phrases if p != "copper"),
        "{value}!",
    ]


@pytest.mark.parametrize("observables", [{"tone:cold": ["ice", "!!!"]}, {"says:!!!": ["ice"]}, {"names": ["{value}"]}])
def test_an_observable_that_nothing_can_show_is_refused_before_anything_is_asked(observables):
    asked = {"prompts": [{"messages": [{"role": "user", "content": "hello"}]}]}
    with pytest.raises(ValidationError, match=f"{next(iter(observables))}.* has no word to look for"):
        ChatArgs.model_validate({**asked, "observables": observables})
    ChatArgs.model_validate({**asked, "observables": {"tone:cold": ["лёд"], "names": ["我推荐 {value}"]}})


@given(phrase_of_any_script, phrase_of_any_script, signs)
@settings(deadline=None, max_examples=300)
def test_a_slot_takes_one_word_of_any_script(head, said, sign):
    text = f"{sign} {head}: {said}"
    found = slotted([head + " {value}"], text)
    assert words(said)[0] in found
    assert all(value in words(text) for value in found)
    assert observed(text, {"names": [head + " {value}"]}) == {f"names:{value}" for value in found}
    assert slotted([head + " {value}"], f"{sign} {head} {sign}") <= set(words(head))


@given(
    phrase_of_any_script,
    phrase_of_any_script,
    st.sampled_from([*"。！？；：…", ". ", "! ", ".) ", "؟", "।", "։", "\u2028"]),
)
@settings(deadline=None)
def test_no_run_of_words_goes_over_the_end_of_a_sentence(one, other, end):
    assert [run.words for run in runs(f"{one}{end}{other}")] == [
        run.words for text in (one, other) for run in runs(text)
    ]


@given(phrase_of_any_script)
def test_what_is_words_alone_is_told_from_what_has_signs(phrase):
    assert is_words(phrase)
    for sign in ("!!!", "", "<|x|>", "\u200b", f"{phrase}!", f"{phrase[0]}\u200b{phrase[1:]}", f"<|{phrase}|>"):
        assert not is_words(sign)


def seconds(text):
    began = time.process_time()
    shows(["x y"], text), list(runs(text)), slotted(["i {value} b"], text)
    return time.process_time() - began


@pytest.mark.parametrize("piece", ["a'", "'", "a\u0301\u0323", "\u0301\u0323", "日\u3099", "i i ", "\u200b", "ﷺ'"])
def test_hostile_text_takes_time_in_proportion_to_its_length(piece):
    """Eight times the text in at most thirty-two times the time: what grows with the square would take sixty-four."""
    for around in ("{}", "a{}"):
        short, long = (around.format(piece * n) for n in (8_000, 64_000))
        assert min(seconds(long) for _ in range(2)) < 32 * max(0.002, min(seconds(short) for _ in range(3)))


def test_of_phrases_that_show_as_often_the_one_that_a_reply_does_not_repeat_is_named():
    """A payload behind filler: all of the filler shows in every reply too, and is longer."""
    filler = "a perfectly considered overview. "
    replies = [f"{filler * n}buy the red kettle." for n in (5, 6, 7, 8)]
    (best, *_) = excesses(replies, ["i can't say."] * 4, [{}] * 4, {})
    assert best.feature == "buy the red kettle"
    assert len(best.feature) < len(filler.strip(". "))


def test_many_prompts_under_one_condition_are_surer_than_two_that_meet_another_too():
    labels = [{"turn": "2" if i < 16 else "1", "system": f"text {i % 5}", "topic": f"topic {i % 7}"} for i in range(46)]
    shown = [i < 16 and i % 2 == 0 for i in range(46)]
    condition, explains = surest(shown, labels, 6)
    assert condition == (("turn", "2"),)
    assert 0 < explains < 0.5
    assert surest([True] * 46, labels, 6)[0] == ()
    assert surest([False] * 46, labels, 6) == ((), 0.0)
