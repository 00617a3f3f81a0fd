"""Where the benchmarks' files are."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("TRUELINE_DATA") or Path(__file__).parents[2] / "../shared/data")


@pytest.fixture
def nsr_1k() -> Path:
    if not (DATA / "nsr_1k").exists():
        pytest.skip("needs the files of ../shared (or TRUELINE_DATA)")
    return DATA / "nsr_1k"
