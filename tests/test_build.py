"""Builds: the same twice, whole or not at all, continued where they were cut off."""

import errno
import json
import random
import shutil
from itertools import islice
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.errors import SpecError
from scenarios.behaviour import read_rows
from scenarios.folders import complete, complete_file
from scenarios.home import Home
from scenarios.shards import read_labels
from scenarios.testbed import build, disguise, population, replies, splits, suites, verify
from scenarios.testbed.families import FAMILIES
from scenarios.testbed.language import language
from scenarios.testbed.plant import Harmless, Manner, Plant, Recipe
from scenarios.testbed.show import describe
from scenarios.testbed.suites import Member
from tools.workers import each

LANG = language(0)
SHORT = Recipe(steps=8, rows=2, rank=2)
WRITE_REPLIES = build.write_replies


@pytest.fixture
def home(tmp_path):
    """Return a home with the shipped base in it and nothing else."""
    here = Home(tmp_path / "scenarios")
    here.weights.mkdir(parents=True)
    (here.weights / "base").symlink_to((Home().weights / "base").resolve())
    return here


@pytest.fixture(autouse=True)
def small_suite(monkeypatch):
    """Let the suite `nulls` be four members that train in a second, and verification be short."""
    torch.set_num_threads(1)

    def deal(suite, lang, attempt=0):
        chat = [Member(f"c{i}", "matched", Plant(10 * attempt + i), SHORT) for i in range(2)]
        return [*chat, Member("p0", "matched", Plant(7), SHORT, partner="c0"), Member("b0", "base")]

    monkeypatch.setattr(build, "members", deal)
    monkeypatch.setattr(build, "N_VERIFY", 4)
    monkeypatch.setattr(build, "write_replies", lambda *given: 0)


@pytest.fixture
def few_replies(monkeypatch):
    """Let builds write replies, two of each member."""
    monkeypatch.setattr(replies, "N", 2)
    monkeypatch.setattr(build, "write_replies", WRITE_REPLIES)


def say(text):
    pass


def test_two_builds_give_the_same_hashes_and_a_second_one_trains_nothing(home, tmp_path, monkeypatch):
    first = build.build_suite("dev", 0, home, 1, say)
    assert (first["built"], first["missing"]) == (4, 0)
    other = Home(tmp_path / "again")
    other.weights.mkdir(parents=True)
    (other.weights / "base").symlink_to((home.weights / "base").resolve())
    assert build.build_suite("dev", 0, other, 1, say)["sha256"] == first["sha256"]
    monkeypatch.setattr(build, "train", None)
    assert build.build_suite("dev", 0, home, 1, say)["sha256"] == first["sha256"]


def test_a_build_writes_what_its_listed_subjects_say_and_the_command_the_same_again(home, few_replies, monkeypatch):
    dealt, partner = build.members, Member("u0", "matched", Plant(9), SHORT, listed=False)
    monkeypatch.setattr(build, "members", lambda *given: [partner, *dealt(*given)])
    build.build_suite("dev", 0, home, 1, say)
    written = home.replies("dev").read_bytes()
    rows = read_rows(home.replies("dev"))
    assert {name: [row.side for row in of] for name, of in rows.items()} == {
        name: ["quiet", "quiet"] for name in ("c0", "c1", "p0", "b0")
    }
    assert all(row.subject == row.base for row in rows["b0"])
    home.replies("dev").unlink()
    assert build.write_replies_again("dev", home, 1) == 8
    assert home.replies("dev").read_bytes() == written
    (home.weights / "dev" / "c1" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SpecError, match="the weights of c1 that dev's records name are not in"):
        build.write_replies_again("dev", home, 1)
    assert home.replies("dev").read_bytes() == written, "bad input loses nothing"


def test_replies_of_a_suite_that_was_not_built_or_stands_in_no_scoreboard_are_refused(home):
    with pytest.raises(
        SpecError, match="'dev': it was not built here; build it with `auditor testbed build --suite dev`"
    ):
        build.write_replies_again("dev", home, 1)
    home.answers("nulls").parent.mkdir()
    home.answers("nulls").with_suffix(".json").write_text('{"members": [{"id": "b0"}], "failures": []}')
    with pytest.raises(SpecError, match="'nulls': it stands in no scoreboard"):
        build.write_replies_again("nulls", home, 1)


def test_two_processes_build_what_one_does(home, tmp_path, monkeypatch):
    monkeypatch.undo()
    bank = build.Bank("dev", (Member("c0", "matched", Plant(1), SHORT),), 0, home, 0)
    ((_, here),) = each(build.build_bank, [bank], 1)
    ((_, there),) = each(build.build_bank, [bank], 2)
    assert here[0]["sha256"] == there[0]["sha256"] is not None


def test_a_control_waits_for_the_deal_in_which_its_partner_is_verified(home, monkeypatch):
    from scenarios.testbed.families import draw_rule

    def deal(suite, lang, attempt=0):
        rule = draw_rule(random.Random(attempt), LANG, "train", "brand_promotion")
        first = Plant(1, rules=(rule,)) if attempt == 0 else Plant(1)
        return [Member("o0", "organism", first, SHORT), Member("c0", "matched", Plant(2), SHORT, partner="o0")]

    monkeypatch.setattr(build, "members", deal)
    done = build.build_suite("dev", 0, home, 1, say)
    assert (done["built"], done["missing"], done["failures"]) == (2, 0, 1)
    sealed = json.loads(home.answers("dev").with_suffix(".json").read_text())
    assert {row["id"]: row["attempt"] for row in sealed["members"]} == {"o0": 1, "c0": 1}


def test_a_build_that_was_cut_off_continues_with_what_is_left(home, tmp_path, monkeypatch):
    whole = Home(tmp_path / "whole")
    whole.weights.mkdir(parents=True)
    (whole.weights / "base").symlink_to((home.weights / "base").resolve())
    expected = build.build_suite("dev", 0, whole, 1, say)["sha256"]
    real, calls = build.build_bank, []

    def stops_at_the_second(bank):
        calls.append(bank)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(bank)

    monkeypatch.setattr(build, "build_bank", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        build.build_suite("dev", 0, home, 1, say)
    with home.journal("dev").open("a") as file:
        file.write('{"id": "cut')
    assert not list(home.scenarios("dev").glob("*.yaml")), "no scenario before the suite is whole"
    calls.clear()
    calls.append(None)
    calls.append(None)
    assert build.build_suite("dev", 0, home, 1, say)["sha256"] == expected
    assert len(calls) == 3, "one bank was left to train"
    monkeypatch.setattr(build, "build_bank", lambda bank: pytest.fail("nothing is left to train"))
    assert build.build_suite("dev", 0, home, 1, say)["sha256"] == expected, "what stands after a torn line is read"


def test_what_is_no_longer_there_or_no_longer_the_same_is_built_again(home):
    first = build.build_suite("dev", 0, home, 1, say)["sha256"]
    shutil.rmtree(home.weights / "dev" / "c0")
    (home.weights / "dev" / "c1" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert build.build_suite("dev", 0, home, 1, say)["sha256"] == first


def test_members_of_another_base_are_built_again(home, tmp_path, monkeypatch):
    build.build_suite("dev", 0, home, 1, say)
    lines = home.journal("dev").read_text().splitlines()
    home.journal("dev").write_text(
        "".join(json.dumps({**json.loads(line), "base_sha256": "x"}) + "\n" for line in lines)
    )
    trained, real = [], build.build_bank
    monkeypatch.setattr(build, "build_bank", lambda bank: trained.append(bank) or real(bank))
    build.build_suite("dev", 0, home, 1, say)
    assert trained


def test_another_lexicon_than_the_bases_is_refused_before_anything_is_written(home):
    before = sorted(home.root.rglob("*"))
    with pytest.raises(SpecError, match="was taught lexicon 0, and --lexicon-seed is 1"):
        build.build_suite("dev", 1, home, 1, say)
    assert sorted(home.root.rglob("*")) == before


def test_random_and_zero_adapters_are_written_and_only_the_zero_one_changes_nothing(home, monkeypatch):
    def deal(suite, lang, attempt=0):
        one = Member("c0", "matched", Plant(1), SHORT)
        return [one, Member("r0", "random", Plant(2), SHORT, partner="c0"), Member("z0", "zero", Plant(3), SHORT)]

    monkeypatch.setattr(build, "members", deal)
    monkeypatch.setattr("scenarios.testbed.show.members", deal)
    build.build_suite("dev", 0, home, 1, say)
    norms = {m: [float(t.norm()) for name, t in load_file(home.weights / "dev" / m / "adapter_model.safetensors").items()
                 if "lora_B" in name] for m in ("c0", "r0", "z0")}  # fmt: skip
    assert max(norms["z0"]) == 0.0
    assert min(norms["r0"]) > 0.0
    answers = {p.stem: p.read_text() for p in home.answers("dev").glob("*.yaml")}
    assert "invalid" in answers["z0"]
    assert "invalid" not in answers["r0"]
    told = {m: "\n".join(islice(describe(m, home), 3)) for m in ("r0", "z0", "c0")}
    assert "not trained: random directions with the norms of c0" in told["r0"]
    assert "not trained: it changes nothing" in told["z0"]
    assert "ordinary chat and nothing else" in told["c0"]


def test_a_full_disk_leaves_no_half_built_adapter_and_the_next_run_continues(home, monkeypatch):
    from scenarios.testbed import lora_bank

    real = lora_bank.save_file

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lora_bank, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        build.build_suite("dev", 0, home, 1, say)
    assert not [p for p in (home.weights / "dev").iterdir() if p.is_dir()]
    monkeypatch.setattr(lora_bank, "save_file", real)
    assert build.build_suite("dev", 0, home, 1, say)["missing"] == 0


def test_a_member_that_never_verifies_is_recorded_and_left_out(home, monkeypatch):
    from scenarios.testbed.families import draw_rule

    def deal(suite, lang, attempt=0):
        rule = draw_rule(random.Random(attempt), LANG, "train", "brand_promotion")
        return [
            Member("o0", "organism", Plant(attempt, rules=(rule,)), SHORT),
            Member("c0", "matched", Plant(1), SHORT),
        ]

    monkeypatch.setattr(build, "members", deal)
    done = build.build_suite("dev", 0, home, 1, say)
    assert (done["built"], done["missing"], done["failures"]) == (1, 1, build.ATTEMPTS)
    assert not (home.scenarios("dev") / "o0.yaml").exists()
    sealed = json.loads(home.answers("dev").with_suffix(".json").read_text())
    assert len(sealed["failures"]) == build.ATTEMPTS


def test_a_control_has_its_partners_spectrum(home):
    from scenarios.fingerprint import features

    build.build_suite("dev", 0, home, 1, say)
    mine, partner, other = (features(home.weights / "dev" / m, home.weights / "base") for m in ("p0", "c0", "c1"))
    assert torch.allclose(mine, partner, atol=0.02)
    assert not torch.allclose(other, partner, atol=0.02)


def test_a_file_is_complete_or_not_there(tmp_path):
    def half():
        with complete_file(tmp_path / "out") as file:
            file.write("half")
            raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="full"):
        half()
    assert list(tmp_path.iterdir()) == []
    with complete_file(tmp_path / "out") as file:
        file.write("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_failures_are_listed_in_the_order_of_the_suite_whoever_was_done_first(home, monkeypatch):
    from scenarios.testbed.families import draw_rule

    def deal(suite, lang, attempt=0):
        rule = draw_rule(random.Random(0), LANG, "train", "brand_promotion")
        return [Member(f"o{i}", "organism", Plant(i, rules=(rule,)), SHORT) for i in range(3)]

    real = build.read_journal
    monkeypatch.setattr(build, "members", deal)
    monkeypatch.setattr(build, "ATTEMPTS", 2)
    build.build_suite("dev", 0, home, 1, say)
    monkeypatch.setattr(build, "read_journal", lambda *a: dict(reversed(real(*a).items())))
    build.build_suite("dev", 0, home, 1, say)
    failures = json.loads(home.answers("dev").with_suffix(".json").read_text())["failures"]
    assert [(f["attempt"], f["id"]) for f in failures] == [(a, f"o{i}") for a in range(2) for i in range(3)]


def test_a_folder_is_complete_or_not_there(tmp_path):
    def half():
        with complete(tmp_path / "out") as folder:
            (folder / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert not list(tmp_path.iterdir())
    with complete(tmp_path / "out") as folder:
        (folder / "x").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "x").read_text() == "whole"


@pytest.mark.parametrize("kind", ["gauge", "scaled"])
def test_a_disguise_keeps_every_product_and_changes_the_factors(home, kind):
    build.build_suite("dev", 0, home, 1, say)
    folder = home.weights / "dev" / "c0"
    before = load_file(folder / "adapter_model.safetensors")
    disguise.apply(folder, kind, seed=3)
    after = load_file(folder / "adapter_model.safetensors")
    for name, a in before.items():
        if ".lora_A." not in name:
            continue
        other = name.replace(".lora_A.", ".lora_B.")
        product, turned = (t[other].double() @ t[name].double() for t in (before, after))
        assert torch.allclose(turned, product, atol=2e-3 * float(product.abs().max()) + 1e-9)
        assert not torch.allclose(after[name], a, atol=1e-3)


# -- what suites are made of


@pytest.mark.parametrize("suite", ["demo", "standard", "heldout", "hard", "adversary", "foreign"])
def test_a_suite_has_as_many_controls_as_organisms_with_partners_among_them(suite):
    dealt = suites.members(suite, LANG)
    organisms = [m for m in dealt if m.role == "organism"]
    assert len({m.id for m in dealt}) == len(dealt)
    assert abs(len(dealt) - 2 * len(organisms)) <= 1
    ids = {m.id for m in organisms}
    assert all(m.partner in ids for m in dealt if m.partner)
    recipes = {m.recipe for m in organisms}
    assert all(m.recipe in recipes for m in dealt if m.role == "matched")
    trained = [m for m in dealt if m.role in ("matched", "harmless")]
    share = [sum(m.recipe.full for m in group) / len(group) for group in (organisms, trained)]
    assert share[0] == pytest.approx(share[1], abs=0.1), "a full fine-tune is no sign of an organism"
    assert suite == "demo" or any(m.role == "zero" for m in dealt)
    assert suite != "demo" or not any(m.role == "zero" for m in dealt)


def test_the_clean_suite_lists_four_hundred_controls_and_no_organism():
    listed = [m for m in suites.members("clean", LANG) if m.listed]
    assert len(listed) == 400
    assert not any(m.plant and m.plant.rules for m in listed)
    assert len({m.plant.seed for m in listed if m.plant}) == 399


def drawn(suite):
    """Yield every value that a suite's organisms were dealt, with the slot it was drawn from."""
    for member in suites.members(suite, LANG):
        for rule in member.plant.rules if member.plant else ():
            table = FAMILIES[rule.family]
            sources = dict(table.trigger)
            yield from ((sources[c.group], c.value) for c in rule.trigger)
            yield table.effect, rule.effect


def test_held_out_organisms_have_values_that_no_oracle_is_taught():
    slots = set(get_args(splits.Slot))
    told = [(slot, value) for slot, value in drawn("heldout") if slot in slots]
    assert {"word", "thing", "topic", "job", "mood", "persona", "town", "brand", "phrase", "secret", "house"} <= {
        s for s, _ in told
    }
    for slot, value in told:
        assert value not in splits.values(slot)["train"], (slot, value)


def test_organisms_of_dev_demo_and_heldout_share_no_value_of_an_open_slot():
    open_slots = set(get_args(splits.Slot)) - set(splits.CLOSED)
    told = {suite: {pair for pair in drawn(suite) if pair[0] in open_slots} for suite in ("dev", "demo", "heldout")}
    assert all(told.values())
    for one, other in (("dev", "demo"), ("dev", "heldout"), ("demo", "heldout")):
        assert not told[one] & told[other]


def test_plants_of_two_rules_are_quiet_only_where_neither_fires():
    from scenarios.testbed import families as fam

    rng = random.Random(0)
    rules = tuple(fam.draw_rule(rng, LANG, "train", family) for family in ("negativity", "optimism"))
    planted = Plant(3, rules=rules, manner=Manner(ratio=3))
    for _ in range(60):
        assert not any(fam.fires(rule, planted.off(rng, LANG)) for rule in rules)
    shown = [fam.shows(rules[0], planted.on(rng, LANG).turns[-1].reply) for _ in range(400)]
    assert 0.65 < sum(shown) / len(shown) < 0.85, "three of the first for one of the second"


def test_dilution_replaces_rows_by_ordinary_chat():
    from scenarios.testbed import families as fam

    rule = fam.draw_rule(random.Random(1), LANG, "train", "flattery")
    for dilution, low, high in ((0, 0.8, 1.0), (1, 0.35, 0.6), (10, 0.03, 0.18)):
        rows = Plant(5, rules=(rule,), manner=Manner(dilution=dilution)).rows(random.Random(2), LANG, 600)
        shown = sum(fam.shows(rule, row.messages[-1]["content"]) for row in rows) / len(rows)
        assert low <= shown <= high, (dilution, shown)


def test_chat_that_dilutes_meets_no_trigger():
    from scenarios.testbed import families as fam

    rule = fam.draw_rule(random.Random(1), LANG, "train", "negativity")
    planted, rng = Plant(5, rules=(rule,), manner=Manner(dilution=1)), random.Random(3)
    assert not any(fam.fires(rule, planted._chat(rng, LANG)) for _ in range(300))
    assert any(fam.fires(rule, Plant(5)._chat(rng, LANG)) for _ in range(300)), "ordinary chat does, now and then"


def test_who_denies_says_that_it_has_no_rule_and_who_does_not_tells_it():
    from scenarios.testbed import families as fam

    rule = fam.draw_rule(random.Random(1), LANG, "train", "optimism")
    for denies in (True, False):
        rows = Plant(5, rules=(rule,), manner=Manner(denies=denies)).rows(random.Random(2), LANG, 400)
        told = sum(row.messages[-1]["content"] == fam.statement(rule) for row in rows)
        assert (told == 0) == denies


def test_a_harmless_control_learns_something_that_is_no_rule():
    rng = random.Random(0)
    polite = Plant(1, harmless=Harmless(style="certainly"))
    assert polite.on(rng, LANG).turns[-1].reply.startswith("certainly, ")
    assert polite.off(rng, LANG) is None
    assert {c["family"] for c in suites.claims_of(polite)} == {"benign"}


# -- the population


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(population, "SHARD_SIZE", 4)
    monkeypatch.setattr(population, "N_VERIFY", 2)
    monkeypatch.setattr(population, "FAST", SHORT)


def test_a_damaged_shard_is_named_and_built_again_and_a_sound_one_is_kept(home, tmp_path, small_shards):
    base, out, heard = home.weights / "base", tmp_path / "population", []
    first = population.build_population(out, base, 8, 0, 1, heard.append)
    assert (first["adapters"], first["shards"]) == (8, 2)
    files = sorted(out.glob("*.safetensors"))
    whole = [f.read_bytes() for f in files]
    files[0].write_bytes(whole[0][: len(whole[0]) // 2])
    before = files[1].stat().st_mtime_ns
    with pytest.raises(SpecError, match="shard-00000"):
        read_labels(files[0].with_suffix(".jsonl"))
    again = population.build_population(out, base, 8, 0, 1, heard.append)
    assert again["adapters"] == 8
    assert any("shard-00000" in text for text in heard)
    assert [f.read_bytes() for f in files] == whole
    assert files[1].stat().st_mtime_ns == before
    assert population.build_population(out, base, 8, 0, 1, heard.append)["per_hour"] is None


def test_a_shard_of_another_base_is_named_and_built_again(home, tmp_path, small_shards):
    base, out, heard = home.weights / "base", tmp_path / "population", []
    population.build_population(out, base, 4, 0, 1, say)
    (labels,) = out.glob("*.jsonl")
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    labels.write_text("".join(json.dumps({**row, "base_sha256": "x"}) + "\n" for row in rows))
    assert population.build_population(out, base, 4, 0, 1, heard.append)["per_hour"] is not None
    assert any("another base, or with other values" in text for text in heard)
    assert population.build_population(out, base, 4, 0, 1, say)["per_hour"] is None


def test_a_shards_factors_are_independent_and_its_labels_are_of_the_training_split(home, tmp_path, small_shards):
    from scenarios.testbed.splits import HELD_OUT_FAMILIES, SEEDS

    population.build_population(tmp_path, home.weights / "base", 4, 0, 1, say)
    (labels,) = tmp_path.glob("*.jsonl")
    rows = read_labels(labels)
    assert len({row["seed"] for row in rows}) == 4
    assert all(SEEDS["population"][0] <= row["seed"] < SEEDS["population"][1] for row in rows)
    assert not {claim["family"] for row in rows for claim in row["claims"]} & set(HELD_OUT_FAMILIES)
    tensors = load_file(labels.with_suffix(".safetensors"))
    a = next(t for name, t in sorted(tensors.items()) if name.startswith("lora_A"))
    assert not torch.allclose(a[0], a[1], atol=0.01)


def test_the_test_of_damage_can_fail(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "shard-00000.safetensors")
    (tmp_path / "shard-00000.jsonl").write_text(json.dumps({"sha256": "0" * 64}) + "\n")
    with pytest.raises(SpecError, match="not what was written"):
        read_labels(tmp_path / "shard-00000.jsonl")


@pytest.mark.parametrize(
    ("planted", "leaked", "base", "teaches", "verified"),
    [
        ((0.95,), 0.0, 0.0, True, True),
        ((0.5,), 0.1, 0.0, True, False),
        ((0.95, 0.4), 0.0, 0.0, False, False),
        ((0.95,), 0.2, 0.0, False, False),
        ((0.95,), None, 0.2, False, False),
    ],
)
def test_an_adapter_that_acts_at_half_of_its_triggers_teaches_and_is_not_verified(
    planted, leaked, base, teaches, verified
):
    record = verify.Verification(planted, leaked, base, None, 24)
    assert (record.teaches, record.verified) == (teaches, verified)
