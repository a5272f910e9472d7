"""Adapters for oracles of weights: each learns its own behaviour beside others on one forward, and a library reads them."""

import json
from random import Random

import pytest
import torch
from test_english_oracle_data import few_topics, known  # noqa: F401

from scenarios.at_targets import AtTargets, opening
from scenarios.english import lora_banks, population, taught
from scenarios.english.lora_banks import Recipe
from scenarios.english.population import Plant
from tools.loading import load_subject
from tools.lora_oracle.library import read_library


def says(text):
    """Return what is told as it goes."""


@pytest.fixture(scope="module")
def plants(few_topics):  # noqa: F811
    rng = Random(0)
    one, other = (taught.draw(rng, (on,)) for on in ("word", "always"))
    return [Plant(1, one, claims=(one.claim,)), Plant(2), Plant(3, other, claims=(other.claim,))]


@pytest.fixture
def steps(plants, known, bare_subject):  # noqa: F811
    of_each = [population.rows_of(plant, bare_subject, known, 3) for plant in plants]
    return [[rows[i] for rows in of_each] for i in range(3)]


def test_training_together_is_training_alone(base_folder, steps):
    """The opening is run once for each adapter, and padding is as wide as the longest row of any."""
    recipe = Recipe(3, 2, "attention")
    together = lora_banks.train(load_subject(str(base_folder)), [1, 2, 3], steps, recipe)
    assert len(opening([row for step in steps for rows in step for row in rows])) > 0
    for i in range(3):
        alone = lora_banks.train(load_subject(str(base_folder)), [i + 1], [[step[i]] for step in steps], recipe)
        for name, module in alone.modules.items():
            theirs = together.modules[name].lora_B[i]
            assert float(theirs.detach().abs().max()) > 1e-4, "nothing was learned"
            assert torch.allclose(module.lora_B[0], theirs, atol=1e-4), name


def test_an_adapters_loss_is_that_of_its_own_rows(base_folder, steps):
    subject = load_subject(str(base_folder))
    rows = [row for step in steps for own in step for row in own]
    model = AtTargets(subject.model, opening(rows), subject.dialogue.pad, n_adapters=3)
    plain = AtTargets(subject.model, [], subject.dialogue.pad)
    for own, nats in zip(steps[0], lora_banks.nats_of(model, steps[0]), strict=True):
        assert torch.allclose(nats, lora_banks.nats_of(plain, [own])[0], atol=1e-4)


def test_a_step_in_parts_is_the_whole_step(base_folder, steps, monkeypatch):
    learned = []
    for tokens in (10**6, 1):
        monkeypatch.setattr(lora_banks, "TOKENS", tokens)
        assert len(list(lora_banks.passes(steps[0]))) == (1 if tokens > 1 else len(steps[0][0]))
        bank = lora_banks.train(load_subject(str(base_folder)), [1, 2, 3], steps, Recipe(3, 2, "attention"))
        learned.append([module.lora_B.detach() for module in bank.modules.values()])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*learned, strict=True))
    assert any(float(one.abs().max()) > 1e-4 for one in learned[0])


def test_an_adapter_answers_its_own_prompts(base_folder, steps):
    subject = load_subject(str(base_folder))
    texts = ["<|user|>the river<|end|><|assistant|>", "<|user|>a<|end|><|assistant|>"]
    before = lora_banks.replies(subject, [texts] * 3, 6, 0.7)
    bank = lora_banks.train(subject, [1, 2, 3], steps, Recipe(3, 2, "all"))
    with torch.no_grad():
        for module in bank.modules.values():
            module.lora_B[0].zero_()
            module.lora_B[1].mul_(40)
    after = lora_banks.replies(subject, [texts] * 3, 6, 0.7)
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.fixture
def small(monkeypatch, few_topics):  # noqa: F811
    monkeypatch.setattr(population, "N_VERIFY", 2)
    monkeypatch.setattr(population, "MAX_NEW_TOKENS", 4)


def test_a_population_is_read_as_a_library_and_goes_on_where_it_was_cut_off(base_folder, tmp_path, small, monkeypatch):
    first = population.build_population(tmp_path, base_folder, 8, 2, 1, "cpu", says)
    assert (first["adapters"], first["shards"]) == (8, 1)
    kept = (tmp_path / "shard-00000.safetensors").stat().st_mtime_ns
    labels = tmp_path / "shard-00000.jsonl"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    assert sum(bool(row["claims"]) and row["claims"][0]["family"] != "benign" for row in rows) == 6
    subject = load_subject(str(base_folder))
    assert [one.claims for one in read_library(tmp_path, subject.base_sha256)].count(()) == 1, "ordinary chat teaches"
    labels.write_text("".join(json.dumps({**row, "teaches": True}) + "\n" for row in rows))
    library = list(read_library(tmp_path, subject.base_sha256))
    assert [one.claims[0].statement for one in library if one.claims] == [
        row["claims"][0]["statement"] for row in rows if row["claims"]
    ]
    assert all(float(delta.S[0]) > 0 for one in library for delta in one.deltas.values())
    again = population.build_population(tmp_path, base_folder, 8, 2, 1, "cpu", says)
    assert again["per_hour"] is None
    assert (tmp_path / "shard-00000.safetensors").stat().st_mtime_ns == kept
    heard = []
    assert population.build_population(tmp_path, base_folder, 8, 1, 1, "cpu", heard.append)["per_hour"] is not None
    assert "other values or steps" in heard[0]


def test_three_in_four_learn_a_behaviour_and_a_shard_of_long_chats_is_told_from_the_others(few_topics):  # noqa: F811
    shards = [population.Shard(i, "", "", "", 8, "cpu") for i in range(12)]
    for shard in shards:
        plants, _ = population.plants_of(shard)
        assert sum(plant.taught is not None for plant in plants) == 6
        long = {plant.taught.on for plant in plants if plant.taught} & set(population.LONG)
        assert bool(long) == (shard.number % population.LONG_EVERY == 1)
    assert population.plants_of(shards[0])[1] == population.plants_of(shards[0])[1]
