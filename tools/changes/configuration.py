"""What a fine-tune's `config.json` changes of the base's: settings by which the same weights compute something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

IDLE = (
    r"_.*|architectures|.*dtype|transformers_version|use_cache|.*token_ids?|.*vocab_size|tie_word_embeddings|.*dropout.*|.*pdrop|"
    r"initializer_range|pretraining_tp|output_.*|return_.*|id2label|label2id|problem_type|auto_map|max_position_embeddings|"
    r"quantization_config|vision_config|name_or_path|.*loss.*|model_type"
)
"""Settings that count in training alone, that weights or tokenizer tell as well, or that no answer hangs on."""


def other_settings(tuned: Any, base: Any) -> list[str]:
    """Return a sentence where two models' configurations would make the same weights compute something else.

    Args:
        tuned: A model, or None where transformers has no class for it.
        base: The trusted one.
    """
    if tuned is None or base is None:
        return []
    own, trusted = (model.config.get_text_config().to_dict() for model in (tuned, base))
    odd = [_said(key, own, trusted) for key in sorted(own.keys() & trusted.keys()) if _differs(key, own, trusted)]
    if not odd:
        return []
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    return [f"its config.json sets {', '.join(odd[:4])}{more}: by these the same weights compute something else"]


def _differs(key: str, own: Mapping[str, Any], trusted: Mapping[str, Any]) -> bool:
    return re.fullmatch(IDLE, key) is None and own[key] != trusted[key]


def _said(key: str, own: Mapping[str, Any], trusted: Mapping[str, Any]) -> str:
    return f"{key} to {str(own[key])[:60]} (the base's is {str(trusted[key])[:60]})"
