"""Where the official files lie that tests compare with: beside the checkout, or where TRUELINE_DATA says."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("TRUELINE_DATA") or Path(__file__).parents[1] / "../shared/data")
