"""What a process holds does not grow with what it has done."""

import pytest
from faults import often
from faults.soak import handles_of_runs, memory_of_pictures


@pytest.mark.faults
def test_memory_is_flat_over_many_pictures(gated):
    grown = memory_of_pictures(gated, often(30, 200))
    print(f"{grown:+.1f} MB")
    assert grown < often(2, 4)


@pytest.mark.faults
def test_open_files_and_threads_are_flat_over_many_runs(tmp_path):
    grown = handles_of_runs(tmp_path, often(12, 50))
    print(f"{grown:+.0f} files and threads")
    assert grown < 1
