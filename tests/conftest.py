"""What every test may ask for. Tests pass without the shared data; those that need it say so and skip."""

import os
from pathlib import Path

import pytest

# One thread per test process: two cores are all CI has, and small matrices lose by sharing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("RIGFACE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, portraits, hostile inputs and reference figures, where it is there."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the shared data at {SHARED}; set RIGFACE_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Small files that ship with the tests."""
    return ROOT / "tests" / "fixtures"
