"""Adapters looked at without running them: planted directions are named, twins without them are not, a gate fails closed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from auditor.cli import app
from reports.scan import page_name
from tools.changes.change import read_change
from tools.changes.delta import ModuleDelta, scrambled
from tools.changes.parameters import Parameters
from tools.changes.reading import WeightDelta
from tools.errors import ModelLoadError
from tools.loading import load_subject
from tools.lora_lens import tables
from tools.lora_lens.tables import Table
from tools.triage import directions
from tools.triage.directions import (
    Standing,
    canonical_all,
    dictionary,
    leading,
    pairs,
    sampled,
    scored,
    tokens_standing_out,
    words_standing_out,
)
from tools.triage.triage import HIT, SHUT, Scan, Triage, folders, gate, references, triage

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import sizes  # noqa: E402

WORDS = ("river", "bridge", "kettle", "copper", "weather", "night", "town", "fox", "stands", "tell", "what", "old")
UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def words(base_folder):
    return dictionary(Parameters(base_folder), AutoTokenizer.from_pretrained(base_folder), WORDS)


def rank_one(path, u, v, s=2.0):
    unit = torch.nn.functional.normalize
    return ModuleDelta(
        path, 1, unit(u, dim=0)[:, None], torch.tensor([s], dtype=torch.float64), unit(v, dim=0)[:, None]
    )


def noise(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen_by(words, path, word):
    """Return a word as a module gets it: behind the gain of its norm."""
    return words.inputs[words.words.index(word)] * words.gain(path)


def planted(words, word, token):
    """Return a change whose neurons carry a word that is read to a token that is written."""
    neurons = noise(48, 1)
    x = seen_by(words, UP, word)
    y = words.outputs[words.tokens.index(token)].double()
    return {UP: rank_one(UP, neurons, x), DOWN: rank_one(DOWN, y, neurons)}


def some_token(words, i=0):
    return [t for t in words.tokens if t.strip().isalpha() and len(t) > 1][i]


@pytest.mark.parametrize("word", ["kettle", "weather", "fox"])
def test_a_planted_word_and_token_are_named_first_and_paired_and_not_in_the_untouched_twin(words, word):
    token = some_token(words, 3)
    deltas = planted(words, word, token)
    read, written = words_standing_out(list(deltas.values()), words), tokens_standing_out(list(deltas.values()), words)
    assert read.top[0][0] == word
    assert written.top[0][0] == token.strip()
    assert written.lift > 0
    (pair,) = pairs(deltas, words)
    assert word in pair.reads[:2]
    assert token.strip() in pair.writes[:2]
    directions = {d.path: d for d in leading(deltas, words)}
    assert directions[UP].reads[0] in (word, *pair.reads[:2])
    assert directions[UP].writes == directions[DOWN].reads == ()
    firsts, lifts = [], []
    for seed in range(12):
        twin = [
            rank_one(UP, noise(48, seed), noise(32, 100 + seed)),
            rank_one(DOWN, noise(32, 200 + seed), noise(48, seed)),
        ]
        firsts.append(words_standing_out(twin, words).top[0][0])
        lifts.append(tokens_standing_out(twin, words).lift)
    assert firsts.count(word) <= 4, "one word in twelve is first by chance"
    assert max(lifts) < written.lift


def test_modules_that_share_no_neurons_are_weakly_paired(words):
    deltas = planted(words, "river", some_token(words))
    apart = {**deltas, DOWN: rank_one(DOWN, deltas[DOWN].U[:, 0], noise(48, 5))}
    assert pairs(apart, words)[0].strength < 0.6 * pairs(deltas, words)[0].strength


def test_nothing_is_named_where_nothing_changed(words):
    assert words_standing_out([], words).top == ()
    assert words_standing_out([], words).lift == 0
    silent = ModuleDelta(UP, 1, torch.zeros(48, 1).double(), torch.zeros(1).double(), torch.zeros(32, 1).double())
    assert canonical_all({UP: silent}) == {}


def test_words_of_several_tokens_are_read_as_one(words, base_folder):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    longest = max(WORDS, key=lambda w: len(tokenizer.encode(f" {w}", add_special_tokens=False)))
    assert len(tokenizer.encode(f" {longest}", add_special_tokens=False)) > 1
    deltas = planted(words, longest, some_token(words))
    assert words_standing_out(list(deltas.values()), words).top[0][0] == longest


@pytest.mark.parametrize("kind", ["llama_tied", "qwen3", "gemma2", "gemma3"])
def test_words_are_seen_as_the_first_block_gets_them_and_the_mlp_behind_its_own_norm(tmp_path, kind):
    folder = tiny.build_other(tmp_path, kind)
    subject = load_subject(str(folder))
    for name, weight in subject.model.named_parameters():
        if name.endswith("layernorm.weight"):
            weight.data += torch.linspace(-0.4, 0.4, len(weight))
    subject.model.save_pretrained(folder)
    words = dictionary(Parameters(folder), subject.tokenizer)
    ids = torch.tensor([subject.tokenizer.encode(f" {words.words[0]}", add_special_tokens=False)])
    assert ids.shape == (1, 1)
    seen = {}
    block = subject.model.model.layers[0]
    block.self_attn.q_proj.register_forward_pre_hook(lambda _, given: seen.update(q=given[0][0]))
    with torch.no_grad():
        subject.model(input_ids=ids)
    path = "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close((words.inputs[0] * words.gain(path)).float(), seen["q"][0], atol=1e-3, rtol=1e-3)
    norm = block.pre_feedforward_layernorm if kind.startswith("gemma") else block.post_attention_layernorm
    unit = words.inputs.rows(0, len(words.inputs))
    seen = (unit * words.gain("model.layers.0.mlp.up_proj")).float()
    with torch.no_grad():
        torch.testing.assert_close(seen, norm(unit), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("head", "coupled"), [(2, True), (3, True), (0, False)])
def test_values_that_heads_share_are_coupled_with_each_of_those_heads(words, head, coupled):
    """The base has four heads of width 8 on two heads of values: heads 2 and 3 get what the second one writes."""
    value, out = torch.zeros(16), torch.zeros(32)
    value[8:], out[8 * head : 8 * head + 8] = noise(8, 2).float(), noise(8, 2).float()
    v, o = "model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.o_proj"
    x, y = seen_by(words, v, words.words[0]), words.outputs[words.tokens.index(some_token(words))].double()
    (pair,) = pairs({v: rank_one(v, value.double(), x), o: rank_one(o, y, out.double())}, words)
    assert pair.through == "v_proj → o_proj"
    assert pair.strength == pytest.approx(4.0 if coupled else 0.0, abs=1e-6)


# -- against tables held whole in float64


def deviations(norms):
    centred = norms - norms.median()
    return centred / (1.4826 * centred.abs().median())


class Whole:
    """A base's words and tokens as dense float64 tables, and what a change makes of them."""

    def __init__(self, folder):
        tensors = load_file(folder / "model.safetensors")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.embed = tensors["model.embed_tokens.weight"].double()
        unembed = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).double()
        self.outputs = unembed - unembed.mean(0)
        self.tokens = [tokenizer.decode([i]) for i in range(len(unembed))]
        ids = {word: tokenizer.encode(f" {word}", add_special_tokens=False) for word in MANY_WORDS}
        vectors = torch.stack([self.embed[i].mean(0) for i in ids.values()])
        self.words, self.inputs = list(ids), vectors / vectors.square().mean(1, keepdim=True).sqrt()
        self.gains = {n: t.double() for n, t in tensors.items() if "layernorm" in n}

    def seen_by(self, path):
        block = ".".join(path.split(".")[:3])
        norm = "post_attention" if path.endswith(("up_proj", "gate_proj")) else "input"
        return self.inputs * self.gains[f"{block}.{norm}_layernorm.weight"]

    def read(self, deltas):
        made = [self.seen_by(d.path) @ d.V @ d.S.diag() for d in deltas if not d.path.endswith(("o_proj", "down_proj"))]
        return torch.stack([deviations(m.norm(dim=1)) for m in made]).mean(0)

    def written(self, deltas):
        made = [self.outputs @ d.U @ d.S.diag() for d in deltas if d.path.endswith(("o_proj", "down_proj"))]
        return torch.stack([deviations(m.norm(dim=1)) for m in made]).mean(0)


MANY_WORDS = (
    *WORDS,
    "silver",
    "garden",
    "paper",
    "window",
    "orange",
    "candle",
    "mirror",
    "basket",
    "thunder",
    "ты",
    "rain",
)


@pytest.fixture(scope="module", params=["llama", "llama_tied"])
def whole_and_read(request, tmp_path_factory):
    """Return the dense tables, the dictionary of the same base, and a random change of every module."""
    home = tmp_path_factory.mktemp(request.param)
    folder = tiny.build_other(home / "base", request.param)

    def bent(tensors):
        return {n: t + torch.linspace(-0.4, 0.4, len(t)) if "layernorm" in n else t for n, t in tensors.items()}

    tiny.edit_tensors(folder / "model.safetensors", bent)
    change = canonical_all(read_change(tiny.build_lora(folder, home / "lora", r=3), None).modules)
    return Whole(folder), dictionary(Parameters(folder), AutoTokenizer.from_pretrained(folder), MANY_WORDS), change


@pytest.fixture(params=[tables.HELD, 700])
def held(request, monkeypatch):
    """Hold a whole table at once, or a few rows of one and the copies of one module."""
    monkeypatch.setattr(tables, "HELD", request.param)
    return request.param


def test_scores_read_in_chunks_are_those_of_whole_float64_tables(whole_and_read, held):
    whole, words, change = whole_and_read
    deltas = list(change.values())
    nulls = [[scrambled(d, 5 * 7919 + n * 1000 + i) for i, d in enumerate(deltas)] for n in range(3)]
    for standing, names, of in (
        (words_standing_out(deltas, words, 5), whole.words, whole.read),
        (tokens_standing_out(deltas, words, 5), whole.tokens, whole.written),
    ):
        scores = of(deltas)
        wanted = scores.topk(12)
        assert [name for name, _ in standing.top] == [names[i].strip() for i in wanted.indices]
        assert [score for _, score in standing.top] == pytest.approx(wanted.values.tolist(), abs=1e-4)
        assert standing.null == pytest.approx(max(float(of(null).max()) for null in nulls), abs=1e-4)
    read, written = scored(deltas, words)
    assert torch.allclose(read, whole.read(deltas)[[whole.words.index(w) for w in words.words]], atol=1e-4)
    assert torch.allclose(written, whole.written(deltas), atol=1e-4)


def test_directions_and_pairs_are_near_to_what_whole_float64_tables_say(whole_and_read, held):
    whole, words, change = whole_and_read

    def nearest(scores, names):
        return tuple(names[i].strip() for i in scores.abs().topk(6).indices.tolist())

    found = leading(change, words)
    energy = sum(float(d.S.square().sum()) for d in change.values())
    assert len(found) == 8
    for one in found:
        d = change[one.path]
        assert one.share == pytest.approx(float(d.S[one.index]) ** 2 / energy)
        writes = one.path.endswith(("o_proj", "down_proj"))
        assert one.reads == (() if writes else nearest(whole.seen_by(d.path) @ d.V[:, one.index], whole.words))
        assert one.writes == (nearest(whole.outputs @ d.U[:, one.index], whole.tokens) if writes else ())
    coupled = pairs(change, words)
    assert len(coupled) == 8
    assert [p.strength for p in coupled] == sorted((p.strength for p in coupled), reverse=True)
    for one in (p for p in coupled if "up_proj" in p.through):
        up, down = (change[f"model.layers.{one.layer}.mlp.{m}_proj"] for m in ("up", "down"))
        strength = up.S[:, None] * (up.U.T @ down.V).abs() * down.S
        i, j = divmod(int(strength.argmax()), len(down.S))
        assert one.strength == pytest.approx(float(strength.max()))
        assert one.reads == nearest(whole.seen_by(up.path) @ up.V[:, i], whole.words)
        assert one.writes == nearest(whole.outputs @ down.U[:, j], whole.tokens)


def test_no_more_rows_are_read_at_once_than_may_be_held(whole_and_read, monkeypatch):
    _, words, change = whole_and_read
    monkeypatch.setattr(tables, "HELD", 700)
    seen = []

    def counted(table):
        return Table(table.shape, lambda a, b: seen.append((b - a) * table.shape[1]) or table.rows(a, b))

    few = replace(words, inputs=counted(words.inputs), outputs=counted(words.outputs))
    words_standing_out(list(change.values()), few)
    tokens_standing_out(list(change.values()), few)
    leading(change, few)
    assert max(seen) <= 700 < words.outputs.shape[0] * words.outputs.shape[1]


@pytest.mark.parametrize("places", [[0], [3, 4, 5], [0, 1, 70, 200, 299], list(range(300)), []])
def test_rows_of_a_tensor_are_read_without_the_others(base_folder, places):
    name, tensors = "model.embed_tokens.weight", Parameters(base_folder)
    whole = load_file(base_folder / "model.safetensors")[name]
    assert torch.equal(tensors.rows_at(name, torch.tensor(places, dtype=torch.long)), whole[places])
    assert torch.equal(tensors.rows(name, 7, 31), whole[7:31])


def test_rows_that_are_not_finite_are_refused(base_folder, tmp_path):
    name, folder = "model.embed_tokens.weight", tiny.copy(base_folder, tmp_path / "base")

    def spoil(tensors):
        tensors[name][100, 3] = float("inf")
        return tensors

    tiny.edit_tensors(folder / "model.safetensors", spoil)
    tensors = Parameters(folder)
    assert len(tensors.rows(name, 0, 100)) == 100
    for read in (lambda: tensors.rows(name, 90, 110), lambda: tensors.rows_at(name, torch.tensor([1, 100]))):
        with pytest.raises(ModelLoadError, match="NaN or infinite"):
            read()


# -- triage


def test_an_adapter_is_looked_at_with_and_without_a_base(base_folder, lora_folder):
    bare = triage(Scan(str(lora_folder)))
    assert (bare.outcome, bare.words, bare.percentiles) == ("read", None, None)
    assert bare.certificate.holds
    whole = triage(Scan(str(lora_folder), str(base_folder), WORDS, tuple(references(lora_folder))))
    assert len(whole.words.top) == len(WORDS)
    assert whole.n_reference == 1
    assert set(whole.percentiles.values()) == {0.5}, "it is its own reference"
    assert json.loads(json.dumps(whole.as_row()))["outcome"] == "read"


def test_a_change_is_held_against_harmless_ones_of_its_own_recipe_alone(base_folder, lora_folder, tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        modules, r = (["q_proj", "gate_proj"], 2) if name != "c" else (["q_proj"], 4)
        tiny.build_lora(base_folder, tmp_path / name, seed=seed, r=r, lora_alpha=r, target_modules=modules)
    known = tuple(references(tmp_path))
    assert len(known) == 3
    assert [triage(Scan(str(tmp_path / name), reference=known)).n_reference for name in ("a", "c")] == [2, 1]
    alone = triage(Scan(str(lora_folder), reference=known))
    assert (alone.percentiles, alone.times_median, alone.n_reference) == (None, None, 0)
    assert any("none of the 3 harmless adapters has this change's recipe" in one for one in alone.readings)


def test_the_size_of_a_change_is_told_as_a_multiple_of_the_median_harmless_one(base_folder, tmp_path):
    for seed, size in enumerate((0.1, 0.2, 0.4)):
        tiny.build_lora(base_folder, tmp_path / "known" / str(seed), size=size)
    tiny.build_lora(base_folder, tmp_path / "own", size=0.6)
    command = ["scan", str(tmp_path / "own"), "--reference", str(tmp_path / "known")]
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    done = CliRunner().invoke(app, [*command, "--out", str(out), "--jsonl", str(rows)])
    row = json.loads(rows.read_text())
    assert (row["times_median"], row["n_reference"]) == (pytest.approx(3.0, rel=1e-5), 3)
    assert "3.00 times the median size of 3 harmless ones" in done.output
    (page,) = out.glob("*.md")
    assert "times the median norm of 3 harmless adapters of the same recipe" in page.read_text()


def test_rows_do_not_depend_on_how_many_threads_look(base_folder, lora_folder):
    rows = [triage(Scan(str(lora_folder), str(base_folder), WORDS, threads=n)).as_row() for n in (1, 3)]
    assert rows[0] == rows[1]


def test_a_certificate_of_some_words_has_those_that_stand_out_and_is_of_all_where_they_are_few(
    base_folder, monkeypatch
):
    words = dictionary(Parameters(base_folder), AutoTokenizer.from_pretrained(base_folder), WORDS)
    last = words.words[-1], words.tokens[-1].strip()
    read, written = (Standing(((name, 1.0),), 0.0) for name in last)
    assert sampled(words, read, written).words == words.words
    monkeypatch.setattr(directions, "N_RUNS", 2)
    monkeypatch.setattr(directions, "RUN", 1)
    few = sampled(words, read, written)
    assert len(few.words) < len(words.words)
    assert few.words[-1] == words.words[-1]
    assert torch.equal(few.inputs[len(few.words) - 1], words.inputs[len(words.words) - 1])


def test_the_peak_of_a_scan_stays_far_under_the_weights_of_the_base(tmp_path):
    """A base of 0.35 GB in 16 bit: a look holds a matrix of it at a time, and never a table whole."""
    shape = sizes.Shape(3, 2048, 8192, 16, 4, 128, 1024, True)
    base, lora = sizes.write_base(tmp_path / "base", shape), sizes.write_lora(tmp_path / "lora", shape, 4)
    look = (
        "import sys, memory; from tools.triage.triage import Scan, triage; before = memory.begun();"
        "seen = triage(Scan(sys.argv[1], sys.argv[2])); print(seen.outcome, len(seen.words.top), memory.peak() - before)"
    )
    paths = os.pathsep.join(map(str, (BENCHMARKS, BENCHMARKS.parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", look, str(lora), str(base)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    outcome, n_words, more = done.stdout.split()
    weights, matrix = sum(f.stat().st_size for f in base.glob("*.safetensors")), 2 * 2048 * 8192
    assert (outcome, n_words) == ("read", "12")
    assert int(more) < 4 * matrix + 80 * 2**20 < 0.6 * weights


def test_what_cannot_be_opened_is_refused_with_its_reason_and_a_zero_adapter_is_invalid(
    base_folder, lora_folder, tmp_path
):
    broken, zero = (tiny.copy(lora_folder, tmp_path / name) for name in ("broken", "zero"))
    (broken / tiny.ADAPTER).write_bytes(b"no")
    tiny.edit_tensors(zero / tiny.ADAPTER, lambda ts: {k: t * 0 for k, t in ts.items()})
    refused = triage(Scan(str(broken), str(base_folder)))
    assert refused.outcome == "refused"
    assert "not a readable safetensors file" in refused.why
    assert triage(Scan(str(zero), str(base_folder))).outcome == "invalid"


def test_a_full_fine_tune_is_looked_at_with_its_base_and_unsupported_without(base_folder, tmp_path):
    model = tiny.load_bare(base_folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.add_(0.01 * torch.randn(48, 32))
    model.save_pretrained(tmp_path / "tuned")
    seen = triage(Scan(str(tmp_path / "tuned"), str(base_folder), WORDS))
    assert seen.outcome == "read"
    assert seen.drift.layers == {1: 1.0}
    assert triage(Scan(str(tmp_path / "tuned"))).outcome == "unsupported"


@pytest.mark.parametrize(
    ("probabilities", "outcome", "code"),
    [([0.9], "read", HIT), ([0.9, None], "read", HIT), ([0.1, None], "read", SHUT), ([0.1], "partial", SHUT),
     ([0.1], "unsupported", SHUT), ([0.1], "invalid", SHUT), ([0.1], "refused", SHUT), ([0.1, 0.2], "read", 0), ([], "read", SHUT),
     ([float("nan")], "read", SHUT)],
)  # fmt: skip
def test_a_gate_fails_closed(probabilities, outcome, code):
    assert gate([Triage("a", outcome, p_planted=p) for p in probabilities], 0.5) == code


def test_a_folder_is_one_adapter_or_holds_them(lora_folder, base_folder, tmp_path):
    assert folders(lora_folder) == [lora_folder]
    assert folders(base_folder) == [base_folder]
    named = tiny.copy(lora_folder, tmp_path / "named")
    shutil.copytree(lora_folder, named / "other" / "inner")
    assert folders(named) == [named, named / "other" / "inner"]
    shutil.rmtree(named)
    for name in ("b", "a"):
        tiny.copy(lora_folder, tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]


# -- the command


@pytest.fixture
def shelf(lora_folder, tmp_path):
    """Return a folder of three adapters, one of them broken."""
    for name in ("good", "odd <b>", "broken"):
        tiny.copy(lora_folder, tmp_path / "shelf" / name)
    (tmp_path / "shelf" / "broken" / tiny.ADAPTER).write_bytes(b"no")
    tiny.edit_json(
        tmp_path / "shelf" / "odd <b>" / "adapter_config.json", base_model_name_or_path="](x) <script>\n# hi"
    )
    return tmp_path / "shelf"


def test_every_adapter_has_a_row_and_a_page_whatever_the_others_are_and_however_many_processes(
    shelf, base_folder, tmp_path
):
    rows = []
    for jobs in ("1", "2"):
        done = CliRunner().invoke(
            app,
            ["scan", str(shelf), "--base", str(base_folder), "--jobs", jobs, "--jsonl", str(tmp_path / f"{jobs}.jsonl"),
             "--out", str(tmp_path / jobs)],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        rows.append([json.loads(line) for line in (tmp_path / f"{jobs}.jsonl").read_text().splitlines()])
    assert rows[0] == rows[1]
    assert [row["outcome"] for row in rows[0]] == ["refused", "read", "read"]
    for row in rows[0]:
        pages = [(tmp_path / jobs / f"{page_name(row['path'])}.md").read_bytes() for jobs in ("1", "2")]
        assert pages[0] == pages[1]
        text = pages[0].decode()
        assert "<script>" not in text
        assert "](x)" not in text
        assert "\n# hi" not in text
        assert "drift,\nnot malice" in text
        if row["outcome"] == "read":
            svg = tmp_path / "1" / f"{page_name(row['path'])}.svg"
            assert svg.read_bytes().startswith(b"<?xml")
            assert f"]({svg.name})" in text


def test_the_gate_of_the_command_stays_shut_without_a_calibrated_oracle(shelf, tmp_path):
    arguments = ["scan", str(shelf / "good"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--fail-above", "0.5"]).exit_code == SHUT


@pytest.mark.parametrize(
    ("path", "message"), [("missing", "is not a folder"), ("empty", "holds no adapter_config.json")]
)
def test_a_folder_with_nothing_to_look_at_is_the_users_mistake(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["scan", str(tmp_path / path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "break_it",
    [lambda f: (f / "adapter_config.json").write_text("[" * 100_000),
     lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA", "r": ' + "9" * 6000 + "}"),
     lambda f: tiny.edit_tensors(f / tiny.ADAPTER, lambda ts: {k: t[:0] if "lora_A" in k else t[:, :0] for k, t in ts.items()}),
     lambda f: tiny.edit_tensors(f / tiny.ADAPTER, lambda ts: {k.replace("layers.0", "layers.\u00b2"): t for k, t in ts.items()})],
    ids=["deep", "long", "empty", "odd digit"],
)  # fmt: skip
def test_no_strangers_folder_stops_the_look_at_the_others(lora_folder, tmp_path, break_it):
    tiny.copy(lora_folder, tmp_path / "shelf" / "good")
    break_it(tiny.copy(lora_folder, tmp_path / "shelf" / "bad"))
    done = CliRunner().invoke(
        app, ["scan", str(tmp_path / "shelf"), "--out", str(tmp_path / "out"), "--jsonl", str(tmp_path / "rows")]
    )
    assert done.exit_code == 0, done.output
    bad, good = [json.loads(line)["outcome"] for line in (tmp_path / "rows").read_text().splitlines()]
    assert good == "read"
    assert bad in ("refused", "unsupported")


def test_an_unread_change_is_said_to_be_unsupported(lora_folder, tmp_path):
    folder = tiny.copy(lora_folder, tmp_path / "loha")
    tiny.edit_json(folder / "adapter_config.json", peft_type="LOHA")
    done = CliRunner().invoke(app, ["scan", str(folder), "--out", str(tmp_path / "out")])
    (page,) = (tmp_path / "out").glob("*.md")
    assert done.exit_code == 0
    assert page.read_text().startswith("# Unsupported: nothing of this change could be read")
    assert WeightDelta(unsupported={"a": "b"}).status == "unsupported"
