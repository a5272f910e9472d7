"""Vectors for an oracle to read: which tokens, at which layers, of whose residual stream.

A reading knows which adapter answered on every layer while it was captured; the published code
reads the oracle's own activations where it means the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tools.channels import MAX_BATCH
from tools.errors import ToolInputError
from tools.residual import capture_layers
from tools.subject import Subject

DIFFERENCE = "difference"
"""Not a channel of weights: subject minus base, same tokens, same positions."""
Where = int | slice | tuple[int, ...]
"""A token, a segment or a list of positions, negative ones from the end; `slice(None)` is the whole."""


@dataclass(frozen=True)
class Activations:
    """What was read of one text.

    Args:
        vectors: One a layer and position, [layer, slot, d_model].
        layers: Of the first axis, ascending blocks.
        channel: Whose they are: a channel, `difference`, or a name for what came from elsewhere.
        adapter: Which adapter was active on every layer during the capture; None for the base's own weights.
        positions: Of the second axis, in the text's tokens; empty for what came from elsewhere.
        text: What was read.
        silent: Whether nothing is put in: the placeholders stand in the prompt as they are, a control.
    """

    vectors: Tensor
    layers: tuple[int, ...]
    channel: str
    adapter: str | None = None
    positions: tuple[int, ...] = ()
    text: str = ""
    silent: bool = False

    @property
    def n_slots(self) -> int:
        """Return how many vectors there are for each layer."""
        return int(self.vectors.shape[1])

    def replaced(self, vectors: Tensor, channel: str) -> Activations:
        """Return other vectors in the same place, as a control has them."""
        return replace(self, vectors=vectors, channel=channel, adapter=None)


def given(vectors: Float[Tensor, "slot d_model"], layer: int, name: str = "given") -> Activations:
    """Return vectors from elsewhere (a probe, a steering vector, weights) as if read at `layer`."""
    check_vectors(vectors)
    return Activations(vectors[None], (layer,), name)


def last(n: int) -> slice:
    """Return the last `n` positions.

    Raises:
        ToolInputError: there would be none.
    """
    if n < 1:
        raise ToolInputError(f"the last {n} positions are none: pass one or more")
    return slice(-n, None)


def positions(where: Where, n_tokens: int) -> tuple[int, ...]:
    """Return positions counted from 0, ascending for a segment, as given for a list.

    Raises:
        ToolInputError: there are none, or one lies outside the text: padding is never read.
    """
    if isinstance(where, slice):
        if where.step not in (None, 1):
            raise ToolInputError(f"a segment has no step: {where}; pass a list of positions")
        start = 0 if where.start is None else where.start
        stop = n_tokens if where.stop is None else where.stop
        start, stop = (i + n_tokens if i < 0 else i for i in (start, stop))
        wanted = list(range(start, stop))
    else:
        wanted = [p + n_tokens if p < 0 else p for p in ([where] if isinstance(where, int) else where)]
    if not wanted:
        raise ToolInputError(f"no position to read: {where} of {n_tokens} tokens; name at least one")
    outside = [p for p in wanted if not 0 <= p < n_tokens]
    if outside:
        raise ToolInputError(
            f"position {outside[0] if outside[0] >= n_tokens else outside[0] - n_tokens} is outside the text, which has "
            f"{n_tokens} tokens: pass 0..{n_tokens - 1}, or -{n_tokens}..-1 from the end"
        )
    return tuple(wanted)


def read(
    subject: Subject, texts: Sequence[str], channel: str, layers: Sequence[int], where: Sequence[Where]
) -> tuple[list[Activations], int]:
    """Return what the channel's weights make of each rendered text, and the forward tokens spent.

    Args:
        subject: Whose channels there are.
        texts: Rendered prompts.
        channel: A channel, or `difference`.
        layers: 0-based blocks.
        where: Which positions of each text.

    Raises:
        ToolInputError: no such layer or channel, a position outside a text, or a value that is not finite.
    """
    if channel == DIFFERENCE:
        (subjects, n), (bases, m) = (read(subject, texts, name, layers, where) for name in ("subject", "base"))
        return [
            replace(s, vectors=s.vectors - b.vectors, channel=DIFFERENCE) for s, b in zip(subjects, bases, strict=True)
        ], n + m
    kept: list[Activations] = []
    spent = 0
    for start in range(0, len(texts), MAX_BATCH):
        part = texts[start : start + MAX_BATCH]
        batch = subject.encode(part)
        lengths = batch.mask.sum(1).tolist()
        chosen = [positions(w, int(n)) for w, n in zip(where[start : start + MAX_BATCH], lengths, strict=True)]
        resid, adapter = capture_layers(subject, batch, channel, layers)
        width, spent = batch.ids.shape[1], spent + batch.n_tokens
        for row, (text, places, n) in enumerate(zip(part, chosen, lengths, strict=True)):
            columns = [width - int(n) + p for p in places]
            vectors = torch.stack([resid[layer][row, columns] for layer in sorted(set(layers))])
            check_vectors(vectors)
            kept.append(Activations(vectors, tuple(sorted(set(layers))), channel, adapter, places, text))
    return kept, spent


def read_last(
    subject: Subject, texts: Sequence[str], channel: str, layers: Sequence[int], sizes: Sequence[int]
) -> tuple[list[Activations], int]:
    """Return the last so many positions of each text, the whole of one that is shorter; see `read`."""
    return read(subject, texts, channel, layers, tails(subject, texts, sizes))


def tails(subject: Subject, texts: Sequence[str], sizes: Sequence[int]) -> list[slice]:
    """Return the last so many positions of each rendered text, the whole of one that is shorter."""
    lengths = [len(ids) for ids in subject.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    return [last(min(n, size)) for n, size in zip(lengths, sizes, strict=True)]


def check_vectors(vectors: Tensor) -> None:
    """Refuse vectors that an oracle can't be asked about.

    Raises:
        ToolInputError: there are none, or a value is NaN or infinite.
    """
    if vectors.numel() == 0:
        raise ToolInputError("there are no vectors to ask about: read at least one position at one layer")
    if not torch.isfinite(vectors).all():
        raise ToolInputError(
            "an activation is NaN or infinite: the model overflows on this text in this dtype; read it in bfloat16 or float32"
        )
