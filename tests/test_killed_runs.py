"""Runs of pictures that are killed, shared and frozen."""

import pytest
from faults import often
from faults.running import kill_generating, share

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def test_generate_survives_kills(gated_folder, tmp_path):
    places = kill_generating(gated_folder, tmp_path, kills=often(4, 30), pictures=often(32, 240))
    print(places)
    assert places.get("in between", 0) >= often(1, 15)


def test_four_processes_share_a_run_of_which_two_die_and_one_freezes(gated_folder, tmp_path):
    about = share(gated_folder, tmp_path, pictures=often(60, 160))
    print(about)
    assert about["exit codes"] == [-9, -9, 0, 0]
    assert len(about["units of each process"]) == 4, "all four had a share"
