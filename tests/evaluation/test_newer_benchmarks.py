"""COCO-MIG, OverLayBench and GenEval 2 as runs: their forms about the world, judged by the world's models."""

import json

import pytest
from PIL import Image

from trueline.cli import main
from trueline.perception.colours import MIG_RANGES
from trueline.world.scenes import make_scene, render

COUNT = 8


def told(thing):
    return f"a {thing.colour} {thing.name}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Plain things in COCO-MIG's colours, two or three a scene; the renders: right, and each the next scene's."""
    root = tmp_path_factory.mktemp("newer")
    scenes = []
    for i in range(1000):
        scene = make_scene("newer", i, 2 + len(scenes) % 2)
        if all(thing.colour in MIG_RANGES and thing.texture == "plain" for thing in scene.things):
            scenes.append(scene)
        if len(scenes) == COUNT:
            break
    mig, over, asked = {}, [], []
    for i, scene in enumerate(scenes):
        caption = " and ".join(told(thing) for thing in scene.things)
        segment = [{"label": told(thing), "bbox": list(thing.box)} for thing in scene.things]
        mig[str(i)] = {"caption": f"a photo of {caption}", "segment": segment, "image_id": str(100 + i)}
        instances = {
            f"{place}": {
                "category": thing.name,
                "local_prompts": told(thing),
                "bbox": [round(value * 1024) for value in thing.box],
            }
            for place, thing in enumerate(scene.things)
        }
        annotation = {
            "caption": caption,
            "annotations": instances,
            "valid_overlap": [{"overlap_box": [0, 1]}],
        }
        over.append(json.dumps({"image_id": f"{i:08d}", "annotation": str(annotation)}))
        row = {
            "prompt": caption,
            "atom_count": 3,
            "vqa_list": [["Is it there?", "Yes"]],
            "skills": ["object"],
        }
        asked.append(json.dumps(row))
    for file, text in {
        "coco_mig/mig_bench.json": json.dumps(mig),
        "overlaybench/hard.jsonl": "\n".join(over),
        "geneval2/geneval2_data.jsonl": "\n".join(asked),
    }.items():
        (root / file).parent.mkdir()
        (root / file).write_text(text)
    for name, shift in (("right", 0), ("wrong", 1)):
        (root / name).mkdir()
        for i in range(COUNT):
            picture = Image.fromarray(render(scenes[(i + shift) % COUNT]))
            for id in (f"L{2 + i % 2}-{100 + i:012d}", f"hard-{i:08d}", f"geneval-2-{i:06d}"):
                picture.save(root / name / f"{id}.png")
    return root


def evaluate(world, out, benchmark, *more):
    """By (method, metric): the row over all pictures. And what was said."""
    images = ["--images", f"right={world / 'right'}", f"wrong={world / 'wrong'}"]
    given = ["--data", str(world), "--out", str(out), "--quiet", *images, *more]
    assert main(["evaluate", benchmark, *given]) == 0
    rows = json.loads((out / "results.json").read_text())
    return {(row["method"], row["metric"]): row["value"] for row in rows if not row["category"]}


def test_coco_mig_on_renders(world, tmp_path, capsys):
    found = evaluate(world, tmp_path / "out", "coco-mig", "--judges", "oracle", "world-seer", "world-clip")
    assert found["right", "isr[oracle,official]"] == 1 == found["right", "success_rate[oracle,official]"]
    assert found["right", "miou[oracle,official]"] > 0.8
    for metric in ("isr", "success_rate", "miou"):
        assert found["wrong", f"{metric}[oracle,official]"] < 0.3
    assert "not measured" not in capsys.readouterr().err
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert {row["category"] for row in rows} == {"", "L2", "L3"}
    again = ["--mode", "fixed", "--judges", "oracle", "world-seer"]
    found = evaluate(world, tmp_path / "fixed", "coco-mig", *again)
    assert found["right", "isr[oracle,fixed]"] == 1


def test_coco_mig_without_masks_says_what_is_missing(world, tmp_path, capsys):
    found = evaluate(world, tmp_path / "out", "coco-mig", "--judges", "oracle")
    assert not any(metric.startswith("isr") for _, metric in found)
    assert "not measured: isr, success_rate, miou (for it, give judges sam=" in capsys.readouterr().err


def test_overlaybench_on_renders(world, tmp_path, capsys):
    judges = ["--judges", "oracle", "world-clip"]
    found = evaluate(world, tmp_path / "out", "overlaybench", "--option", "splits=hard", *judges)
    assert found["right", "miou[oracle,official]"] > 0.8 > 0.3 > found["wrong", "miou[oracle,official]"]
    assert found["right", "overlay_score[world]"] == found["wrong", "overlay_score[world]"], "of the layouts"
    assert "not measured: entity and relationship success (they need Qwen" in capsys.readouterr().err


def test_geneval_2_says_which_model_it_needs(world, tmp_path, capsys):
    found = evaluate(world, tmp_path / "out", "geneval-2", "--judges", "world-clip")
    assert {metric for _, metric in found} == {"clip_score[world]"}
    assert (
        "not measured: soft_tifa_am, soft_tifa_gm (for it, give judges blip-vqa=" in capsys.readouterr().err
    )
