"""Two trainings on one folder: one trains, the other says who does; a claim without a sign of life is taken over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trueline
from trueline.cli import main
from trueline.files import Claims
from trueline.training.run import TrainingRun

SETTINGS = ["steps=4", "batch=2", "warmup=1", "log_every=1", "save_every=2", "data.n=4", "precision=fp32"]
SOURCE = Path(trueline.__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from trueline.files import Claims
with Claims(Path(sys.argv[1])).held("train"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def train(gated_folder, tmp_path, capsys):
    def call() -> tuple[int, str]:
        sets = [part for one in SETTINGS for part in ("--set", one)]
        where = ["--model", str(gated_folder), "--device", "cpu", "--out", str(tmp_path / "out")]
        return main(["train", "hcma", "--stage", "control", *where, *sets]), capsys.readouterr().err

    return call


def test_a_second_training_says_who_trains_and_one_that_was_killed_is_taken_over(train, tmp_path):
    folder = tmp_path / "out" / "progress" / "claims"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        code, said = train()
        assert code == 2 and f"is in use by process {holder.pid} on " in said and ", since 20" in said
        assert not (tmp_path / "out" / "train.json").exists()
    finally:
        holder.kill()
        holder.wait()
    assert train()[0] == 0
    assert [*folder.iterdir()] == []


def test_a_training_that_was_frozen_and_taken_over_writes_nothing_more(train, tmp_path, monkeypatch):
    def frozen(run: TrainingRun, line: dict) -> None:
        if line["step"] == 3:  # past the checkpoint of step 2
            folder = run.home.path / "progress" / "claims"
            os.utime(folder / "train.0", (0, 0))
            (folder / "train.0").write_text(json.dumps({"host": "elsewhere", "pid": 1, "machine": "another"}))
            os.utime(folder / "train.0", (time.time() - 999,) * 2)
            assert Claims(folder).take("train") is not None

    monkeypatch.setattr(TrainingRun, "_progress", frozen)
    code, said = train()
    assert code == 2 and "was taken over by process" in said and "writes nothing more" in said
    out = tmp_path / "out"
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3] and not (out / "final").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002.safetensors"]
