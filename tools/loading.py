"""Load a subject: the trusted base, and what was tuned from it, checked before anything is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tools import checkpoint, reply
from tools.base_names import names_another
from tools.changes.agreement import told
from tools.changes.configuration import other_settings
from tools.changes.parameters import Parameters
from tools.dialogue import Dialogue, read_dialogue
from tools.errors import AdapterError, ModelLoadError, ToolInputError
from tools.manner import turn_of
from tools.model import bring_to_vocabulary, check_same_shape, load_model
from tools.own_files.invocation import read_invocation
from tools.own_files.own import Own
from tools.subject import Subject
from tools.template import FALLBACK, fallback, template_of
from tools.thought import Choice


def load_subject(
    subject: str,
    adapter: str | None = None,
    base: str | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
    thinking: Choice | None = None,
) -> Subject:
    """Return the subject, checked: a checkpoint under an adapter, or a fine-tune of `base`.

    Tokenizer, chat template and end tokens are the trusted base's; where the subject brings its
    own, `notes` says how they differ, and `own` has them. A thought before an answer is let be or left out as
    `thinking` says.

    Raises:
        ModelLoadError: a path is no model, or a checkpoint may not be trusted.
        AdapterError: the adapter is damaged or made for another base.
        ToolInputError: an unknown device or dtype, or both an adapter and a full fine-tune.
    """
    trusted = checkpoint.resolve(base or subject, revision)
    folder = trusted if base is None else checkpoint.resolve(subject, revision)
    lora = None if adapter is None else checkpoint.resolve(adapter, holds="adapter_config.json")
    if lora is not None and folder != trusted:
        raise ToolInputError("pass either an adapter on the base, or a full fine-tune of it, not both")
    kind = _dtype(device, dtype, trusted)
    _check_device(device)
    model = load_model(trusted, device, kind)
    ours = checkpoint.ignored_code(trusted)
    dialogue, notes = _load_dialogue(trusted, model, thinking)
    loaded = Subject(
        model=model,
        dialogue=dialogue,
        files={"base": checkpoint.hash_files(trusted)},
        notes=[*ours, *notes],
        weights=Parameters(trusted),
    )
    if folder != trusted:
        loaded.tuned = load_model(folder, device, kind)
        loaded.files["subject"] = checkpoint.hash_files(folder)
        _note_own_files(loaded, trusted, folder)
        loaded.notes += [*other_settings(loaded.tuned, loaded.model), *bring_to_vocabulary(loaded.tuned, loaded.model)]
        check_same_shape(loaded.model, loaded.tuned)
    if lora is not None:
        loaded.add_adapter("subject", lora)
        loaded.adapter_given = True
        loaded.notes += told(loaded.adapters["subject"])
        _note_own_files(loaded, trusted, lora)
        loaded.notes += _other_base(lora, trusted, base or subject)
    return loaded


def load_whole(subject: Subject, folder: Path) -> Any:
    """Return a whole checkpoint tuned from this subject's base, loaded beside it.

    Raises:
        ModelLoadError: it is no fine-tune of the base, or may not be trusted.
    """
    model = load_model(folder, str(subject.device), subject.model.dtype)
    plain = subject.model.get_base_model() if hasattr(subject.model, "get_base_model") else subject.model
    if model.config.get_text_config().hidden_size != plain.config.get_text_config().hidden_size:
        raise ModelLoadError(f"{folder} is no fine-tune of this base: its residual stream is of another width")
    return model


def native_dtype(device: str) -> torch.dtype:
    """Return the type in which a device multiplies matrices fastest: bfloat16, or float32 on most processors.

    A processor gains by bfloat16 where it has matrix units for it (AMX). One that has only the vector instructions of
    AVX-512 for it was measured at half of its own float32.
    """
    if device != "cpu" or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def _dtype(device: str, dtype: str, folder: Path) -> torch.dtype:
    """Return the type asked for; of `auto`, the device's own where nothing of the weights is lost by it, and on any GPU.

    Raises:
        ToolInputError: there is no such type.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        config = checkpoint.read_json(folder / "config.json", ModelLoadError)
        stored = config.get("dtype") or config.get("torch_dtype")
        return native_dtype(device) if device != "cpu" or stored == "bfloat16" else torch.float32
    if dtype not in known:
        raise ToolInputError(f"unknown dtype {dtype!r}: pass auto, {', '.join(known)}")
    return known[dtype]


def _check_device(device: str) -> None:
    """Refuse a device that can't hold a tensor and give it back.

    Raises:
        ToolInputError: there is no such device here.
    """
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ToolInputError(
            f"device {device!r} is not available here ({reason}); pass cpu, or one that torch lists"
        ) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a checkpoint's tokenizer, with its chat template or a plain one.

    Raises:
        ModelLoadError: there is none that can be read, or its template can't be read.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise ModelLoadError(f"{folder} has no readable tokenizer: {why}; copy the tokenizer's files in") from error
    try:
        tokenizer.chat_template = template_of(tokenizer, folder) or fallback(tokenizer)
    except ToolInputError as error:
        raise ModelLoadError(f"{folder}: {error}; mend or remove it") from error
    return tokenizer


def _load_dialogue(folder: Path, model: Any, thinking: Choice | None) -> tuple[Dialogue, list[str]]:
    """Return how the trusted base is spoken to, and what is to be said of that.

    Raises:
        ModelLoadError: there is no tokenizer, or its template can't be used.
    """
    tokenizer = load_tokenizer(folder)
    ends, notes = reply.generation_file(folder, tokenizer)
    ends = [*reply.believed_ends(model.config.get_text_config().eos_token_id, tokenizer), *ends]
    try:
        dialogue = read_dialogue(tokenizer, model.get_input_embeddings().weight.shape[0], ends, thinking)
    except ToolInputError as error:
        raise ModelLoadError(f"{folder} has a chat template that can't be used: {error}; mend or remove it") from error
    if str(tokenizer.chat_template).endswith(FALLBACK):
        plain = " ".join(dialogue.render([turn_of("user", "…")]).split())
        notes.append(f"the base has no chat template: turns are written as {plain!r}")
    return dialogue, [*dialogue.notes, *notes]


def _note_own_files(loaded: Subject, base: Path, folder: Path) -> None:
    """Note how the subject's template, tokenizer and generation defaults differ; the base's are used but where it is said."""
    loaded.own = Own(base, folder)
    if loaded.own.invocation:
        asked, dialogue = loaded.render([turn_of("user", "?")]), loaded.dialogue
        loaded.invocation, said = read_invocation(loaded.own.invocation, asked, dialogue.ids, loaded.decode)
        loaded.notes.append(said)
    try:
        found = loaded.own.compared().differences
    except Exception as error:  # a stranger's files may fail in any way, and the weights can still be audited
        loaded.notes.append(f"the subject's own files could not be compared with the base's: {error}")
        return
    loaded.notes += [f"the subject brings its own {d.file}: {d.sentence}; the base's is used for both" for d in found]


def _other_base(lora: Path, base: Path, given: str) -> list[str]:
    """Return a note where the adapter's files name another base than the one that it was put on."""
    config = checkpoint.read_json(lora / "adapter_config.json", AdapterError)
    named = names_another(config.get("base_model_name_or_path"), base, given)
    return [f"the adapter's files name another base, {named}, than the one it was put on, {given}"] if named else []
