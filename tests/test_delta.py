"""The change of weights in factored form, against dense linear algebra; the lens against changes made by hand."""

import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tools.changes.delta import ModuleDelta, factored_svd, scrambled
from tools.changes.loaded import module_deltas
from tools.changes.put_on import delta_norm, lora_layers
from tools.loading import load_subject
from tools.lora_lens.lens import LensArgs, LoraLens, module_inputs, robust_z

EPS = torch.finfo(torch.float64).eps
WORDS = [
    "river",
    "bridge",
    "copper",
    "kettle",
    "town",
    "night",
    "weather",
    "fox",
    "over",
    "what",
    "stands",
    "tell",
    "old",
    "ran",
    "the",
    "and",
    "silver",
    "garden",
    "paper",
    "window",
    "orange",
    "candle",
    "mirror",
    "basket",
    "thunder",
    "pepper",
    "saddle",
    "ribbon",
    "anchor",
    "velvet",
]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(u, s, v):
    return (u * s) @ v.T


def far(a, b):
    """Return how far two matrices are apart, relative to the first one's norm."""
    return float((a - b).norm() / a.norm())


# -- singular directions


@pytest.mark.parametrize("shape", [(32, 32, 4), (48, 32, 1), (32, 48, 8), (7, 40, 7), (5, 48, 9)], ids=str)
def test_the_factored_svd_is_torchs_own_of_the_dense_product(shape):
    d_out, d_in, rank = shape
    b, a = gaussian(d_out, rank, seed=1), gaussian(rank, d_in, seed=2)
    u, s, v = factored_svd(b, a)
    reference = torch.linalg.svd(b @ a, full_matrices=False)
    n = min(shape)
    assert torch.allclose(s[:n], reference.S[:n], rtol=1e-9, atol=0)
    assert far(b @ a, dense(u, s, v)) < 1e-9
    assert torch.equal(s, s.sort(descending=True).values)
    for q in (u[:, :n], v[:, :n]):
        assert torch.allclose(q.T @ q, torch.eye(n, dtype=torch.float64), atol=1e-12)
    overlap = (reference.U[:, :n] * u[:, :n]).sum(0).abs()
    assert torch.allclose(overlap, torch.ones(n, dtype=torch.float64), atol=1e-8)


def test_half_precision_factors_are_decomposed_in_double():
    b, a = gaussian(32, 4, seed=1).half(), gaussian(4, 32, seed=2).half()
    u, s, v = factored_svd(b, a)
    assert {t.dtype for t in (u, s, v)} == {torch.float64}
    assert far(b.double() @ a.double(), dense(u, s, v)) < 1e-12


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e9])
def test_how_the_change_is_split_into_factors_does_not_matter(condition):
    """Under `(B G⁻¹, G A)` only rounding moves; it grows with the condition of G and no faster."""
    rank = 6
    b, a = gaussian(32, rank, seed=1), gaussian(rank, 48, seed=2)
    left, right = torch.linalg.qr(gaussian(rank, rank, seed=3))[0], torch.linalg.qr(gaussian(rank, rank, seed=4))[0]
    stretch = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), rank, dtype=torch.float64)
    gauge, inverse = (left * stretch) @ right, (right.T / stretch) @ left.T
    other_b, other_a = b @ inverse, gauge @ a
    assert far(b, other_b) > 0.5, "the factors are other ones to begin with"
    one, other = factored_svd(b, a), factored_svd(other_b, other_a)
    tolerance = 100 * EPS * condition
    assert torch.allclose(one[1], other[1], rtol=0, atol=tolerance * float(one[1][0]))
    assert far(dense(*one), dense(*other)) < tolerance


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"r": 4, "lora_alpha": 8}, 8 / 4),
        ({"r": 8, "lora_alpha": 3}, 3 / 8),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 8 / 4**0.5),
    ],
    ids=str,
)
def test_norms_and_singular_values_are_those_of_the_dense_change_at_the_adapters_scale(
    base_folder, tmp_path, config, scaling
):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", **config)
    subject, factors = load_subject(str(base_folder), str(folder)), load_file(folder / tiny.ADAPTER)
    deltas = {delta.path: delta for delta in module_deltas(subject)}
    assert deltas.keys() == layers(subject).keys()
    for path, module in layers(subject).items():
        a, b = (factors[f"base_model.model.{path}.lora_{side}.weight"].double() for side in "AB")
        expected = scaling * b @ a
        assert delta_norm(module, "subject") == pytest.approx(float(expected.norm()), rel=1e-9)
        delta = deltas[path]
        assert far(expected, dense(delta.U, delta.S, delta.V)) < 1e-9
        assert float(delta.S.norm()) == pytest.approx(float(expected.norm()), rel=1e-9)
        assert far(module.get_delta_weight("subject").double(), expected) < 1e-6, "PEFT makes another change of it"


def layers(subject):
    return {path: module for _, path, module in lora_layers(subject.model)}


def test_a_change_knows_its_layer_and_what_it_reads_and_writes(subject):
    deltas = {delta.path: delta for delta in module_deltas(subject)}
    assert len(deltas) == 3 * len(tiny.ALL)
    for path, delta in deltas.items():
        assert delta.layer == int(path.split(".")[2])
        assert delta.reads_residual == path.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
        assert delta.writes_residual == path.endswith(("o_proj", "down_proj"))


def test_an_adapter_that_is_not_there_has_no_change(subject, bare_subject):
    assert module_deltas(subject, "oracle") == []
    assert module_deltas(bare_subject) == []
    assert delta_norm(next(iter(layers(subject).values())), "oracle") == 0.0


def test_scrambled_directions_keep_the_spectrum_and_nothing_else(subject):
    for delta in module_deltas(subject):
        null = scrambled(delta, seed=3)
        assert torch.equal(null.S, delta.S)
        assert (null.path, null.layer) == (delta.path, delta.layer)
        for mine, theirs in ((null.U, delta.U), (null.V, delta.V)):
            rank = mine.shape[1]
            assert torch.allclose(mine.T @ mine, torch.eye(rank, dtype=torch.float64), atol=1e-12)
            assert float((mine.T @ theirs).square().sum()) < 0.6 * rank, "the subspaces are near one another"
        assert far(dense(delta.U, delta.S, delta.V), dense(null.U, null.S, null.V)) > 1.0
        assert torch.equal(scrambled(delta, seed=3).U, null.U)
        assert not torch.allclose(scrambled(delta, seed=4).U, null.U)


# -- the lens


def planted(base_folder, folder, word):
    """Write a rank-one change of every q_proj that reads what the base makes of `word`, less the words' mean."""
    resid = module_inputs(load_subject(str(base_folder)), WORDS)
    tiny.build_lora(base_folder, folder, r=1, lora_alpha=1, target_modules=["q_proj"])

    def plant(tensors):
        for layer in range(3):
            path = f"model.layers.{layer}.self_attn.q_proj"
            x = resid[path]
            direction = (x[WORDS.index(word)] - x.mean(0))[None].float()
            tensors[f"base_model.model.{path}.lora_A.weight"] = direction / direction.norm()
        return tensors

    tiny.edit_tensors(folder / tiny.ADAPTER, plant)
    return folder


def lens(base_folder, folder, seed=0):
    result = LoraLens().run(load_subject(str(base_folder), str(folder)), LensArgs(words=WORDS), seed)
    return {reading.name: reading for reading in result.readings}


@pytest.mark.parametrize("word", ["copper", "thunder", "the"])
def test_a_change_that_reads_one_word_puts_that_word_first(base_folder, tmp_path, word):
    reading = lens(base_folder, planted(base_folder, tmp_path / "lora", word))["words_read"]
    assert reading.detail["top"][0]["word"] == word
    assert reading.value == max(entry["score"] for entry in reading.detail["top"])
    assert reading.suggestion is None or reading.suggestion.condition.text == word


def test_a_change_that_writes_one_token_puts_that_token_first(base_folder, tmp_path):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", r=1, lora_alpha=1, target_modules=["down_proj"])
    token = 277
    w_u = tiny.load_bare(base_folder).lm_head.weight
    written = (w_u[token] - w_u.mean(0))[:, None].detach().clone()
    tiny.edit_tensors(
        folder / tiny.ADAPTER, lambda t: {k: written.clone() if "lora_B" in k else v for k, v in t.items()}
    )
    subject = load_subject(str(base_folder), str(folder))
    assert lens(base_folder, folder)["tokens_written"].detail["top"][0]["token"] == subject.tokenizer.decode(token)


def deviations(norms):
    centred = norms - norms.median()
    return centred / (1.4826 * centred.abs().median())


def test_the_lens_reads_what_whole_float64_tables_say(base_folder, lora_folder):
    subject = load_subject(str(base_folder), str(lora_folder))
    inputs = {path: x.double() for path, x in module_inputs(subject, WORDS).items()}
    w_u = subject.model.get_output_embeddings().weight.double()
    w_u = w_u - w_u.mean(0)
    change = module_deltas(subject)
    nulls = [[scrambled(d, 3 * 7919 + n * 1000 + i) for i, d in enumerate(change)] for n in range(3)]
    read, written = [], []
    for deltas in (change, *nulls):
        reads = [deviations((inputs[d.path] @ d.V @ d.S.diag()).norm(dim=1)) for d in deltas if d.path in inputs]
        writes = [deviations((w_u @ d.U @ d.S.diag()).norm(dim=1)) for d in deltas if d.path not in inputs]
        assert (len(reads), len(writes)) == (15, 6)
        read.append(torch.stack(reads).mean(0))
        written.append(torch.stack(writes).mean(0))
    found = lens(base_folder, lora_folder, seed=3)
    for name, wanted in (("words_read", read), ("tokens_written", written)):
        assert found[name].value == pytest.approx(float(wanted[0].max()), abs=1e-4)
        assert list(found[name].controls.values()) == pytest.approx([float(n.max()) for n in wanted[1:]], abs=1e-4)
    scores = {entry["word"]: entry["score"] for entry in found["words_read"].detail["top"]}
    assert list(scores) == [WORDS[i] for i in read[0].argsort(descending=True)]
    assert [scores[word] for word in WORDS] == pytest.approx(read[0].tolist(), abs=1e-4)


@pytest.mark.parametrize(("token", "told"), [("!!", False), ("", False), (" 7", True), (" río", True), ("я", True)])
def test_what_is_no_word_is_not_suggested_as_said(subject, monkeypatch, token, told):
    monkeypatch.setattr(type(subject), "decode", lambda self, ids: token)
    written = torch.tensor([9.0, 0.0, 1.0])
    reading = LoraLens()._tokens_reading(written, [torch.zeros(3)], subject)
    assert reading.lift == 9.0
    assert (reading.suggestion is not None) == told
    assert not told or reading.suggestion.predicate.any_of == (token.strip(),)


def test_a_change_of_zero_gives_no_reading_above_zero(base_folder, tmp_path):
    zero = tiny.build_lora(base_folder, tmp_path / "zero", size=0.0)
    for reading in lens(base_folder, zero).values():
        assert reading.value == 0.0
        assert (reading.lift or 0.0) == 0.0
        assert reading.suggestion is None


def test_random_changes_suggest_no_more_words_than_their_scrambled_nulls_would(base_folder, tmp_path):
    """A random change and its three nulls are exchangeable: about one in four comes first."""
    lifts = []
    for seed in range(8):
        folder = tiny.build_lora(base_folder, tmp_path / str(seed), seed=100 + seed)
        lifts.append(lens(base_folder, folder, seed)["words_read"].lift)
    assert sum(lift > 0 for lift in lifts) <= 5, lifts


def test_what_the_lens_costs_is_what_it_spends_and_all_of_it_is_the_bases(base_folder, lora_folder):
    subject, args = load_subject(str(base_folder), str(lora_folder)), LensArgs(words=WORDS)
    result = LoraLens().run(subject, args, seed=0)
    assert result.tokens == LoraLens().cost(subject, args)
    assert result.tokens.keys() == {"base"}


def test_two_words_are_too_few_to_say_that_one_stands_out(base_folder, lora_folder):
    subject = load_subject(str(base_folder), str(lora_folder))
    result = LoraLens().run(subject, LensArgs(words=WORDS[:2]), seed=0)
    reading = next(r for r in result.readings if r.name == "words_read")
    assert reading.suggestion is None
    assert reading.value is None or abs(reading.value) < 100, "a deviation in units of no spread"


def test_robust_deviations_do_not_depend_on_place_or_scale():
    values = gaussian(101)
    z = robust_z(values)
    assert torch.allclose(robust_z(3.0 * values + 7.0), z, atol=1e-12)
    assert float(z.median()) == 0.0
    assert float(z.abs().median()) == pytest.approx(1 / 1.4826)
    wild = values.clone()
    wild[5] = 1e6
    calm = torch.arange(101) != 5
    assert torch.allclose(robust_z(wild)[calm], z[calm], atol=0.2), "one outlier moves the others"


def test_module_deltas_are_values_that_cannot_be_changed(subject):
    delta = module_deltas(subject)[0]
    assert isinstance(delta, ModuleDelta)
    with pytest.raises(AttributeError):
        delta.S = torch.zeros(1)


@pytest.mark.parametrize("with_oracle", [False, True])
def test_a_full_fine_tune_is_read_as_its_difference_in_every_block(
    base_folder, lora_folder, oracle_folder, tmp_path, with_oracle
):
    merged = PeftModel.from_pretrained(tiny.load_bare(base_folder), str(lora_folder)).merge_and_unload()
    folder = tiny.copy(base_folder, tmp_path / "tuned")
    merged.save_pretrained(folder)
    subject = load_subject(str(folder), base=str(base_folder))
    if with_oracle:
        subject.add_adapter("oracle", oracle_folder)
    found = {delta.path: delta for delta in module_deltas(subject)}
    expected = {delta.path: delta for delta in module_deltas(load_subject(str(base_folder), str(lora_folder)))}
    assert found.keys() == expected.keys()
    for path, delta in found.items():
        other = expected[path]
        assert far(dense(delta.U, delta.S, delta.V), dense(other.U, other.S, other.V)) < 1e-5
