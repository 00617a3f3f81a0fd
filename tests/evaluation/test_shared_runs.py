"""Evaluations that are shared by processes, by machines, or killed: the same pictures, judgements and tables."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, by, isolate, say
from faults import FULL, often
from faults.evaluate import (
    SECONDS,
    command,
    kill_evaluating,
    made,
    share_evaluating,
    started,
    table,
    units,
    write_prompts,
)
from test_engine import start, wait_for

from trueline.cli import main

PROMPTS = 6
PLAN = {"regions": [{"object": "apple", "phrase": "a red apple", "box": [0, 0, 99, 99]}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("data"), PROMPTS)


@pytest.fixture(scope="module")
def whole(gated_folder, data, tmp_path_factory) -> Path:
    """By one process."""
    out = tmp_path_factory.mktemp("evaluation") / "whole"
    assert main(command(gated_folder, data, out)) == 0
    return out


def times(out: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for part in ("pictures", "seen") for path in (out / part).rglob("*")
    }


@pytest.mark.slow
@pytest.mark.faults
def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(gated_folder, tmp_path):
    places = kill_evaluating(gated_folder, tmp_path, kills=often(3, 30), prompts=often(24, 96))
    print(places)
    struck = [places.get(phase, 0) for phase in ("drawing", "judging")]
    assert min(struck) >= often(0, 8) and sum(struck) >= often(2, 20)


@pytest.mark.slow
@pytest.mark.faults
def test_four_processes_of_which_two_die_and_one_freezes(gated_folder, tmp_path):
    shares = share_evaluating(gated_folder, tmp_path, prompts=often(24, 96))
    print(shares)
    assert shares["exit codes"] == [-9, -9, 0, 0]


@pytest.mark.slow
def test_sigterm_is_a_clean_stop(gated_folder, tmp_path):
    data, out = write_prompts(tmp_path / "data", 48), tmp_path / "out"
    process = started(gated_folder, data, out)
    while process.is_alive() and units(out)["draw"] < 2:
        time.sleep(0.002)
    process.terminate()
    process.join(60)
    state = json.loads((out / "state.json").read_text())
    assert process.exitcode == 143 and state["status"] == "stopped", out.with_suffix(".said.txt").read_text()
    missing = {name for name in state["missing"] if name.startswith(("plain/", "gligen/"))}
    assert 0 < len(missing) == 2 * 48 - len(list(out.rglob("*.png")))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.faults)])
def test_two_workers_make_what_one_process_makes(engine, gated_folder, data, whole, tmp_path, monkeypatch):
    if engine == "ray":
        pytest.importorskip("ray", reason="the extra trueline[ray] is not installed")
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))  # for the judge of a user's own
    out = tmp_path / "shared"
    assert main(command(gated_folder, data, out, "--engine", engine, "--workers", "2")) == 0
    assert made(out) == made(whole) and table(out) == table(whole)
    assert (out / "report.html").exists(), "who started the workers writes the table"
    logs = [(out / f"progress/worker-{number}.log").read_text() for number in (1, 2)]
    assert not any("|" in log for log in logs), "no table by a worker"


@pytest.mark.slow
@pytest.mark.faults
def test_a_driver_of_ray_that_is_killed_loses_nothing(gated_folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra trueline[ray] is not installed")
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    data, slowly = (
        write_prompts(tmp_path / "data", often(12, 24)),
        ("--steps", "60"),
    )  # longer than Ray needs to see it
    one, out = tmp_path / "one", tmp_path / "out"
    assert start(command(gated_folder, data, one, *slowly)).wait(SECONDS) == 0
    asked = command(gated_folder, data, out, *slowly, "--engine", "ray", "--workers", "2")
    process = start(asked)
    wait_for(lambda: units(out)["draw"], process, SECONDS)
    process.kill()
    process.wait()
    assert units(out)["look"] == 0, "killed while it drew"
    _, errors = (again := start(asked)).communicate(timeout=SECONDS)
    assert again.returncode == 0, errors
    assert made(out) == made(one) and table(out) == table(one) and units(out) == units(one)


def test_the_same_command_on_a_folder_that_is_done(gated_folder, data, whole):
    before = times(whole)
    assert main(command(gated_folder, data, whole)) == 0
    assert times(whole) == before


def test_exporting_once_more_leaves_the_pictures(gated_folder, data, whole, tmp_path, capsys):
    """Another process that shares the run comes to its end, too."""
    for _ in range(2):
        assert main(command(gated_folder, data, whole, "--export", str(tmp_path))) == 0
    assert "exported to" in capsys.readouterr().out
    next((tmp_path / "plain").rglob("*.png")).unlink()
    assert main(command(gated_folder, data, whole, "--export", str(tmp_path))) == 2
    assert "has pictures already" in capsys.readouterr().err


def test_merged_shards_are_done(gated_folder, data, whole, tmp_path, capsys):
    """The whole command finds nothing to draw or to look at; what was damaged on the way is said, and made again."""
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, start=1):
        assert main(command(gated_folder, data, part, "--shard", f"{number}/2")) == 0
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "all")]) == 0
    before = times(tmp_path / "all")
    assert main(command(gated_folder, data, tmp_path / "all")) == 0
    assert times(tmp_path / "all") == before
    assert made(tmp_path / "all") == made(whole) and table(tmp_path / "all") == table(whole)
    assert json.loads((tmp_path / "all/state.json").read_text())["done_twice"] == 0
    picture = next((parts[1] / "pictures/gligen").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:100])
    capsys.readouterr()
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().err
    assert re.search(
        r"1 units are not whole where they were made and are made again, first .*two: draw/glig", said
    )
    assert main(command(gated_folder, data, tmp_path / "again")) == 0
    assert made(tmp_path / "again") == made(whole)


def test_shards_of_generate_are_merged(gated_folder, tmp_path):
    tiny = ["--model", str(gated_folder), "--device", "cpu", "--steps", "1", "--batch-size", "1", "--quiet"]
    pictures = ["generate", "a red apple", "--n", "3", *tiny, "--out"]
    parts = [str(tmp_path / str(number)) for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        assert main([*pictures, part, "--shard", f"{number}/2"]) == 0
    merged, whole = tmp_path / "merged", tmp_path / "whole"
    assert main(["merge", *parts, "--out", str(merged)]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in merged.glob("0000-*")}
    assert main([*pictures, str(merged)]) == 0 and main([*pictures, str(whole)]) == 0
    assert len(before) == 6 and before == {p.name: p.stat().st_mtime_ns for p in merged.glob("0000-*")}
    for path in whole.glob("*.png"):
        assert (merged / path.name).read_bytes() == path.read_bytes()


def test_a_language_model_plans_once(gated_folder, data, tmp_path, monkeypatch, capsys):
    """Who goes on asks no more: the plans are part of the run. Shards would plan for themselves."""
    isolate(monkeypatch)
    out = tmp_path / "out"
    tiny = ["--model", str(gated_folder), "--device", "cpu", "--dtype", "fp32", "--steps", "1", "--quiet"]
    asked = ["evaluate", "geneval", "--data", str(data), "--out", str(out), *tiny, "--methods", "gligen"]
    asked += ["--judges", "none", "--planner", "llm:x"]
    monkeypatch.setenv("TRUELINE_CACHE", str(tmp_path / "cache"))
    with ChatServer(by(lambda body: say(PLAN))) as server:
        asked += ["--llm.base_url", server.url]
        assert main(asked) == 0
        assert len(server.requests) == PROMPTS
    before = made(out)
    next((out / "pictures/gligen").glob("*.png")).unlink()
    monkeypatch.setenv("TRUELINE_CACHE", str(tmp_path / "other"))
    assert main(asked) == 0, "there is no server any more"
    assert made(out) == before
    assert main([*asked, "--shard", "1/2"]) == 2
    assert "--shard: llm:x may plan otherwise in each shard" in capsys.readouterr().err


@pytest.mark.faults
def test_plans_of_a_table_of_planners_are_units_that_are_shared_and_kept(tmp_path):
    workers = ["--workers", "2"] if FULL else []
    rows = [
        {"id": k, "prompt": f"{k + 2} cats", "sub-type": "single-category", "num_object": [["cat", k + 2]]}
        for k in range(40)
    ]
    for kind, content in (("counting", rows), ("spatial", [])):
        file = tmp_path / f"nsr_1k/{kind}/{kind}.val.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([row | {"object_list": []} for row in content]))
    asked = ["evaluate", "nsr-1k-layout", "--data", str(tmp_path), "--planner", "rules", "again=rules"]
    asked += ["--quiet", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*asked, str(one)]) == 0 and main([*asked, str(two), *workers]) == 0
    assert made(one) == made(two) and table(one) == table(two) and len(table(one)) > 2
    before = {path: path.stat().st_mtime_ns for path in (one / "plans").rglob("0*.jsonl")}
    assert main([*asked, str(one)]) == 0
    assert len(before) == 6 and all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert main([*asked, str(one), "--n", "7"]) == 2, "other prompts"
