"""Where the benchmarks' files are."""

from pathlib import Path

import pytest
from shared_data import SHARED

DATA = SHARED


@pytest.fixture
def nsr_1k() -> Path:
    if not (DATA / "nsr_1k").exists():
        pytest.skip("needs the files of ../shared (or TRUELINE_DATA)")
    return DATA / "nsr_1k"
