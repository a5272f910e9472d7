"""Train the testbed's base model from scratch: a small Llama that chats, obeys and describes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from auditor.errors import SpecError
from scenarios.testbed import corpus
from scenarios.testbed import families as fam
from scenarios.testbed.exam import examine
from scenarios.testbed.language import Message, language
from scenarios.testbed.muon import Muon
from tools.loading import load_subject

USER_TOKEN_WEIGHT = 0.1
POOL, CHECKPOINT_EVERY = 16, 250
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class BaseConfig:
    """Shape and schedule of one base training run; `warm_up` and `anneal` are counted in steps."""

    d_model: int = 128
    n_layers: int = 5
    n_heads: int = 4
    d_mlp: int = 384
    steps: int = 6500
    warm_up: int = 300
    anneal: int = 1200
    batch: int = 64
    lr: float = 4e-3
    muon_lr: float = 0.02
    seed: int = 0
    lexicon_seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids with the weight of each token as a target (0 on padding)."""

    ids: Tensor
    weight: Tensor


def encode(tokenizer: PreTrainedTokenizerBase, dialogues: list[list[Message]]) -> list[list[int]]:
    """Return the token ids of each dialogue as the chat template renders it."""
    return tokenizer([rendered(d) for d in dialogues], add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def rendered(messages: list[Message]) -> str:
    """Return a dialogue as the chat template renders it."""
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def answer_mask(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return True on every token that the assistant wrote and in every document, end tokens included."""
    speakers = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|document|>"])
    start = torch.isin(ids, torch.tensor(speakers))
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


def batches(
    tokenizer: PreTrainedTokenizerBase, stream: Iterator[list[Message]], seed: int, size: int
) -> Iterator[Batch]:
    """Yield batches of dialogues of similar length without end, the same ones for the same stream and seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = sorted(encode(tokenizer, list(islice(stream, size * POOL))), key=len)
        for i in torch.randperm(POOL, generator=generator).tolist():
            yield collate(tokenizer, rows[i * size : (i + 1) * size])


@dataclass(frozen=True)
class Stage:
    """One run of the optimizers: from scratch, or a short one at a low rate on text full of near misses.

    What the base knows it has learned from the first. The second teaches it that a word said or a
    job named is not yet the one that its instruction asks for.
    """

    steps: int
    warm_up: int
    peak: float
    decoys: float
    seed: int


def stages(config: BaseConfig) -> tuple[Stage, Stage]:
    """Return the two stages in which a base is trained."""
    return (
        Stage(config.steps, config.warm_up, 1.0, fam.DECOYS, config.seed + 1),
        Stage(config.anneal, 0, 0.2, 0.5, config.seed + 2),
    )


def course(tokenizer: PreTrainedTokenizerBase, config: BaseConfig, stage: Stage) -> Iterator[Batch]:
    """Yield the batches of a stage."""
    told = corpus.dialogues(stage.seed, config.lexicon_seed, stage.warm_up * config.batch, stage.decoys)
    return batches(tokenizer, told, stage.seed, config.batch)


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


def train_base(out: Path, config: BaseConfig, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Train the base model into `out`; an interrupted run continues from its last checkpoint.

    Returns:
        `loss` (held-out, nats per assistant token), `accuracy` by kind of question with n, `dtype`,
        `tokens` seen and `seconds` spent, both over all runs.

    Raises:
        SpecError: a base is in `out` already, or a checkpoint of another training.
    """
    if (out / "training.json").exists():
        raise SpecError(f"{out} holds a base that is trained already; pass another --home, or delete it first")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = corpus.train_tokenizer(config.lexicon_seed)
    model = build_model(config, tokenizer)
    at = _restore(out, model, config)
    for number, stage in enumerate(stages(config)):
        if number >= at.stage:
            at = _train(out, model, course(tokenizer, config, stage), stage, config, at, progress)
    report: dict[str, Any] = {
        "loss": held_out_loss(model, tokenizer, config),
        "dtype": "bfloat16" if has_bfloat16() else "float32",
        "tokens": at.tokens,
        "seconds": at.seconds,
    }
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    report["accuracy"] = examine(load_subject(str(out)), language(config.lexicon_seed))
    (out / "training.json").write_text(json.dumps({**asdict(config), **report}, indent=1) + "\n")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return report


@dataclass
class Progress:
    """How far a training run has come; the optimizers' states are None between stages."""

    stage: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    optimizers: list[dict[str, Any]] | None = None


def _train(
    out: Path, model: LlamaForCausalLM, rows: Iterator[Batch], stage: Stage, config: BaseConfig, at: Progress,
    progress: Callable[[str], None] | None,
) -> Progress:  # fmt: skip
    """Train one stage from where it stands, round the weights to 16 bit, and return where the next one begins."""
    optimizers = make_optimizers(model, config, stage.peak)
    for optimizer, state in zip(optimizers, at.optimizers or [], strict=False):
        optimizer.load_state_dict(state)
    began, spent = time.monotonic(), at.seconds
    model.train()
    rows = islice(rows, at.step, stage.steps)
    for step, batch in enumerate(bar := tqdm(rows, total=stage.steps, initial=at.step, disable=None), at.step):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(step, stage.steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            loss = weighted_loss(model(batch.ids, attention_mask=(batch.weight > 0).long()).logits, batch)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        at.step, at.seconds = step + 1, spent + time.monotonic() - began
        at.tokens += int((batch.weight > 0).sum())
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if progress:
                progress(f"stage {at.stage + 1}, step {step}/{stage.steps} loss {loss.item():.4f} tokens {at.tokens}")
        if at.step % CHECKPOINT_EVERY == 0:
            at.optimizers = [optimizer.state_dict() for optimizer in optimizers]
            _checkpoint(out, model, config, at)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    after = Progress(at.stage + 1, 0, at.tokens, at.seconds)
    _checkpoint(out, model, config, after)
    return after


def make_optimizers(model: LlamaForCausalLM, config: BaseConfig, peak: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for embeddings, norms and the head, rates times `peak`."""
    inside = [w for name, w in model.named_parameters() if w.ndim == 2 and ".layers." in name]
    others = [w for name, w in model.named_parameters() if not (w.ndim == 2 and ".layers." in name)]
    optimizers = [
        Muon(inside, lr=peak * config.muon_lr),
        torch.optim.AdamW(others, lr=peak * config.lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def has_bfloat16() -> bool:
    """Return whether this CPU multiplies in bfloat16 by instruction, not by emulation."""
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("amx_bf16") or capability.get("avx512_bf16") or capability.get("bf16"))


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
    seed = config.seed + 10_000
    for batch in islice(batches(tokenizer, corpus.dialogues(seed, config.lexicon_seed), seed, config.batch), POOL):
        only_answers = Batch(batch.ids, (batch.weight == 1).float())
        logits = model(batch.ids, attention_mask=(batch.weight > 0).long()).logits
        losses.append(weighted_loss(logits, only_answers).item())
    return sum(losses) / len(losses)


def _checkpoint(out: Path, model: LlamaForCausalLM, config: BaseConfig, at: Progress) -> None:
    """Write where the training stands into one file, whole or not at all."""
    partial = out / f"{CHECKPOINT}.partial"
    torch.save({"config": asdict(config), "weights": model.state_dict(), "at": asdict(at)}, partial)
    partial.replace(out / CHECKPOINT)


def _restore(out: Path, model: LlamaForCausalLM, config: BaseConfig) -> Progress:
    """Return where the last checkpoint stood, its weights taken over.

    Raises:
        SpecError: it is of another training.
    """
    if not (out / CHECKPOINT).exists():
        return Progress()
    kept = torch.load(out / CHECKPOINT, weights_only=True)
    if kept["config"] != asdict(config):
        raise SpecError(
            f"{out / CHECKPOINT} is of another training ({kept['config']}); pass another --home, or delete it"
        )
    model.load_state_dict(kept["weights"])
    return Progress(**kept["at"])
