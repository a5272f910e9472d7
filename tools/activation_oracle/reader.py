"""Ask an oracle about activations: answers, samples, log-probabilities, yes/no margins.

Unlike the published code, what no question can change (all up to the last slot) runs once for many
questions, any number of samples is drawn from one prefill, and a prompt may run in stretches.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tools.activation_oracle.activations import Activations, check_vectors
from tools.activation_oracle.contract import EMBEDDING, OracleContract
from tools.activation_oracle.inject import injecting
from tools.activation_oracle.prompt import Prompt, PromptBuilder
from tools.cache import roomy
from tools.errors import AdapterError, ToolInputError
from tools.residual import check_layer
from tools.sampling import SeededNoise
from tools.subject import Subject

ORACLE = "oracle"
MAX_ROWS, STRETCH = 256, 512
YES, NO = ("yes", "Yes", "YES"), ("no", "No", "NO")


@dataclass(frozen=True)
class TextAlone:
    """A control: the oracle is told the text itself, and given no activation."""

    text: str


Asked = Activations | TextAlone


@dataclass(frozen=True)
class Agreed:
    """What most of several samples said, and the share of them that did."""

    answer: str
    agreement: float

    def above(self, threshold: float) -> str | None:
        """Return the answer, or None: fewer samples than that agree on it, so the oracle abstains."""
        return self.answer if self.agreement >= threshold else None


@dataclass(frozen=True)
class _State:
    """Prompts run so far: the cache, which columns are real, the logits of what comes next."""

    cache: Any
    mask: Tensor
    logits: Tensor

    def fork(self) -> _State:
        """Return a state that can go on without changing this one; no tensor is copied, for going on makes new ones."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return _State(cache, self.mask, self.logits)


class OracleReader:
    """An oracle loaded beside a subject, asked by its contract.

    Args:
        subject: The base, with the oracle as a channel of it.
        contract: How this oracle is asked.
        channel: The oracle's name there.

    Raises:
        AdapterError: the base has no such block, or tokenizer and contract do not go together.
    """

    def __init__(self, subject: Subject, contract: OracleContract, channel: str = ORACLE) -> None:
        read = {layer for layers in contract.read_layers for layer in layers} if contract.reads_blocks else set()
        wanted = ({contract.site} | read) - {EMBEDDING}
        if max(wanted) >= subject.n_layers:
            raise AdapterError(
                f"the contract names block {max(wanted)}, the base has 0..{subject.n_layers - 1}: the oracle was trained on another base"
            )
        self.subject, self.contract, self.channel = subject, contract, channel
        self.prompts = PromptBuilder(subject, contract)
        self._end = _end_of_turn(subject)
        self.tokens = 0

    # -- what can be asked

    def answers(
        self, asked: Sequence[Asked], questions: Sequence[str], n_samples: int = 1, temperature: float | None = None,
        seed: int | Sequence[int] = 0, max_new_tokens: int | None = None,
    ) -> list[list[list[str]]]:  # fmt: skip
        """Return the oracle's answers, [asked][question][sample].

        Args:
            asked: What it is asked about; shapes may differ.
            questions: All are asked of each.
            n_samples: Of each answer; they share their prefill.
            temperature: None is the contract's, 0 is greedy.
            seed: Of the samples: each depends on it and on its place alone; or a seed for each asked,
                and then on that one and not on its place.
            max_new_tokens: None is the contract's.
        """
        decoding = self.contract.decoding
        heat = decoding.temperature if temperature is None else temperature
        own = [(seed, i) if isinstance(seed, int) else (seed[i], 0) for i in range(len(asked))]
        found: list[list[list[str]]] = [[[] for _ in questions] for _ in asked]
        with self._model() as model:
            for rows, states in self._chunks(model, asked, questions):
                for first, state in _together(states):
                    places = [(row, which) for which in range(first, len(questions)) for row in rows][: len(state.mask)]
                    seeds = [_seed_of(*own[row], which, k) for row, which in places for k in range(n_samples)]
                    noise = SeededNoise(seeds, heat, decoding.top_p)
                    texts = self._decode(model, state, n_samples, noise, max_new_tokens or decoding.max_new_tokens)
                    for i, (row, which) in enumerate(places):
                        found[row][which] = texts[i * n_samples : (i + 1) * n_samples]
        return found

    def agreed(
        self, asked: Sequence[Asked], questions: Sequence[str], n_samples: int = 10, temperature: float = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[Agreed]]:  # fmt: skip
        """Return what most samples of each answer say, [asked][question]; a tie goes to the first said."""
        sampled = self.answers(asked, questions, n_samples, temperature, seed)
        return [[_majority(texts) for texts in row] for row in sampled]

    def log_probs(
        self, asked: Sequence[Asked], questions: Sequence[str], candidates: Sequence[str]
    ) -> Float[Tensor, "asked question candidate"]:
        """Return how likely each candidate answer is: nats, summed over its tokens and the end of the turn."""
        out = torch.zeros(len(asked), len(questions), len(candidates))
        endings = [self.answer_ids(text) for text in candidates]
        with self._model() as model:
            for rows, which, state in self._states(model, asked, questions):
                for j, ids in enumerate(endings):
                    self.tokens += len(rows) * len(ids)
                    tail = torch.tensor([ids] * len(rows), device=self.subject.device)
                    logits = [state.logits[:, None]]
                    if len(ids) > 1:
                        logits.append(self._extend(model, state.fork(), tail[:, :-1], keep=len(ids) - 1)[1])
                    scores = torch.cat(logits, dim=1).float().log_softmax(-1)
                    out[rows, which, j] = scores.gather(-1, tail[..., None])[..., 0].sum(1).cpu()
        return out

    def margins(self, asked: Sequence[Asked], questions: Sequence[str]) -> Float[Tensor, "asked question"]:
        """Return log-odds of yes over no in the first token of the answer, over every way of writing either."""
        yes, no = self._yes_no()
        logits = self.next_logits(asked, questions).float()
        return logits[..., yes].logsumexp(-1) - logits[..., no].logsumexp(-1)

    def next_logits(self, asked: Sequence[Asked], questions: Sequence[str]) -> Float[Tensor, "asked question d_vocab"]:
        """Return the logits of each answer's first token."""
        out: list[list[Tensor]] = [[torch.empty(0)] * len(questions) for _ in asked]
        with self._model() as model:
            for rows, which, state in self._states(model, asked, questions):
                for i, row in enumerate(rows):
                    out[row][which] = state.logits[i].cpu()
        return torch.stack([torch.stack(row) for row in out])

    # -- how it runs

    def _states(
        self, model: Any, asked: Sequence[Asked], questions: Sequence[str]
    ) -> Iterator[tuple[list[int], int, _State]]:
        """Yield for every question the rows of a batch, and the state after their prompts; see `_chunks`."""
        for rows, states in self._chunks(model, asked, questions):
            for which, state in enumerate(states):
                yield rows, which, state

    @torch.no_grad()
    def _chunks(
        self, model: Any, asked: Sequence[Asked], questions: Sequence[str]
    ) -> Iterator[tuple[list[int], list[_State]]]:
        """Yield the rows of a batch, and for each question the state after their prompts.

        Raises:
            ToolInputError: nothing was asked, or a vector or layer can't be read.
        """
        if not asked or not questions:
            raise ToolInputError("an oracle needs at least one activation and one question")
        for one in asked:
            self._check(one)
        order = sorted(range(len(asked)), key=lambda i: (isinstance(asked[i], TextAlone), self._width(asked[i])))
        size = max(1, MAX_ROWS // len(questions))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = [asked[i] for i in rows]
            prompts = [[self._prompt(one, question) for one in batch] for question in questions]
            vectors = [_flat(one) for one in batch]
            if len(questions) == 1 or not self._can_share(prompts):
                yield rows, [self._prefill(model, [p.ids for p in column], column, vectors) for column in prompts]
                continue
            shared = self._prefill(model, [p.ids[: p.shared] for p in prompts[0]], prompts[0], vectors)
            states = []
            for column in prompts:
                tail = torch.tensor([p.ids[p.shared :] for p in column], device=self.subject.device)
                self.tokens += tail.numel()
                state, logits = self._extend(model, shared.fork(), tail, keep=1)
                states.append(_State(state.cache, state.mask, logits[:, -1]))
            yield rows, states

    def _can_share(self, prompts: list[list[Prompt]]) -> bool:
        """Return whether the prompts of each row differ after the last slot alone, and go on alike in all rows.

        With a sliding window they must fit inside it: what has slid out can't be gone back to.
        """
        first = prompts[0]
        if not all(p.shared for p in first):
            return False
        window = getattr(self.subject.text_config, "sliding_window", None)
        longest = max(len(p.ids) for column in prompts for p in column) + self.contract.decoding.max_new_tokens
        return (window is None or longest < window) and all(
            p.ids[: q.shared] == q.ids[: q.shared] and p.ids[p.shared :] == column[0].ids[column[0].shared :]
            for column in prompts
            for p, q in zip(column, first, strict=True)
        )

    def _prefill(
        self, model: Any, ids: Sequence[Sequence[int]], prompts: Sequence[Prompt], vectors: Sequence[Tensor]
    ) -> _State:
        """Return the state after these ids, left-padded, with the vectors put in at their slots."""
        width, pad = max(map(len, ids)), self.subject.dialogue.pad
        device = self.subject.device
        padded = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
        slots = [
            [width - len(row) + slot for slot in p.slots] if len(v) else []
            for row, p, v in zip(ids, prompts, vectors, strict=True)
        ]
        self.tokens += sum(map(len, ids))
        state = _State(DynamicCache(config=model.config.get_text_config()), mask[:, :0], mask[:, :0])
        logits = state.logits
        for start in range(0, width, STRETCH):
            piece = slice(start, start + STRETCH)
            with injecting(model, self.contract, slots, vectors, offset=start):
                state, logits = self._extend(model, state, padded[:, piece], keep=1, mask=mask[:, piece])
        return _State(state.cache, state.mask, logits[:, -1])

    @torch.no_grad()
    def _extend(
        self, model: Any, state: _State, ids: Tensor, keep: int, mask: Tensor | None = None
    ) -> tuple[_State, Tensor]:
        """Return the state after further ids, and the logits at the last `keep` of them."""
        whole = torch.cat([state.mask, torch.ones_like(ids) if mask is None else mask], dim=1)
        places = (whole.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        logits = model(
            input_ids=ids, attention_mask=whole, position_ids=places, past_key_values=state.cache, use_cache=True,
            logits_to_keep=keep,
        ).logits  # fmt: skip
        return _State(state.cache, whole, logits[:, -1]), logits

    @torch.no_grad()
    def _decode(self, model: Any, state: _State, n_samples: int, noise: SeededNoise, n: int) -> list[str]:
        """Return the continuations of a state, `n_samples` a row; rows that have ended are taken out half by half."""
        ends = torch.tensor(self.subject.eos_ids, device=self.subject.device, dtype=torch.long)
        if n_samples > 1:
            state = state.fork()
            state.cache.batch_repeat_interleave(n_samples)
            mask, logits = (part.repeat_interleave(n_samples, dim=0) for part in (state.mask, state.logits))
            state = _State(state.cache, mask, logits)
        state = _State(roomy(state.cache, n), state.mask, state.logits)
        alive = torch.arange(len(state.logits), device=self.subject.device)
        ended = torch.zeros(len(alive), dtype=torch.bool, device=self.subject.device)
        said: list[list[int]] = [[] for _ in alive]
        for step in range(n):
            chosen = noise.draw(state.logits)
            ended |= torch.isin(chosen, ends)
            for row, token, over in zip(alive.tolist(), chosen.tolist(), ended.tolist(), strict=True):
                if not over:
                    said[row].append(token)
            self.tokens += int((~ended).sum())
            if bool(ended.all()) or step == n - 1:
                break
            if int(ended.sum()) * 2 >= len(alive):
                going = (~ended).nonzero()[:, 0]
                state.cache.batch_select_indices(going)
                state = _State(state.cache, state.mask[going], state.logits)
                alive, chosen, ended = alive[going], chosen[going], ended[going]
                noise = noise.of(going.tolist())
            state, _ = self._extend(model, state, chosen[:, None], keep=1)
        return [t.strip() for t in self.subject.tokenizer.batch_decode(said, skip_special_tokens=True)]

    # -- pieces

    def _model(self) -> Any:
        return self.subject.channel(self.channel)

    def _check(self, one: Asked) -> None:
        if isinstance(one, TextAlone):
            return
        check_vectors(one.vectors)
        for layer in one.layers if self.contract.reads_blocks else ():
            check_layer(self.subject, layer)
        if one.vectors.shape[-1] != self.subject.d_model:
            raise ToolInputError(
                f"vectors of width {one.vectors.shape[-1]} can't be asked about: this base's residual stream is {self.subject.d_model} wide"
            )

    def _width(self, one: Asked) -> int:
        return len(one.text) if isinstance(one, TextAlone) else one.vectors.shape[0] * one.n_slots

    def _prompt(self, one: Asked, question: str) -> Prompt:
        if isinstance(one, TextAlone):
            return self.prompts.alone(one.text, question)
        return self.prompts.build(one.layers, one.n_slots, question)

    def answer_ids(self, answer: str) -> list[int]:
        """Return the tokens of an answer, with the end of the turn."""
        return [*self.subject.tokenizer.encode(answer, add_special_tokens=False), *self._end]

    def _yes_no(self) -> tuple[list[int], list[int]]:
        """Return the first tokens of every way of writing yes and no that tell the two apart.

        Raises:
            ToolInputError: none does.
        """
        encode = self.subject.tokenizer.encode
        yes, no = (
            {encode(lead + word, add_special_tokens=False)[0] for word in words for lead in ("", " ")}
            for words in (YES, NO)
        )
        if not yes - no or not no - yes:
            raise ToolInputError("yes and no begin with the same tokens in this base's tokenizer: ask for text instead")
        return sorted(yes - no), sorted(no - yes)


def _end_of_turn(subject: Subject) -> list[int]:
    """Return the token that the base's template writes after a reply; where it writes none, the first that ends one."""
    after = subject.tokenizer.encode(subject.dialogue.end, add_special_tokens=False)
    return [i for i in after if i in subject.eos_ids][:1] or subject.eos_ids[:1]


def _seed_of(seed: int, row: int, which: int, sample: int) -> int:
    """Return the seed of one sample: a hash of integers, the same in every process."""
    return hash((seed, row, which, sample)) % 2**62


def _together(states: Sequence[_State]) -> Iterator[tuple[int, _State]]:
    """Yield states that can be decoded as one batch as one, each with the number of its first question.

    Shorter ones are padded on the left; what a sliding window has dropped can't be, so such states stay apart.
    """
    if not all(type(layer) is DynamicLayer for state in states for layer in state.cache.layers):
        yield from enumerate(states)
        return
    width = max(state.mask.shape[1] for state in states)
    gaps = [width - state.mask.shape[1] for state in states]
    whole = states[0].fork()
    for i, layer in enumerate(whole.cache.layers):
        for part in ("keys", "values"):
            pieces = [getattr(state.cache.layers[i], part) for state in states]
            padded = [F.pad(piece, (0, 0, gap, 0)) for piece, gap in zip(pieces, gaps, strict=True)]
            setattr(layer, part, torch.cat(padded))
    mask = torch.cat([F.pad(state.mask, (gap, 0)) for state, gap in zip(states, gaps, strict=True)])
    yield 0, _State(whole.cache, mask, torch.cat([state.logits for state in states]))


def _flat(one: Asked) -> Tensor:
    """Return the vectors in the order of their slots, layer by layer; none where nothing is put in."""
    return torch.empty(0, 0) if isinstance(one, TextAlone) or one.silent else one.vectors.flatten(0, 1)


def _majority(texts: Sequence[str]) -> Agreed:
    counts = Counter(text.casefold() for text in texts)
    winner, n = counts.most_common(1)[0]
    return Agreed(next(text for text in texts if text.casefold() == winner), n / len(texts))
