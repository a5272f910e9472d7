"""What a base answers to prompts, made once: later plantings in it, and their controls, take it from the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from scenarios.folders import complete_file
from tools.subject import Subject
from tools.user_cache import cache_folder

FORMAT = 1
MAX_NEW_TOKENS, TEMPERATURE = 64, 0.7
log = logging.getLogger(__name__)


def base_replies(
    subject: Subject, texts: Sequence[str], seeds: Sequence[int], max_new_tokens: int = MAX_NEW_TOKENS
) -> list[str]:
    """Return the base's sampled reply to each rendered prompt.

    They are a function of the base's files, the prompts, their seeds, dtype and kind of device, and are kept under a hash
    of these. A file that is damaged is made anew. Two processes that want the same replies make them once. Where the folder
    can't be written to, the replies are made and not kept.
    """
    path = cache_folder() / "replies" / f"{_key(subject, texts, seeds, max_new_tokens)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            return _kept(path, len(texts)) or _made(subject, texts, seeds, max_new_tokens, path)
    except (OSError, NotImplementedError) as error:
        log.warning("the base's replies are not kept for a later planting: %s", error)
        return _generated(subject, texts, seeds, max_new_tokens)


def _key(subject: Subject, texts: Sequence[str], seeds: Sequence[int], max_new_tokens: int) -> str:
    how = [FORMAT, max_new_tokens, TEMPERATURE, str(subject.model.dtype), subject.device.type]
    asked = json.dumps([subject.files["base"], *how, list(texts), list(seeds)], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _kept(path: Path, n: int) -> list[str] | None:
    """Return the replies in a file; None where it is missing or no list of `n` texts."""
    try:
        replies = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    whole = isinstance(replies, list) and len(replies) == n and all(isinstance(reply, str) for reply in replies)
    return replies if whole else None


def _made(subject: Subject, texts: Sequence[str], seeds: Sequence[int], max_new_tokens: int, path: Path) -> list[str]:
    replies = _generated(subject, texts, seeds, max_new_tokens)
    with complete_file(path) as file:
        json.dump(replies, file)
    return replies


def _generated(subject: Subject, texts: Sequence[str], seeds: Sequence[int], max_new_tokens: int) -> list[str]:
    replies, _ = subject.generate(texts, "base", seeds, max_new_tokens=max_new_tokens, temperature=TEMPERATURE)
    return replies
