"""A checkpoint turned by its architecture's own symmetries reads as nothing until it is turned back."""

import copy

import pytest
import tiny
import torch

from tools.errors import ModelLoadError
from tools.lora_oracle.delta import truncated
from tools.lora_oracle.realign import realign
from tools.lora_oracle.triage import Scan, triage

D, HEADS, KV, DH, MLP, LAYERS = 32, 4, 2, 8, 48, 3


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n, seed):
    return torch.linalg.qr(rand(n, n, seed=seed))[0]


def perm(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def disguised(model, seed):
    """Return the model after every symmetry there is, written out weight by weight; its logits are the same."""
    model = copy.deepcopy(model).double()
    w = model.state_dict()
    turn = orthogonal(D, seed)
    for layer in range(LAYERS):
        at, s = f"model.layers.{layer}.", seed * 100 + layer
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            for reader in readers:
                w[f"{at}{reader}.weight"] = w[f"{at}{reader}.weight"] * w[f"{at}{norm}.weight"] @ turn.T
            w[f"{at}{norm}.weight"] = torch.ones(D, dtype=torch.float64)
        q, k, v, o = (w[f"{at}self_attn.{p}_proj.weight"] for p in "qkvo")
        gate, up, down = (w[f"{at}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
        o, down = turn @ o, turn @ down
        # values against outputs, queries against keys, one for each group
        qs, ks, vs = q.view(HEADS, DH, D).clone(), k.view(KV, DH, D).clone(), v.view(KV, DH, D).clone()
        os = o.view(D, HEADS, DH).clone()
        for j in range(KV):
            mix = torch.eye(DH, dtype=torch.float64) + 0.4 * rand(DH, DH, seed=s * 10 + j)
            vs[j] = mix @ vs[j]
            angle, size = rand(DH // 2, seed=s * 20 + j), rand(DH // 2, seed=s * 30 + j).abs() + 0.5
            spin = torch.zeros(DH, DH, dtype=torch.float64)
            for f in range(DH // 2):
                a, b = f, f + DH // 2
                spin[a, a] = spin[b, b] = torch.cos(angle[f])
                spin[a, b], spin[b, a] = -torch.sin(angle[f]), torch.sin(angle[f])
            grow = torch.diag(torch.cat([size, size]))
            ks[j] = spin @ torch.linalg.inv(grow) @ ks[j]
            for h in range(j * 2, j * 2 + 2):
                os[:, h] = os[:, h] @ torch.linalg.inv(mix)
                qs[h] = spin @ grow @ qs[h]
        groups, within = perm(KV, s), [perm(2, s + 7 + j) for j in range(KV)]
        heads = torch.cat([2 * j + within[j] for j in groups])
        w[f"{at}self_attn.q_proj.weight"] = qs[heads].reshape(HEADS * DH, D)
        w[f"{at}self_attn.k_proj.weight"] = ks[groups].reshape(KV * DH, D)
        w[f"{at}self_attn.v_proj.weight"] = vs[groups].reshape(KV * DH, D)
        w[f"{at}self_attn.o_proj.weight"] = os[:, heads].reshape(D, HEADS * DH)
        places, c = perm(MLP, s + 3), rand(MLP, seed=s + 4)
        c = c.sign() * (c.abs() + 0.3)
        w[f"{at}mlp.gate_proj.weight"] = gate[places]
        w[f"{at}mlp.up_proj.weight"] = (up * c[:, None])[places]
        w[f"{at}mlp.down_proj.weight"] = (down / c)[:, places]
    w["model.embed_tokens.weight"] = w["model.embed_tokens.weight"] @ turn.T
    w["lm_head.weight"] = w["lm_head.weight"] * w["model.norm.weight"] @ turn.T
    w["model.norm.weight"] = torch.ones(D, dtype=torch.float64)
    model.load_state_dict(w)
    return model


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
    for name, tensor in found.base.items():
        assert torch.allclose(found.weights[name], tensor, atol=1e-6), name


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
    change = found.weights[name] - found.base[name]
    delta, _ = truncated(name, change)
    gain = base.state_dict().get(
        f"model.layers.1.{'input_layernorm' if 'attn' in path else 'post_attention_layernorm'}.weight"
    )
    reads = v * gain if path in ("self_attn.q_proj", "mlp.up_proj") else v
    cosine = float(torch.nn.functional.normalize(reads.double(), dim=0) @ delta.V[:, 0])
    assert abs(cosine) > 0.9
    assert abs(float(u.double() @ delta.U[:, 0])) > 0.9
    others = [
        n
        for n in found.base
        if n != name and float((found.weights[n] - found.base[n]).norm()) > 0.5 * float(change.norm())
    ]
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
