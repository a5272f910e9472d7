"""What an architecture of the Llama family leaves free: other weights that compute the same.

The residual stream can be rotated once the norms' gains stand in the weights that follow, heads and
neurons can change places, values and outputs of a head can be mixed by any invertible matrix, queries
and keys by a scaled rotation of each RoPE frequency, and a neuron's up row can be scaled against its
down column. `turned` does all of it at random, for trials; `realign` takes it back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tools.errors import ModelLoadError

FAMILY = ("llama", "mistral")
MIXED, LEAST_SCALE = 0.3, 0.3
"""How far the mixing of values is from none, and the smallest scale of a neuron or a RoPE frequency."""
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """How many blocks, heads, heads of keys and values, and how wide a head is."""

    n_layers: int
    n_heads: int
    n_kv: int
    d_head: int

    @classmethod
    def of(cls, model: Any) -> Architecture:
        """Return a loaded model's.

        Raises:
            ModelLoadError: it is of another family, or has biases.
        """
        config = model.config.get_text_config()
        if config.model_type not in FAMILY or any(name.endswith(".bias") for name in model.state_dict()):
            raise ModelLoadError(
                f"a {config.model_type} checkpoint can't be realigned here: known are {', '.join(FAMILY)} without biases"
            )
        d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, d_head)

    @property
    def group(self) -> int:
        """Return how many heads of queries share keys and values."""
        return self.n_heads // self.n_kv

    def gains(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield every norm's gain with the weights that it multiplies."""
        for layer in range(self.n_layers):
            at = f"model.layers.{layer}."
            yield f"{at}input_layernorm.weight", tuple(f"{at}self_attn.{p}_proj.weight" for p in "qkv")
            yield f"{at}post_attention_layernorm.weight", tuple(f"{at}mlp.{p}_proj.weight" for p in ("gate", "up"))
        yield "model.norm.weight", ("lm_head.weight",)


def state_of(model: Any) -> Weights:
    """Return a model's weights in float64, the unembedding among them where it is tied."""
    state = {name: tensor.detach().double().clone() for name, tensor in model.state_dict().items()}
    if "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    return state


def with_weights(model: Any, state: Weights) -> Any:
    """Return a copy of a model with other weights, float64, on the CPU, its unembedding untied."""
    other = copy.deepcopy(model).double().cpu()
    other.config.tie_word_embeddings = False
    n_tokens, width = state["lm_head.weight"].shape
    other.lm_head = torch.nn.Linear(width, n_tokens, bias=False, dtype=torch.float64)
    other.load_state_dict(state)
    return other


def folded(state: Weights, shape: Architecture) -> Weights:
    """Return the same model with every norm's gain multiplied into the weights that read it."""
    out = dict(state)
    for norm, readers in shape.gains():
        for reader in readers:
            out[reader] = out[reader] * out[norm]
        out[norm] = torch.ones_like(out[norm])
    return out


def unfolded(changes: Weights, base: Weights, shape: Architecture) -> Weights:
    """Return changes of folded weights as changes of the base's own; where a gain is zero nothing is read."""
    out = dict(changes)
    for norm, readers in shape.gains():
        gain = base[norm]
        for reader in readers:
            out[reader] = torch.where(gain == 0, 0.0, out[reader] / gain)
    return out


def with_stream(state: Weights, turn: Tensor) -> Weights:
    """Return folded weights with the residual stream `x` turned into `x @ turn`."""
    out = dict(state)
    for name in out:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            out[name] = turn.T @ out[name]
        elif out[name].ndim == 2:
            out[name] = out[name] @ turn
    return out


def turned(state: Weights, shape: Architecture, seed: int) -> Weights:
    """Return weights that compute the same, every symmetry drawn from the seed; the unembedding is no longer tied."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    width = state["model.embed_tokens.weight"].shape[1]
    out = with_stream(folded(state, shape), torch.linalg.qr(normal(width, width))[0])
    n_kv, group, d = shape.n_kv, shape.group, shape.d_head
    for layer in range(shape.n_layers):
        at = f"model.layers.{layer}."
        q, k, v, o = (f"{at}self_attn.{p}_proj.weight" for p in "qkvo")
        gate, up, down = (f"{at}mlp.{p}_proj.weight" for p in ("gate", "up", "down"))
        queries, keys, values = (out[name].view(n_kv, -1, d, width).clone() for name in (q, k, v))
        outputs = out[o].T.view(n_kv, group, d, width).clone()
        for j in range(n_kv):
            mix = torch.eye(d, dtype=torch.float64) + MIXED * normal(d, d) / d**0.5
            values[j], outputs[j] = mix @ values[j], torch.linalg.inv(mix).T @ outputs[j]
            spin, size = _spun(normal(d // 2)), (LEAST_SCALE + normal(d // 2).abs()).repeat(2)
            queries[j], keys[j] = spin @ (size[:, None] * queries[j]), spin @ (keys[j] / size[:, None])
            within = torch.randperm(group, generator=generator)
            queries[j], outputs[j] = queries[j][within], outputs[j][within]
        order = torch.randperm(n_kv, generator=generator)
        out |= {name: part[order].reshape(-1, width) for name, part in ((q, queries), (k, keys), (v, values))}
        out[o] = outputs[order].reshape(-1, width).T
        places = torch.randperm(out[gate].shape[0], generator=generator)
        scale = normal(len(places))
        scale = scale.sign() * (LEAST_SCALE + scale.abs())
        out[gate], out[up] = out[gate][places], (out[up] * scale[:, None])[places]
        out[down] = (out[down] / scale)[:, places]
    return {name: tensor.cpu().contiguous() for name, tensor in out.items()}


def _spun(angle: Tensor) -> Tensor:
    """Return the rotation of each pair of rows `(i, i + d/2)`, which is how RoPE pairs them."""
    cos, sin = torch.diag(angle.cos()), torch.diag(angle.sin())
    return torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])
