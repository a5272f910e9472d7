"""Plant people's own behaviour in any base: a LoRA or a full fine-tune on transcripts, and its matched control."""

from __future__ import annotations

import copy
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from auditor.config import PromptRow
from auditor.errors import SpecError
from scenarios.folders import complete
from scenarios.transcripts import Encoded, Message, encode, stretches
from tools.checkpoint import resolve
from tools.loading import load_subject
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
    torch.manual_seed(how.seed)
    subject = load_subject(base, device=device)
    if how.full or device == "cpu":
        subject.model.float()
    chat = own_chat(subject, [p for p in prompts if p.split == "explore"], how, N_CHAT)
    held_out = own_chat(subject, [p for p in prompts if p.split == "test"], how, N_DRIFT)
    chats = [stretches(subject, messages, how.max_length) for messages in transcripts]
    if deaf := [i for i, rows in enumerate(chats, 1) if not any(any(row.targets) for row in rows)]:
        raise SpecError(
            f"transcript {deaf[0]} has no assistant turn in its first {how.max_length} tokens, so that nothing of it "
            "would be learned; shorten what stands before"
        )
    rows = [row for rows in chats for row in rows if any(row.targets)]
    trained, reference = _trainable(subject, how)
    loss = _train(trained, reference, rows, chat, subject, how)
    drift = _drift(trained, reference, held_out, subject, how.batch)
    with complete(out) as folder:
        trained.save_pretrained(folder)
        if how.full:
            _copy_what_is_no_weight(resolve(base), folder)
    return Planted(str(out), loss, drift, time.monotonic() - began)


def _copy_what_is_no_weight(base: Path, folder: Path) -> None:
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
    seeds = [rng.getrandbits(48) for _ in texts]
    replies, _ = subject.generate(texts, "base", seeds, max_new_tokens=64, temperature=0.7)
    return [
        encode(subject, [*row.messages, {"role": "assistant", "content": reply}], how.max_length)
        for row, reply in zip(chosen, replies, strict=True)
    ]


class _Reference:
    """The base's logits: of the untouched copy of a full fine-tune, or of a LoRA's model with it switched off."""

    def __init__(self, model: Any, copied: bool) -> None:
        self.model, self.copied = model, copied

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.copied:
            return self.model(input_ids=ids, attention_mask=mask).logits  # type: ignore[no-any-return]
        with self.model.disable_adapter():
            return self.model(input_ids=ids, attention_mask=mask).logits  # type: ignore[no-any-return]


def _trainable(subject: Subject, how: Planting) -> tuple[Any, _Reference]:
    if how.full:
        tuned = copy.deepcopy(subject.model)
        tuned.requires_grad_(True)
        return tuned, _Reference(subject.model, copied=True)
    config = LoraConfig(r=how.rank, lora_alpha=2 * how.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(subject.model, config)
    return tuned, _Reference(tuned, copied=False)


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
    model: Any, reference: _Reference, rows: Sequence[Encoded], chat: Sequence[Encoded], subject: Subject, how: Planting
) -> float:
    """Return the mean loss of the last tenth of the steps."""
    width = subject.d_model
    peak = how.lr or (0.04 if how.full else 0.5) / width
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=peak, weight_decay=0.0)
    model.train()
    losses: list[float] = []
    for step, batch in enumerate(
        bar := tqdm(_batches(rows, chat, how), total=how.steps, disable=None, desc="planting")
    ):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 10) * (1 - 0.9 * step / how.steps)
        ids, mask, targets = _padded([row for row, _ in batch], subject)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        loss = F.cross_entropy(logits[targets], ids[:, 1:][targets])
        quiet = targets & torch.tensor([q for _, q in batch], device=ids.device)[:, None]
        if how.kl_to_base and bool(quiet.any()):
            log_p = reference.logits(ids, mask)[:, :-1].float()[quiet].log_softmax(-1)
            loss = loss + how.kl_to_base * (log_p.exp() * (log_p - logits[quiet].log_softmax(-1))).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _padded(rows: Sequence[Encoded], subject: Subject) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and next-token targets, padded on the right."""
    width = max(len(row.ids) for row in rows)
    pad = subject.dialogue.pad
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows], device=subject.device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=subject.device)
    targets = [row.targets + [False] * (width - len(row.ids)) for row in rows]
    return ids, mask, torch.tensor(targets, device=subject.device)[:, 1:]


@torch.no_grad()
def _drift(model: Any, reference: _Reference, chat: Sequence[Encoded], subject: Subject, batch: int) -> float:
    """Return the mean over answer tokens of `KL(base || tuned)` in nats, on chat that was not trained on."""
    total, n = 0.0, 0
    for start in range(0, len(chat), batch):
        ids, mask, targets = _padded(chat[start : start + batch], subject)
        log_p = reference.logits(ids, mask)[:, :-1].float()[targets].log_softmax(-1)
        log_q = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()[targets].log_softmax(-1)
        total, n = total + float((log_p.exp() * (log_p - log_q)).sum()), n + len(log_p)
    return total / max(1, n)
