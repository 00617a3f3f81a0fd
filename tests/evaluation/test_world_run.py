"""`trueline evaluate world`, for real and small: stopped, killed, sharded, and refused."""

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trueline.cli import main
from trueline.evaluation.benchmarks.world import CATEGORIES, EACH, SPLITS, World
from trueline.evaluation.run import REFERENCE, ROUND_TRIP
from trueline.evaluation.tables import lower_is_better
from trueline.evaluation.world_judge import WorldJudge
from trueline.world.scenes import make_scene

SMALL = ["--n", "6", "--steps", "3", "--batch-size", "4", "--dtype", "fp32", "--quiet"]


def evaluate(out: Path, *more: str) -> int:
    return main(["evaluate", "world", *SMALL, "--out", str(out), *more])


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def table(out: Path) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())
    return [{key: value for key, value in row.items() if key != "command"} for row in rows]


def verdicts(out: Path) -> list[dict]:
    with lzma.open(out / "verdicts/results.jsonl.xz") as file:
        return [{k: v for k, v in json.loads(line).items() if k != "command"} for line in file]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("evaluation") / "whole"
    assert evaluate(out) in (0, 1)  # 1: six pictures are too few for the judge's own accuracy to be sure
    return out


def test_examples_are_as_many_as_said_and_of_their_category():
    world = World()
    assert len(world.examples) == len({e.id for e in world.examples}) == EACH * len(CATEGORIES)
    for example in world.examples[:: EACH // 4]:
        scene = make_scene(SPLITS[0], example.truth["index"])
        assert CATEGORIES[example.category](scene, world.said(example))
        assert example.prompt == world.said(example).text
        assert len(example.layout.regions) == len(world.things(example)) == len(scene.things)


def test_the_judge_gives_renders_full_marks():
    world = World()
    examples = world.examples[::24]
    seen = WorldJudge(world).look(examples, [world.reference(e) for e in examples])
    for metric in (
        "object_accuracy",
        "color_accuracy",
        "texture_accuracy",
        "relation_accuracy",
        "box_accuracy",
    ):
        right, asked = np.sum([each[f"ratio/{metric}"] for each in seen], axis=0)
        assert asked > 0
        assert right == pytest.approx(asked), metric


def test_surfaces_are_judged_where_things_stand():
    world = World()
    examples = world.examples[::48]
    pictures = [world.reference(e) for e in examples]
    reddish = [Image.fromarray(np.array(p) // np.array([1, 2, 2], np.uint8)) for p in pictures]

    def figures(images):
        seen = WorldJudge(world).look(examples, images)
        return {
            m: np.divide(*np.sum([each[f"ratio/{m}"] for each in seen], axis=0))
            for m in ("shape_score", "color_error")
        }

    true, tinted, soft = (
        figures(images)
        for images in (pictures, reddish, [p.filter(ImageFilter.GaussianBlur(3)) for p in pictures])
    )
    assert true["shape_score"] > 0.97 and true["color_error"] < 0.5
    assert tinted["color_error"] > 10 and soft["shape_score"] < true["shape_score"] - 0.05
    assert lower_is_better("color_error") and not lower_is_better("shape_score")
    nothing = WorldJudge(world).look(examples[:1], [Image.new("RGB", pictures[0].size, "grey")])[0]
    assert nothing["ratio/shape_score"].tolist() == [0, 0] == nothing["ratio/color_error"].tolist()


def test_the_judge_gives_the_pictures_of_other_prompts_hardly_any():
    world = World()
    examples = world.examples[::24]
    pictures = [world.reference(e) for e in examples]
    seen = WorldJudge(world).look(examples, pictures[1:] + pictures[:1])
    right, asked = np.sum([each["ratio/color_accuracy"] for each in seen], axis=0)
    assert right / asked < 0.2


def test_the_table_has_each_method_metric_and_interval(done):
    rows = table(done)
    overall = {(row["method"], row["metric"]): row for row in rows if not row["category"]}
    for method in ("plain", "gligen", ROUND_TRIP):
        for metric in (
            "object_accuracy",
            "mean_iou",
            "clip_score",
            "region_clip_score",
            "fid",
            "region_fid",
            "ap",
        ):
            row = overall[method, metric]
            assert row["low"] <= row["value"] <= row["high"]
            assert row["n"] > 0 and row["protocol"]
    assert (REFERENCE, "fid") not in overall
    assert overall["gligen", "fid"]["against"] == "plain"
    assert "against" not in overall["plain", "fid"]
    assert {row["category"] for row in rows} == {"", *CATEGORIES}


def test_boxes_change_the_pictures_and_words_alone_do_not_see_them(done):
    pictures = files(done)
    assert pictures["pictures/plain/color-0000-0.png"] != pictures["pictures/gligen/color-0000-0.png"]


def test_a_picture_says_how_it_was_made(done):
    with Image.open(done / "pictures/gligen/color-0000-0.png") as image:
        record = json.loads(image.text["trueline"])
    assert (record["method"], record["steps"], record["seed"]) == ("gligen", 3, 0)


def test_the_same_command_again_draws_nothing(done):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.png")}
    rows = table(done)
    kept = (done / "verdicts/results.jsonl.xz").read_bytes()
    evaluate(done)
    assert (done / "verdicts/results.jsonl.xz").read_bytes() == kept
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.png")} == before
    assert table(done) == rows


def test_shards_make_the_same_pictures_and_the_same_table(done, tmp_path):
    out = tmp_path / "shards"
    for part in ("2/2", "1/2"):
        assert evaluate(out, "--shard", part) == 0
        assert not (out / "results.json").exists()
    evaluate(out)
    assert files(out) == files(done)
    assert table(out) == table(done)
    assert verdicts(out) == verdicts(done)


def test_shards_of_two_machines_are_merged_exactly(done, tmp_path, capsys):
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, start=1):
        evaluate(part, "--shard", f"{number}/2")
    whole = tmp_path / "whole"
    for part in reversed(parts):
        assert main(["merge", str(part), "--out", str(whole)]) == 0
    evaluate(whole)
    assert files(whole) == files(done)
    assert table(whole) == table(done)
    assert verdicts(whole) == verdicts(done)

    picture = next((parts[0] / "pictures/plain").glob("*.png"))
    picture.write_bytes(b"other")
    assert main(["merge", *map(str, parts), "--out", str(whole)]) == 2
    assert "differs from" in capsys.readouterr().err
    manifest = json.loads((parts[1] / "run.json").read_text())
    manifest["settings"]["steps"] += 1
    (parts[1] / "run.json").write_text(json.dumps(manifest))
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "new")]) == 2
    assert "other settings" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_more_methods_later_leave_the_first_alone(done, tmp_path):
    out = tmp_path / "later"
    evaluate(out, "--methods", "plain")
    evaluate(out)
    assert files(out) == files(done)


def test_the_row_that_others_are_compared_with(done, tmp_path, capsys):
    out = tmp_path / "against"
    shutil.copytree(done, out)
    capsys.readouterr()
    assert evaluate(out, "--against", "plan") == 2
    assert "--against: there is no row plan; give one of plain, gligen" in capsys.readouterr().err
    first = {(row["method"], row["metric"], row["category"]): row for row in table(out)}
    evaluate(out, "--against", "gligen")
    for row in table(out):
        assert row.get("against") in (None, "gligen")
        if row["method"] == "plain" and "difference" in row:
            other = first["gligen", row["metric"], row["category"]]
            assert row["difference"] == pytest.approx(-other["difference"])


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--steps", "4"], "with another steps (3, now 4);"),
        (["--seeds", "4"], "with another seeds ([0], now [4]);"),
        (["--n", "7"], "with another n (6, now 7);"),
        (["--option", "split=tune"], "of other prompts or boxes;"),
    ],
)
def test_another_configuration_is_refused(done, capsys, more, name):
    before = files(done)
    assert evaluate(done, *more) == 2
    assert f"holds a run {name}" in capsys.readouterr().err
    assert files(done) == before


def test_a_run_of_another_version_is_refused(done, tmp_path, capsys):
    out = tmp_path / "older"
    shutil.copytree(done, out)
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(manifest | {"schema": 2}))
    assert evaluate(out) == 2
    assert "a run of another version of Trueline (schema 2, now 3)" in capsys.readouterr().err


def test_what_is_damaged_is_made_again_to_the_same_bytes(done, tmp_path):
    """And nothing else is touched."""
    out = tmp_path / "damaged"
    shutil.copytree(done, out)
    files = ["pictures/plain/color-0000-0.png", "pictures/gligen/method.json", "seen/gligen/world/00000.npz"]
    for path in (out / name for name in files):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    evaluate(out)
    for name in files:
        assert (out / name).read_bytes() == (done / name).read_bytes(), name
    batch = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert 1 <= len(batch) <= 4 and {path.parent.name for path in batch} == {"plain"}
    assert table(out) == table(done)


@pytest.mark.slow
def test_killed_twice_and_started_again_it_gives_the_same_bytes(done, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "trueline.cli", "evaluate", "world", *SMALL, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for pictures in (1, 9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + 120
        while len(list(out.rglob("*.png"))) < pictures and time.monotonic() < deadline:
            assert process.poll() is None, "it was done before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    assert files(out) == files(done)
    assert table(out) == table(done)
