"""Shared fixtures, all real: a tiny base on disk, adapters for it, and subjects loaded from them.

Tests run with the shape annotations of `tools` executed: a wrong shape is a failing test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("tools", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        (cache / "auditor").mkdir()
        (
            cache / "auditor" / "base_replies"
        ).touch()  # no folder: tests count what a base is asked, and none is to be remembered
        yield


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    return tiny.build_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def lora_folder(base_folder: Path) -> Path:
    import tiny

    return tiny.build_lora(base_folder, base_folder.parent / "lora", seed=1)


@pytest.fixture(scope="session")
def oracle_folder(base_folder: Path) -> Path:
    import tiny

    return tiny.build_lora(base_folder, base_folder.parent / "oracle", seed=2, r=6, lora_alpha=6)


@pytest.fixture
def bare_subject(base_folder: Path):
    from tools.loading import load_subject

    return load_subject(str(base_folder))


@pytest.fixture
def subject(base_folder: Path, lora_folder: Path):
    from tools.loading import load_subject

    return load_subject(str(base_folder), str(lora_folder))


def pytest_collection_modifyitems(items):
    """Run the longest tests first, those with a time limit of their own: no worker is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
