"""Linear probes: planted directions are recovered, shuffled labels give nothing, scikit-learn agrees."""

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.base import LabelledPrompt
from tools.claims.conditions.contains import Contains
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.probe.linear import auroc, difference_of_means, logistic, separation
from tools.probe.tool import Probe, ProbeArgs
from tools.residual import capture

D_MODEL = 24


def planted(n=400, distance=3.0, seed=0):
    """Return Gaussian points, labels, and the unit direction along which the positives are moved."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_MODEL, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(D_MODEL, generator=generator), dim=0)
    label = torch.arange(n) % 3 == 0
    return x + distance * label[:, None] * direction, label, direction


def shuffle(label, seed):
    return label[torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))]


# -- against scikit-learn


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("distance", [0.5, 3.0])
def test_logistic_has_scikit_learns_coefficients(penalty, distance):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, label, _ = planted(n=120, distance=distance)
    weights, intercept = logistic(x.double(), label, penalty)
    reference = linear_model.LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(
        x.double().numpy(), label.numpy()
    )
    assert torch.allclose(weights, torch.from_numpy(reference.coef_[0]), atol=1e-4)
    assert intercept == pytest.approx(float(reference.intercept_[0]), abs=1e-4)
    assert float(weights.norm()) > 0.1


def test_logistic_is_where_the_gradient_of_its_objective_vanishes():
    x, label, _ = planted(n=120, distance=1.0)
    weights, intercept = logistic(x.double(), label, penalty=2.0)
    w, b = weights.clone().requires_grad_(True), torch.tensor(intercept, dtype=torch.float64, requires_grad=True)
    y = label.double() * 2 - 1
    (torch.log1p(torch.exp(-y * (x.double() @ w + b))).sum() + 2.0 / 2 * (w * w).sum()).backward()
    assert float(w.grad.abs().max()) < 1e-5
    assert float(b.grad.abs()) < 1e-5


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
        lambda r: len({y for _, y in r}) == 2
    )
)
@settings(deadline=None, max_examples=50)
def test_auroc_is_scikit_learns_ties_included(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, label = torch.tensor([float(s) for s, _ in rows]), torch.tensor([y for _, y in rows])
    assert auroc(scores, label) == pytest.approx(metrics.roc_auc_score(label.numpy(), scores.numpy()), abs=1e-6)
    assert auroc(-scores, label) == pytest.approx(1 - auroc(scores, label), abs=1e-6)


# -- planted, and the untouched twin


def test_difference_of_means_finds_the_planted_direction_and_nothing_in_the_twin():
    x, label, direction = planted(distance=3.0)
    found = difference_of_means(x, label)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(found @ direction) > 0.95
    assert float(difference_of_means(x, ~label) @ direction) < -0.95
    twin, label, direction = planted(distance=0.0)
    assert abs(float(difference_of_means(twin, label) @ direction)) < 0.6


def test_difference_of_means_does_not_move_with_the_origin_or_the_scale():
    x, label, _ = planted()
    found = difference_of_means(x, label)
    assert torch.allclose(difference_of_means(5.0 * x + 7.0, label), found, atol=1e-5)


def held_out(x, label, fitted_label):
    direction = difference_of_means(x[::2], fitted_label[::2])
    return separation(x[1::2] @ direction, label[1::2])


def test_a_planted_direction_separates_held_out_points_and_shuffled_labels_do_not():
    x, label, _ = planted(distance=3.0)
    assert held_out(x, label, label) == pytest.approx(3.0, abs=0.5)
    for seed in range(20):
        other = shuffle(label, seed)
        assert abs(held_out(x, other, other)) < 0.6


def test_without_a_plant_nothing_separates():
    for seed in range(20):
        x, label, _ = planted(distance=0.0, seed=seed)
        assert abs(held_out(x, label, label)) < 0.6


# -- d'


def test_separation_is_the_distance_of_the_means_in_pooled_deviations():
    scores, label = torch.tensor([1.0, 3.0, 5.0, 0.0, 2.0]), torch.tensor([True, True, True, False, False])
    assert separation(scores, label) == pytest.approx((3.0 - 1.0) / ((4.0 + 2.0) / 2) ** 0.5)
    assert separation(scores, ~label) == pytest.approx(-separation(scores, label))
    assert separation(10 * scores + 4, label) == pytest.approx(separation(scores, label))


@pytest.mark.parametrize(("positives", "negatives"), [(1, 5), (5, 1), (0, 5), (1, 1)])
def test_separation_is_undefined_below_two_of_a_class(positives, negatives):
    label = torch.tensor([True] * positives + [False] * negatives)
    with pytest.raises(ValueError, match=rf"undefined \(n={positives} and {negatives}\)"):
        separation(torch.randn(len(label)), label)


# -- the instrument


def prompt(text):
    return LabelledPrompt(messages=[{"role": "user", "content": text}])


def args(word="copper", n=24):
    """Return prompts that end on `word` and prompts that don't, in sentences of every other kind."""
    rng = torch.Generator().manual_seed(0)
    vocabulary = " ".join(tiny.SENTENCES).split()

    def sentence(end):
        picked = torch.randint(len(vocabulary), (4,), generator=rng).tolist()
        return prompt(" ".join([vocabulary[i] for i in picked] + [end]))

    positive = [sentence(word) for _ in range(n)]
    return ProbeArgs(
        concept=Contains(text=word), positive=positive, negative=[sentence("town") for _ in range(n)], layer=2
    )


def planted_in_weights(base_folder, folder, asked):
    """Write an adapter that reads the concept from the last block's MLP and writes it out loud."""
    bare = load_subject(str(base_folder))
    texts = [bare.render(p.messages) for p in (*asked.positive, *asked.negative)]
    down = bare.model.model.layers[2].mlp.down_proj
    seen = []
    handle = down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, -1].clone()))
    capture(bare, bare.encode(texts), "base", 2)
    handle.remove()
    x, label = seen[0].double(), torch.arange(len(texts)) < len(asked.positive)
    assert len(x) < x.shape[1], "the classes can be told apart exactly"
    reads = torch.linalg.lstsq(x, label.double()[:, None]).solution[:, 0]
    tiny.build_lora(base_folder, folder, r=1, lora_alpha=1, target_modules=["down_proj"], layers_to_transform=[2])
    written = torch.zeros(32, 1)
    written[5] = 1000.0

    def plant(tensors):
        return {k: written.clone() if "lora_B" in k else reads.float()[None].clone() for k in tensors}

    tiny.edit_tensors(folder / tiny.ADAPTER, plant)
    return folder


def test_a_concept_that_the_weights_were_made_to_shout_stands_out_over_base_and_shuffled_labels(base_folder, tmp_path):
    asked = args(n=20)
    subject = load_subject(str(base_folder), str(planted_in_weights(base_folder, tmp_path / "lora", asked)))
    reading = Probe().run(subject, asked, seed=0).readings[0]
    assert reading.lift == pytest.approx(reading.value - max(reading.controls.values()))
    assert reading.controls.keys() == {"base", "shuffled_labels"}
    assert reading.suggestion.condition == Contains(text="copper")
    assert reading.detail["auroc_logistic"]["subject"] > 0.95


def test_the_untouched_twin_has_no_lift_over_its_base(bare_subject):
    reading = Probe().run(bare_subject, args(), seed=0).readings[0]
    assert reading.value == reading.controls["base"]
    assert reading.lift <= 0
    assert reading.suggestion is None


def test_a_probe_costs_what_it_spends(subject):
    asked = args()
    result = Probe().run(subject, asked, seed=0)
    assert result.tokens == Probe().cost(subject, asked)
    n = sum(len(subject.tokenizer.encode(subject.render(p.messages))) for p in (*asked.positive, *asked.negative))
    assert result.tokens == {"subject": n, "base": n}


def test_the_fewest_prompts_allowed_are_enough_whatever_the_seed(bare_subject):
    """Seeds of which one half of the shuffled labels has fewer than two of a class are among them."""
    asked = args(n=8)
    for seed in (0, 1, 70, 83, 114):
        assert Probe().run(bare_subject, asked, seed).readings[0].controls["shuffled_labels"] < 100


def test_a_layer_that_is_not_there_is_refused(subject):
    with pytest.raises(ToolInputError, match=r"layer 7 is out of range: the subject has layers 0\.\.2"):
        Probe().run(subject, args().model_copy(update={"layer": 7}), seed=0)


def test_too_few_prompts_and_unknown_arguments_are_refused_by_name():
    rows = [{"messages": [{"role": "user", "content": "a"}]}] * 8
    with pytest.raises(
        ToolInputError, match=r"probe: negative: .*its arguments are concept, positive, negative, layer"
    ):
        Probe().parse({"concept": {"kind": "contains", "text": "a"}, "positive": rows, "negative": rows[:7]})
    with pytest.raises(ToolInputError, match=r"probe: depth: "):
        Probe().parse({"concept": {"kind": "contains", "text": "a"}, "positive": rows, "negative": rows, "depth": 3})
