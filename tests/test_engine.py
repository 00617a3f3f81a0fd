"""Engines: several processes at one run make what one makes, whoever of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trueline.cli import main
from trueline.commands._model import own_gpu
from trueline.engine import WORKER, Engine, Phase, Shard, batched, carry_out, progress
from trueline.files import Job, Outcome, RunFolder

PROMPT = "a red apple and a blue car"
COMPARED = ("*.png", "0*.json")


def generate(model: Path, out: Path, *more: str, n: int = 12) -> list[str]:
    counts = ["--n", str(n), "--batch-size", "2", "--steps", "4", "--out", str(out)]
    return ["generate", PROMPT, "--model", str(model), "--device", "cpu", *counts, *more]


def start(command: list[str], **options) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1", "TRUELINE_TAKEOVER": "5"}
    line = [sys.executable, "-m", "trueline.cli", *command]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options
    )


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in COMPARED for path in out.glob(pattern)}


def lives(pid: int) -> bool:
    """Whether it runs: one that has ended may still be listed, until its new parent looks at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Processes that this one started, of the command line only."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"trueline.cli" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except (OSError, IndexError):
            continue
    return sorted(found)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(gated_folder, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert start(generate(gated_folder, out)).wait(120) == 0
    return contents(out)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_the_other_does_its_share(gated_folder, alone, tmp_path):
    out = tmp_path / "out"
    process = start(generate(gated_folder, out, "--workers", "2"))
    wait_for(lambda: list(out.glob("0*.json")), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and contents(out) == alone, "two workers make what one makes"
    assert "of 2 was ended by signal 9, see " in errors


@pytest.mark.slow
def test_who_stops_the_run_stops_the_workers(gated_folder, alone, tmp_path):
    out = tmp_path / "out"
    process = start(generate(gated_folder, out, "--workers", "2"))
    wait_for(lambda: list(out.glob("0*.json")), process)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped: " in errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert json.loads((out / "state.json").read_text())["status"] == "stopped"
    assert start(generate(gated_folder, out)).wait(120) == 0
    assert contents(out) == alone, "the same command goes on, with other workers too"


@pytest.mark.slow
def test_workers_without_a_parent_end(gated_folder, tmp_path):
    out = tmp_path / "out"
    process = start(generate(gated_folder, out, "--workers", "2", n=1000))
    wait_for(lambda: list(out.glob("0*.json")), process)
    workers = children(process.pid)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while any(map(lives, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert len(workers) == 2 and not any(map(lives, workers))


@pytest.mark.slow
def test_what_no_worker_can_do_is_one_sentence_with_the_reason(gated_folder, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    method = ("--method", "hcma", "--hcma.weights", str(broken))
    process = start(generate(gated_folder, tmp_path / "out", "--workers", "2", *method))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("trueline: ") and str(broken) in last, errors


BAD = {
    ("--workers", "0"): "--workers: must be from 1 to 10000 (got 0)",
    ("--workers", "-1"): "--workers: must be from 1 to 10000 (got -1)",
    ("--ray-address", "host:1"): "--ray-address: belongs to the engine ray; choose it, or leave this out",
    ("--gpus-per-worker", "1"): "--gpus-per-worker: belongs to the engine ray",
    ("--engine", "ray", "--gpus-per-worker", "-1"): "--gpus-per-worker: must be from 0 to 64 (got -1)",
    ("--engine", "magic"): "--engine: invalid choice: 'magic'",
    ("--shard", "3/2"): "--shard: write it as 1/4, 2/4, ... (got '3/2')",
}


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_engines_that_cannot_be(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["generate", "a cat", "--out", str(out), *arguments]) == 2
    assert BAD[arguments] in capsys.readouterr().err and not out.exists()


def test_ray_is_an_extra(tmp_path, gated_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # not importable, installed or not
    assert main(generate(gated_folder, tmp_path / "out", "--engine", "ray")) == 2
    assert (
        capsys.readouterr().err == "trueline: --engine: ray is not installed; pip install 'trueline[ray]'\n"
    )


def letters(run: RunFolder, jobs: list[Job], seconds: float = 0.0) -> Phase:
    def do(job: Job) -> Outcome:
        time.sleep(seconds)
        return Outcome({f"{job.id}.txt": job.id.encode()})

    return Phase("letters", jobs, lambda: do)


def test_a_later_phase_depends_on_the_one_before(tmp_path):
    run = RunFolder(tmp_path, "test", {}, [])

    def phases():
        yield letters(run, [Job("a"), Job("b")])
        yield letters(run, [Job(path.stem * 2) for path in sorted(tmp_path.glob("?.txt"))])

    assert carry_out(run, phases(), Engine(), silent=True)
    assert {path.name for path in tmp_path.glob("*.txt")} == {"a.txt", "b.txt", "aa.txt", "bb.txt"}


def test_where_nothing_is_left_nothing_is_loaded(tmp_path):
    run, jobs = RunFolder(tmp_path, "test", {}, []), [Job("a")]
    carry_out(run, [letters(run, jobs)], Engine(), silent=True)

    def never():
        raise AssertionError("loaded")

    carry_out(RunFolder(tmp_path, "test", {}, []), [Phase("letters", jobs, never)], Engine(), silent=True)


def test_a_worker_leaves_the_rest_to_who_started_it(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, "test", {}, [])
    monkeypatch.setenv(WORKER, "1/1")
    assert not carry_out(run, [letters(run, [Job("a")])], Engine(workers=3))
    assert (tmp_path / "a.txt").exists()


def test_a_job_that_fails_is_free_again(tmp_path):
    run = RunFolder(tmp_path, "test", {}, [])

    def do(job):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        carry_out(run, [Phase("letters", [Job("a")], lambda: do)], Engine(), silent=True)
    assert run.claims.live() == [] and run.todo([Job("a")]) == [Job("a")]


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.1)
    monkeypatch.setattr(progress, "OFTEN", 0.0)
    run = RunFolder(tmp_path, "test", {}, [])
    jobs = [Job(name, makes=(f"{name}1", f"{name}2")) for name in "abcd"]
    carry_out(run, [letters(run, jobs, seconds=0.15)], Engine())
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 8 and all(line.startswith("trueline: letters: ") for line in lines)
    assert "of 8 done" in lines[0] and " s each, about " in lines[-1] and lines[-1].endswith("left")


def test_batches_hold_one_kind_and_are_always_the_same():
    assert batched("aAbBcC", 2, str.isupper) == [["a", "b"], ["c"], ["A", "B"], ["C"]]


def test_shards_share_everything_out():
    taken = [[number for number in range(10) if Shard(index, 3).takes(number)] for index in (1, 2, 3)]
    assert (
        sorted(number for each in taken for number in each) == list(range(10))
        and str(Shard.parse("2/3")) == "2/3"
    )


@pytest.mark.parametrize(
    ("environment", "gpu"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"}, 3),
        ({"LOCAL_RANK": "5"}, 1),
        ({"SLURM_LOCALID": "2"}, 2),
        ({"LOCAL_RANK": "x"}, 0),
    ],
)
def test_each_process_of_a_launcher_has_a_gpu_of_its_own(monkeypatch, environment, gpu):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_gpu() == gpu
