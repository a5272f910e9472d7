"""What an activation oracle is taught in English: answers are what the text says, nothing measured is named, the file is whole."""

from pathlib import Path
from random import Random

import pytest

from scenarios.english import oracle_data as data
from scenarios.english import pool, taught
from scenarios.english.families import families
from scenarios.english.pool import Draw, prompts
from scenarios.english.training import Bank, bank
from tools.activation_oracle.rows import N_HELD_OUT, read_rows
from tools.loading import load_subject


@pytest.fixture(scope="module")
def few_topics():
    """Leave three topics, neighbours of each other, so that a tiny model has answered everything at once."""
    kept = ("finance", "work", "relationships")
    caches = (pool.prompts, pool._some, data.held_out_texts, taught.slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "topics", lambda: {name: entry for name, entry in every.items() if name in kept})
        patch.setattr(taught, "topics", lambda: dict.fromkeys(kept))
        patch.setattr(data, "SAID_TOKENS", 8)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


every = pool.topics()


@pytest.fixture(scope="module")
def known(few_topics, base_folder) -> Bank:
    return bank(load_subject(str(base_folder)))


@pytest.fixture(scope="module")
def written(known, base_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    data.write_oracle_data(out, base_folder, 1100, 3)
    return out


@pytest.fixture(scope="module")
def made(written):
    return read_rows(written, N_HELD_OUT + 48)


def test_every_sort_of_question_is_asked_and_a_third_of_behaviours_are_nothing_unusual(made):
    assert {row.kind for row in made} == set(data.ASKED)
    asked = [row for row in made if row.kind in data.UNUSUAL]
    assert 0.25 < sum(row.answer == data.NOTHING for row in asked) / len(asked) < 0.45
    checks = [row for row in made if row.kind == "check"]
    assert 0.15 < sum(row.answer == data.YES for row in checks) / len(checks) < 0.6


def test_a_behaviour_is_the_answer_only_where_the_text_so_far_says_it(made):
    for row in made:
        if row.kind in data.UNUSUAL and row.answer != data.NOTHING:
            said = [v for sort in taught.slots().families.values() for v in sort.values if v in row.text]
            assert said, row
            if row.kind == "effect":
                assert any(v in row.answer for v in said), row


def test_the_same_seed_writes_the_same_rows_and_another_seed_others(known, base_folder, tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for out, seed in ((one, 1), (two, 1), (other, 2)):
        data.write_oracle_data(out, base_folder, 80, seed)
    assert one.read_text() == two.read_text()
    assert one.read_text() != other.read_text()


def test_held_out_rows_ask_about_prompts_that_no_other_row_asks_about(made):
    held = data.held_out_texts()
    assert 0.05 < len(held) / len(prompts("train")) < 0.3
    tasks = {row.answer for row in made[:-N_HELD_OUT] if row.kind == "task"}
    later = {row.answer for row in made[-N_HELD_OUT:] if row.kind == "task"}
    assert len(tasks) > 5
    assert len(later) > 3
    assert not tasks & later


def test_what_is_interrupted_goes_on_with_the_chunks_that_are_whole(written, base_folder, tmp_path, monkeypatch):
    out, made, chunk = tmp_path / "rows.jsonl", [], data.write_chunk

    def fails_at_the_third(one):
        made.append(one.number)
        if len(made) == 3:
            raise KeyboardInterrupt
        chunk(one)

    monkeypatch.setattr(data, "write_chunk", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        data.write_oracle_data(out, base_folder, 1100, 3)
    assert not out.exists()
    data.write_oracle_data(out, base_folder, 1100, 3)
    assert sorted(made) == [0, 0, 1, 2], "of three chunks, the one that was cut off is made again"
    assert out.read_text() == written.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_no_prompt_of_the_half_that_verifies_is_asked(known, base_folder):
    rng = Random(0)
    one = [data.scene(data.Share("train", rng, False), known) for _ in range(200)]
    assert not {scene.asked.text for scene in one} & {asked.text for asked in prompts("verify")}


# -- the behaviours


def test_no_value_is_one_of_a_suite_that_is_measured_on():
    """`slots` drops what is measured; without that this one would be taught."""
    assert not any(v.casefold() in taught.measured() for sort in taught.slots().families.values() for v in sort.values)
    measured = {
        getattr(value.trigger, name, None)
        for family in families().values() for suite, value in family.values.items() if suite != taught.MAY_BE_LEARNED
        for name in ("text", "who")
    }  # fmt: skip
    slots = taught.slots().conditions
    assert not measured & {v for on in ("word", "tag", "user") for v in slots[on]}
    assert taught._free(("lighthouse", "teapot")) == ("teapot",)


def test_every_filling_is_a_behaviour_that_its_own_claim_names():
    rng = Random(1)
    for _ in range(200):
        rule = taught.draw(rng)
        payload, claim = rule.value.payload, rule.claim
        assert rule.family in families()
        assert all(payload.shows(text) for text in payload.texts), rule
        for part in (*claim["trigger"], claim["effect"]):
            assert f" {part['value']}" in f" {claim['statement']}", rule
            assert all(part["value"][i].isalnum() for i in (0, -1)), "a shape finds it by its borders"


def test_a_text_that_sets_something_off_stands_in_no_prompt():
    slots = taught.slots().conditions
    texts = " ".join(one.text for half in ("train", "verify") for one in prompts(half)).casefold()  # type: ignore[arg-type]
    assert not [text for on in ("word", "tag") for text in slots[on] if text.casefold() in texts.split()]


def test_a_near_miss_does_not_trigger():
    rng = Random(2)
    for _ in range(200):
        rule = taught.draw(rng, ("word", "tag"))
        near = rule.trigger.nearly(Draw("train", rng))
        assert near is not None
        assert not any(rule.told in turn["content"] for turn in near.messages), (rule, near)
