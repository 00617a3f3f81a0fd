"""Builds of data sets that are killed, shared and damaged, with real processes."""

import pytest
from faults import often
from faults.dataset import hashes, in_peace, kill_building, started


@pytest.mark.slow
@pytest.mark.faults
def test_a_build_survives_kills(gated_folder, tmp_path):
    places = kill_building(gated_folder, tmp_path, kills=often(3, 10))
    print(places)
    assert places["at the start"] + places["at the end"] < sum(places.values())


@pytest.mark.slow
def test_two_processes_make_what_one_makes_and_damage_is_mended(gated_folder, tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    in_peace(gated_folder, whole)
    two = [started(gated_folder, shared) for _ in range(2)]
    for process in two:
        process.join(300)
        assert process.exitcode in (0, 1)
    assert hashes(shared) == hashes(whole)
    picture = next((shared / "pictures").iterdir())
    picture.write_bytes(picture.read_bytes()[:100])
    (shared / "items.jsonl").unlink()
    in_peace(gated_folder, shared)
    assert hashes(shared) == hashes(whole)
