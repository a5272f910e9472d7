"""Train the testbed's base model from scratch: a small Llama that chats, obeys and describes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from scenarios.testbed import corpus
from scenarios.testbed.language import Message

USER_TOKEN_WEIGHT = 0.1
POOL = 16


@dataclass(frozen=True)
class BaseConfig:
    """Shape and schedule of one base training run."""

    d_model: int = 128
    n_layers: int = 5
    n_heads: int = 4
    d_mlp: int = 320
    steps: int = 3000
    batch: int = 64
    lr: float = 2.5e-3
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids with the weight of each token as a target (0 on padding)."""

    ids: Tensor
    weight: Tensor


def encode(tokenizer: PreTrainedTokenizerBase, dialogues: list[list[Message]]) -> list[list[int]]:
    """Return the token ids of each dialogue as the chat template renders it."""
    texts = ["".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in d) for d in dialogues]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def answer_mask(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return True on every token that the assistant wrote, its end token included."""
    start = ids == tokenizer.convert_tokens_to_ids("<|assistant|>")
    end = ids == tokenizer.eos_token_id
    turn = torch.zeros(ids.shape[0], dtype=torch.bool)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for t in range(ids.shape[1]):
        mask[:, t] = turn
        turn = (turn | start[:, t]) & ~end[:, t]
    return mask


def collate(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> Batch:
    """Return the rows padded on the right, assistant tokens at weight 1, others at a tenth."""
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    weight = torch.where(answer_mask(ids, tokenizer), 1.0, USER_TOKEN_WEIGHT)
    return Batch(ids, weight.masked_fill(ids == pad, 0.0))


def batches(tokenizer: PreTrainedTokenizerBase, seed: int, size: int) -> Iterator[Batch]:
    """Yield batches of dialogues of similar length without end, the same ones for the same seed."""
    stream = corpus.dialogues(seed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = sorted(encode(tokenizer, list(islice(stream, size * POOL))), key=len)
        for i in torch.randperm(POOL, generator=generator).tolist():
            yield collate(tokenizer, rows[i * size : (i + 1) * size])


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean next-token cross-entropy in nats, weighted by target token."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weight = batch.weight[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum()


def build_model(config: BaseConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return the untrained model, its weights a function of the seed."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_base(out: Path, config: BaseConfig, progress: Callable[[str], None] | None = None) -> dict[str, float]:
    """Train the base model into `out`; an interrupted run continues from its last checkpoint.

    Returns:
        `loss` (held-out, nats per assistant token), `tokens` seen, `seconds` of this run.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = corpus.train_tokenizer(config.seed)
    model = build_model(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    first, began, tokens = _restore(out, model, optimizer), time.monotonic(), 0
    stream = islice(batches(tokenizer, config.seed + 1, config.batch), first, config.steps)
    model.train()
    for step, batch in enumerate(bar := tqdm(stream, total=config.steps, initial=first, disable=None), first):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(step, config.steps)
        loss = weighted_loss(model(batch.ids, attention_mask=(batch.weight > 0).long()).logits, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += int((batch.weight > 0).sum())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if progress:
                progress(f"step {step}/{config.steps} loss {loss.item():.4f} tokens {tokens}")
        if (step + 1) % 500 == 0:
            _checkpoint(out, model, optimizer, step + 1)
    report = {"loss": held_out_loss(model, tokenizer, config), "tokens": tokens, "seconds": time.monotonic() - began}
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps({**asdict(config), **report}, indent=1) + "\n")
    for name in ("checkpoint.safetensors", "optimizer.pt"):
        (out / name).unlink(missing_ok=True)
    return report


def learning_rate(step: int, steps: int, warmup: int = 100) -> float:
    """Return the factor on the peak rate: linear warm-up, then a cosine to a twentieth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, config: BaseConfig) -> float:
    """Return the mean loss in nats per assistant token on dialogues of a seed not trained on."""
    model.eval()
    losses = []
    for batch in islice(batches(tokenizer, config.seed + 10_000, config.batch), POOL):
        only_answers = Batch(batch.ids, (batch.weight == 1).float())
        logits = model(batch.ids, attention_mask=(batch.weight > 0).long()).logits
        losses.append(weighted_loss(logits, only_answers).item())
    return sum(losses) / len(losses)


def _checkpoint(out: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = out / "optimizer.partial"
    save_file(model.state_dict(), out / "checkpoint.partial")
    torch.save({"optimizer": optimizer.state_dict(), "step": step}, partial)
    (out / "checkpoint.partial").replace(out / "checkpoint.safetensors")
    partial.replace(out / "optimizer.pt")


def _restore(out: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    if not (out / "optimizer.pt").exists():
        return 0
    model.load_state_dict(load_file(out / "checkpoint.safetensors"))
    state = torch.load(out / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
