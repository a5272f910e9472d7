"""A checkpoint turned by its architecture's own symmetries reads as nothing until it is turned back."""

import copy

import pytest
import tiny
import torch

from tools.changes.delta import truncated
from tools.changes.realign import realign
from tools.changes.symmetry import Architecture, folded, state_of, turned, unfolded, with_weights
from tools.errors import ModelLoadError
from tools.triage.triage import Scan, triage

D, MLP = 32, 48


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def disguised(model, seed):
    return with_weights(model, turned(state_of(model), Architecture.of(model), seed))


@pytest.fixture
def base(base_folder):
    model = tiny.load_bare(base_folder)
    with torch.no_grad():  # gains as trained models have them
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


@torch.no_grad()
def logits(model):
    ids = torch.arange(24).view(2, 12)
    return model.double()(input_ids=ids).logits


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_disguise_keeps_the_logits_and_realigning_gives_the_base_back(base, seed):
    turned = disguised(base, seed)
    assert torch.allclose(logits(turned), logits(copy.deepcopy(base)), atol=1e-4)
    found = realign(turned, base)
    assert found.ratio_before > 0.9
    assert found.ratio_after < 1e-6
    assert found.proven
    for name, change in found.changes.items():
        assert float(change.abs().max()) < 1e-6, name


def test_a_change_of_folded_weights_is_told_as_one_of_the_bases_own(base):
    shape, ours = Architecture.of(base), state_of(base)
    theirs = {n: w if "norm" in n else w + 0.1 * rand(*w.shape, seed=len(n)) for n, w in ours.items()}
    apart, plain = folded(theirs, shape), folded(ours, shape)
    changes = unfolded({name: apart[name] - plain[name] for name in ours}, ours, shape)
    for name in ours:
        torch.testing.assert_close(changes[name], theirs[name] - ours[name], atol=1e-12, rtol=1e-9)


def test_neurons_and_heads_change_places_when_a_model_is_turned(base):
    shape, before = Architecture.of(base), state_of(base)
    after, swapped = turned(before, shape, 1), []
    before = folded(before, shape)
    for layer in range(shape.n_layers):
        old, new = (w[f"model.layers.{layer}.mlp.gate_proj.weight"].norm(dim=1) for w in (before, after))
        assert not torch.allclose(old, new)
        torch.testing.assert_close(old.sort().values, new.sort().values)
        old, new = (circuits(w, shape, layer) for w in (before, after))
        torch.testing.assert_close(old.flatten().sort().values, new.flatten().sort().values)
        swapped += [bool(torch.isclose(pair, new.flip(1)).all(1).any()) for pair in old]
    assert any(swapped)


def circuits(weights, shape, layer):
    """Return the norm of each head's `O V`, [group, head of it], which nothing but a change of places moves."""
    v, o = (weights[f"model.layers.{layer}.self_attn.{p}_proj.weight"] for p in "vo")
    heads = o.T.view(shape.n_kv, shape.group, shape.d_head, -1)
    return torch.einsum("gdi,ghdo->ghio", v.view(shape.n_kv, shape.d_head, -1), heads).flatten(2).norm(dim=2)


@pytest.mark.parametrize("path", ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"])
def test_what_was_planted_before_the_disguise_is_found_after_it(base, path):
    tuned = copy.deepcopy(base)
    name = f"model.layers.1.{path}.weight"
    shape = tuned.state_dict()[name].shape
    u, v = (torch.nn.functional.normalize(rand(n, seed=i), dim=0).float() for i, n in enumerate(shape))
    with torch.no_grad():
        tuned.state_dict()[name].add_(0.6 * torch.outer(u, v))
    found = realign(disguised(tuned, 4), base)
    assert found.proven
    assert found.ratio_after < 0.2 < found.ratio_before
    change = found.changes[name]
    delta, _ = truncated(name, change)
    assert abs(float(v.double() @ delta.V[:, 0])) > 0.9
    assert abs(float(u.double() @ delta.U[:, 0])) > 0.9
    others = [n for n, other in found.changes.items() if n != name and float(other.norm()) > 0.5 * float(change.norm())]
    assert others == []


def test_a_model_that_was_not_turned_is_left_as_it_is(base):
    found = realign(copy.deepcopy(base), base)
    assert found.ratio_before < 1e-9
    assert found.ratio_after < 1e-6
    assert found.proven


def test_another_model_is_not_made_into_the_base(base, base_folder, tmp_path):
    other = tiny.load_bare(tiny.build_base(tmp_path / "other", seed=9))
    found = realign(other, base)
    assert found.proven, "whatever is done keeps what the checkpoint computes"
    assert found.ratio_after > 0.5


def test_another_family_is_refused(base, tmp_path):
    other = tiny.load_bare(tiny.build_other(tmp_path / "gemma", "gemma2"))
    with pytest.raises(ModelLoadError, match="gemma2 checkpoint can't be realigned"):
        realign(other, other)


def test_a_turned_checkpoint_is_looked_at_realigned_and_says_so(base, tmp_path):
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.add_(
            0.3 * torch.outer(rand(MLP, seed=1), rand(D, seed=2)).float() / 16
        )
    disguised(tuned, 5).float().save_pretrained(tmp_path / "turned")
    seen = triage(Scan(str(tmp_path / "turned"), str(tmp_path / "base"), ("river", "bridge", "fox")))
    assert "realigned it is 0.0" in " ".join(seen.readings)
    norms = {m.path: m.norm for m in seen.drift.modules}
    assert max(norms, key=norms.get) == "model.layers.1.mlp.up_proj"
    assert seen.outcome == "read"
