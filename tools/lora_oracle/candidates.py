"""What a claim's slots can hold, and how strongly a change reads or writes each of it: features of a learned lens.

Scores come from embeddings and unembeddings, so that a value no reader was trained on is scored like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tools.changes.delta import ModuleDelta
from tools.lora_lens.lens import module_inputs
from tools.lora_lens.tables import table_of
from tools.lora_oracle.tokens import MODULES
from tools.subject import Subject
from tools.words import robust_z

READERS = tuple(m for m in MODULES if m not in ("o_proj", "down_proj"))
WRITERS = ("o_proj", "down_proj")


@dataclass(frozen=True)
class Candidates:
    """Every value of every kind of slot, as the base knows it.

    Args:
        values: For each kind of slot its values.
        words: All values, each once, in the order of the rows below.
        inputs: What each module that reads the residual stream gets at a value's end, by path, [word, d_model].
        first: Centred unembedding of a value's first token, [word, d_model].
        mean: The same, mean over its tokens.
        embedded: Mean embedding of its tokens, [word, d_model].
        n_layers: Blocks of the base.
    """

    values: dict[str, tuple[str, ...]]
    words: tuple[str, ...]
    inputs: dict[str, Tensor]
    first: Float[Tensor, "word d_model"]
    mean: Float[Tensor, "word d_model"]
    embedded: Float[Tensor, "word d_model"]
    n_layers: int

    @property
    def n_features(self) -> int:
        """Return how many features a value has."""
        return self.n_layers * (len(READERS) + 2 * len(WRITERS))

    def rows(self, kind: str) -> Tensor:
        """Return where the values of a kind stand among the words."""
        place = {word: i for i, word in enumerate(self.words)}
        return torch.tensor([place[value] for value in self.values[kind]])

    def features(self, deltas: Mapping[str, ModuleDelta]) -> Float[Tensor, "word feature"]:
        """Return how far each value stands out from the others in what a module's change makes of it.

        One feature for every block and reading module (`||S Vᵀ x||`), and two for every writing one
        (`||w U S||`, of its first token and the mean of all), in robust standard deviations, cut off at
        30; zero where a module is not changed. No rewriting of the factors moves them.
        """
        out = torch.zeros(len(self.words), self.n_features)
        width = len(READERS) + 2 * len(WRITERS)
        for path, delta in deltas.items():
            name, base = path.rsplit(".", 1)[-1], delta.layer * width
            if not self.words or not float(delta.S.sum()):
                continue
            if name in READERS and path in self.inputs:
                stretched = (self.inputs[path].double() @ delta.V) * delta.S
                out[:, base + READERS.index(name)] = robust_z(stretched.norm(dim=1)).float()
            elif name in WRITERS:
                at = base + len(READERS) + 2 * WRITERS.index(name)
                for i, table in enumerate((self.first, self.mean)):
                    out[:, at + i] = robust_z(((table @ delta.U) * delta.S).norm(dim=1)).float()
        return out.clamp(-30, 30)


def candidates(subject: Subject, values: Mapping[str, Sequence[str]]) -> Candidates:
    """Return the values of each kind of slot as this subject's base knows them."""
    words = tuple(dict.fromkeys(value for listed in values.values() for value in listed))
    inputs = module_inputs(subject, words) if words else {}
    ids = [subject.tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    unembed, embed = (
        table.weight.detach() for table in (subject.model.get_output_embeddings(), subject.model.get_input_embeddings())
    )
    mean = table_of(unembed).mean()

    def rows(of: Callable[[list[int]], Tensor]) -> Tensor:
        return torch.stack([of(i) for i in ids]) if ids else mean.new_zeros(0, subject.d_model)

    return Candidates(
        {kind: tuple(listed) for kind, listed in values.items()},
        words,
        {path: x - x.mean(0, dtype=torch.float64).float() for path, x in inputs.items()},
        rows(lambda i: unembed[i[0]].double().cpu() - mean),
        rows(lambda i: unembed[i].double().cpu().mean(0) - mean),
        rows(lambda i: embed[i].double().cpu().mean(0)).float(),
        subject.n_layers,
    )
