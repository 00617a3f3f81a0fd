from pathlib import Path

import pytest
from shared_data import SHARED


@pytest.fixture
def nsr_1k() -> Path:
    folder = SHARED / "nsr_1k"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/nsr_1k or TRUELINE_DATA")
    return folder
