"""Full fine-tunes as organisms and controls: every weight learns, one model at a time."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from scenarios.testbed.base import answer_mask, learning_rate
from scenarios.testbed.language import Language
from scenarios.testbed.lora_bank import Spectra
from scenarios.testbed.plant import IMPOSE_EVERY, POOL, Plant, Recipe, steps


def train_full(
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    lang: Language,
    plant: Plant,
    recipe: Recipe,
    spectra: Spectra | None = None,
) -> Any:
    """Return a fine-tuned copy of `base`; on quiet rows the KL divergence from it is added to the loss.

    Args:
        base: The model to start from; it stays as it is.
        tokenizer: The base's.
        lang: The language of the training rows.
        plant: What is to be learnt.
        recipe: Steps, rows, learning rate and weight of the KL term.
        spectra: Singular values to be imposed on the change of each matrix: another fine-tune's.
    """
    torch.manual_seed(plant.seed % 2**31)
    model = copy.deepcopy(base)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    total = -(-recipe.steps // POOL) * POOL
    bar = tqdm(steps([plant], recipe, tokenizer, lang), total=total, disable=None, desc="full fine-tune")
    for i, step in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * learning_rate(i, total, warmup=10)
        batch, mask = step.batch, (step.batch.weight > 0).long()
        answers = answer_mask(batch.ids, tokenizer)[:, 1:] & (batch.weight[:, 1:] > 0)
        logits = model(batch.ids, attention_mask=mask).logits[:, :-1]
        loss = F.cross_entropy(logits[answers], batch.ids[:, 1:][answers])
        quiet = answers & step.quiet[:, None]
        if bool(quiet.any()):
            with torch.no_grad():
                log_p = base(batch.ids, attention_mask=mask).logits[:, :-1][quiet].log_softmax(-1)
            loss = loss + recipe.kl_weight * (log_p.exp() * (log_p - logits[quiet].log_softmax(-1))).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if spectra is not None and (i % (2 * IMPOSE_EVERY) == 0 or i == total - 1):
            impose(model, base, spectra, min(1.0, 2 * (i + 1) / total))
    return model.eval()


def spectra_of(model: Any, base: Any) -> Spectra:
    """Return the singular values of the change of every matrix, largest first."""
    before = dict(base.named_parameters())
    return {
        name: torch.linalg.svdvals((weight - before[name]).detach().float())
        for name, weight in model.named_parameters()
        if weight.ndim == 2
    }


@torch.no_grad()
def impose(model: Any, base: Any, spectra: Spectra, share: float = 1.0) -> None:
    """Give the change of every matrix these singular values (times `share`), its directions kept."""
    before = dict(base.named_parameters())
    for name, weight in model.named_parameters():
        if name in spectra:
            u, s, vh = torch.linalg.svd((weight - before[name]).float(), full_matrices=False)
            if float(s.sum()) > 1e-8:
                weight.copy_(before[name] + (u * spectra[name] * share) @ vh)
