"""Ask an oracle about residual vectors: capture, inject, answer, and score an answer's log-probability.

Protocol: activation oracles (arXiv 2512.15674), additive norm-matched injection after block 1.
Unlike the reference code, the channel that is read is always asserted, so that an oracle never
reads its own activations, and the injection is keyed on the prefill, so that it survives caching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tools.activation_oracle.contract import OracleContract
from tools.errors import AdapterError
from tools.residual import blocks, capture, hooked
from tools.sampling import SeededNoise
from tools.subject import Encoded, Subject

Vectors = Float[Tensor, "slot d_model"]
ORACLE = "oracle"


@dataclass(frozen=True)
class Question:
    """One question about one window of vectors read at one layer."""

    vectors: Tensor
    layer: int
    text: str


def windows(subject: Subject, texts: Sequence[str], channel: str, layer: int, size: int) -> list[Tensor]:
    """Return for each text the residual vectors of its last `size` tokens, [slot, d_model] each."""
    batch = subject.encode(texts)
    resid = capture(subject, batch, channel, layer)
    lengths = batch.mask.sum(1).tolist()
    return [resid[i, -min(size, int(n)) :].clone() for i, n in enumerate(lengths)]


def inject(
    resid: Float[Tensor, "batch pos d_model"], slots: list[Tensor], vectors: list[Tensor], coefficient: float
) -> Float[Tensor, "batch pos d_model"]:
    """Return `resid` with `c·||h||·v/||v||` added at each row's slots; a zero vector adds nothing."""
    out = resid.clone()
    for row, (where, v) in enumerate(zip(slots, vectors, strict=True)):
        h = resid[row, where]
        out[row, where] = h + coefficient * h.norm(dim=-1, keepdim=True) * F.normalize(v.to(h), dim=-1)
    return out


class OracleReader:
    """An oracle loaded on a subject's base, answering by its contract."""

    def __init__(self, subject: Subject, contract: OracleContract) -> None:
        ids = subject.tokenizer.encode(contract.special_token, add_special_tokens=False)
        if len(ids) != 1:
            raise AdapterError(
                f"the placeholder {contract.special_token!r} is {len(ids)} tokens for this base; it has to be one"
            )
        if not 0 <= contract.hook_onto_layer < subject.n_layers:
            raise AdapterError(
                f"the contract hooks block {contract.hook_onto_layer}: the base has 0..{subject.n_layers - 1}"
            )
        self.subject, self.contract, self.placeholder = subject, contract, ids[0]

    def answer(self, questions: Sequence[Question]) -> tuple[list[str], int]:
        """Return the oracle's greedy answer to each question, and the forward tokens spent."""
        batch, slots = self._encode(questions, [""] * len(questions))
        noise = SeededNoise([0] * len(questions), 0.0)
        with hooked(self._site(), self._edit(slots, questions)):
            out = self.subject.generate_ids(batch, ORACLE, self.contract.max_new_tokens, noise)
        new = out[:, batch.ids.shape[1] :]
        tokens = batch.n_tokens + int((new != self.subject.tokenizer.pad_token_id).sum())
        return [t.strip() for t in self.subject.tokenizer.batch_decode(new, skip_special_tokens=True)], tokens

    @torch.no_grad()
    def log_probs(self, questions: Sequence[Question], answers: Sequence[str]) -> tuple[list[float], int]:
        """Return the log-probability (nats, summed over tokens) of each answer to its question."""
        batch, slots = self._encode(questions, answers)
        with hooked(self._site(), self._edit(slots, questions)), self.subject.channel(ORACLE) as model:
            logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
        chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
        totals = []
        for row, answer in enumerate(answers):
            n = len(self._answer_ids(answer))
            totals.append(float(chosen[row, chosen.shape[1] - n :].sum()))
        return totals, batch.n_tokens

    def _answer_ids(self, answer: str) -> list[int]:
        ids = self.subject.tokenizer.encode(answer, add_special_tokens=False)
        return [*ids, *self.subject.eos_ids[:1]] if answer else []

    def _encode(self, questions: Sequence[Question], answers: Sequence[str]) -> tuple[Encoded, list[Tensor]]:
        """Return the oracle prompts followed by the answers, left-padded, and each row's slots."""
        rows = []
        for question, answer in zip(questions, answers, strict=True):
            turn = self.contract.prompt(question.layer, question.vectors.shape[0], question.text)
            text = self.subject.render([{"role": "user", "content": turn}])
            rows.append(self.subject.tokenizer.encode(text, add_special_tokens=False) + self._answer_ids(answer))
        width, pad = max(map(len, rows)), self.subject.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.subject.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.subject.device)
        slots = []
        for row, question in enumerate(questions):
            where = (ids[row] == self.placeholder).nonzero()[: question.vectors.shape[0], 0]
            assert len(where) == question.vectors.shape[0], "the prompt has fewer placeholders than vectors"
            assert int(where[-1] - where[0]) == len(where) - 1, "the placeholders are not consecutive"
            slots.append(where)
        return Encoded(ids, mask), slots

    def _site(self) -> torch.nn.Module:
        return blocks(self.subject.model)[self.contract.hook_onto_layer]

    def _edit(self, slots: list[Tensor], questions: Sequence[Question]):  # type: ignore[no-untyped-def]
        vectors = [q.vectors for q in questions]

        def edit(resid: Tensor) -> Tensor | None:
            if resid.shape[1] == 1:
                return None
            return inject(resid, slots, vectors, self.contract.steering_coefficient)

        return edit
