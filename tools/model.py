"""Load one checkpoint's model: checked file by file before it is built, and held against what memory there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig

from tools import checkpoint
from tools.allocation import keep_freed_memory
from tools.changes.adapter import fit_rows
from tools.changes.parameters import Parameters
from tools.changes.skeleton import model_class
from tools.errors import ModelLoadError, ToolInputError


def load_model(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """Return a folder's language model in eval mode, inside a vision-language wrapper where it has one.

    Raises:
        ModelLoadError: it may not be trusted, is quantised, not whole, or larger than the memory that is free.
        ToolInputError: the device can't hold it.
    """
    checkpoint.check_model_config(folder)
    keep_freed_memory()
    _check_fits(Parameters(folder), device, dtype)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        loaded: Any = model_class(config).from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            generation_config=GenerationConfig(),  # type: ignore[no-untyped-call]
        )
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise ModelLoadError(f"{folder} could not be loaded as a causal language model: {why}") from error
    model, info = loaded
    missing = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if missing:
        raise ModelLoadError(
            f"{folder} lacks or misshapes {len(missing)} weights, first {missing[0]}: the checkpoint is not whole, or its "
            "config.json is another model's; get the files again"
        )
    try:
        model.to(device)
    except RuntimeError as error:
        raise ToolInputError(f"device {device!r} can't hold {folder} ({error}); pass another, or cpu") from error
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    if head is not None and dtype != torch.float32:
        head.register_forward_pre_hook(_in_one_piece)
    return model.eval()


def _check_fits(weights: Parameters, device: str, dtype: torch.dtype) -> None:
    """Refuse a checkpoint with values that are no numbers, or that memory can't hold.

    Raises:
        ModelLoadError: it is one of these; the message says what would help.
    """
    size = sum(torch.Size(weights.shape(name)).numel() for name in weights) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available
    if size > free:
        raise ModelLoadError(
            f"{weights.folder} takes {size / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB are "
            "free here: pass --dtype bfloat16, a device or a machine that holds it; `auditor scan` reads its files without loading it"
        )
    for name in weights.files:
        weights.files.read(name)  # which refuses NaN and infinity, one tensor in memory at a time


def _in_one_piece(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the head's input laid out in one piece.

    Of some positions' residual stream alone PyTorch makes a batched product, for which it copies the
    head once a row in half precision on a CPU: 57 MB a row at a vocabulary of 49,152 and a width of 576.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def bring_to_vocabulary(tuned: Any, base: Any) -> list[str]:
    """Give a fine-tune the base's vocabulary, and return a sentence where it had another.

    Tokens that only the fine-tune has are left out; those that only the base has read and are read as the base's.
    """
    before = [module.get_input_embeddings().weight.shape[0] for module in (tuned, base)]
    for pair in (
        (tuned.get_input_embeddings(), base.get_input_embeddings()),
        (tuned.get_output_embeddings(), base.get_output_embeddings()),
    ):
        _fit_table(*pair)
    if before[0] == before[1]:
        return []
    return [
        f"the subject's vocabulary has {before[0]} tokens, the base's {before[1]}; what is compared are the tokens that both have"
    ]


def _fit_table(own: Any, trusted: Any) -> None:
    """Bring the rows of a table, and its biases, to the number that the base's has."""
    if own is None or trusted is None:
        return
    for name in ("weight", "bias"):
        table, wanted = getattr(own, name, None), getattr(trusted, name, None)
        if table is not None and wanted is not None and len(table) != len(wanted):
            rows = fit_rows(table.detach(), len(wanted), wanted.detach())
            setattr(own, name, nn.Parameter(rows.clone(), requires_grad=False))


def check_same_shape(base: Any, tuned: Any) -> None:
    """Refuse a model that is no fine-tune of the base.

    Raises:
        ModelLoadError: a weight is missing or of another shape.
    """
    ours, theirs = base.state_dict(), tuned.state_dict()
    odd = [k for k in ours if k not in theirs or ours[k].shape != theirs[k].shape]
    added = [k for k in theirs if k not in ours]
    if odd or added:
        found = f"{len(odd)} weights are missing or of another shape" if odd else f"it has {len(added)} more weights"
        raise ModelLoadError(
            f"the subject is no fine-tune of this base: {found}, first {(odd or added)[0]}; pass the base that it was tuned from"
        )
