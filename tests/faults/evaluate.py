"""``trueline evaluate`` in trouble: killed again and again, or shared by processes of which some die or freeze.

    kill_evaluating(model, folder, kills=30, prompts=96)
    share_evaluating(model, folder, prompts=96)

Real processes of the real command; a fork server, which has read the libraries once, makes them cheap.
"""

import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from faults.running import TAKEOVER, units_of_each

SECONDS = 600  #: for one process, on a machine that does much else
YOUNG = 10  #: seconds
BATCH, ROWS, JUDGES = 2, ("plain", "gligen"), ("world-clip", f"bright={__name__}:brightness")

_context: Any = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["trueline.cli", "trueline.commands._evaluation", "trueline.world.perception"]
)


def all_units(prompts: int) -> Counter[str]:
    """By kind, as ``units``."""
    batches = prompts // BATCH
    return Counter(plans=math.ceil(prompts / 16), row=2, draw=2 * batches, look=4 * batches)


def brightness(images: Any, texts: Any) -> list[float]:
    return [sum(image.convert("L").tobytes()) / 1e6 for image in images]


def write_prompts(folder: Path, count: int) -> Path:
    """Of GenEval, which has no boxes: they are planned."""
    about = {"tag": "single_object", "include": [{"class": "apple", "count": 1}]}
    lines = [json.dumps(about | {"prompt": f"a photo of {k + 2} red apples"}) for k in range(count)]
    (folder / "geneval").mkdir(parents=True)
    (folder / "geneval/evaluation_metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    tiny = ["--model", str(model), "--device", "cpu", "--dtype", "fp32", "--steps", "2"]
    what = ["--planner", "rules", "--methods", *ROWS, "--judges", *JUDGES, "--batch-size", str(BATCH)]
    return ["evaluate", "geneval", "--data", str(data), "--out", str(out), "--quiet", *tiny, *what, *more]


def evaluate(arguments: list[str], out: str) -> None:
    """What a process does."""
    import torch

    from trueline.cli import main

    torch.set_num_threads(1)
    os.environ["TRUELINE_TAKEOVER"] = str(TAKEOVER)
    with Path(out).with_suffix(".said.txt").open("a") as said, redirect_stderr(said), redirect_stdout(said):
        code = main(arguments)
    raise SystemExit(code)


def kill_evaluating(model: Path, folder: Path, kills: int, prompts: int, seed: int = 0) -> dict[str, int]:
    """Evaluate once in peace and once with ``kills`` kills; returns the phases that these struck.

    Raises:
        AssertionError: the two runs differ, or a unit was done twice.
    """
    data = write_prompts(folder / "data", prompts)
    whole, struck = folder / "whole", folder / "struck"
    wanted = all_units(prompts)
    start = _in_peace(model, data, whole)
    times = [path.stat().st_mtime for path in whole.rglob("*.png")]
    unit, loading = (max(times) - min(times)) / wanted["draw"], min(times) - start
    draw, places = random.Random(seed), Counter[str]()
    for kill in range(kills):
        # Into the rest of the run, so that every kill finds one that lives; one in five into the start.
        far = 0 if kill % 5 == 4 else 1 + int((kill + draw.random()) / kills * (wanted.total() - 2))
        before, process = units(struck), started(model, data, struck)
        while process.is_alive() and units(struck).total() < far:
            time.sleep(0.001)
        end = time.monotonic() + draw.random() * (2 * unit if far else loading)
        while process.is_alive() and time.monotonic() < end and (far or units(struck) == before):
            time.sleep(
                0.001
            )  # a start ends with the first unit: the first of all starts takes longer than others
        process.kill()
        process.join()
        places[_place(struck, wanted)] += 1
    last = time.time()
    _in_peace(model, data, struck)
    _assert_equal(whole, struck, wanted)
    half = [path for path in struck.rglob(".*.tmp") if path.stat().st_mtime < last - YOUNG]
    assert not half, half
    return dict(places)


def share_evaluating(model: Path, folder: Path, prompts: int) -> dict[str, Any]:
    """Evaluate with one process, then with four, of which two are killed and one is frozen for longer than the
    takeover.

    Raises:
        AssertionError: the two runs differ, or a unit was done twice.
    """
    data = write_prompts(folder / "data", prompts)
    whole, shared = folder / "whole", folder / "shared"
    _in_peace(model, data, whole)
    four = [started(model, data, shared) for _ in range(4)]
    while len(list(shared.glob("progress/done/*.jsonl"))) < 4:
        assert all(process.is_alive() for process in four), "more prompts are needed: all must have a share"
        time.sleep(0.005)
    for process, strike in zip(four, (signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP), strict=False):
        os.kill(process.pid, strike)
    frozen, survivor = four[2:]
    survivor.join(SECONDS)
    assert survivor.exitcode == 0, shared.with_suffix(".said.txt").read_text()
    assert json.loads((shared / "state.json").read_text())["status"] == "complete", "nobody waited for it"
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.join(SECONDS)
    for process in four:
        process.join(SECONDS)
    state = json.loads((shared / "state.json").read_text())
    _assert_equal(whole, shared, all_units(prompts), state["done_twice"])
    assert state["done_twice"] <= 1, "the frozen one had one unit in hand"
    return {
        "exit codes": [process.exitcode for process in four],
        "units of each process": units_of_each(shared),
    }


def started(model: Path, data: Path, out: Path) -> Any:
    process = _context.Process(target=evaluate, args=(command(model, data, out), str(out)))
    process.start()
    return process


def _in_peace(model: Path, data: Path, out: Path) -> float:
    """When it began."""
    begun = time.time()
    process = started(model, data, out)
    process.join(SECONDS)
    assert process.exitcode == 0, out.with_suffix(".said.txt").read_text()
    return begun


def units(out: Path) -> Counter[str]:
    """Units that the journal calls done, by kind: plans, row, draw, look."""
    found: Counter[str] = Counter()
    for path in (out / "progress/done").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            if '"files"' in line and line.endswith("}"):
                found[json.loads(line)["unit"].partition("/")[0]] += 1
    return found


def _place(out: Path, wanted: Counter[str]) -> str:
    done = units(out)
    if (out / "state.json").exists():
        return "after the end"
    if done["draw"] == 0:
        return "before drawing"
    if done["draw"] < wanted["draw"]:
        return "drawing"
    return "judging" if done["look"] < wanted["look"] else "the table"


def _assert_equal(whole: Path, struck: Path, wanted: Counter[str], twice: int = 0) -> None:
    """All files of all units have the same bytes, the table says the same, each unit is in the journal once.

    ``twice``: so many may be there again, where a process was frozen while it wrote."""
    hashes = [made(out) for out in (whole, struck)]
    assert hashes[0] == hashes[1]
    files = BATCH * wanted["draw"] + wanted["look"] + wanted["row"] + wanted["plans"]
    assert len(hashes[0]) == files + 1, "pictures, what was seen, method.json, plans, plans.jsonl"
    assert table(whole) == table(struck)
    assert units(whole) == wanted
    assert units(struck) >= wanted and units(struck).total() - wanted.total() <= twice, units(struck)


def made(out: Path) -> dict[str, str]:
    """Checksums of pictures, plans, and what was seen."""
    parts = [path for part in ("pictures", "seen", "plans") for path in (out / part).rglob("*")]
    files = [path for path in [*parts, out / "plans.jsonl"] if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(out: Path) -> list[dict[str, Any]]:
    rows = json.loads((out / "results.json").read_text())
    return [{key: value for key, value in row.items() if key != "command"} for row in rows]
