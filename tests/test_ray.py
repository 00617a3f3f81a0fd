"""The engine ray. Needs the extra (`make faults` installs it); Ray takes half a minute to start on two cores."""

import signal
import socket
import time
from pathlib import Path

import pytest
from faults.running import units_of_each
from test_engine import contents, generate, start, wait_for

from trueline.cli import main
from trueline.engine import ray as engine

pytest.importorskip("ray", reason="the extra trueline[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.faults]
TWO = ("--engine", "ray", "--workers", "2")
LONG = ("--steps", "50")  # the run goes on for longer than Ray needs to see that its driver is dead
MINUTES = 300


@pytest.fixture(scope="module")
def alone(gated_folder, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert start(generate(gated_folder, out, *LONG, n=60)).wait(MINUTES) == 0
    return contents(out)


def workers() -> list[int]:
    """Processes of this command line that Ray's actors started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().split(b"\0")
            if (
                b"trueline.cli" in line
                and b"ray" in line
                and b"TRUELINE_WORKER" in (place / "environ").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def test_two_actors_make_what_one_process_makes(gated_folder, alone, tmp_path):
    process = start(generate(gated_folder, tmp_path / "out", *TWO, *LONG, n=60))
    said, errors = process.communicate(timeout=MINUTES)
    assert process.returncode == 0 and said.startswith("60 pictures in "), errors
    assert all(line.startswith("trueline: drawing: ") for line in errors.splitlines()), (
        "where Ray starts slowly"
    )
    assert contents(tmp_path / "out") == alone
    assert len(units_of_each(tmp_path / "out")) == 2, "both had a share"


def test_a_driver_that_is_killed_loses_nothing(gated_folder, alone, tmp_path):
    out = tmp_path / "out"
    process = start(generate(gated_folder, out, *TWO, *LONG, n=60))
    wait_for(lambda: list(out.glob("0*.json")), process, MINUTES)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 60
    while workers() and time.monotonic() < end:
        time.sleep(0.2)
    assert not workers(), "actors end with their driver, and workers with their actors"
    done = len(list(out.glob("0*.json")))
    again = start(generate(gated_folder, out, *TWO, *LONG, n=60))
    _, errors = again.communicate(timeout=MINUTES)
    assert again.returncode == 0, errors
    assert contents(out) == alone and 0 < done < 60
    assert sum(units_of_each(out)) == 30, "each unit once"


def test_an_address_that_does_not_answer(gated_folder, tmp_path, capsys):
    """Closed, open but not Ray, and none at all: one sentence each, in seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = silent.getsockname()[1], closed.getsockname()[1]
        closed.close()
        for address in (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", "auto", "127.0.0.1:x"):
            begun = time.monotonic()
            options = ("--engine", "ray", "--ray-address", address)
            assert main(generate(gated_folder, tmp_path / "out", *options)) == 2
            said = capsys.readouterr().err
            assert said.startswith("trueline: --ray-address: ") and said.count("\n") == 1, said
            assert time.monotonic() - begun < 60


def test_a_cluster_without_room_says_so(gated_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine, "START", 5.0)
    options = ("--engine", "ray", "--workers", "2", "--gpus-per-worker", "1")
    assert main(generate(gated_folder, tmp_path / "out", *options)) == 2
    said = capsys.readouterr().err
    assert "--workers: Ray found no room for one of 2 in 5 s (each needs 1 CPU and 1 GPUs" in said
