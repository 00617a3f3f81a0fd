"""Training that is killed, in the short form; ``make faults`` kills more often."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
from training import kill_training

pytestmark = pytest.mark.slow


def test_killed_twice_it_ends_as_if_nothing_had_been(gated_folder, tmp_path):
    assert sum(kill_training(gated_folder, tmp_path, kills=2).values()) == 2
