"""A GGUF file as the folder of a model: every weight multiplied out, saved in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auditor.errors import FetchError

END = "<|im_end|>"
"""What ends a turn: the GGUF's tokenizer names it as the end of a text, its configuration may not."""


def dequantise(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file to `folder`, with its tokenizer and template.

    transformers won't save what it read from a GGUF, so the weights go into a model that was never quantised.

    Raises:
        FetchError: transformers can't read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # a reader of another's format may fail in any way
        why = " ".join(str(error).split())[:300]
        raise FetchError(
            f"transformers can't read {gguf.name} ({type(error).__name__}: {why}); install the versions of transformers and "
            "gguf that this project's pyproject.toml asks for"
        ) from error
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    _end_turns(tokenizer, plain)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _end_turns(tokenizer: Any, model: Any) -> None:
    """Have tokenizer, configuration and generation end at `END`, and pad with it."""
    tokenizer.eos_token = tokenizer.pad_token = END
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
