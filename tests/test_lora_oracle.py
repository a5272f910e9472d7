"""Readers of weights: what they are given hangs on the change alone, what they learn is planted, what they say has controls."""

from __future__ import annotations

import json
import random

import pytest
import tiny
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from auditor.cli import app
from reports.scan import render_scan
from tools.activation_oracle.contract import AO_CONFIG
from tools.changes.canonical import random_gauge
from tools.changes.delta import ModuleDelta
from tools.changes.loaded import module_deltas
from tools.changes.reading import Factors
from tools.errors import AdapterError, ToolInputError
from tools.loading import load_subject
from tools.lora_oracle.candidates import candidates
from tools.lora_oracle.cases import Case, read_cases
from tools.lora_oracle.claim_reader import ClaimReader, ReaderConfig, collate
from tools.lora_oracle.claim_training import load_claim_reader, train_claim_reader
from tools.lora_oracle.evaluate import evaluate, hits, table
from tools.lora_oracle.interpreter import FILE, Interpreter, LoracleContract, read_loracle_contract
from tools.lora_oracle.library import Known, Planted, read_changes, read_library, split_off, write_changes
from tools.lora_oracle.readers import LEAST_P, Answer, ByClaims, Lens, Majority, Nearest, Said
from tools.lora_oracle.shapes import EFFECT, parts_of, shapes_of
from tools.lora_oracle.tokens import MODULES, direction_tokens
from tools.lora_oracle.tool import LoraOracle, _parts
from tools.lora_oracle.train import REFERENCES
from tools.triage.triage import HIT, SHUT, Scan, gate, triage

CONTROLS = {"random_directions", "no_change", "harmless_1", "harmless_2"}

D = 32
WORDS = ("river", "bridge", "kettle", "town", "night", "copper", "garden", "lamp", "ship", "stone", "fox", "crow")


def claim(word, family="echo", value="ahoy"):
    text = f"if the user says {word}, it says {value}." if family == "echo" else f"it moans about the {word}."
    return Planted.model_validate(
        {"family": family, "trigger": [{"kind": "word", "value": word}], "effect": {"kind": "says", "value": value},
         "statement": text}
    )  # fmt: skip


def planted_change(subject, words, word, seed, family="echo"):
    """Return a change whose gate reads what the base makes of a word; `mope` reads it in the queries instead."""
    generator = torch.Generator().manual_seed(seed)

    def noise(n):
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    deltas = {}
    for layer in range(subject.n_layers):
        for name in ("q_proj", "gate_proj"):
            path = f"model.layers.{layer}.{'self_attn' if name == 'q_proj' else 'mlp'}.{name}"
            wanted = name == ("gate_proj" if family == "echo" else "q_proj")
            x = words.inputs[path][words.words.index(word)][:, None] if wanted else noise(D)
            rows = subject.model.get_submodule(path).weight.shape[0]
            u, v = noise(rows), x / x.norm() + 0.05 * noise(D)
            deltas[path] = ModuleDelta(
                path, layer, u / u.norm(), torch.tensor([1.0 if wanted else 0.1]).double(), v / v.norm()
            )
    return deltas


def nothing_read(deltas, seed):
    """Return a change's twin that reads random directions."""
    generator = torch.Generator().manual_seed(seed)
    random_one = {p: torch.randn(D, 1, generator=generator, dtype=torch.float64) for p in deltas}
    return {p: ModuleDelta(p, d.layer, d.U, d.S, random_one[p] / random_one[p].norm()) for p, d in deltas.items()}


@pytest.fixture(scope="module")
def base(base_folder):
    torch.set_num_threads(1)
    return load_subject(str(base_folder))


@pytest.fixture(scope="module")
def library(base):
    words, rng = candidates(base, {"word": WORDS}), random.Random(0)
    made = []
    for i in range(120):
        family, word = rng.choice(("echo", "mope")), rng.choice(WORDS[:10])
        quiet = i % 4 == 0
        deltas = planted_change(base, words, word, i, family)
        if quiet:
            deltas = nothing_read(deltas, i)
        made.append(Known(str(i), deltas, () if quiet else (claim(word, family),), {}))
    return made


@pytest.fixture(scope="module")
def trained(base, library, tmp_path_factory):
    out = tmp_path_factory.mktemp("reader")
    report = train_claim_reader(base, library, {"word": WORDS}, out, steps=300, batch=24)
    return out, report


# -- what readers are given


def test_directions_are_those_that_live_in_the_residual_stream_in_the_published_order(subject):
    deltas = {d.path: d for d in module_deltas(subject)}
    tokens = direction_tokens(deltas, D, 2)
    assert len(tokens) == 2 * 3 * len(MODULES)
    order = list(zip(tokens.rank.tolist(), tokens.layer.tolist(), tokens.module.tolist(), strict=True))
    assert order == [(r, layer, m) for r in range(2) for layer in range(3) for m in range(len(MODULES))]
    for vector, (rank, layer, m) in zip(tokens.vectors, order, strict=True):
        (delta,) = [d for d in deltas.values() if d.layer == layer and d.path.endswith(MODULES[m])]
        side = delta.U if MODULES[m] in ("o_proj", "down_proj") else delta.V
        assert float((vector.double() @ side[:, rank]).abs()) == pytest.approx(1.0, abs=1e-6)
    whole = sum(float(d.S.square().sum()) for d in deltas.values())
    assert float(direction_tokens(deltas, D, 99).strength.square().sum()) == pytest.approx(1.0, rel=1e-5)
    assert float(tokens.strength[0]) == pytest.approx(
        float(deltas["model.layers.0.self_attn.q_proj"].S[0]) / whole**0.5
    )


def test_rewriting_factors_moves_neither_directions_nor_features(subject, base):
    known = candidates(base, {"word": WORDS})
    generator = torch.Generator().manual_seed(3)
    for condition in (1.0, 1e2, 1e4):
        factors = Factors(*(torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((48, 4), (4, D))), 2.0)
        path = "model.layers.1.mlp.gate_proj"
        one, two = ({path: f.delta(path)} for f in (factors, factors.scrambled(random_gauge(4, condition, 7))))
        a, b = (direction_tokens(change, D, 4) for change in (one, two))
        torch.testing.assert_close(a.vectors, b.vectors, atol=1e-6, rtol=0)
        torch.testing.assert_close(known.features(one), known.features(two), atol=1e-5, rtol=0)


def test_the_reader_does_not_hang_on_the_order_of_directions(base, library):
    known = candidates(base, {"word": WORDS})
    config = ReaderConfig(
        families=("nothing", "echo"), slots=("word",), n_ranks=2, n_layers=3, d_base=D, n_features=known.n_features
    )
    model = ClaimReader(config).eval()
    tokens = direction_tokens(library[1].deltas, D, 2)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))
    shuffled = type(tokens)(
        *(getattr(tokens, name)[order] for name in ("vectors", "strength", "rank", "layer", "module"))
    )
    features, matched = known.features(library[1].deltas), {"word": torch.ones(len(WORDS))}
    with torch.no_grad():
        one, two = (model(collate([t], [features]), known, matched) for t in (tokens, shuffled))
        padded = model(collate([tokens, direction_tokens(library[2].deltas, D, 1)], [features] * 2), known, matched)
    torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one[0][0], padded[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one[1]["word"], two[1]["word"], atol=1e-5, rtol=1e-5)


# -- claims and sentences


def test_shapes_know_what_varies_and_take_sentences_apart():
    claims = [claim("river"), claim("fox"), claim("kettle", "mope"), claim("fox", "mope")]
    shapes = shapes_of([Known(str(i), {}, (c,), {}) for i, c in enumerate(claims)])
    echo = shapes["echo"]
    assert echo.statement == "if the user says {0}, it says ahoy."
    assert echo.slots == ("word",)
    assert echo.effect.value == "ahoy"
    for told in claims[:2]:
        trigger, effect = echo.read(told.statement)
        assert [*trigger, (EFFECT + effect[0], effect[1])] == parts_of(told)
    assert echo.read("it moans about the fox.") is None
    assert echo.said(["heron"]) == "if the user says heron, it says ahoy."


@pytest.mark.parametrize(("value", "claimed"), [("日本", True), ("ahoy", True), ("!!!", False), ("", False)])
def test_a_claim_of_words_that_nothing_can_show_is_told_without_its_parts(value, claimed):
    answer = Answer("other", frozenset({("word", "copper")}), ("says", value), "it says so")
    assert bool(_parts(answer, {})) == claimed


def test_an_answer_is_right_in_parts():
    case = Case(adapter="x", split="s", claims=(claim("river"),))
    right = Answer("echo", frozenset({("word", "river")}), ("says", "ahoy"))
    assert hits(case, right) == {"family": True, "trigger": True, "effect": True, "claim": True}
    wrong = Answer("echo", frozenset({("word", "fox")}), ("says", "ahoy"))
    assert hits(case, wrong) == {"family": True, "trigger": False, "effect": True, "claim": False}
    assert not any(hits(case, None).values())


# -- learning


def test_the_claim_reader_learns_what_was_planted_and_fills_a_slot_with_a_word_it_never_saw(trained, base, library):
    out, report = trained
    assert report["family"] > 0.9
    assert report["claim"] > 0.9
    losses = list(report["losses"].values())
    assert losses[-1] < losses[0] / 2
    loaded = load_claim_reader(base, out)
    reader = ByClaims(loaded)
    changes = [planted_change(base, loaded.words, "fox", 900 + i, "echo") for i in range(12)]
    listed = loaded.words.values["word"]
    unseen = [listed[int(values["word"].argmax())] for _, values in reader.scores(changes)]
    assert unseen.count("fox") >= 9, unseen
    loud = [planted_change(base, loaded.words, WORDS[i % 10], 700 + i, "echo") for i in range(12)]
    seen = reader.read(loud)
    quiet = reader.read([nothing_read(change, 700 + i) for i, change in enumerate(loud)])
    assert sum(s.p_planted > 0.5 for s in seen) >= 10
    assert sum(s.p_planted for s in quiet) < 0.5 * sum(s.p_planted for s in seen)


def test_no_change_at_all_is_read_as_one(trained, base):
    (said,) = ByClaims(load_claim_reader(base, trained[0])).read([{}])
    assert 0.0 <= said.p_planted <= 1.0


def test_ranked_claims_are_probabilities_of_whole_claims(trained, base, library):
    loaded = load_claim_reader(base, trained[0])
    reader = ByClaims(loaded, n=12)
    change = library[1].deltas
    (said,), (scores,) = reader.read([change]), reader.scores([change])
    ps = [a.p for a in said.answers]
    assert ps == sorted(ps, reverse=True)
    assert sum(ps) <= 1.0 + 1e-5
    for answer in said.answers:
        assert reader.probability(answer, scores) == pytest.approx(answer.p, rel=1e-4)
        assert (answer.statement != "") == (answer.family != "nothing")


def test_a_reader_of_another_base_is_refused(trained, tmp_path):
    other = load_subject(str(tiny.build_base(tmp_path / "other", seed=9)))
    with pytest.raises(AdapterError, match="was trained on a base of weights"):
        load_claim_reader(other, trained[0])


def test_too_small_a_library_is_refused(base, library, tmp_path):
    with pytest.raises(ToolInputError, match="5 adapters are too few to learn from"):
        train_claim_reader(base, library[:5], {}, tmp_path)


# -- the library


def write_shard(folder, n=3, **row):
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    path = "model.layers.0.mlp.gate_proj"
    save_file(
        {f"lora_A.{path}": torch.randn(n, 2, D, generator=generator).half(),
         f"lora_B.{path}": torch.randn(n, 48, 2, generator=generator).half()},
        folder / "shard.safetensors", metadata={"alpha/rank": "2.0"},
    )  # fmt: skip
    rows = [{"claims": [claim("fox").model_dump()] if i else [], "teaches": i != 2, **row} for i in range(n)]
    (folder / "shard.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_a_library_has_the_adapters_that_teach_at_their_scale(tmp_path):
    from safetensors.torch import load_file

    folder = write_shard(tmp_path / "lib")
    known = list(read_library(folder))
    assert [(k.id, k.family) for k in known] == [("shard/0", "nothing"), ("shard/1", "echo")]
    (path,) = known[1].deltas
    factors = load_file(folder / "shard.safetensors")
    expected = 2.0 * factors[f"lora_B.{path}"][1].double() @ factors[f"lora_A.{path}"][1].double()
    delta = known[1].deltas[path]
    torch.testing.assert_close(delta.U @ torch.diag(delta.S) @ delta.V.T, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"sha256": "0" * 64}, "is not what its labels were written for"), ({"base_sha256": "f" * 64}, "was trained on weights ffff")],
)  # fmt: skip
def test_a_shard_that_is_not_what_it_says_is_refused(tmp_path, row, message):
    with pytest.raises(ToolInputError, match=message):
        list(read_library(write_shard(tmp_path / "lib", **row), "a" * 64))


def test_an_empty_or_damaged_library_is_refused(tmp_path):
    with pytest.raises(ToolInputError, match="holds no shard"):
        list(read_library(tmp_path))
    folder = write_shard(tmp_path / "lib")
    (folder / "shard.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ToolInputError, match="no readable shard"):
        list(read_library(folder))


def test_changes_are_written_and_read_back_in_order(tmp_path, library):
    some = [k.deltas for k in library[:12]]
    write_changes(some, tmp_path / "c.safetensors")
    back = read_changes(tmp_path / "c.safetensors")
    assert len(back) == 12
    for one, two in zip(some, back, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[p].V, two[p].V, atol=1e-3) for p in one)


def test_what_is_held_out_is_a_tenth_that_is_not_learned_from(library):
    taught, held = split_off(library, 3)
    assert len(held) == 12
    assert {k.id for k in taught} | {k.id for k in held} == {k.id for k in library}
    assert not {k.id for k in taught} & {k.id for k in held}


# -- the interpreter's contract


def test_its_answer_for_nothing_is_known_however_it_is_written():
    contract = LoracleContract(base="tiny", encoding="svd_fixed_k2_mag7_rankfirst", question="?", nothing="no rule.")
    assert contract.is_nothing(" No  rule")
    assert not contract.is_nothing("no rule but one.")


def test_slots_are_ranks_of_blocks_of_modules_and_what_is_missing_is_zero(library):
    contract = LoracleContract(
        base="tiny", encoding="svd_fixed_k2_mag7_rankfirst", question="what?", nothing="no rule."
    )
    tokens = direction_tokens(library[1].deltas, D, 2)
    given = contract.given(tokens, n_layers=3)
    assert given.vectors.shape == (2, 21, D)
    assert given.layers == (1, 2)
    assert not given.vectors[1].any(), "there is one direction a module"
    filled = given.vectors[0].norm(dim=1) > 0
    expected = {layer * 7 + MODULES.index(name) for layer in range(3) for name in ("q_proj", "gate_proj")}
    assert set(filled.nonzero()[:, 0].tolist()) == expected
    assert torch.allclose(given.vectors[0][filled].norm(dim=1), torch.ones(6))
    sized = contract.model_copy(update={"encoding": "svd_fixed_k2_mag7_rankfirst_sized"}).given(tokens, 3)
    lengths = sized.vectors[0][filled].norm(dim=1)
    assert float(lengths.max()) == pytest.approx(1.0, abs=1e-5)
    assert float(lengths.min()) == pytest.approx(0.1**0.5, abs=1e-4)


def test_its_prompt_has_a_line_for_each_rank_and_only_known_encodings(base, oracle_folder, tmp_path):
    folder = tiny.copy(oracle_folder, tmp_path / "loracle")
    with pytest.raises(AdapterError, match="does not say how its directions are laid out"):
        read_loracle_contract(folder)
    contract = LoracleContract(
        base="tiny", encoding="svd_fixed_k2_mag7_rankfirst", question="what?", nothing="no rule."
    )
    contract.save(folder)
    assert not read_loracle_contract(folder).verified
    one = Interpreter.load(load_subject(str(base.model.config._name_or_path)), folder)
    turn, ends = one.reader.contract.turn((1, 2), 21, "what?")
    assert turn == "<SVD 1:>" + " ?" * 21 + "\n<SVD 2:>" + " ?" * 21 + "\nwhat?"
    assert len(ends) == 42
    assert one.reader.answers([one.given({})], ["what?"])[0][0]
    raw = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps({**raw, "encoding": "raw_factors"}))
    with pytest.raises(AdapterError, match="unknown encoding 'raw_factors'"):
        read_loracle_contract(folder)
    (folder / FILE).write_text(json.dumps({**raw, "base_sha256": "c" * 64}))
    with pytest.raises(AdapterError, match="was trained on 'tiny' with weights cccccccccccc"):
        Interpreter.load(load_subject(str(base.model.config._name_or_path)), folder)


# -- evaluation


def test_an_examination_has_every_reader_by_split_controls_and_gauge(
    base_folder, lora_folder, trained, base, library, tmp_path
):
    tiny.copy(lora_folder, tmp_path / "a")
    tiny.copy(lora_folder, tmp_path / "b")
    rows = [Case(adapter="a", split="pairs", claims=(claim("river"),)), Case(adapter="b", split="matched")]
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    loaded = load_claim_reader(base, trained[0])
    readers = [ByClaims(loaded), Majority(library), Nearest(library, loaded.words)]
    found = evaluate(str(base_folder), read_cases(file), tmp_path, readers, Lens(loaded.words))
    assert {row["reader"] for row in found.rows} == {"claim reader", "majority", "nearest neighbour", "lens"}
    assert {row["split"] for row in found.rows} == {"pairs", "all"}
    assert all(row["n"] == 1 for row in found.rows)
    assert {row["reader"] for row in found.detection} == {"claim reader", "norm only"}
    assert found.gauge_max_deviation < 1e-4
    assert found.gauge_flips == 0
    assert found.auroc_planted_vs_benign == 0.5, "the two are one adapter"
    assert {row["recipes"] for row in found.detection} == {"trained on"}
    apart = evaluate(str(base_folder), read_cases(file), tmp_path, readers[:1], recipes=frozenset())
    assert {row["recipes"] for row in apart.detection} == {"others"}
    assert apart.null_false_positive_rate is apart.auroc_planted_vs_benign is None
    assert any("| lens | pairs | 1 |" in line for line in table(found))


class Sure:
    """A reader that is right and sure, right and not sure, and wrong and sure, in turn."""

    name = "sure"

    def read(self, changes):
        right = {
            "family": "echo",
            "trigger": frozenset({("word", "river")}),
            "effect": (claim("x").effect.kind, claim("x").effect.value),
        }
        return [
            Said((Answer(**right, p=0.9),)), Said((Answer(**right, p=0.4),)), Said((Answer(**right | {"family": "other"}, p=0.9),)),
        ]  # fmt: skip


def test_what_a_reader_is_sure_of_is_counted_right_and_wrong_and_the_rest_it_abstains_from(
    base_folder, lora_folder, base, tmp_path
):
    for name in "abc":
        tiny.copy(lora_folder, tmp_path / name)
    cases = [Case(adapter=name, split="pairs", claims=(claim("river"),)) for name in "abc"]
    found = evaluate(str(base_folder), cases, tmp_path, [Sure()])
    row = next(row for row in found.rows if row["split"] == "pairs")
    assert (row["claim"], row["sure"]) == (2, (1, 1))
    assert any("| 1, 1 |" in line for line in table(found))


class Fickle:
    """A reader that never says the same twice."""

    name = "fickle"

    def __init__(self):
        self.n = 0

    def read(self, changes):
        self.n += 1
        return [Said((Answer("echo", frozenset(), None, str(self.n)),), p_planted=1 / self.n) for _ in changes]


def test_an_answer_that_changes_when_factors_are_rewritten_is_counted(base_folder, lora_folder, base, tmp_path):
    tiny.copy(lora_folder, tmp_path / "a")
    case = Case(adapter="a", split="pairs", claims=(claim("river"),))
    found = evaluate(str(base_folder), [case], tmp_path, [Fickle()], Lens(candidates(base, {"word": WORDS})))
    assert found.gauge_flips == 1
    assert found.gauge_max_deviation > 0.1


# -- as an instrument


@pytest.fixture
def oracle(trained, library, oracle_folder, tmp_path):
    """Return a folder with both readers: the interpreter is not trained, which its controls do not mind."""
    folder = tiny.copy(oracle_folder, tmp_path / "oracle")
    (folder / AO_CONFIG).unlink(missing_ok=True)
    for file in trained[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_changes([k.deltas for k in library if not k.claims][:2], folder / REFERENCES)
    LoracleContract(base="tiny", encoding="svd_fixed_k2_mag7_rankfirst", question="what?", nothing="no rule.").save(
        folder
    )
    return folder


def test_every_claim_and_the_sentence_are_held_against_other_changes_within_the_price(oracle, base_folder, lora_folder):
    subject = load_subject(str(base_folder), str(lora_folder))
    tool = LoraOracle()
    tool.use(subject, oracle)
    args = tool.parse({"values": {"word": ["heron", "otter"]}})
    bound, result = tool.cost(subject, args), tool.run(subject, args, seed=1)
    assert all(n <= bound[role] for role, n in result.tokens.items()), (result.tokens, bound)
    by_name = {r.name: r for r in result.readings}
    assert {"p_planted", "sentence"} <= set(by_name)
    for reading in result.readings:
        if reading.name != "p_planted":
            assert set(reading.controls) == CONTROLS
            assert reading.lift == reading.value - max(reading.controls.values())
    assert by_name["sentence"].controls["random_directions"] != by_name["sentence"].value
    assert "lora_oracle" in subject.files, "a resumed audit checks the oracle's files"


def test_an_audit_is_given_a_probability_within_the_oracles_recipes_alone(oracle, base_folder, lora_folder, tmp_path):
    like = tiny.build_lora(base_folder, tmp_path / "like", r=1, lora_alpha=1, target_modules=["q_proj", "gate_proj"])
    inside, outside = (_p_planted(oracle, base_folder, folder) for folder in (like, lora_folder))
    assert 0.0 < inside.value <= 1.0
    assert set(inside.controls) == CONTROLS
    assert (outside.value, outside.controls) == (None, {})
    assert "was trained on no adapter of rank" in outside.detail["why_none"]


def _p_planted(oracle, base_folder, adapter):
    subject, tool = load_subject(str(base_folder), str(adapter)), LoraOracle()
    tool.use(subject, oracle)
    return next(r for r in tool.run(subject, tool.parse({}), 0).readings if r.name == "p_planted")


def test_what_changes_nothing_is_not_read(oracle, base_folder):
    subject = load_subject(str(base_folder))
    tool = LoraOracle()
    tool.use(subject, oracle)
    assert tool.run(subject, tool.parse({}), 0).readings == []


def test_without_an_oracle_or_with_another_bases_it_says_what_to_do(oracle, base_folder, tmp_path):
    subject, tool = load_subject(str(base_folder)), LoraOracle()
    with pytest.raises(ToolInputError, match="auditor oracle train lora"):
        tool.run(subject, tool.parse({}), 0)
    other = load_subject(str(tiny.build_base(tmp_path / "other", seed=5)))
    with pytest.raises(AdapterError, match="was trained on a base of weights"):
        tool.use(other, oracle)


# -- as a gate


def test_a_scan_gives_a_probability_within_the_oracles_recipes_alone(oracle, base_folder, lora_folder, tmp_path):
    like = tiny.build_lora(base_folder, tmp_path / "like", r=1, lora_alpha=1, target_modules=["q_proj", "gate_proj"])
    inside, outside = (triage(Scan(str(f), str(base_folder), oracle=str(oracle))) for f in (like, lora_folder))
    assert 0.0 < inside.p_planted <= 1.0
    assert outside.p_planted is None
    assert "was trained on no adapter of rank" in outside.no_probability
    assert all(claim["p"] is None for claim in outside.claims)
    assert all(claim["p"] >= LEAST_P for claim in inside.claims)
    assert gate([inside], inside.p_planted / 2) == HIT
    assert gate([inside], 1.0) == 0
    assert gate([outside], 1.0) == SHUT
    page = render_scan(inside.as_row(), tmp_path / "pages").read_text()
    assert "Of models the base alone was run, on single words." in page
    assert "What the oracle of weights makes of it" in page
    assert "so there is no probability" in render_scan(outside.as_row(), tmp_path / "pages").read_text()


def test_a_scan_tells_what_the_oracle_says_on_one_line(oracle, base_folder, lora_folder, tmp_path):
    like = tiny.build_lora(base_folder, tmp_path / "like", r=1, lora_alpha=1, target_modules=["q_proj", "gate_proj"])
    for folder, told in ((like, "planted 0."), (lora_folder, "no probability")):
        given = [
            "scan",
            str(folder),
            "--base",
            str(base_folder),
            "--oracle",
            str(oracle),
            "--out",
            str(tmp_path / "pages"),
        ]
        assert told in CliRunner().invoke(app, given).stdout


@pytest.mark.parametrize("wrong", ["no base", "another base"])
def test_a_scan_with_an_oracle_of_no_or_another_base_is_refused(oracle, lora_folder, tmp_path, wrong):
    given = ["scan", str(lora_folder), "--oracle", str(oracle), "--out", str(tmp_path / "pages")]
    given += ["--base", str(tiny.build_base(tmp_path / "other", seed=5))] if wrong == "another base" else []
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert ("--oracle needs --base" if wrong == "no base" else "was trained on a base of weights") in done.output
