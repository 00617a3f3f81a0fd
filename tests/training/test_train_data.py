"""Examples: where they come from (the world, COCO's format, layouts with pictures), their cache, order and draws."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_builders import Memory, Table, stream

from trueline.formats.coco_files import BoxFilter, centre_crop
from trueline.pictures import BrokenPicture
from trueline.seeds import generator_of
from trueline.training.data.examples import Rules, digest, open_examples
from trueline.training.data.latents import Latents, encode_pictures, encoded
from trueline.training.data.stream import Shuffled
from trueline.training.settings import Data
from trueline.world.captions import caption
from trueline.world.scenes import make_scene, render

SIZE = (64, 64)


def opened(source, **settings):
    return open_examples(Data(source=str(source), **settings), SIZE, 8)


def columns(width: int, height: int) -> Image.Image:
    """Each pixel's red is its column, its green its row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


# COCO's format

THINGS = [
    (1, 1, [0, 0, 80, 100], 0),  # in the crop (50..150): 50..80 of its width
    (1, 2, [60, 10, 20, 30], 0),
    (1, 2, [100, 40, 10, 9], 0),  # 0.9 % of the crop
    (1, 1, [170, 0, 20, 90], 0),  # beside the crop
    (1, 1, [50, 0, 100, 100], 1),  # a crowd
    (2, 2, [0, 50, 100, 100], 0),
]


@pytest.fixture
def coco(tmp_path):
    """Two pictures, 200 x 100 and 100 x 200, two captions each."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").mkdir()
    images = [{"id": 1, "file_name": "wide.png", "width": 200, "height": 100}]
    images += [{"id": 2, "file_name": "tall.png", "width": 100, "height": 200}]
    captions = [{"image_id": i, "caption": f" caption {k}\nof {i} "} for k in range(2) for i in (1, 2)]
    things = [{"image_id": i, "category_id": c, "bbox": b, "iscrowd": w} for i, c, b, w in THINGS]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dining table"}]
    write(folder, "captions_val", {"images": images, "annotations": captions})
    write(folder, "instances_val", {"images": images, "annotations": things, "categories": categories})
    columns(200, 100).save(folder / "val" / "wide.png")
    columns(100, 200).save(folder / "val" / "tall.png")
    return folder


def write(folder, name, content):
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def change(folder, name, edit):
    path = folder / "annotations" / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def silence(content):
    content["annotations"] = []


def test_boxes_move_with_the_crop(coco):
    regions = opened(coco).samples(2)[0].regions
    assert [(r.phrase, r.box.xyxy) for r in regions] == [
        ("cat", (0.0, 0.0, 0.3, 1.0)),
        ("dining table", (0.1, 0.1, 0.3, 0.4)),
    ]
    assert opened(coco).samples(2)[1].regions[0].box.xyxy == (0.0, 0.0, 1.0, 1.0)  # rows 50..150 of 200


def test_which_boxes_are_kept_is_a_setting(coco):
    def count(**settings):
        return len(opened(coco, **settings).samples(1)[0].regions)

    assert [count(min_area=0.0089), count(max_boxes=1), count(crowd=True), count(max_boxes=0)] == [3, 1, 3, 0]
    found = opened(coco, min_boxes=2)
    assert len(found) == 1 and found.left_out.reasons == {"pictures with fewer than 2 boxes": 1}


def test_boxes_that_are_dropped_are_counted_by_reason(coco):
    assert opened(coco).left_out.boxes == {"below min_area": 1, "beside the crop": 1, "that mark a crowd": 1}
    assert opened(coco, max_boxes=1, crowd=True).left_out.boxes == {
        "below min_area": 1,
        "beside the crop": 1,
        "over max_boxes": 2,
    }
    found = opened(coco, n=1).left_out
    assert (
        found.counts["boxes below min_area"] == 1
        and not found.items
        and "1 boxes beside the crop" in str(found)
    )


def test_pictures_are_cropped_as_their_boxes(coco):
    examples = opened(coco)
    wide, tall = examples.picture(0), examples.picture(1)
    assert wide.shape == tall.shape == (64, 64, 3) and wide.dtype == np.uint8
    # Columns 50..150 and rows 0..100 of the first, at 64 pixels: 1.5625 columns a pixel.
    assert abs(int(wide[32, 0, 0]) - 50) <= 2 and abs(int(wide[32, 63, 0]) - 149) <= 2
    assert abs(int(wide[0, 32, 1]) - 0) <= 2 and abs(int(wide[63, 32, 1]) - 99) <= 2
    assert abs(int(tall[0, 32, 1]) - 50) <= 2 and abs(int(tall[63, 32, 1]) - 149) <= 2


@pytest.mark.parametrize(
    ("given", "size", "crop"),
    [
        ((200, 100), (64, 64), (50, 0, 150, 100)),
        ((101, 200), (64, 64), (0, 49, 101, 150)),
        ((200, 100), (96, 64), (25, 0, 175, 100)),
        ((64, 64), (64, 64), (0, 0, 64, 64)),
    ],
)
def test_the_crop_by_hand(given, size, crop):
    assert centre_crop(*given, size) == crop


def test_one_of_the_captions_is_drawn(coco):
    examples = opened(coco)
    said = {examples.layout(0, generator_of(0, place)).prompt for place in range(20)}
    assert said == {"caption 0 of 1", "caption 1 of 1"}
    assert examples.layout(0, generator_of(0, 3)) == examples.layout(0, generator_of(0, 3))


def test_two_epochs_have_equal_boxes(coco):
    """diffusers' GLIGEN example transforms its annotations in place."""
    examples = opened(coco)
    assert len({examples.layout(0, generator_of(0, place)).regions for place in range(4)}) == 1


def test_what_is_broken_is_counted_and_named(coco):
    change(
        coco,
        "instances_val",
        lambda content: content["annotations"].extend(
            [
                {"image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9]},
                {"image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9]},
                {"image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 9]},
                {"image_id": 1, "category_id": 1, "bbox": [0, 0, "9", 9]},
                {"image_id": 1, "category_id": [1], "bbox": [0, 0, 9, 9]},
                {"image_id": 1, "category_id": 1, "bbox": [200, 0, 9, 9]},
                "thing",
            ]
        ),
    )
    change(coco, "captions_val", lambda content: content["images"].append({"id": 3, "file_name": "x.png"}))
    change(
        coco, "captions_val", lambda content: content["annotations"].append({"image_id": 1, "caption": " "})
    )
    more = {"id": 4, "file_name": "y.png", "width": 9, "height": 9}
    change(coco, "captions_val", lambda content: content["images"].append(more))
    examples = opened(coco)
    assert len(examples) == 2
    assert examples.left_out.reasons == {
        "broken images in the annotations": 1,
        "broken captions": 1,
        "broken boxes": 7,
        "pictures without a caption": 1,
    }
    folder = f"{coco / 'annotations'}/"
    whys = {which.removeprefix(folder): why for which, why in examples.left_out.items}
    boxes = "instances_val.json, annotations"
    assert whys[f"{boxes}[6]"] == "broken boxes: image_id: no image has the id 9"
    assert whys[f"{boxes}[8]"] == "broken boxes: bbox: has no area (got [0.0, 0.0, 0.0, 9.0])"
    outside = "bbox: lies outside its picture (got [200.0, 0.0, 9.0, 9.0])"
    assert whys[f"{boxes}[11]"] == f"broken boxes: {outside}"
    assert {"image 4 (y.png)", "captions_val.json, annotations[4]", "captions_val.json, images[2]"} <= {*whys}


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (
            lambda folder: (folder / "annotations" / "instances_val.json").unlink(),
            "holds no instances_X.json",
        ),
        (
            lambda folder: (folder / "annotations" / "captions_val.json").unlink(),
            "captions_val.json: cannot read it",
        ),
        (lambda folder: write(folder, "captions_val", []), "captions_val.json: must be an object"),
        (lambda folder: write(folder, "instances_more", {}), "data.split: say which .*there are more, val"),
        (lambda folder: change(folder, "captions_val", silence), "nothing in .*2 pictures"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(coco, spoil, match):
    spoil(coco)
    with pytest.raises(ValueError, match=match):
        opened(coco)


def test_unreadable_pictures_say_why(coco):
    examples = opened(coco)
    (coco / "val" / "wide.png").write_bytes(b"no picture")
    with pytest.raises(BrokenPicture, match=r"wide\.png: cannot be read"):
        examples.picture(0)
    columns(100, 100).save(coco / "val" / "tall.png")
    with pytest.raises(BrokenPicture, match="is 100 x 100 pixels, its annotations say 100 x 200"):
        examples.picture(1)
    (coco / "val" / "tall.png").unlink()
    with pytest.raises(BrokenPicture, match="no such file"):
        examples.picture(1)


def test_hcmas_share_of_train2014(coco):
    for kind in ("captions", "instances"):
        content = json.loads((coco / "annotations" / f"{kind}_val.json").read_text())
        content["images"] = [content["images"][0] | {"id": i, "file_name": f"{i}.png"} for i in range(10)]
        content["annotations"] = (
            [{"image_id": i, "caption": "a"} for i in range(10)] if kind == "captions" else []
        )
        write(coco, f"{kind}_val", content)
    parts = [{p.file for p in opened(coco, share=s).pictures} for s in ("train", "validation", "all")]
    assert [len(part) for part in parts] == [8, 2, 10] and parts[0] | parts[1] == parts[2]


# Layouts with pictures


@pytest.fixture
def records(tmp_path):
    regions = [
        {"phrase": "a cat", "box": [0.25, 0.0, 0.5, 1.0], "label": "pet"},
        {"phrase": "a car", "box": [0.0, 0.0, 0.1, 1.0]},
    ]
    rows = [{"prompt": "a cat", "regions": regions, "image": "pictures/wide.png", "width": 512, "seed": 3}]
    rows += [{"prompt": "a car", "image": "pictures/none.png"}]
    (tmp_path / "pictures").mkdir()
    columns(200, 100).save(tmp_path / "pictures" / "wide.png")
    path = tmp_path / "layouts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_layouts_with_pictures(records):
    examples = opened(records)
    assert len(examples) == 2
    layout = examples.layout(0, torch.Generator())
    # 0.25 .. 0.5 of 200 pixels is 50 .. 100, of which the crop begins at 50; the car is beside it.
    assert [(r.phrase, r.grounding_phrase, r.box.xyxy) for r in layout.regions] == [
        ("a cat", "pet", (0.0, 0.0, 0.5, 1.0))
    ]
    assert (layout.prompt, layout.width, layout.seed) == ("a cat", None, None)
    assert abs(int(examples.picture(0)[32, 0, 0]) - 50) <= 2
    with pytest.raises(BrokenPicture, match=r"layouts\.jsonl, line 2: .*none\.png: no such file"):
        examples.picture(1)
    assert examples.samples(5) == [layout], "of those whose picture is there"


def test_broken_lines_are_counted_and_named(records):
    with records.open("a") as file:
        file.write(
            '{"prompt": "x"}\nnonsense\n\n{"prompt": "", "image": "a.png"}\n'
            '{"prompt": "x", "image": "a.png", "box": 1}\n'
        )
    with pytest.raises(
        ValueError,
        match=r"data\.max_broken: 4 of 6 lines of .* more than the 0\.5 .*; the first: .*line 3, image: is missing",
    ):
        opened(records, max_broken=0.5)
    examples = opened(records, max_broken=0.7)
    assert len(examples) == 2 and examples.left_out.reasons == {"broken lines": 4}
    whys = dict(examples.left_out.items)
    assert (
        whys[f"{records}, line 3"]
        == 'broken lines: image: is missing; give the path of the picture as "image"'
    )
    assert "prompt: is empty" in whys[f"{records}, line 6"] and "box" in whys[f"{records}, line 7"]


def test_lines_are_read_as_those_of_any_file_of_layouts(records):
    """With a byte order mark, and a line that is too long for the memory; the file's digest is that of its text."""
    long = f'{{"prompt": "{"x" * 2_000_000}", "image": "a.png"}}'
    content = f'\ufeff{records.read_text()}{long}\n{{"image": "a.png", "prompt": "a", "prompt": "b"}}\r\n'
    records.write_bytes(content.encode())
    examples = opened(records, max_broken=0.5)
    assert [record.line for record in examples.records] == [1, 2]
    assert [why for _, why in examples.left_out.items] == [
        "broken lines: a line has at most 1000000 characters, and this one has more",
        "broken lines: the key 'prompt' stands twice in one object; keep one",
    ]
    assert examples._content == digest(content.replace("\r\n", "\n"))


def test_the_boxes_that_are_kept_decide_which_lines_have_enough(records):
    """The first line has two boxes, of which one lies beside the crop; the second's picture is not there."""
    examples = opened(records, min_boxes=1)
    assert [record.line for record in examples.records] == [1, 2]
    assert examples.left_out.boxes == {"beside the crop": 1}
    assert str(examples.left_out) == "1 boxes beside the crop"
    examples = opened(records, min_boxes=2)
    assert [record.line for record in examples.records] == [2], (
        "broken pictures are counted when they are encoded"
    )
    assert examples.left_out.counts == {"pictures with fewer than 2 boxes": 1}


def test_another_choice_or_picture_is_another_fingerprint(tmp_path):
    """Latents of one choice must not be paired with the captions of another; a copy of all of it is the same."""

    def folder(name: str, side: int):
        (tmp_path / name).mkdir()
        boxes = [[], [{"phrase": "a cat", "box": [0, 0, 1, 1]}], [{"phrase": "a cat", "box": [0, 0, 1, 1]}]]
        rows = [{"prompt": f"{i}", "image": f"{i}.png", "regions": boxes[i]} for i in range(3)]
        for i in range(3):
            columns(side, side).save(tmp_path / name / f"{i}.png")
        path = tmp_path / name / "layouts.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    one, two = folder("one", 64), folder("two", 48)
    copied = shutil.copytree(one.parent, tmp_path / "copy") / one.name
    assert opened(copied, n=2).fingerprint == opened(one, n=2).fingerprint
    marks = [
        opened(one, n=2).fingerprint,
        opened(one, n=2, min_boxes=1).fingerprint,
        opened(two, n=2).fingerprint,
    ]
    (tmp_path / "one" / "1.png").write_bytes((tmp_path / "one" / "1.png").read_bytes() + b"more")
    assert len({*marks, opened(one, n=2).fingerprint}) == 4
    columns(32, 32).save(tmp_path / "one" / "2.png")
    assert opened(one, n=2).fingerprint == opened(one, n=2).fingerprint, "the third is not among them"


def test_a_picture_that_goes_away_after_encoding_is_not_missed(records, tmp_path, gated):
    examples = opened(records, max_broken=1)
    mark = examples.fingerprint
    latents, _ = encoded(gated, examples, tmp_path / "cache", SIZE, max_broken=0.5)
    before = examples.layout(0, torch.Generator())
    (records.parent / "pictures" / "wide.png").unlink()
    assert latents.examples == [0] and examples.fingerprint == mark
    assert examples.layout(0, torch.Generator()) == before
    with pytest.raises(
        BrokenPicture, match=r"layouts\.jsonl, line 2: the size of .*none\.png cannot be read; put"
    ):
        examples.layout(1, torch.Generator())


@pytest.mark.parametrize(
    ("source", "settings", "match"),
    [
        ("nowhere", {}, "data.source: 'nowhere' is neither world"),
        ("world", {"share": "train"}, "data.share: has no effect on world"),
        (Path(__file__).parent, {"labels": "name"}, "data.labels: has no effect on"),
        ("world", {"split": "held-out"}, "data.split: the world trains on train or tune"),
    ],
)
def test_settings_that_do_not_fit_the_data(source, settings, match):
    with pytest.raises(ValueError, match=match):
        opened(source, **settings)


def test_more_boxes_than_the_model_takes():
    assert Rules.of(Data(), SIZE, 8).boxes == BoxFilter(0.01, 8, 0, False)
    with pytest.raises(ValueError, match=r"data\.min_boxes: this model takes at most 8 boxes"):
        Rules.of(Data(min_boxes=9), SIZE, 8)


# The world


def test_scenes_of_the_world():
    examples = open_examples(Data(n=3), (128, 128), 8)
    scene = make_scene("train", 1)
    assert len(examples) == 3 and np.array_equal(examples.picture(1), render(scene))
    layout = examples.layout(1, generator_of(0, 0))
    assert layout.prompt in {caption(scene, variant).text for variant in range(6)}
    assert {(r.phrase, r.box.xyxy) for r in layout.regions} == {(t.phrase, t.box) for t in scene.things}
    assert examples.samples(2)[0].prompt == caption(make_scene("tune", 0), 0).text
    assert opened("world", n=3).picture(0).shape == (64, 64, 3), "at the model's own size"
    assert open_examples(Data(n=3), SIZE, 1).layout(1, generator_of(0, 0)).regions == layout.regions[:1]


def test_scenes_called_by_name():
    named, said = (open_examples(Data(n=3, labels=labels), SIZE, 8) for labels in ("name", "phrase"))
    assert named.fingerprint == said.fingerprint, "the pictures are the same, so their latents are, too"
    for bare, whole in zip(named.samples(3), said.samples(3), strict=True):
        assert [r.phrase for r in bare.regions] == [r.grounding_phrase for r in whole.regions]
        for region in bare.regions:
            assert (
                len(region.grounding_phrase.split()) == 2
                and region.grounding_phrase.split()[1] == region.phrase.split()[-1]
            )
    both = open_examples(Data(n=3, labels="both"), SIZE, 8)
    drawn = {both.layout(1, generator_of(0, place)).regions for place in range(20)}
    assert drawn == {examples.layout(1, generator_of(0, 0)).regions for examples in (named, said)}
    assert [sample.regions for sample in both.samples(2)] == [
        said.samples(1)[0].regions,
        named.samples(2)[1].regions,
    ]


# The cache


def test_latents_are_encoded_once(tmp_path, gated, monkeypatch):
    examples = opened("world", n=5)
    latents, mark = encoded(gated, examples, tmp_path, SIZE)
    assert latents.examples == [0, 1, 2, 3, 4] and latents[3].shape == (4, 8, 8)
    direct = encode_pictures(gated, np.stack([examples.picture(3)]))[0]
    assert torch.allclose(latents[3], direct, atol=1e-3) and latents[3].dtype == torch.float32
    with torch.no_grad():  # by diffusers' own way
        pixels = torch.from_numpy(examples.picture(3)).permute(2, 0, 1)[None] / 127.5 - 1
        mean = gated.vae.encode(pixels).latent_dist.mode() * gated.vae.config.scaling_factor
    assert torch.allclose(direct, mean[0], atol=1e-5)
    monkeypatch.setattr(examples, "picture", None)
    again, same = encoded(gated, examples, tmp_path, SIZE)
    assert same == mark and torch.equal(again[3], latents[3])


def test_another_vae_or_other_examples_are_another_cache(tmp_path, gated, plain):
    marks = {encoded(gated, opened("world", n=n), tmp_path, SIZE)[1] for n in (2, 3)}
    backbone = plain
    weight = next(backbone.vae.parameters())
    with torch.no_grad():
        weight += 1
    try:
        marks.add(encoded(backbone, opened("world", n=2), tmp_path, SIZE)[1])
    finally:
        with torch.no_grad():
            weight -= 1
    assert len(marks) == 3 == len(list(tmp_path.iterdir()))


def test_a_cache_that_was_stopped_or_spoilt_is_completed(tmp_path, gated, monkeypatch):
    monkeypatch.setattr("trueline.training.data.latents.PART", 2)
    examples, read = opened("world", n=5), []
    latents, mark = encoded(gated, examples, tmp_path, SIZE)
    before = [latents[i].clone() for i in range(5)]
    parts = sorted((tmp_path / mark).iterdir())
    assert [path.name for path in parts] == [f"{start:08d}.safetensors" for start in (0, 2, 4)]
    parts[1].write_bytes(b"spoilt")
    parts[2].unlink()
    picture = examples.picture
    monkeypatch.setattr(examples, "picture", lambda index: read.append(index) or picture(index))
    again, _ = encoded(gated, examples, tmp_path, SIZE)
    assert read == [2, 3, 4] and all(torch.equal(again[i], before[i]) for i in range(5))


def test_broken_pictures_are_tried_again_and_only_those(coco, tmp_path, gated, monkeypatch):
    picture = (coco / "val" / "wide.png").read_bytes()
    (coco / "val" / "wide.png").write_bytes(b"no picture")
    first, mark = encoded(gated, opened(coco), tmp_path, SIZE, max_broken=0.5)
    assert first.examples == [1] and [example for example, _ in first.broken] == [0]
    part = tmp_path / mark / "00000000.safetensors"
    written = part.stat().st_mtime_ns
    still, _ = encoded(gated, opened(coco), tmp_path, SIZE, max_broken=0.5)
    assert still.examples == [1] and part.stat().st_mtime_ns == written, "nothing new, nothing written"
    (coco / "val" / "wide.png").write_bytes(picture)
    examples, read = opened(coco), []
    own = examples.picture
    monkeypatch.setattr(examples, "picture", lambda index: read.append(index) or own(index))
    again, same = encoded(gated, examples, tmp_path, SIZE, max_broken=0.5)
    assert same == mark and read == [0] and again.examples == [0, 1] and not again.broken
    assert torch.equal(again[1], first[0]) and not examples.left_out.items
    assert first.order.startswith("1 pictures, ") and again.order != first.order


def test_processes_share_the_parts(tmp_path, gated, monkeypatch):
    monkeypatch.setattr("trueline.training.data.latents.PART", 1)
    examples, read = opened("world", n=3), []
    picture = examples.picture
    monkeypatch.setattr(examples, "picture", lambda index: read.append(index) or picture(index))

    def other() -> None:
        if 1 not in read:
            encoded(gated, examples, tmp_path, SIZE, process=1, processes=2, wait=lambda: None)

    with pytest.raises(FileNotFoundError):  # the second process has not come yet, and nobody waits
        encoded(gated, examples, tmp_path, SIZE, process=0, processes=2)
    assert read == [0, 2]
    latents, _ = encoded(gated, examples, tmp_path, SIZE, process=0, processes=2, wait=other)
    assert read == [0, 2, 1] and latents.examples == [0, 1, 2]


def test_broken_pictures_are_counted_up_to_a_share(tmp_path, gated, coco):
    (coco / "val" / "wide.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"data\.max_broken: 1 of 2 pictures .*more than the 0\.05.*wide\.png"
    ):
        encoded(gated, opened(coco), tmp_path, SIZE, max_broken=0.05)
    examples = opened(coco)
    latents, _ = encoded(gated, examples, tmp_path, SIZE, max_broken=0.5)
    assert latents.examples == [1] and latents[0].shape == (4, 8, 8)
    assert examples.left_out.reasons == {"broken pictures": 1}
    assert examples.left_out.items[0][0] == "example 0" and "wide.png" in examples.left_out.items[0][1]
    (coco / "val" / "tall.png").unlink()
    with pytest.raises(ValueError, match="2 of 2 pictures cannot be used"):
        encoded(gated, opened(coco), tmp_path / "other", SIZE, max_broken=1.0)


def test_a_cache_reads_rows_not_files(tmp_path, gated):
    _, mark = encoded(gated, opened("world", n=3), tmp_path, SIZE)
    latents = Latents(sorted((tmp_path / mark).iterdir()))
    assert [latents[i].shape for i in (0, 2)] == [(4, 8, 8)] * 2
    with pytest.raises(IndexError):
        _ = latents[3]


# The stream


def test_each_epoch_has_every_example_once_in_another_order():
    made = stream(count=5)
    epochs = [[made.at(place) for place in range(start, start + 5)] for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    assert [made.at(place) for place in range(5)] == epochs[0], "going back gives the same"
    assert [stream(seed=1, count=5).at(place) for place in range(15)] != [
        at for epoch in epochs for at in epoch
    ]


def test_an_example_is_drawn_from_its_place_alone():
    made = stream()
    four = made.batch(3, range(8, 12))
    two = [made.batch(9, range(start, start + 2)) for start in (8, 10)]
    for name in ("latents", "noise", "t", "captioned", "boxed"):
        assert torch.equal(getattr(four, name), torch.cat([getattr(part, name) for part in two])), name
    assert four.layouts == two[0].layouts + two[1].layouts
    assert not torch.equal(four.noise[0], made.batch(3, range(13, 14)).noise[0])
    draws = [torch.rand(1, generator=b.generator) for b in (four, made.batch(3, range(8, 12)), two[0])]
    assert draws[0] == draws[1] and draws[0] != draws[2]


def test_captions_and_boxes_are_dropped_as_often_as_asked():
    made = Shuffled(Memory(), Table(), 0, 0.3, 0.1, (200, 300))  # type: ignore[arg-type]
    batch = made.batch(0, range(2000))
    said, boxed = float(batch.captioned.float().mean()), float(batch.boxed.float().mean())
    assert said == pytest.approx(0.7, abs=0.04) and boxed == pytest.approx(0.9, abs=0.03)  # 4 standard errors
    assert int(batch.t.min()) >= 200 and int(batch.t.max()) < 300 and len(batch.t.unique()) == 100
    silent = int(batch.captioned.int().argmin())
    assert batch.captions[silent] == "" and batch.layouts[silent].prompt
    assert batch.captions.count("") == int((~batch.captioned).sum())
