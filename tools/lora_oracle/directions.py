"""What a change reads and writes, in words, from weights alone: no model is run.

Inputs are the base's own embeddings (of a word of several tokens, their mean) after the norm that
stands before a module; outputs are held against the unembedding. Close to the truth in early blocks
and for words, weak for what a model works out on the way; `LoraLens` reads a loaded subject instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tools.checkpoint import read_json
from tools.errors import ModelLoadError
from tools.lora_oracle.canonical import canonical
from tools.lora_oracle.delta import ModuleDelta, scrambled
from tools.lora_oracle.lens import tokens_written, words_read
from tools.lora_oracle.weights import Tensors

EMBEDDINGS = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "transformer.wte.weight",
              "gpt_neox.embed_in.weight")  # fmt: skip
UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")
AFTER_ATTENTION = ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1")
BEFORE_ATTENTION, BEFORE_MLP = ("input_layernorm",), ("pre_feedforward_layernorm", "post_attention_layernorm")
"""The norm before a module, the first that a block has: Gemma's blocks have one of its own before the MLP."""
COUPLED = (("up_proj", "down_proj"), ("gate_proj", "down_proj"), ("v_proj", "o_proj"))
"""Modules of one block of which the second reads what the first wrote: neurons, or head outputs."""
N_NULLS, N_DIRECTIONS, N_PAIRS, TOP = 3, 8, 8, 6


@dataclass(frozen=True)
class Dictionary:
    """Words and tokens as the base's own tables have them.

    Args:
        words: What may be read.
        inputs: Their normalised embeddings, [word, d_model].
        tokens: The texts of the vocabulary.
        outputs: The centred unembedding, [token, d_model].
        gains: Weights of the norms that stand before modules, by the name of the norm.
        d_head: Width of an attention head; None where the configuration does not say.
    """

    words: tuple[str, ...]
    inputs: Float[Tensor, "word d_model"]
    tokens: tuple[str, ...]
    outputs: Float[Tensor, "token d_model"]
    gains: dict[str, Tensor]
    d_head: int | None

    def seen_by(self, path: str) -> Float[Tensor, "word d_model"]:
        """Return the words as a module gets them: behind the gain of its norm."""
        block, _, module = path.rpartition(".")
        block = block.removesuffix(".self_attn").removesuffix(".mlp").removesuffix(".attn")
        norms = BEFORE_MLP if module in AFTER_ATTENTION else BEFORE_ATTENTION
        gain = next((self.gains[n] for norm in norms if (n := f"{block}.{norm}.weight") in self.gains), None)
        return self.inputs if gain is None or len(gain) != self.inputs.shape[1] else self.inputs * gain


def dictionary(base: Tensors, tokenizer: Any, words: Sequence[str] = ()) -> Dictionary:
    """Return the base's tables for these words; without any, for every token that is a whole word.

    Raises:
        ModelLoadError: the base keeps its embeddings where no known model does.
    """
    name = next((n for n in EMBEDDINGS if n in base), None)
    if name is None:
        raise ModelLoadError(f"{base.folder} keeps its embeddings in no known place: words can't be read there")
    embed = base.read(name).double()
    unembed = base.read(next((n for n in UNEMBEDDINGS if n in base), name)).double()
    tokens = tuple(str(tokenizer.decode([i])) for i in range(min(len(embed), len(tokenizer))))
    chosen = tuple(dict.fromkeys(words)) or tuple(
        sorted({t.strip() for t in tokens if t.startswith(" ") and len(t.strip()) > 2 and t.strip().isalpha()})
    )
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in chosen]
    kept = [(word, i) for word, i in zip(chosen, ids, strict=True) if i]
    vectors = (
        torch.stack([embed[i].mean(0) for _, i in kept]) if kept else torch.zeros(0, embed.shape[1], dtype=embed.dtype)
    )
    scale = vectors.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
    config = read_json(base.folder / "config.json", ModelLoadError)
    kind, shape = str(config.get("model_type", "")), {**config, **(config.get("text_config") or {})}
    heads = shape.get("num_attention_heads")
    d_head = shape.get("head_dim") or (embed.shape[1] // heads if heads else None)
    added = 1.0 if kind.startswith("gemma") else 0.0  # whose norms multiply by one more than their weight
    gains = {
        n: base.read(n).double() + added for n in base if n.endswith("layernorm.weight") and len(base.shape(n)) == 1
    }
    outputs = unembed[: len(tokens)]
    return Dictionary(tuple(w for w, _ in kept), vectors / scale, tokens, outputs - outputs.mean(0), gains, d_head)


@dataclass(frozen=True)
class Standing:
    """What stands out, with its score in robust standard deviations, beside the most that random directions reach."""

    top: tuple[tuple[str, float], ...]
    null: float

    @property
    def lift(self) -> float:
        """Return how far the first is above the strongest of the random ones."""
        return self.top[0][1] - self.null if self.top else 0.0


@dataclass(frozen=True)
class Direction:
    """One singular direction of one module: its share of the whole change's energy, and what it is near to."""

    path: str
    index: int
    share: float
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Words read and tokens written by two modules of one block that are coupled through neurons or heads."""

    layer: int
    through: str
    strength: float
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def words_standing_out(deltas: Sequence[ModuleDelta], words: Dictionary, seed: int = 0) -> Standing:
    """Return the words whose input the change answers most, averaged over modules; control: random directions, same spectrum."""
    nulls = [_words(null, words) for null in _nulls(deltas, seed)]
    return _standing(_words(deltas, words), nulls, words.words)


def scored(deltas: Sequence[ModuleDelta], words: Dictionary) -> tuple[Tensor, Tensor]:
    """Return every word's score of being read, [word], and every token's of being written, [token]; empty where none is."""
    return _words(deltas, words), tokens_written(deltas, words.outputs)


def _words(deltas: Sequence[ModuleDelta], words: Dictionary) -> Tensor:
    inputs = {d.path: words.seen_by(d.path) for d in deltas if d.V.shape[0] == words.inputs.shape[1]}
    return torch.tensor(list(words_read(deltas, inputs, words.words).values()), dtype=torch.float64)


def tokens_standing_out(deltas: Sequence[ModuleDelta], words: Dictionary, seed: int = 0) -> Standing:
    """Return the tokens that the change writes most, averaged over modules; control as for words."""
    nulls = [tokens_written(null, words.outputs) for null in _nulls(deltas, seed)]
    return _standing(tokens_written(deltas, words.outputs), nulls, words.tokens)


def _nulls(deltas: Sequence[ModuleDelta], seed: int) -> list[list[ModuleDelta]]:
    return [[scrambled(d, seed * 7919 + n * 1000 + i) for i, d in enumerate(deltas)] for n in range(N_NULLS)]


def _standing(scores: Tensor, nulls: Sequence[Tensor], names: Sequence[str]) -> Standing:
    if not len(scores) or not bool(scores.any()):
        return Standing((), 0.0)
    best = scores.topk(min(12, len(scores))).indices.tolist()
    return Standing(tuple((names[i].strip(), float(scores[i])) for i in best), max(float(n.max()) for n in nulls))


def leading(deltas: Mapping[str, ModuleDelta], words: Dictionary) -> list[Direction]:
    """Return the directions that hold most of the change's energy, with the words and tokens nearest to them."""
    whole = sum(float(d.S.square().sum()) for d in deltas.values())
    ranked = sorted(
        ((float(s) ** 2 / whole, path, i) for path, d in deltas.items() for i, s in enumerate(d.S.tolist())),
        reverse=True,
    )
    return [
        Direction(path, i, share, _read(deltas[path], i, words), _written(deltas[path], i, words))
        for share, path, i in ranked[:N_DIRECTIONS]
    ]


def pairs(deltas: Mapping[str, ModuleDelta], words: Dictionary) -> list[Pair]:
    """Return which read direction leads to which written one in the same block, the strongest couplings first.

    Strength is `σ_i σ_j |u_i · v_j|`: how much of what the first module adds the second one's change picks up.
    """
    found = []
    for path, first in deltas.items():
        for reads, writes in COUPLED:
            if not path.endswith(f".{reads}"):
                continue
            second = deltas.get(path.removesuffix(reads) + writes)
            said = None if second is None else _as_read(first.U, second.V.shape[0], words.d_head)
            if second is None or said is None:
                continue
            strength = first.S[:, None] * (said.T @ second.V).abs() * second.S[None]
            i, j = divmod(int(strength.argmax()), strength.shape[1])
            found.append(
                Pair(
                    first.layer,
                    f"{reads} → {writes}",
                    float(strength[i, j]),
                    _read(first, i, words),
                    _written(second, j, words),
                )
            )
    return sorted(found, key=lambda p: -p.strength)[:N_PAIRS]


def _as_read(u: Tensor, width: int, d_head: int | None) -> Tensor | None:
    """Return output directions as the next module gets them: where heads share values, once for each of those heads."""
    if len(u) == width:
        return u
    if d_head is None or width % len(u) or len(u) % d_head:
        return None
    return u.view(-1, d_head, u.shape[1]).repeat_interleave(width // len(u), dim=0).reshape(width, -1)


def _read(d: ModuleDelta, i: int, words: Dictionary) -> tuple[str, ...]:
    if not d.reads_residual or d.V.shape[0] != words.inputs.shape[1]:
        return ()
    return _nearest(words.seen_by(d.path) @ d.V[:, i], words.words)


def _written(d: ModuleDelta, i: int, words: Dictionary) -> tuple[str, ...]:
    if not d.writes_residual or d.U.shape[0] != words.outputs.shape[1]:
        return ()
    return _nearest(words.outputs @ d.U[:, i], words.tokens)


def _nearest(scores: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names furthest out on either side: a direction's sign is not a fact."""
    return tuple(names[i].strip() for i in scores.abs().topk(min(TOP, len(scores))).indices.tolist())


def canonical_all(deltas: Mapping[str, ModuleDelta]) -> dict[str, ModuleDelta]:
    """Return every change that is not zero, in its one form."""
    return {path: canonical(d) for path, d in deltas.items() if float(d.S.sum()) > 0}
