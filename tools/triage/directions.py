"""What a change reads and writes, in words, from weights alone: no model is run.

Inputs are the base's own embeddings (of a word of several tokens, their mean) after the norm that
stands before a module; outputs are held against the unembedding. Close to the truth in early blocks
and for words, weak for what a model works out on the way; `LoraLens` reads a loaded subject instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tools.changes.canonical import canonical
from tools.changes.delta import ModuleDelta
from tools.changes.parameters import Parameters
from tools.checkpoint import read_json
from tools.errors import ModelLoadError
from tools.lora_lens.lens import N_NULLS, copies, tokens_written
from tools.lora_lens.tables import Table, standing_out
from tools.words import token_texts, words_among

AFTER_ATTENTION = ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1")
BEFORE_ATTENTION, BEFORE_MLP = ("input_layernorm",), ("pre_feedforward_layernorm", "post_attention_layernorm")
"""The norm before a module, the first that a block has: Gemma's blocks have one of its own before the MLP."""
COUPLED = (("up_proj", "down_proj"), ("gate_proj", "down_proj"), ("v_proj", "o_proj"))
"""Modules of one block of which the second reads what the first wrote: neurons, or head outputs."""
N_DIRECTIONS, N_PAIRS, TOP = 8, 8, 6
N_RUNS, RUN = 32, 64
"""Of words that stand for all of them: runs of neighbours, and how long each is."""


@dataclass(frozen=True)
class Dictionary:
    """Words and tokens as the base's own tables have them; the tables stay in their file, and are read in chunks.

    Args:
        words: What may be read, in the order of their first tokens.
        inputs: Their normalised embeddings, [word, d_model].
        tokens: The texts of the vocabulary.
        outputs: The centred unembedding, [token, d_model].
        gains: Weights of the norms that stand before modules, by the name of the norm.
        d_head: Width of an attention head; None where the configuration does not say.
    """

    words: tuple[str, ...]
    inputs: Table
    tokens: tuple[str, ...]
    outputs: Table
    gains: dict[str, Tensor]
    d_head: int | None

    def gain(self, path: str) -> Float[Tensor, " d_model"]:
        """Return what a module's norm multiplies words with before the module gets them."""
        block, _, module = path.rpartition(".")
        block = block.removesuffix(".self_attn").removesuffix(".mlp").removesuffix(".attn")
        norms = BEFORE_MLP if module in AFTER_ATTENTION else BEFORE_ATTENTION
        gain = next((self.gains[n] for norm in norms if (n := f"{block}.{norm}.weight") in self.gains), None)
        width = self.inputs.shape[1]
        return torch.ones(width, dtype=torch.float64) if gain is None or len(gain) != width else gain


def dictionary(base: Parameters, tokenizer: Any, words: Sequence[str] = (), threads: int = 1) -> Dictionary:
    """Return the base's tables for these words; without any, for every token that is a whole word.

    Raises:
        ModelLoadError: transformers does not say where the base keeps its embeddings.
    """
    tables = base.embeddings()
    if tables is None:
        raise ModelLoadError(f"{base.folder} does not say where its embeddings are, so that words can't be read there")
    name, unembed = tables
    n_rows, width = base.shape(name)
    tokens = token_texts(tokenizer, min(n_rows, len(tokenizer)))
    chosen = list(dict.fromkeys(words)) or words_among(tokens)
    ids = tokenizer([f" {word}" for word in chosen], add_special_tokens=False)["input_ids"] if chosen else []
    kept = sorted(((i, word) for word, i in zip(chosen, ids, strict=True) if i), key=lambda one: one[0])
    config = read_json(base.folder / "config.json", ModelLoadError)
    kind, shape = str(config.get("model_type", "")), {**config, **(config.get("text_config") or {})}
    heads = shape.get("num_attention_heads")
    d_head = shape.get("head_dim") or (width // heads if heads else None)
    added = 1.0 if kind.startswith("gemma") else 0.0  # whose norms multiply by one more than their weight
    gains = {
        n: base.read(n).double() + added for n in base if n.endswith("layernorm.weight") and len(base.shape(n)) == 1
    }
    outputs = Table((len(tokens), base.shape(unembed)[1]), lambda start, stop: base.rows(unembed, start, stop), threads)
    inputs = _embedded(base, name, [i for i, _ in kept], threads)
    return Dictionary(tuple(word for _, word in kept), inputs, tokens, outputs.centred(), gains, d_head)


def _embedded(base: Parameters, name: str, ids: Sequence[Sequence[int]], threads: int) -> Table:
    """Return the mean embedding of each word's tokens, of root mean square 1."""
    every = torch.tensor([i for one in ids for i in one], dtype=torch.long)
    starts = torch.tensor([0, *map(len, ids)]).cumsum(0)

    def rows(start: int, stop: int) -> Tensor:
        first = starts[start]
        places, where = torch.unique(every[first : starts[stop]], return_inverse=True)
        table = base.rows_at(name, places).float()
        if len(where) == stop - start:
            vectors = table[where]
        else:
            vectors = torch.nn.functional.embedding_bag(where, table, starts[start:stop] - first, mode="mean")
        return vectors / vectors.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)

    return Table((len(ids), base.shape(name)[1]), rows, threads)


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
    read, *nulls = _words(deltas, words, seed, N_NULLS)
    return _standing(read, nulls, words.words)


def tokens_standing_out(deltas: Sequence[ModuleDelta], words: Dictionary, seed: int = 0) -> Standing:
    """Return the tokens that the change writes most, averaged over modules; control as for words."""
    written, *nulls = _tokens(deltas, words, seed, N_NULLS)
    return _standing(written, nulls, words.tokens)


def sampled(words: Dictionary, read: Standing, written: Standing) -> Dictionary:
    """Return the words and tokens that stand out, with some others spread over the whole, held in memory."""
    of_words, of_tokens = _sample(words.words, read), _sample(words.tokens, written)
    return replace(
        words,
        words=tuple(words.words[i] for i in of_words), inputs=words.inputs.at(of_words),
        tokens=tuple(words.tokens[i] for i in of_tokens), outputs=words.outputs.at(of_tokens),
    )  # fmt: skip


def _sample(names: Sequence[str], standing: Standing) -> list[int]:
    """Return the places of what stands out and of runs at even distances."""
    first, step = {name for name, _ in standing.top}, max(1, len(names) // N_RUNS)
    return [i for i, name in enumerate(names) if i % step < RUN or name.strip() in first]


def scored(deltas: Sequence[ModuleDelta], words: Dictionary) -> tuple[Tensor, Tensor]:
    """Return every word's score of being read, [word], and every token's of being written, [token]; zeros where none is."""
    return _words(deltas, words)[0], _tokens(deltas, words)[0]


def _words(
    deltas: Sequence[ModuleDelta], words: Dictionary, seed: int = 0, n_nulls: int = 0
) -> Float[Tensor, "copy word"]:
    found = copies(deltas, "reads", seed, n_nulls, words.inputs.threads)
    fitting = ((d, each) for d, each in found if each[0].shape[0] == words.inputs.shape[1])
    met = ([words.gain(d.path)[:, None] * one for one in each] for d, each in fitting)
    return standing_out(met, words.inputs, 1 + n_nulls)


def _tokens(
    deltas: Sequence[ModuleDelta], words: Dictionary, seed: int = 0, n_nulls: int = 0
) -> Float[Tensor, "copy token"]:
    made = copies(deltas, "writes", seed, n_nulls, words.outputs.threads)
    return tokens_written(made, words.outputs, 1 + n_nulls)


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
    places = [(deltas[path], i) for _, path, i in ranked[:N_DIRECTIONS]]
    named = zip(_read(places, words), _written(places, words), strict=True)
    return [
        Direction(path, i, share, *near) for (share, path, i), near in zip(ranked[:N_DIRECTIONS], named, strict=True)
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
            found.append((float(strength[i, j]), f"{reads} → {writes}", (first, i), (second, j)))
    best = sorted(found, key=lambda one: -one[0])[:N_PAIRS]
    read, written = _read([one[2] for one in best], words), _written([one[3] for one in best], words)
    return [
        Pair(first.layer, through, strength, *near)
        for (strength, through, (first, _), _), near in zip(best, zip(read, written, strict=True), strict=True)
    ]


def _as_read(u: Tensor, width: int, d_head: int | None) -> Tensor | None:
    """Return output directions as the next module gets them: where heads share values, once for each of those heads."""
    if len(u) == width:
        return u
    if d_head is None or width % len(u) or len(u) % d_head:
        return None
    return u.view(-1, d_head, u.shape[1]).repeat_interleave(width // len(u), dim=0).reshape(width, -1)


def _read(places: Sequence[tuple[ModuleDelta, int]], words: Dictionary) -> list[tuple[str, ...]]:
    """Return for each direction of a module the words nearest to it; none where the module reads something else."""
    width = words.inputs.shape[1]
    met = [words.gain(d.path) * d.V[:, i] if d.reads_residual and d.V.shape[0] == width else None for d, i in places]
    return _nearest(met, words.inputs, words.words)


def _written(places: Sequence[tuple[ModuleDelta, int]], words: Dictionary) -> list[tuple[str, ...]]:
    """Return for each direction of a module the tokens nearest to it; none where the module writes elsewhere."""
    width = words.outputs.shape[1]
    made = [d.U[:, i] if d.writes_residual and d.U.shape[0] == width else None for d, i in places]
    return _nearest(made, words.outputs, words.tokens)


def _nearest(directions: Sequence[Tensor | None], table: Table, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names furthest out on either side of each direction: a direction's sign is not a fact."""
    asked = [one.float() for one in directions if one is not None]
    scores = iter(table.times(torch.stack(asked, dim=1)).abs().T if asked else ())
    return [
        () if one is None else tuple(names[i].strip() for i in next(scores).topk(min(TOP, len(names))).indices.tolist())
        for one in directions
    ]


def canonical_all(deltas: Mapping[str, ModuleDelta]) -> dict[str, ModuleDelta]:
    """Return every change that is not zero, in its one form."""
    return {path: canonical(d) for path, d in deltas.items() if float(d.S.sum()) > 0}
