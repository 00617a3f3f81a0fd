"""``accelerate launch ... trueline train``: two processes on the CPU make the steps of one, stop, and go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_two_processes import GLOO, free_port

import trueline
from trueline.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GLOO, reason="this torch has no gloo, so that processes on CPUs cannot talk"),
]
SOURCE = Path(trueline.__file__).parents[1]
SECONDS = 300  #: on a machine that does much else
PLAN = [
    "warmup=1",
    "lr=0.01",
    "log_every=1",
    "save_every=2",
    "data.n=6",
    "precision=fp32",
    "clip=0",
    "ema=0.9",
]


def arguments(model: Path, out: Path, batch: int, steps: int) -> list[str]:
    sets = [*PLAN, f"batch={batch}", f"steps={steps}"]
    named = [part for one in sets for part in ("--set", one)]
    more = ["--stage", "control", "--model", str(model), "--device", "cpu", "--out", str(out)]
    return ["train", "hcma", *more, *named]


def launch(command: list[str]) -> subprocess.CompletedProcess:
    """As docs/guides/cluster.md has it; --multi_gpu is accelerate's word for several processes on one machine."""
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    more = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    port = ["--main_process_port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [*launcher, *more, *port, "-m", "trueline.cli", *command],
        env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    state = load_file(out / "checkpoints" / f"step-{step:08d}.safetensors")
    state.pop("sha256")
    return state


def test_two_launched_processes_make_the_steps_of_one_and_go_on(gated_folder, tmp_path, capsys):
    first, straight, alone = (tmp_path / name for name in ("two", "straight", "alone"))
    for out, steps in ((first, 2), (first, 4), (straight, 4)):
        done = launch(arguments(gated_folder, out, 1, steps))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.count(f"{steps} steps in") == 1, "the main process speaks for both"
    assert main([*arguments(gated_folder, alone, 2, 4), "--quiet"]) == 0
    record = json.loads((first / "train.json").read_text())
    assert (record["processes"], record["steps"], record["status"]) == (2, 4, "complete")
    logs = [
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (first, alone)
    ]
    assert [[line["step"] for line in log] for log in logs] == [[0, 1, 2, 3, 4]] * 2
    gone_on, whole, one = (weights(out, 4) for out in (first, straight, alone))
    assert gone_on.keys() == whole.keys() == one.keys()
    assert all(torch.equal(gone_on[name], whole[name]) for name in whole), "going on is bit for bit"
    # Adam's first moment is a mean of gradients; its steps themselves enlarge what is near 0.
    slopes = [name for name in one if name.startswith("optimiser.exp_avg/")]
    greatest = max(float(one[name].abs().max()) for name in slopes)
    apart = max(float((one[name] - whole[name]).abs().max()) for name in slopes)
    assert len(slopes) > 20 and 0 < apart < 1e-3 * greatest, (apart, greatest)
    assert main(arguments(gated_folder, first, 2, 6)) == 2
    assert "began with" in capsys.readouterr().err, "another number of processes is another run"
