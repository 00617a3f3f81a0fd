"""The official files that some tests compare with: beside the checkout, or where TRUELINE_DATA says.

A test that reads one of them has the mark ``needs(...)``: where it is not there, the test is skipped and says why.
"""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TRUELINE_DATA") or Path(__file__).parents[1] / "../shared/data")


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip the test unless all of these files or folders of ``SHARED`` are there."""
    missing = [name for name in names if not (SHARED / name).exists()]
    return pytest.mark.skipif(
        bool(missing), reason=f"needs ../shared/data/{', '.join(missing)} or TRUELINE_DATA"
    )
