"""ReFL in two processes, as torchrun starts them: the gradients, the late step and the looks of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refl_process import train

import trueline

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SOURCE = Path(trueline.__file__).parents[1]
GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
SECONDS = 500  #: on a machine that does much else


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def processes(tokenizer, tmp_path_factory) -> tuple[Path, list[dict]]:
    """What each of two processes saw."""
    if not GLOO:
        pytest.skip("this torch has no gloo, so that processes on CPUs cannot talk to each other")
    home = tmp_path_factory.mktemp("processes")
    tokenizer.save_pretrained(home / "tokenizer")
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE, SOURCE))),
    }
    command = [sys.executable, str(HERE / "refl_process.py"), str(home)]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [each.communicate(timeout=SECONDS)[0] for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], "\n\n".join(said)
    return home, [torch.load(home / f"process-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("sparing", [False, True], ids=["whole", "checkpointing"])
def test_two_processes_make_the_gradients_of_one(processes, tmp_path, sparing):
    home, both = processes
    one = train(tmp_path, home / "tokenizer", 1, sparing)
    first, second = (process[str(sparing)] for process in both)
    assert first["late"] == second["late"] == one["late"] and len(set(one["late"])) > 1
    seen = [prompt for step in (0, 2) for p in (first, second) for prompt in p["prompts"][step : step + 2]]
    assert seen == one["prompts"], "each sees its own half"
    greatest = max(float(slope.abs().max()) for slope in one["gradients"].values())
    assert greatest > 1e-3
    for name, slope in one["gradients"].items():
        assert torch.equal(first["gradients"][name], second["gradients"][name]), name
        assert float((slope - first["gradients"][name]).abs().max()) < 5e-6 * greatest, (
            name
        )  # seen: 5e-7 of it
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    torch.testing.assert_close(first["statistics"], one["statistics"], rtol=1e-6, atol=1e-9)
    assert torch.equal(first["statistics"], second["statistics"]) and first["statistics"][0] == 8


def test_both_learn_of_the_looks_and_stop_at_the_same_step(processes):
    home, both = processes
    for process in both:
        found = process["False"]
        assert found["step"] == 2 and found["best"] == {"step": 1, "score": 0.5, "waited": 1}
    lines = [json.loads(line) for line in (home / "two-False" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "look/held_out" in line] == [0, 1, 2]
