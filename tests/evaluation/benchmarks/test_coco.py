"""COCO 2014 on a small folder in COCO's form, written here."""

import json

import numpy as np
import pytest
from PIL import Image

from trueline.evaluation import benchmarks
from trueline.formats.coco_files import (
    BoxFilter,
    PixelBox,
    centre_crop,
    kept_regions,
    ranked_by_hash,
    split_of,
)
from trueline.layout import Region

IDS = (139, 285, 632, 724, 776, 785, 802, 872, 885, 1000)


@pytest.fixture
def coco(tmp_path):
    """Ten pictures of 80 x 40, each with two captions, three boxes and a crowd; two categories."""
    images = [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "width": 80, "height": 40} for i in IDS]
    captions = [{"image_id": i, "caption": f" caption {k} of {i}\n"} for k in range(2) for i in IDS]
    boxes = [
        (1, [0, 0, 40, 40], 0),  # half of it is in the square
        (2, [30, 10, 10, 10], 0),
        (2, [70, 0, 10, 40], 0),  # outside the square
        (1, [20, 0, 40, 39], 1),  # a crowd
    ]
    things = [
        {"image_id": i, "category_id": category, "bbox": box, "iscrowd": crowd}
        for i in IDS
        for category, box, crowd in boxes
    ]
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dining table"}]
    for part in ("val2014", "train2014"):
        write(folder, f"captions_{part}", {"images": images, "annotations": captions})
        write(
            folder, f"instances_{part}", {"images": images, "annotations": things, "categories": categories}
        )
        (folder / part).mkdir()
        for image in images[:2]:
            columns = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None] * 3, (40, 80, 3))
            Image.fromarray(columns).save(folder / part / image["file_name"], quality=100)
    return tmp_path


def write(folder, name, content):
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def read(folder, name):
    return json.loads((folder / "coco" / "annotations" / f"{name}.json").read_text())


def load(folder, **options):
    return benchmarks.load("coco", folder, **{"n": None, **options})


def test_captions_boxes_and_truth(coco):
    benchmark = load(coco)
    assert {e.id for e in benchmark.examples} == {f"coco-{i:012d}" for i in IDS}
    example = next(e for e in benchmark.examples if e.truth["image_id"] == 139)
    assert example.prompt in ("caption 0 of 139", "caption 1 of 139") and len(example.truth["captions"]) == 2
    assert example.truth["crop"] == [20, 0, 60, 40]
    assert [(r.phrase, r.box.xyxy) for r in example.layout.regions] == [
        ("person", (0, 0, 0.5, 1)),
        ("dining table", (0.25, 0.25, 0.5, 0.5)),
    ]
    assert benchmark.filtered == 2 * len(IDS), "the crowd, and what is outside"
    assert "seed 0" in benchmark.source and "split test" in benchmark.source


def test_the_folder_itself_may_be_named_and_annotations_may_lie_in_it(coco):
    assert load(coco / "coco").examples == load(coco).examples
    for file in (coco / "coco" / "annotations").iterdir():
        file.rename(coco / "coco" / file.name)
    (coco / "coco" / "annotations").rmdir()
    assert len(load(coco / "coco").examples) == len(IDS)


def test_settings_of_the_boxes(coco):
    def phrases(**settings):
        return [r.phrase for r in load(coco, boxes=BoxFilter(**settings)).examples[0].layout.regions]

    assert phrases(crowd=True) == ["person", "person", "dining table"], "largest first"
    assert phrases(max_boxes=1) == ["person"]
    assert phrases(max_boxes=0) == []
    assert phrases(min_area=0.1) == ["person"], "of the square"
    whole = load(coco, square=False, boxes=BoxFilter(min_area=0)).examples[0]
    assert len(whole.layout.regions) == 3 and whole.truth["crop"] == [0, 0, 80, 40]
    assert whole.layout.regions[0].box.xyxy == (0, 0, 0.5, 1)
    with pytest.warns(UserWarning, match="coco: 10 pictures with fewer than 3 boxes skipped"):
        assert not load(coco, boxes=BoxFilter(min_boxes=3)).examples


@pytest.mark.parametrize("wrong", [{"min_area": 1}, {"min_area": -0.1}, {"max_boxes": 31}, {"min_boxes": 9}])
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BoxFilter(**wrong)


def test_prompts_of_categories_for_coco2014d(coco):
    assert {e.prompt for e in load(coco, prompts="categories").examples} == {"person, dining table"}
    with pytest.warns(UserWarning, match="10 empty prompts skipped"):
        assert not load(coco, prompts="categories", boxes=BoxFilter(max_boxes=0)).examples


def test_seeds_draws_and_caption_choice(coco):
    everything = [e.id for e in load(coco).examples]
    assert [e.id for e in load(coco, n=4).examples] == everything[:4], "a smaller draw begins a larger one"
    assert load(coco, n=4).examples == load(coco, n=4).examples
    assert [e.id for e in load(coco, seed=1).examples] != everything
    assert all(e.prompt.startswith("caption 0") for e in load(coco, captions="first").examples)
    chosen = {e.prompt.split()[1] for seed in range(3) for e in load(coco, seed=seed).examples}
    assert chosen == {"0", "1"}
    with pytest.warns(UserWarning, match="20 pictures fewer than the 30 asked for"):
        assert len(load(coco, n=30).examples) == 10


def test_train_is_split_80_to_20(coco):
    train, validation = (
        {e.id for e in load(coco, split=split).examples} for split in ("train", "validation")
    )
    assert (len(train), len(validation)) == (8, 2) and not train & validation
    ids = range(82_783)  # as many as train2014 has
    train, validation = (split_of(ids, split, seed=0) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (66_226, 16_557)
    assert set(train) | set(validation) == set(ids) and not set(train) & set(validation)
    assert len(set(ranked_by_hash(range(40_504), "draw", seed=0)[:30_000])) == 30_000
    assert ranked_by_hash(reversed(range(100)), "draw", 3) == ranked_by_hash(range(100), "draw", 3), (
        "whatever order the file has"
    )


def test_a_draw_is_spread_evenly():
    drawn = ranked_by_hash(range(40_504), "draw", seed=0)[:30_000]
    assert np.mean(drawn) == pytest.approx(40_503 / 2, abs=4 * 40_504 / np.sqrt(12 * 30_000))
    assert abs(np.corrcoef(drawn, range(30_000))[0, 1]) < 0.03, "and not in the order of the ids"


@pytest.mark.parametrize(
    ("size", "crop"),
    [((640, 480), (80, 0, 560, 480)), ((481, 640), (0, 79, 481, 560)), ((7, 7), (0, 0, 7, 7))],
)
def test_centre_square(size, crop):
    assert centre_crop(*size) == crop


def test_boxes_move_with_the_crop_and_are_clamped_to_it():
    (region,) = kept_regions([PixelBox("cat", [60, 120, 100, 480])], (80, 0, 560, 480), BoxFilter())
    assert region.box.xyxy == pytest.approx((0, 0.25, 80 / 480, 1))

    def kept(side: int, min_area: float) -> list[Region]:
        return kept_regions(
            [PixelBox("cat", [0, 0, 48, side])], (0, 0, 480, 480), BoxFilter(min_area=min_area)
        )

    assert kept(48, 0.01), "exactly 1 % stays, as in GLIGEN"
    assert not kept(47, 0.01)
    tiny = PixelBox("cat", [0, 0, 1, 1])
    assert not kept_regions([tiny], (0, 0, 480, 480), BoxFilter(min_area=0)), "below what a layout holds"


def test_reference_pictures_are_cropped_like_the_boxes(coco):
    benchmark = load(coco)
    by_image = {e.truth["image_id"]: e for e in benchmark.examples}
    picture = benchmark.reference(by_image[139])
    assert picture.size == (40, 40) and picture.mode == "RGB"
    assert np.asarray(picture)[0, :, 0] == pytest.approx(np.arange(20, 60) * 3, abs=3)
    assert load(coco, square=False).reference(by_image[139]).size == (40, 40), "the crop is the example's"
    with pytest.raises(ValueError, match=r"COCO_val2014_000000000632.jpg: no such file; .*cocodataset"):
        benchmark.reference(by_image[632])
    file = coco / "coco" / "val2014" / by_image[139].truth["file"]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot be read .*cocodataset"):
        benchmark.reference(by_image[139])


def test_a_file_name_with_a_path_stays_in_the_folder_of_pictures(coco):
    content = read(coco, "captions_val2014")
    content["images"][0]["file_name"] = "../../secret.png"
    Image.new("RGB", (80, 40)).save(coco / "secret.png")
    write(coco / "coco", "captions_val2014", content)
    benchmark = load(coco)
    example = next(e for e in benchmark.examples if e.truth["image_id"] == IDS[0])
    with pytest.raises(ValueError, match=r"val2014/secret.png: no such file"):
        benchmark.reference(example)


BROKEN = [
    (
        "captions",
        lambda c: c.pop("images"),
        r"2014.json: must be an object with lists of images, annotations; take",
    ),
    (
        "captions",
        lambda c: c["images"][3].pop("width"),
        r"images\[3\], width: must be a whole .* \(it is missing\)",
    ),
    (
        "captions",
        lambda c: c["images"][3].update(height=0),
        r"json, images\[3\], height: must be a whole number of pixels \(got 0\)",
    ),
    (
        "captions",
        lambda c: c["annotations"][5].update(image_id=5),
        r"json, annotations\[5\], image_id: no image has the id 5",
    ),
    (
        "captions",
        lambda c: c["annotations"][5].update(caption=None),
        r"json, annotations\[5\], caption: must be text",
    ),
    (
        "instances",
        lambda c: c["annotations"][2].update(bbox=[1, 2]),
        r"json, annotations\[2\], bbox: must be x, y",
    ),
    ("instances", lambda c: c["annotations"][2].update(bbox=3), r"json, annotations\[2\], bbox: must be"),
    (
        "instances",
        lambda c: c["annotations"][2].update(category_id=9),
        r"json, annotations\[2\], category_id: no category has the id 9",
    ),
    (
        "instances",
        lambda c: c["annotations"][2].update(image_id=[]),
        r"annotations\[2\], image_id: no image has",
    ),
    (
        "instances",
        lambda c: c["categories"][0].pop("name"),
        r"categories\[0\], name: must be text \(it is missing\)",
    ),
]


@pytest.mark.parametrize(("kind", "change", "problem"), BROKEN)
def test_broken_annotations_are_named(coco, kind, change, problem):
    content = read(coco, f"{kind}_val2014")
    change(content)
    write(coco / "coco", f"{kind}_val2014", content)
    with pytest.raises(ValueError, match=problem) as error:
        load(coco)
    assert f"{kind}_val2014.json" in str(error.value)


def test_missing_and_truncated_files(coco):
    file = coco / "coco" / "annotations" / "instances_val2014.json"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=r"instances_val2014.json: not whole JSON"):
        load(coco)
    file.unlink()
    with pytest.raises(
        ValueError,
        match=r"instances_val2014.json: cannot read it .*CC BY 4.0.*; data, or TRUELINE_DATA, names",
    ):
        load(coco)
    with pytest.raises(ValueError, match="n: must be at least 1"):
        load(coco, n=0)


def test_a_picture_without_captions_is_counted(coco):
    content = read(coco, "captions_val2014")
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 139]
    write(coco / "coco", "captions_val2014", content)
    with pytest.warns(UserWarning, match="coco: 1 empty prompts skipped"):
        assert len(load(coco).examples) == 9
