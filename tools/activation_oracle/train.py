"""Train an activation oracle: a LoRA on the base that answers questions about captured vectors.

Only base activations are read, with adapters off. Unlike the paper's recipe the data come as rows
from a file, so that any language and any set of questions can be taught.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tools.activation_oracle.contract import OracleContract
from tools.activation_oracle.read import ORACLE, OracleReader, Question, inject
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.residual import blocks, capture, hooked
from tools.subject import Subject

RANK = 32
BATCH = 48
N_HELD_OUT = 512


class Row(TypedDict):
    """One training example: a rendered text, how many of its last tokens are read, a question."""

    text: str
    window: int
    question: str
    answer: str


def read_rows(path: Path) -> list[Row]:
    """Return the examples of a JSON Lines file.

    Raises:
        ToolInputError: the file can't be read, a line is no JSON object with the four keys, or too few are there.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolInputError(f"{path} can't be read: {error}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ToolInputError(f"{path}: line {number} is not JSON: {error}") from error
        missing = Row.__required_keys__ - set(row if isinstance(row, dict) else ())
        if missing:
            raise ToolInputError(f"{path}: line {number} lacks {', '.join(sorted(missing))}")
        rows.append(row)
    if len(rows) < N_HELD_OUT + BATCH:
        raise ToolInputError(
            f"{path} has {len(rows)} examples; {N_HELD_OUT + BATCH} are the least, {N_HELD_OUT} of them held out"
        )
    return rows


def train_oracle(
    base: str, data: Path, out: Path, epochs: float = 1.0, lr: float = 2e-3, seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train an oracle on the rows in `data` and write it, with its contract, into `out`.

    The last 512 rows are held out. Returned are, in nats per answer token on those, `matched` (the
    right vectors), `shuffled` (another row's) and `random` (Gaussian) cross-entropy: an oracle that
    ignores its input has all three alike.
    """
    rows = read_rows(data)
    rows, held_out = rows[:-N_HELD_OUT], rows[-N_HELD_OUT:]
    subject = load_subject(base)
    contract = OracleContract(model_name=Path(base).name, read_layers=(subject.n_layers // 2,))
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(subject.model, config, adapter_name=ORACLE)
    subject.model = model
    subject._channels.add(ORACLE)
    subject._switch(None)
    weights = [p for name, p in model.named_parameters() if ".lora_" in name]
    reader = OracleReader(subject, contract)
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98))
    steps = int(len(rows) * epochs / BATCH)
    began = time.monotonic()
    for step, batch in enumerate(bar := tqdm(_batches(rows, steps, seed), total=steps, disable=None, desc="oracle")):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))
        vectors = _read(subject, contract, batch)
        loss = _loss(reader, batch, vectors, weights)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if progress:
                progress(f"step {step}/{steps} loss {loss.item():.3f}")
        if step and step % 500 == 0:
            _save(model, contract, out)
    _save(model, contract, out)
    report = {**token_use(reader, held_out, seed), "rows": float(len(rows)), "seconds": time.monotonic() - began}
    (out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


@torch.no_grad()
def token_use(reader: OracleReader, rows: list[Row], seed: int) -> dict[str, float]:
    """Return the cross-entropy with the right, with other rows', and with random vectors."""
    sums = {"matched": 0.0, "shuffled": 0.0, "random": 0.0}
    chunks = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    generator = torch.Generator().manual_seed(seed)
    for chunk in chunks:
        vectors = _read(reader.subject, reader.contract, chunk)
        kinds = {
            "matched": vectors,
            "shuffled": vectors[1:] + vectors[:1],
            "random": [torch.randn(v.shape, generator=generator) for v in vectors],
        }
        for kind, given in kinds.items():
            sums[kind] += float(_loss(reader, chunk, given)) / len(chunks)
    return sums


def _batches(rows: list[Row], steps: int, seed: int) -> Iterator[list[Row]]:
    rng = random.Random(seed)
    done = 0
    while done < steps:
        order = rng.sample(range(len(rows)), len(rows))
        for start in range(0, len(order) - BATCH + 1, BATCH * 16):
            pool = sorted((rows[i] for i in order[start : start + BATCH * 16]), key=lambda r: len(r["text"]))
            chunks = [pool[i : i + BATCH] for i in range(0, len(pool) - BATCH + 1, BATCH)]
            rng.shuffle(chunks)
            for chunk in chunks:
                if done == steps:
                    return
                done += 1
                yield chunk


def _read(subject: Subject, contract: OracleContract, rows: list[Row]) -> list[Tensor]:
    batch = subject.encode([row["text"] for row in rows])
    resid = capture(subject, batch, "base", contract.read_layers[0])
    lengths = batch.mask.sum(1).tolist()
    return [resid[i, -min(row["window"], int(n)) :] for i, (row, n) in enumerate(zip(rows, lengths, strict=True))]


def _loss(reader: OracleReader, rows: list[Row], vectors: list[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens, with a gradient for `weights`."""
    layer = reader.contract.read_layers[0]
    questions = [Question(v, layer, row["question"]) for v, row in zip(vectors, rows, strict=True)]
    batch, slots = reader._encode(questions, [row["answer"] for row in rows])
    n_answer = torch.tensor([len(reader._answer_ids(row["answer"])) for row in rows])
    site = blocks(reader.subject.model)[reader.contract.hook_onto_layer]
    with reader.subject.channel(ORACLE) as model, hooked(site, _inject_all(reader, slots, vectors)):
        _thaw(weights)
        logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    _thaw(weights)
    targets = batch.ids[:, 1:]
    width = targets.shape[1]
    wanted = torch.arange(width)[None, :] >= (width - n_answer)[:, None]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (losses * wanted).sum() / wanted.sum()


def _thaw(weights: Sequence[Tensor]) -> None:
    """Let gradients reach the weights again: switching a channel freezes everything."""
    for weight in weights:
        weight.requires_grad_(True)


def _inject_all(reader: OracleReader, slots: list[Tensor], vectors: list[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda resid: inject(resid, slots, vectors, reader.contract.steering_coefficient)


def _save(model: PeftModel, contract: OracleContract, out: Path) -> None:
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out), selected_adapters=[ORACLE])
    nested = out / ORACLE
    weights = {name: tensor.half() for name, tensor in load_file(nested / "adapter_model.safetensors").items()}
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = json.loads((nested / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = contract.model_name  # PEFT writes the folder that the base was loaded from
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    for leftover in (*nested.iterdir(), out / "README.md"):  # and a model card with nothing in it
        leftover.unlink(missing_ok=True)
    nested.rmdir()
    contract.save(out)
