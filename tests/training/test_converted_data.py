"""Data of other tools, converted and trained on; what training says of data without pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trueline import read_layouts
from trueline.cli import main

WIDE, HIGH = 96, 64


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HIGH, WIDE, 3), shade, np.uint8)
    pixels[10:40, 10:60] = 255 - shade
    Image.fromarray(pixels).save(path)


def labelme(folder: Path) -> list[str]:
    for i in range(2):
        picture(folder / "images" / f"{i}.png", 20 * i)
        shape = {"label": "a box", "points": [[10, 10], [60, 40]], "shape_type": "rectangle"}
        content = {
            "shapes": [shape],
            "imagePath": f"..\\images\\{i}.png",
            "imageWidth": WIDE,
            "imageHeight": HIGH,
        }
        (folder / "json").mkdir(exist_ok=True)
        (folder / "json" / f"{i}.json").write_text(json.dumps(content | {"imageData": None}))
    return [str(folder / "json")]


def yolo(folder: Path) -> list[str]:
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text("names: [box]\n")
    for i in range(2):
        picture(folder / "images" / "train" / f"{i}.png", 20 * i)
        (folder / "labels" / "train" / f"{i}.txt").write_text("0 0.36 0.39 0.52 0.47\n")
    return [str(folder)]


def coco(folder: Path, crowd: int = 0) -> list[str]:
    (folder / "annotations").mkdir(parents=True)
    images, things = [], []
    for i in range(2):
        picture(folder / "images" / f"{i}.png", 20 * i)
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDE, "height": HIGH})
        things.append({"image_id": i, "category_id": 1, "bbox": [10, 10, 50, 30], "iscrowd": crowd})
    content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "box"}]}
    (folder / "annotations" / "instances_x.json").write_text(json.dumps(content))
    return [str(folder)]


MADE = {"labelme": labelme, "yolo": yolo, "coco": coco}


def convert(source: str, target: Path, origin: str, *more: str) -> int:
    return main(["convert", source, str(target), "--from", origin, "--to", "trueline", *more])


@pytest.fixture
def train(plain_folder, tmp_path, capsys):
    def call(data: Path, *sets: str) -> tuple[int, str]:
        quick = ["steps=1", "batch=2", "warmup=1", "precision=fp32", "objective.gap_n=2", *sets]
        given = [part for text in quick for part in ("--set", text)]
        where = ["--model", str(plain_folder), "--device", "cpu", "--out", str(tmp_path / "run")]
        capsys.readouterr()
        return main(["train", "gligen", *where, "--data", str(data), *given]), capsys.readouterr().err

    return call


def left_out(folder: Path) -> list[str]:
    return [json.loads(line)["why"] for line in (folder / "run" / "left_out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("origin", MADE)
def test_data_of_other_tools_is_converted_and_trained_on(origin, tmp_path, monkeypatch, train, capsys):
    [source] = MADE[origin](tmp_path / "theirs")
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    data = Path("deep/data.jsonl")
    assert convert(source, data, origin) == 0
    assert "without image" not in capsys.readouterr().err
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    assert [(data.parent / row["image"]).resolve().name for row in rows] == ["0.png", "1.png"]
    assert not any(str(tmp_path) in json.dumps(row) for row in rows), "paths are relative"
    assert [layout.regions[0].box.x0 for layout in read_layouts(data)] == pytest.approx(
        [10 / 96] * 2, abs=0.01
    )
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    for top in (tmp_path, tmp_path.parent / f"{tmp_path.name}-moved"):
        code, said = train(top / "here" / data)
        assert code == 0, said
        shutil.rmtree(tmp_path / "run")


def test_the_image_of_a_line_goes_along_to_another_folder(tmp_path, capsys):
    [source] = yolo(tmp_path / "theirs")
    assert convert(source, tmp_path / "a.jsonl", "yolo") == 0
    assert (
        convert(str(tmp_path / "a.jsonl"), tmp_path / "there" / "b.jsonl", "trueline", "--size", "64x64") == 0
    )
    first = [
        json.loads((tmp_path / name).read_text().splitlines()[0]) for name in ("a.jsonl", "there/b.jsonl")
    ]
    assert [row["image"] for row in first] == ["theirs/images/train/0.png", "../theirs/images/train/0.png"]
    assert first[1].pop("width") == first[1].pop("height") == 64
    assert first[0] | {"image": ""} == first[1] | {"image": ""}


@pytest.mark.parametrize("origin", MADE)
def test_pictures_that_lie_elsewhere_are_named_or_noted(origin, tmp_path, capsys):
    [source] = MADE[origin](tmp_path / "theirs")
    (tmp_path / "theirs" / "images").rename(tmp_path / "elsewhere")
    assert convert(source, tmp_path / "data.jsonl", origin) == 0
    note = "note: lines without image, as no picture was found (--pictures names their folder): 2 (the first:"
    assert note in capsys.readouterr().err
    assert "image" not in json.loads((tmp_path / "data.jsonl").read_text().splitlines()[0])
    found = ["--pictures", str(tmp_path / "elsewhere"), "--force"]
    assert convert(source, tmp_path / "data.jsonl", origin, *found) == 0
    assert "lines without" not in capsys.readouterr().err
    image = json.loads((tmp_path / "data.jsonl").read_text().splitlines()[0])["image"]
    assert (tmp_path / image).is_file()


def test_crowds_are_dropped_or_kept(tmp_path, train, capsys):
    """CVAT and others mark every mask as a crowd."""
    [source] = coco(tmp_path / "theirs", crowd=1)
    assert convert(source, tmp_path / "a.jsonl", "coco") == 2
    assert (
        "no layout to write (of what was read, crowd annotations, left out (the argument crowd keeps them): 2"
        in (capsys.readouterr().err)
    )
    assert convert(source, tmp_path / "data.jsonl", "coco", "--crowd", "keep") == 0
    assert [len(layout.regions) for layout in read_layouts(tmp_path / "data.jsonl")] == [1, 1]
    assert train(tmp_path / "data.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "gligen", "--crowd", "keep"], "--crowd: gligen takes none, only coco; leave it out"),
        (
            ["--from", "lmd", "--pictures", "."],
            "--pictures: lmd takes none, only coco, yolo, labelme; leave it out",
        ),
        (
            ["--from", "coco", "--pictures", "nowhere"],
            "--pictures: nowhere is no folder; give the one that holds",
        ),
        (["--from", "coco", "--crowd", "all"], "--crowd: invalid choice: 'all'"),
    ],
)
def test_options_of_no_use_are_refused(arguments, said, tmp_path, capsys):
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--to", "trueline", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_lines_without_an_image_are_said_and_named(tmp_path, train):
    data = tmp_path / "data.jsonl"
    row = {"prompt": "a box", "regions": [{"phrase": "a box", "box": [0.1, 0.1, 0.6, 0.6]}]}
    for count, have in ((1, "1 of 1 lines has"), (2, "2 of 2 lines have")):
        data.write_text(f"{json.dumps(row)}\n" * count)
        code, said = train(data)
        assert (
            code == 2
            and f"--data: {data} holds prompts" in said
            and f"{have} no image; give a .jsonl" in said
        )
        assert f"all of them are in {tmp_path / 'run' / 'left_out.jsonl'}" in said
        assert left_out(tmp_path) == ["examples without an image"] * count
    picture(tmp_path / "a.png", 0)
    data.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'image': 'a.png'})}\n")
    code, said = train(data)
    assert code == 2 and "data.max_broken: 1 of 2 lines" in said and "image: is missing" in said
    assert len(left_out(tmp_path)) == 1
    assert train(data, "data.max_broken=0.5")[0] == 0


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (["none.png", "none.png"], "2 of 2 pictures cannot be read, so that nothing about boxes"),
        (["none.png", "bare"], "1 of 2 pictures cannot be read and no other has a box, so that"),
        (["bare", "bare"], "no picture has a box"),
    ],
)
def test_pictures_that_cannot_be_read_are_not_pictures_without_boxes(images, said, tmp_path, train):
    picture(tmp_path / "a.png", 0)
    region = {"phrase": "a box", "box": [0.1, 0.1, 0.6, 0.6]}
    rows = [
        {"prompt": "a box", "image": image.replace("bare", "a.png"), "regions": [region] * (image != "bare")}
        for image in images
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, found = train(tmp_path / "data.jsonl")
    assert code == 2 and said in found
    broken = sum(image == "none.png" for image in images)
    if broken:
        assert [why.split(":")[0] for why in left_out(tmp_path)] == ["broken pictures"] * broken


def test_a_picture_that_is_turned_after_it_was_annotated_is_left_out(tmp_path, train):
    """By EXIF: LabelMe's points count the pixels as they are seen."""
    [source] = labelme(tmp_path / "theirs")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "theirs/images/1.png") as image:
        image.save(tmp_path / "theirs/images/1.png", exif=exif)
    assert convert(source, tmp_path / "data.jsonl", "labelme") == 0
    code, said = train(tmp_path / "data.jsonl", "data.max_broken=0.5")
    assert code == 0 and "1 broken pictures" in said
    assert "is 64 x 96 pixels, its annotations say 96 x 64" in left_out(tmp_path)[0]
