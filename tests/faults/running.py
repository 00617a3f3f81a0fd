"""``trueline generate`` in trouble: killed again and again, or shared by processes of which some die or freeze.

    kill_generating(model, folder, kills=30, pictures=240)
    share(model, folder, pictures=60)

Real processes of the real command; a fork server, which has read the libraries once, makes them cheap.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

SECONDS = 600  #: for one process, on a machine that does much else
TAKEOVER = 2.0  #: seconds without a sign of life, where a process is frozen
YOUNG = 10  #: seconds
BATCH = 2

_context: Any = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trueline.cli", "trueline.commands._pictures"])


def generate(model: str, out: str, pictures: int, more: tuple[str, ...]) -> None:
    """What a process does."""
    import torch

    from trueline.cli import main

    torch.set_num_threads(1)
    os.environ["TRUELINE_TAKEOVER"] = str(TAKEOVER)
    command = ["generate", "a red apple and a blue car", "--model", model, "--device", "cpu", "--steps", "1"]
    counts = ["--n", str(pictures), "--batch-size", str(BATCH), "--out", out]
    with Path(out).with_suffix(".said.txt").open("a") as said, redirect_stderr(said), redirect_stdout(said):
        code = main([*command, *counts, *more])
    raise SystemExit(code)


def started(model: Path, out: Path, pictures: int, *more: str) -> Any:
    process = _context.Process(target=generate, args=(str(model), str(out), pictures, more))
    process.start()
    return process


def in_peace(model: Path, out: Path, pictures: int, *more: str) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    process = started(model, out, pictures, *more)
    process.join(SECONDS)
    assert process.exitcode == 0, out.with_suffix(".said.txt").read_text()
    return time.monotonic() - begun


def kill_generating(model: Path, folder: Path, kills: int, pictures: int, seed: int = 0) -> dict[str, int]:
    """Draw once in peace and once with ``kills`` kills; returns where these struck.

    Raises:
        AssertionError: the two runs differ, or a unit was done twice.
    """
    whole, struck = folder / "whole", folder / "struck"
    in_peace(model, folder / "first", BATCH)  # the fork server reads its libraries
    seconds = in_peace(model, whole, pictures)
    times = [path.stat().st_mtime for path in whole.glob("*-*.json")]
    unit = (max(times) - min(times)) / (pictures / BATCH)
    loading = seconds - unit * pictures / BATCH
    draw, places = random.Random(seed), Counter[str]()
    for kill in range(kills):
        # Into the rest of the run, so that every kill finds one that lives; one in four into the start.
        far = 0 if kill % 4 == 3 else 1 + int((kill + draw.random()) / kills * (pictures - 1))
        process = started(model, struck, pictures)
        while process.is_alive() and drawn(struck) < far:
            time.sleep(0.001)
        process.join(draw.random() * (2 * unit if far else loading / 2))
        process.kill()
        process.join()
        places[
            "at the end" if drawn(struck) == pictures else "in between" if drawn(struck) else "before"
        ] += 1
    last = time.time()
    in_peace(model, struck, pictures)
    assert_equal(whole, struck, pictures)
    half = [path for path in struck.rglob(".*.tmp") if path.stat().st_mtime < last - YOUNG]
    assert not half, half
    return dict(places)


def share(model: Path, folder: Path, pictures: int = 60) -> dict[str, Any]:
    """Draw with one process, then with four, of which two are killed and one is frozen for longer than the takeover.

    Raises:
        AssertionError: the two runs differ.
    """
    whole, shared = folder / "whole", folder / "shared"
    slowly = ("--steps", "8")
    in_peace(model, whole, pictures, *slowly)
    four = [started(model, shared, pictures, *slowly) for _ in range(4)]
    while len(units_of_each(shared)) < 4:
        assert all(process.is_alive() for process in four), (
            "more pictures are needed: all four must have a share"
        )
        time.sleep(0.005)
    for process, strike in zip(four, (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP), strict=False):
        os.kill(process.pid, strike)
        time.sleep(0.1)
    frozen, survivor = four[2], four[3]
    survivor.join(SECONDS)
    assert survivor.exitcode == 0
    state = json.loads((shared / "state.json").read_text())
    assert (state["status"], state["done"]) == ("complete", pictures), "nobody waited for the frozen one"
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.join(SECONDS)
    assert frozen.exitcode == 0, "it sees that all is done"
    for process in four:
        process.join(SECONDS)
    twice = json.loads((shared / "state.json").read_text())["done_twice"]
    assert_equal(whole, shared, pictures, twice)
    assert twice <= 1, "the frozen one had one unit in hand"
    return {
        "exit codes": [process.exitcode for process in four],
        "units of each process": list(units_of_each(shared)),
    }


def drawn(out: Path) -> int:
    return BATCH * sum(units_of_each(out))


def units_of_each(out: Path) -> list[int]:
    """Units that the journal calls done, by process."""
    return [path.read_text().count('"seconds"') for path in sorted((out / "progress/done").glob("*.jsonl"))]


def assert_equal(whole: Path, other: Path, pictures: int, twice: int = 0) -> None:
    """Pictures, records and the sheet have the same bytes; each unit is in the journal once.

    ``twice``: so many may be there again, where a process was frozen while it wrote."""
    hashes = [
        {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in out.glob("*.*")
            if _compared(path)
        }
        for out in (whole, other)
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2 * pictures + 1
    lines = [
        line for path in (other / "progress/done").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    units = Counter(unit["unit"] for line in lines if "files" in (unit := json.loads(line)))
    assert len(units) == pictures // BATCH and units.total() - len(units) <= twice, units


def _compared(path: Path) -> bool:
    return path.name not in ("run.json", "state.json") and not path.name.startswith(".")
