"""Which generation defaults of a subject differ from its base's, and which of them can steer what is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

STEERS = (
    "sequence_bias", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "force_words_ids", "forced_bos_token_id",
    "forced_eos_token_id", "forced_decoder_ids", "constraints", "repetition_penalty", "no_repeat_ngram_size",
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "guidance_scale",
    "watermarking_config", "stop_strings", "custom_generate", "prompt_lookup_num_tokens", "token_healing", "dola_layers",
    "renormalize_logits", "remove_invalid_values", "diversity_penalty", "low_memory", "penalty_alpha",
)  # fmt: skip
"""Fields that change which words come, beyond how they are drawn."""
TARGETED = (
    "sequence_bias", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "force_words_ids", "forced_bos_token_id",
    "forced_eos_token_id", "forced_decoder_ids", "constraints", "custom_generate", "guidance_scale",
)  # fmt: skip
"""Those of them that name words, or code of the file's own: nothing of ordinary decoding."""
HARMLESS = (
    "transformers_version", "_from_model_config", "pad_token_id", "bos_token_id", "use_cache", "output_attentions",
    "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
)  # fmt: skip
"""Fields that say nothing of how a reply comes about."""
NOTHING: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1.0, 1), "no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1.0, 1),
    "encoder_no_repeat_ngram_size": (0,), "guidance_scale": (1.0, 1), "diversity_penalty": (0.0, 0),
    "begin_suppress_tokens": ([],), "suppress_tokens": ([],),
}  # fmt: skip
"""Values that are as good as none."""
MOST_SHOWN = 160
Decode = Callable[[list[int]], str]


def other_fields(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the subject's defaults have and the base's have not, or have otherwise."""
    return {
        key: value for key, value in own.items()
        if key not in HARMLESS and not _nothing(key, value) and base.get(key) != value
    }  # fmt: skip


def _nothing(key: str, value: Any) -> bool:
    return value is None or value is False or value in NOTHING.get(key, ())


def says(field: str, value: Any, decode: Decode) -> str:
    """Return a field that differs in a sentence, the tokens that it names as text."""
    named = [text for ids in _ids(field, value) if (text := decode(ids))]
    shown = f", that is {', '.join(repr(text[:40]) for text in named[:5])}" if named else ""
    return f"the generation defaults set {field} to {str(value)[:MOST_SHOWN]}{shown}"


def _ids(field: str, value: Any) -> list[list[int]]:
    """Return the runs of token ids that a field names."""
    if not field.endswith(("_ids", "_id", "_tokens", "_bias")):
        return []
    if isinstance(value, int):
        return [[value]]
    found: list[list[int]] = []
    for one in value if isinstance(value, list) else []:
        run = one[0] if isinstance(one, list) and one and isinstance(one[0], list) else one
        run = [run] if isinstance(run, int) else run
        if isinstance(run, list) and run and all(type(i) is int for i in run):
            found.append(run)
    return found


def steering(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the differing fields that can steer what is said."""
    return {key: value for key, value in other_fields(base, own).items() if key in STEERS}
