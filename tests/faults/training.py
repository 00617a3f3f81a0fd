"""``trueline train`` that is killed, SIGKILL, at random moments: the same command must end as if nothing had been.

    kill_training(model, folder, kills=20, seed=0)

A kill strikes a real process of its own; a fork server, which has read the libraries once, makes them cheap.
"""

import hashlib
import json
import multiprocessing
import random
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

STEPS = 60
SETTINGS = {
    "steps": STEPS, "batch": 2, "warmup": 1, "lr": 0.01, "log_every": 1, "save_every": 5, "keep": 2, "ema": 0.9,
    "precision": "fp32", "data.n": 6, "validation.every": 20, "validation.n": 2, "validation.steps": 2,
}  # fmt: skip
YOUNG = 10  #: seconds
SECONDS = 300  #: for one process, on a machine that does much else

_context: Any = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trueline.cli", "trueline.training.run", "trueline.training.recipes.hcma"])


def train(model: str, out: str) -> None:
    """What a process does."""
    import torch

    from trueline.cli import main

    torch.set_num_threads(1)
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    command = ["train", "hcma", "--stage", "control", "--model", model, "--device", "cpu", "--quiet"]
    with Path(out).with_suffix(".said.txt").open("a") as said, redirect_stderr(said):
        code = main([*command, *sets, "--out", out])
    raise SystemExit(code)


def kill_training(model: Path, folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Train once in peace and once with ``kills`` kills; returns where these struck.

    Raises:
        AssertionError: the two runs differ.
    """
    whole, struck = folder / "whole", folder / "struck"
    seconds = _in_peace(model, whole)
    draw, places = random.Random(seed), {"before training": 0, "in training": 0, "after training": 0}
    for kill in range(kills):
        # Into the rest of the run, so that every kill finds one that lives; one in four into the start.
        far = 0.0 if kill % 4 == 3 else (kill + draw.random()) / kills
        _strike(model, struck, int(STEPS * far), draw.random() * seconds / STEPS * 5)
        places[_place(struck)] += 1
    last = time.time()
    _in_peace(model, struck)
    _assert_equal(whole, struck)
    # A temporary file of the last seconds could be another process's, which is about to lock it.
    half = [path for path in struck.rglob(".*") if path.stat().st_mtime < last - YOUNG]
    assert not half, half
    return places


def _in_peace(model: Path, out: Path) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    process = _context.Process(target=train, args=(str(model), str(out)))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0, out.with_suffix(".said.txt").read_text()
    return time.monotonic() - begun


def _strike(model: Path, out: Path, step: int, delay: float) -> None:
    """Kill the command ``delay`` seconds after its log has ``step``."""
    process = _context.Process(target=train, args=(str(model), str(out)))
    process.start()
    while process.is_alive() and last_step(out) < step:
        time.sleep(0.002)
    process.join(delay)
    process.kill()
    process.join()


def last_step(out: Path) -> int:
    """In the log; -1 where there is none."""
    try:
        return json.loads((out / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"]
    except (OSError, ValueError, KeyError, IndexError):
        return -1


def _place(out: Path) -> str:
    if (out / "final").exists():
        return "after training"
    return "in training" if last_step(out) > 0 else "before training"


def _assert_equal(whole: Path, struck: Path) -> None:
    """Weights and all other results have the same bytes, each step is in the log once, nothing is left over."""
    logs = [
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (whole, struck)
    ]
    for log in logs:
        for line in log:
            line.pop("seconds", None)
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[1]] == list(range(STEPS + 1))
    hashes = [_hashes(out) for out in (whole, struck)]
    assert hashes[0] == hashes[1]
    assert any(name.startswith("final/") for name in hashes[0])


def _hashes(out: Path) -> dict[str, str]:
    """Of what must be equal: not of records with seconds and times, nor of halves that a kill left."""
    parts = [path for part in ("final", "validation", "cache") for path in (out / part).rglob("*")]
    files = [path for path in parts if path.is_file() and path.name != "train.json" and path.name[0] != "."]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
