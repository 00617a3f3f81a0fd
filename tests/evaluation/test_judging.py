"""`trueline evaluate` on pictures made elsewhere: renders of known truth, judged by the world's own models."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trueline.cli import main
from trueline.evaluation.benchmarks import BENCHMARKS, LAYOUT_BENCHMARKS, benchmark_class
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.t2i_compbench.folder import export_compbench
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judgements import ratios
from trueline.evaluation.judges import Boxes, Combined, TextMatch, make_judges, role, unmeasured
from trueline.layout import Layout
from trueline.perception import KINDS, Detection
from trueline.world.perception import Oracle, world_clip
from trueline.world.scenes import make_scene, render

COUNT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Files in GenEval's and COCO's form about scenes of the world, and their renders: right, and shifted by one."""
    root = tmp_path_factory.mktemp("judging")
    scenes = [make_scene("judging", i, 1) for i in range(COUNT)]
    rows = []
    for i, scene in enumerate(scenes):
        thing = scene.things[0]
        clause = {"class": thing.name, "count": 1}
        tag = "single_object" if i % 3 else "colors"
        if tag == "colors":
            clause["color"] = thing.colour
        rows.append({"tag": tag, "include": [clause], "prompt": f"a photo of {thing.phrase}"})
    (root / "geneval").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "geneval/evaluation_metadata.jsonl").write_text(lines)
    write_coco(root / "coco", scenes)
    for name, shift in (("right", 0), ("wrong", 1)):
        (root / name).mkdir()
        for i, row in enumerate(rows):
            picture = Image.fromarray(render(scenes[(i + shift) % COUNT]))
            picture.save(root / name / f"{row['tag']}-{i:06d}.png")
            picture.save(root / name / f"coco-{i + 1:012d}-0.png")
    return root


def write_coco(folder: Path, scenes) -> None:
    images, captions, things = [], [], []
    names = sorted({scene.things[0].name for scene in scenes})
    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for i, scene in enumerate(scenes):
        thing, file = scene.things[0], f"{i}.png"
        Image.fromarray(render(scene)).save(folder / "val2014" / file)
        images.append({"id": i + 1, "file_name": file, "width": 128, "height": 128})
        captions.append({"image_id": i + 1, "caption": f"a photo of {thing.phrase}"})
        box = [thing.x, thing.y, thing.w, thing.h]
        things.append({"image_id": i + 1, "category_id": names.index(thing.name), "bbox": box, "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    content = {
        "captions_val2014": {"images": images, "annotations": captions},
        "instances_val2014": {"images": images, "annotations": things, "categories": categories},
    }
    for name, value in content.items():
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(value))


def evaluate(world: Path, benchmark: str, out: Path, *more: str) -> int:
    given = ["--data", str(world), "--judges", "oracle", "world-clip", "--out", str(out), "--quiet", *more]
    return main(["evaluate", benchmark, *given])


def values(out: Path) -> dict[tuple[str, str], dict]:
    rows = json.loads((out / "results.json").read_text())
    return {(row["method"], row["metric"]): row for row in rows if not row["category"]}


def test_right_pictures_get_full_marks_and_others_none(world, tmp_path, capsys):
    pictures = ["--images", str(world / "right"), f"other={world / 'wrong'}"]
    assert evaluate(world, "geneval", tmp_path / "out", *pictures) == 0
    found = values(tmp_path / "out")
    assert found["right", "accuracy[oracle,official]"]["value"] == 1
    assert found["other", "accuracy[oracle,official]"]["value"] < 0.3
    row = found["other", "clip_score[world]"]
    assert row["against"] == "right" and row["difference_high"] < 0
    printed = capsys.readouterr().out
    assert "worse" in printed and "report.html" in printed and "vote.html" in printed
    key = json.loads((tmp_path / "out/study/key.json").read_text())
    assert len(key["pairs"]) == COUNT


def test_geneval_weighs_its_tasks_alike(world, tmp_path):
    """Two thirds of the prompts are single objects; only the colours are wrong here."""
    mixed = tmp_path / "mixed"
    shutil.copytree(world / "right", mixed)
    for path in (world / "wrong").glob("colors-*.png"):
        shutil.copy(path, mixed / path.name)
    assert evaluate(world, "geneval", tmp_path / "out", "--images", str(mixed)) == 0
    rows = json.loads((tmp_path / "out/results.json").read_text())
    accuracy = {r["category"]: r["value"] for r in rows if r["metric"] == "accuracy[oracle,official]"}
    assert accuracy["single_object"] == 1
    assert accuracy[""] == pytest.approx((accuracy["single_object"] + accuracy["colors"]) / 2)


def test_coco_measures_distances_regions_and_boxes(world, tmp_path):
    pictures = ["--images", str(world / "right"), str(world / "wrong"), "--option", "captions=first"]
    assert evaluate(world, "coco", tmp_path / "out", *pictures) == 0
    found = values(tmp_path / "out")
    assert found["right", "cmmd[world]"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["wrong", "cmmd[world]"]["value"] == pytest.approx(0, abs=1e-9)  # the same set, other order
    assert found["right", "object_accuracy[oracle,official]"]["value"] == 1
    assert found["right", "ap[oracle]"]["value"] > 0.9
    assert found["wrong", "ap[oracle]"]["value"] < 0.3
    assert (
        found["right", "region_clip_score[world,padded]"]["value"]
        > found["wrong", "region_clip_score[world,padded]"]["value"]
    )
    assert found["reference", "clip_score[world]"] == found["right", "clip_score[world]"] | {
        "method": "reference"
    }


def test_box_filters_are_options(world, tmp_path, capsys):
    pictures = ["--images", str(world / "right")]
    assert evaluate(world, "coco", tmp_path / "a", *pictures, "--option", "boxes.min_boxes=2") == 2
    assert "no examples" in capsys.readouterr().err
    assert evaluate(world, "coco", tmp_path / "b", *pictures, "--option", "boxes.fewest=2") == 2
    assert "boxes.fewest: unknown key" in capsys.readouterr().err


def test_a_folder_in_t2i_compbenchs_convention_is_read_by_its_manifest(world, tmp_path):
    lines = (world / "geneval/evaluation_metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    pairs = [
        (
            Example(f"{row['tag']}-{i:06d}", Layout(row["prompt"])),
            world / "right" / f"{row['tag']}-{i:06d}.png",
        )
        for i, row in enumerate(rows)
    ]
    export_compbench(tmp_path / "exported", pairs)
    assert evaluate(world, "geneval", tmp_path / "out", "--images", str(tmp_path / "exported")) == 0
    assert values(tmp_path / "out")["exported", "accuracy[oracle,official]"]["value"] == 1


def test_exported_pictures_can_be_judged_again(world, tmp_path):
    pictures = ["--images", str(world / "right")]
    assert evaluate(world, "geneval", tmp_path / "a", *pictures, "--export", str(tmp_path / "export")) == 0
    assert evaluate(world, "geneval", tmp_path / "b", "--images", str(tmp_path / "export/right")) == 0
    one, two = ({k: row["value"] for k, row in values(tmp_path / name).items()} for name in "ab")
    assert one == two


def test_what_was_seen_is_kept_until_the_picture_changes(world, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(world / "right", mine)
    evaluate(world, "geneval", tmp_path / "out", "--images", str(mine))
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/seen").rglob("*.npz")}
    evaluate(world, "geneval", tmp_path / "out", "--images", str(mine))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/seen").rglob("*.npz")} == stored
    for path in (world / "wrong").iterdir():
        shutil.copy(path, mine / path.name)
    evaluate(world, "geneval", tmp_path / "out", "--images", str(mine))
    assert values(tmp_path / "out")["mine", "accuracy[oracle,official]"]["value"] < 0.3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: shutil.copy(p, p.with_suffix(".jpg")), "are both picture single_object-000001-0"),
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "single_object-000001.png: cannot be read ("),
        (lambda p: p.write_bytes(b""), "single_object-000001.png: cannot be read ("),
    ],
)
def test_pictures_that_cannot_be_judged_are_named(world, tmp_path, capsys, damage, said):
    mine = tmp_path / "mine"
    shutil.copytree(world / "right", mine)
    damage(mine / "single_object-000001.png")
    assert evaluate(world, "geneval", tmp_path / "out", "--images", str(mine)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out/results.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--images", "nowhere"], "nowhere is no folder"),
        (["--images", "plain=RIGHT"], "the name plain is taken"),
        (["--images", "RIGHT", "RIGHT"], "the name right is taken"),
        (["--images", "a b=RIGHT"], "cannot name a method"),
        (["--methods", "gligen"], "gligen needs boxes, and geneval has none"),
        (["--option", "split"], "write it as NAME=VALUE"),
        (["--option", "split=val"], "no option 'split'"),
        (["--planner", "rules", "none"], "--planner: give one"),
        (["--judges", "owlv3=x"], "unknown kind of model 'owlv3'"),
        (["--judges", "owlv2"], "owlv2 needs a checkpoint"),
        (["--judges", "oracle", "oracle"], "there are two of oracle"),
    ],
)
def test_bad_input_is_one_sentence(world, tmp_path, capsys, more, said):
    more = [text.replace("RIGHT", str(world / "right")) for text in more]
    if "--judges" in more:
        more = ["--images", str(world / "right"), *more]
    assert evaluate(world, "geneval", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error


def test_without_judges_another_model_is_refused_unless_told(world, tmp_path, capsys):
    command = [
        "evaluate",
        "geneval",
        "--data",
        str(world),
        "--model",
        "nowhere",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 2
    assert "nothing would be measured" in capsys.readouterr().err


def test_what_is_not_measured_is_said():
    assert unmeasured(benchmark_class("geneval"), ["clip=x"]) == [
        "not measured: accuracy (for it, give judges owlv2=google/owlv2-base-patch16-ensemble)"
    ]
    assert unmeasured(benchmark_class("geneval"), ["oracle", "world-clip"]) == []
    assert unmeasured(benchmark_class("world"), []) == []


def test_every_kind_of_model_has_a_role():
    makers = {"detector", "embedder", "answerer", "features", "matcher", "segmenter"}
    assert {role(kind) for kind in KINDS} == makers
    assert role("mine=package.module:function") == "matcher"


def test_a_judge_that_gives_nan_stops_the_run_and_keeps_the_pictures(world, tmp_path, capsys, monkeypatch):
    (tmp_path / "nan_judge.py").write_text(
        "def score(images, texts):\n    return [float('nan')] * len(images)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    more = ["--images", str(world / "right"), "--judges", "mine=nan_judge:score"]
    assert evaluate(world, "geneval", tmp_path / "out", *more) == 2
    assert "finite" in capsys.readouterr().err
    assert len(list((world / "right").iterdir())) == 2 * COUNT


# Rules through the judge, on renders


def picture_of(count: int, want) -> tuple:
    scene = next(s for i in range(500) if want(s := make_scene("bindings", i, count)))
    return scene, Image.fromarray(render(scene))


def look(benchmark: str, example: Example, image: Image.Image, mode="official") -> dict[str, float]:
    seen = Boxes(Oracle(), benchmark_class(benchmark), mode, world_clip()).look([example], [image])[0]
    return {key.removeprefix("ratio/"): float(a / b) for key, (a, b) in _pairs(seen)}


def _pairs(seen):
    return [(key, array) for key, array in seen.items() if key.startswith("ratio/") and array[1] > 0]


def test_compbench_spatial_and_numeracy():
    scene, image = picture_of(2, lambda s: s.things[0].name != s.things[1].name and _beside(s))
    left, right = sorted(scene.things, key=lambda t: t.centre[0])
    truth = {"first": left.name, "relation": "on the left of", "second": right.name}
    good = look("t2i-compbench", Example("a", Layout("x"), "spatial", truth), image)
    bad = look(
        "t2i-compbench", Example("a", Layout("x"), "spatial", truth | {"relation": "on the right of"}), image
    )
    scores = {d.label: d.score for d in Oracle().detect([image], [[left.name, right.name]])[0]}
    confidence = 0.25 * (scores[left.name] + scores[right.name])
    assert good["spatial_raw[oracle,official]"] == pytest.approx(confidence + 0.5)
    assert bad["spatial_raw[oracle,official]"] == pytest.approx(confidence)
    counts = [[left.name, 1], [right.name, 2]]
    counted = look("t2i-compbench", Example("a", Layout("x"), "numeracy", {"counts": counts}), image)
    assert counted["numeracy[oracle,official]"] == pytest.approx(0.5 * (1 + 0.5))


def _beside(scene) -> bool:
    (x1, y1), (x2, y2) = (thing.centre for thing in scene.things)
    return abs(x1 - x2) > 2 * abs(y1 - y2)


def test_nsr_hrs_multigen_seven_bench_and_cc500():
    scene, image = picture_of(2, lambda s: s.things[0].name != s.things[1].name and _beside(s))
    left, right = sorted(scene.things, key=lambda t: t.centre[0])
    names = [left.name, right.name]
    example = Example(
        "a", Layout("x"), "spatial", {"first": names[0], "second": names[1], "relation": "left"}
    )
    assert look("nsr-1k", example, image)["spatial_accuracy[oracle,official]"] == 1
    example = Example(
        "a", Layout("x"), "real", {"counts": [[names[0], 1], [names[1], 3]], "sub_type": "real"}
    )
    assert look("nsr-1k", example, image)["counting_accuracy[oracle,official]"] == 0.5
    assert look("nsr-1k", example, image, "fixed")["counting_accuracy[oracle,fixed]"] == 0

    truth = {"objects": [[t.name, t.colour] for t in scene.things], "index": 0, "level": 0}
    assert (
        look("hrs", Example("a", Layout("x"), "color", truth), image)["color_accuracy[oracle,official]"] == 1
    )
    truth = {"objects": names, "relations": ["on the right of"], "index": 0, "level": 1}
    assert (
        look("hrs", Example("a", Layout("x"), "spatial", truth), image)["spatial_accuracy[oracle,official]"]
        == 0
    )

    hits = look("multigen", Example("a", Layout("x"), "coco", {"objects": [*names, "zebra"]}), image)
    assert (hits["mg2[oracle,official]"], hits["mg3[oracle,official]"]) == (1, 0)

    truth = {"labels": names, "boxes": [list(left.box), list(right.box)]}
    assert look("7bench", Example("a", Layout("x"), "", truth), image)["layout_auc[oracle,official]"] > 0.85
    swapped = {"labels": names, "boxes": [list(right.box), list(left.box)]}
    assert look("7bench", Example("a", Layout("x"), "", swapped), image)["layout_auc[oracle,official]"] < 0.3

    both = Example("a", Layout("x"), "", {"objects": [[names[0], "red"], [names[1], "red"]]})
    assert look("cc-500", both, image)["both_objects[oracle,official]"] == 1
    assert not look("cc-500", Example("a", Layout("x"), "", {}), image)


def test_colours_are_read_where_the_detector_gives_none():
    scene, image = picture_of(1, lambda s: s.things[0].colour == "red" and s.things[0].texture == "plain")
    thing = scene.things[0]

    class Blind:
        name = "blind"

        def detect(self, images, labels):
            return [[Detection(thing.name, thing.box, 0.95)] for _ in images]

    truth = {"tag": "colors", "include": [{"class": thing.name, "count": 1, "color": "red"}]}
    example = Example("a", Layout("x"), "colors", truth)
    with pytest.raises(ValueError, match="colours are read by CLIP"):
        Boxes(Blind(), benchmark_class("geneval"), "official", None).look([example], [image])
    seen = Boxes(Blind(), benchmark_class("geneval"), "official", world_clip()).look([example], [image])[0]
    assert seen["ratio/accuracy[blind,official]"].tolist() == [1, 1]


def test_the_tables_of_benchmarks_agree():
    classes = {name: benchmark_class(name) for name in BENCHMARKS}
    assert {name: kind.name for name, kind in classes.items()} == {name: name for name in BENCHMARKS}
    assert [name for name, kind in classes.items() if not kind.needs] == ["world"]
    assert set(LAYOUT_BENCHMARKS.values()) <= set(BENCHMARKS)


def test_clip_score_is_the_cosine_of_picture_and_prompt():
    scene, image = picture_of(1, lambda s: True)
    model = world_clip()
    example = Example("a", Layout(f"a photo of {scene.things[0].phrase}"))
    seen = TextMatch(model, benchmark_class("drawbench"), False).look([example], [image])[0]
    one, two = model.images([image])[0].numpy(), model.texts([example.prompt])[0].numpy()
    expected = float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
    assert seen["ratio/clip_score[world]"][0] == pytest.approx(expected, abs=1e-6)
    assert set(seen) == {"ratio/clip_score[world]"}


def test_three_in_one_by_hand():
    def wanted(kind):
        return Wanted(Example("a", Layout("x"), "complex", {"kind": kind}), 0, 0, 0)

    parts = {
        "vqa": [ratios({"b_vqa[blip-vqa,rules]": (0.6, 1)})] * 4,
        "box": [ratios({"complex_spatial[oracle,official]": (0.9, 1)})] * 3 + [{}],
        "clip": [ratios({"clip_score_nouns[clip,rules]": (0.3, 1)})] * 4,
    }
    pictures = [wanted(kind) for kind in ("spatial", "action", "spatialaction", "spatial")]
    found = Combined(benchmark_class("t2i-compbench")).combine(pictures, parts)
    scores = [float(each["ratio/three_in_one"][0]) if each else math.nan for each in found]
    assert scores[:3] == pytest.approx([0.75, 0.45, 0.6])
    assert math.isnan(scores[3])  # its relation was not measured
    assert Combined(benchmark_class("cc-500")).combine(pictures, parts) == [{}] * 4


def test_features_only_where_there_are_real_pictures():
    assert make_judges(["world-clip"], benchmark_class("coco"), "official", "cpu", "float32", real=True)[
        0
    ].distances
    assert not make_judges(
        ["world-clip"], benchmark_class("drawbench"), "official", "cpu", "float32", real=False
    )[0].distances


# Votes and pages on the command line


def test_votes_from_the_study_that_the_run_made(world, tmp_path, capsys):
    pictures = ["--images", str(world / "right"), f"other={world / 'wrong'}"]
    evaluate(world, "geneval", tmp_path / "out", *pictures)
    key = json.loads((tmp_path / "out/study/key.json").read_text())
    for rater in ("ann", "bob"):
        answers = {
            pair: dict.fromkeys(key["questions"], "left" if entry["left"] == "right" else "right")
            for pair, entry in key["pairs"].items()
        }
        ballot = {"format": key["format"], "study": key["study"], "rater": rater, "votes": answers}
        (tmp_path / f"{rater}.json").write_text(json.dumps(ballot))
    files = [str(tmp_path / f"{rater}.json") for rater in ("ann", "bob")]
    given = ["--key", str(tmp_path / "out/study/key.json"), "--out", str(tmp_path / "votes")]
    assert main(["votes", *files, *given]) == 0
    rows = json.loads((tmp_path / "votes/results.json").read_text())
    won = {row["metric"]: row["value"] for row in rows}
    assert won["alignment_win_rate"] == 0 and won["alignment_agreement"] == 1
    assert main(["results", str(tmp_path / "votes"), "--out", str(tmp_path / "page.md")]) == 0
    assert "alignment_win_rate" in (tmp_path / "page.md").read_text()
    capsys.readouterr()
    assert main(["votes", files[0], "--key", files[1]]) == 2
    assert "is no key.json" in capsys.readouterr().err
    assert main(["results", str(tmp_path / "nothing")]) == 2
    assert "holds no results" in capsys.readouterr().err
