"""Runs of pictures that are killed, shared and frozen. ``make faults`` does it at length."""

import os

import pytest

from tests.faults.running import kill_generating, share

FULL = os.environ.get("TRUELINE_FAULTS") == "full"  #: at length, as the issues ask for


@pytest.mark.slow
def test_generate_survives_kills(gated_folder, tmp_path):
    places = kill_generating(gated_folder, tmp_path, kills=30 if FULL else 4, pictures=240 if FULL else 32)
    print(places)
    assert places.get("in between", 0) >= (15 if FULL else 1)


@pytest.mark.slow
def test_four_processes_share_a_run_of_which_two_die_and_one_freezes(gated_folder, tmp_path):
    about = share(gated_folder, tmp_path, pictures=160 if FULL else 60)
    print(about)
    assert about["exit codes"] == [-9, -9, 0, 0]
    assert len(about["units of each process"]) == 4, "all four had a share"
