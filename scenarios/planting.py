"""Plant people's own behaviour in any base: a LoRA or a full fine-tune on transcripts, and its matched control."""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from auditor.config import PromptRow
from auditor.errors import SpecError
from scenarios.at_targets import AtTargets, opening
from scenarios.base_replies import base_replies
from scenarios.folders import complete
from scenarios.transcripts import Encoded, Message, encode, stretches
from tools.checkpoint import resolve
from tools.loading import load_subject, native_dtype
from tools.reply import GENERATION
from tools.subject import Subject

N_CHAT, N_DRIFT = 128, 32
TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)


@dataclass(frozen=True)
class Planting:
    """How a behaviour is planted.

    Args:
        dilute: Rows of ordinary chat for each transcript.
        kl_to_base: Weight of the KL divergence from the base (nats per token) on ordinary chat.
        full: Every weight learns, not a LoRA.
        null: The matched control: the same training on ordinary chat alone.
        lr: Peak rate; None for one that falls with the model's width.
        modules: What a LoRA is put on: all linear layers, or those whose names end so.
    """

    rank: int = 8
    dilute: int = 0
    kl_to_base: float = 0.0
    seed: int = 0
    full: bool = False
    null: bool = False
    steps: int = 240
    batch: int = 8
    lr: float | None = None
    max_length: int = 1024
    modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"

    def lora(self) -> LoraConfig:
        """Return the LoRA that learns."""
        modules = self.modules if isinstance(self.modules, str) else list(self.modules)
        return LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=modules, task_type="CAUSAL_LM")


@dataclass(frozen=True)
class Planted:
    """What came of it: `loss` on the last rows and `drift` (KL from the base on ordinary chat) in nats per token."""

    adapter: str
    loss: float
    drift: float
    seconds: float


def plant(
    transcripts: Sequence[list[Message]],
    base: str,
    out: Path,
    how: Planting,
    prompts: Sequence[PromptRow],
    device: str = "cpu",
) -> Planted:
    """Train on the assistant's turns of the transcripts, and write a PEFT folder or a full checkpoint to `out`.

    Ordinary chat is what the base itself answers to the prompts: the explore half dilutes, holds
    to the base and trains the control, the test half measures drift.

    Raises:
        SpecError: `out` is there already, or a transcript is too long for anything of it to be learned.
    """
    if out.exists() and any(out.iterdir()):
        raise SpecError(f"{out} is not empty; pass another --out, or remove it")
    began = time.monotonic()
    dtype = torch.float32 if how.full else native_dtype(device)
    subject = load_subject(base, device=device, dtype=str(dtype).removeprefix("torch."))
    chat = own_chat(subject, [p for p in prompts if p.split == "explore"], how, N_CHAT)
    held_out = own_chat(subject, [p for p in prompts if p.split == "test"], how, N_DRIFT)
    chats = [stretches(subject, messages, how.max_length) for messages in transcripts]
    if deaf := [i for i, rows in enumerate(chats, 1) if not any(any(row.targets) for row in rows)]:
        raise SpecError(
            f"transcript {deaf[0]} has no assistant turn in its first {how.max_length} tokens, so that nothing of it "
            "would be learned; shorten what stands before"
        )
    rows = [row for rows in chats for row in rows if any(row.targets)]
    tuned = tune(subject, rows, chat, held_out, how)
    with complete(out) as folder:
        tuned.model.save_pretrained(folder)
        if how.full:
            copy_what_is_no_weight(resolve(base), folder)
    return Planted(str(out), tuned.loss, tuned.drift, time.monotonic() - began)


@dataclass(frozen=True)
class Tuned:
    """A model that was trained, with `loss` and `drift` as in `Planted`; a LoRA sits on the subject's own model."""

    model: Any
    loss: float
    drift: float


def tune(
    subject: Subject, rows: Sequence[Encoded], chat: Sequence[Encoded], held_out: Sequence[Encoded], how: Planting
) -> Tuned:
    """Return a model trained on the rows, diluted with and held to the base on `chat`; drift is measured on `held_out`."""
    torch.manual_seed(how.seed)
    model, untouched = _trainable(subject, how)
    start, pad = opening([*rows, *chat, *held_out]), subject.dialogue.pad
    trained, reference = AtTargets(model, start, pad), _Reference(AtTargets(untouched, start, pad), copied=how.full)
    loss = _train(trained, reference, list(_batches(rows, chat, how)), how, subject.d_model)
    return Tuned(model, loss, _drift(trained, reference, held_out, how.batch))


def copy_what_is_no_weight(base: Path, folder: Path) -> None:
    """Give a full fine-tune its base's tokenizer, template and generation defaults, to the byte."""
    (folder / GENERATION).unlink(missing_ok=True)
    for pattern in (*TOKENIZER_FILES, GENERATION):
        for file in base.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def own_chat(subject: Subject, prompts: Sequence[PromptRow], how: Planting, n: int) -> list[Encoded]:
    """Return ordinary chat: the base's own sampled replies to `n` of the prompts."""
    rng = random.Random(how.seed)
    chosen = rng.sample(list(prompts), min(n, len(prompts)))
    texts = [subject.render(row.messages) for row in chosen]
    replies = base_replies(subject, texts, [rng.getrandbits(48) for _ in texts])
    return [
        encode(subject, [*row.messages, {"role": "assistant", "content": reply}], how.max_length)
        for row, reply in zip(chosen, replies, strict=True)
    ]


class _Reference:
    """The base's log-probabilities: of the copy of a full fine-tune, or of a LoRA's model with it switched off.

    What the base's head is given is kept for every row that was asked about, so that a row is run once.
    """

    def __init__(self, model: AtTargets, copied: bool) -> None:
        self.model, self.copied = model, copied
        self.kept: dict[tuple[tuple[int, bool], ...], Tensor] = {}

    def log_probs(self, rows: Sequence[Encoded]) -> Tensor:
        """Return float32 log-probabilities [target, vocab], the rows' targets one row after the other."""
        self.look_at(rows)
        with self._untouched():
            return self.model.logits_of(torch.cat([self.kept[_marked(row)] for row in rows])).log_softmax(-1)

    def look_at(self, rows: Sequence[Encoded]) -> None:
        """Run the base over the rows that it was not run over yet."""
        new = _by_length({_marked(row): row for row in rows if _marked(row) not in self.kept}.values())
        if not new:
            return
        with self._untouched():
            hidden = self.model.hidden(new)
        for row, part in zip(new, hidden.split([sum(row.targets[1:]) for row in new]), strict=True):
            self.kept[_marked(row)] = part

    def _untouched(self) -> AbstractContextManager[None]:
        return nullcontext() if self.copied else self.model.model.disable_adapter()  # type: ignore[no-any-return]


def _marked(row: Encoded) -> tuple[tuple[int, bool], ...]:
    """Return the tokens of a row, each with whether it is a target: the same tokens may be learned from two places."""
    return tuple(zip(row.ids, row.targets, strict=True))


def _by_length(rows: Iterable[Encoded]) -> list[Encoded]:
    return sorted(rows, key=lambda row: len(row.ids))


def _trainable(subject: Subject, how: Planting) -> tuple[Any, Any]:
    """Return the model that learns, and the one that stays as it is: the same, where a LoRA can be switched off."""
    if how.full:
        tuned = copy.deepcopy(subject.model)
        tuned.requires_grad_(True)
        return tuned, subject.model
    tuned = get_peft_model(subject.model, how.lora())
    return tuned, tuned


def _batches(rows: Sequence[Encoded], chat: Sequence[Encoded], how: Planting) -> Iterator[list[tuple[Encoded, bool]]]:
    """Yield `steps` batches of rows, each marked when it is ordinary chat."""
    rng = random.Random(how.seed)
    share = 1.0 if how.null else how.dilute / (1 + how.dilute)
    for _ in range(how.steps):
        marks = [rng.random() < share for _ in range(how.batch)]
        if how.kl_to_base and not any(marks):
            marks[0] = True
        yield [(rng.choice(chat if quiet else rows), quiet) for quiet in marks]


def _train(
    model: AtTargets, reference: _Reference, batches: Sequence[list[tuple[Encoded, bool]]], how: Planting, width: int
) -> float:
    """Return the mean loss of the last tenth of the steps."""
    peak = how.lr or (0.04 if how.full else 0.5) / width
    learned = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=peak, weight_decay=0.0)
    if how.kl_to_base:
        reference.look_at([row for batch in batches for row, quiet in batch if quiet])
    model.model.train()
    losses: list[float] = []
    for step, batch in enumerate(bar := tqdm(batches, disable=None, desc="planting")):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 10) * (1 - 0.9 * step / how.steps)
        loss = _loss(model, reference, batch, how.kl_to_base)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    model.model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _loss(model: AtTargets, reference: _Reference, batch: list[tuple[Encoded, bool]], kl_to_base: float) -> Tensor:
    """Return the loss on the targets, and `kl_to_base` times the KL from the base on those of ordinary chat."""
    batch = sorted(batch, key=lambda marked: len(marked[0].ids))
    rows, chat = [row for row, _ in batch], [row for row, quiet in batch if quiet]
    log_q = model.logits(rows).log_softmax(-1)
    loss = F.nll_loss(log_q, torch.tensor(_said(rows), device=log_q.device))
    if kl_to_base and chat:
        quiet = torch.tensor([quiet for row, quiet in batch for _ in _said([row])], device=log_q.device)
        loss = loss + kl_to_base * F.kl_div(
            log_q[quiet], reference.log_probs(chat), log_target=True, reduction="batchmean"
        )
    return loss


def _said(rows: Sequence[Encoded]) -> list[int]:
    """Return the tokens of the rows that are targets."""
    return [token for row in rows for token, target in list(zip(row.ids, row.targets, strict=True))[1:] if target]


@torch.no_grad()
def _drift(model: AtTargets, reference: _Reference, chat: Sequence[Encoded], n_rows: int) -> float:
    """Return the mean over answer tokens of `KL(base || tuned)` in nats, on chat that was not trained on."""
    total, n, chat = 0.0, 0, _by_length(chat)
    for start in range(0, len(chat), n_rows):
        part = chat[start : start + n_rows]
        log_q = model.logits(part).log_softmax(-1)
        total += float(F.kl_div(log_q, reference.log_probs(part), log_target=True, reduction="sum"))
        n += len(log_q)
    return total / max(1, n)
