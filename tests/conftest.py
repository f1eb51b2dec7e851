"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums by two threads differ in their last bits


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(root: Path) -> Path:
    """Real annotations and a few real videos; tests that need them are skipped if absent."""
    folder = Path(os.environ.get("ALERTCLIP_SHARED") or root.parent / "shared/data")
    if not folder.is_dir():
        pytest.skip(f"no real data at hand ({folder}); set ALERTCLIP_SHARED to its folder")
    return folder
