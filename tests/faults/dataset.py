"""``trueline dataset build`` that is killed, SIGKILL, at random moments: it must end in the same bytes.

kill_building(model, folder, kills=10)
"""

import hashlib
import multiprocessing
import random
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

SECONDS = 600  #: for one process, on a machine that does much else
PROMPTS, BATCH, TRIES = 24, 2, 3

_context: Any = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trueline.cli", "trueline.dataset.build", "trueline.perception.worlds"])


def build(model: str, out: str, more: tuple[str, ...] = ()) -> None:
    """What a process does."""
    import torch

    from trueline.cli import main

    torch.set_num_threads(1)
    command = ["dataset", "build", "--captions", "0", "--templates", str(PROMPTS), "--batch-size", str(BATCH)]
    how = ["--tries", str(TRIES), "--steps", "1", "--model", model, "--device", "cpu", "--dtype", "fp32"]
    with Path(out).with_suffix(".said.txt").open("a") as said, redirect_stderr(said), redirect_stdout(said):
        code = main([*command, *how, "--out", out, *more])
    raise SystemExit(code)


def started(model: Path, out: Path, *more: str) -> Any:
    process = _context.Process(target=build, args=(str(model), str(out), more))
    process.start()
    return process


def in_peace(model: Path, out: Path) -> float:
    """Seconds that it took. One step of a random model draws nothing that agrees: exit code 1."""
    begun = time.monotonic()
    process = started(model, out)
    process.join(SECONDS)
    assert process.exitcode in (0, 1), out.with_suffix(".said.txt").read_text()
    return time.monotonic() - begun


def kill_building(model: Path, folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Build once in peace and once with ``kills`` kills; returns how many struck in each try.

    Raises:
        AssertionError: the two differ, or a batch was looked at twice.
    """
    whole, struck = folder / "whole", folder / "struck"
    in_peace(model, whole)
    seconds = in_peace(model, folder / "again")  # the fork server has read its libraries
    units = looked(whole)
    draw, tries = (
        random.Random(seed),
        dict.fromkeys(("at the start", *map(str, range(TRIES)), "at the end"), 0),
    )
    for kill in range(kills):
        far = int((kill + draw.random()) / kills * units)
        process = started(model, struck)
        while process.is_alive() and looked(struck) < far:
            time.sleep(0.002)
        process.join(draw.random() * seconds / units)
        process.kill()
        process.join()
        done = looked(struck)
        tries[
            "at the start" if not done else "at the end" if done == units else str(done * TRIES // units)
        ] += 1
    in_peace(model, struck)
    assert hashes(struck) == hashes(whole)
    assert looked(struck) == looked(whole) == len(list((whole / "seen").rglob("*.json"))), "each batch once"
    return tries


def looked(out: Path) -> int:
    """Batches, by the journal."""
    return sum(path.read_text().count('"seconds"') for path in (out / "progress/done").glob("*.jsonl"))


def hashes(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = {str(path.relative_to(out)): path for path in files}
    own = ("run.json", "state.json", "progress/")
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in names.items() if not n.startswith(own)}
