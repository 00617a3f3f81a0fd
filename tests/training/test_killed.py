"""Training that is killed, in the short form; ``make faults`` kills more often."""

import pytest
from faults import often
from faults.training import kill_training


@pytest.mark.slow
@pytest.mark.faults
def test_killed_it_ends_as_if_nothing_had_been(gated_folder, tmp_path):
    kills = often(2, 20)
    places = kill_training(gated_folder, tmp_path, kills=kills)
    print(places)
    assert sum(places.values()) == kills
