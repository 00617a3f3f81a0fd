"""Files as others write them: what is read, what is kept, what is counted, and every mistake in one sentence."""

import json
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trueline.formats import FORMATS, read, write
from trueline.formats._build import CUT, SMALL
from trueline.formats._conversion import Tally
from trueline.formats.coco import CROWDS
from trueline.layout import Layout, Region


def save(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


GLIGEN = {"prompt": "a cat", "phrases": ["a cat"], "locations": [[0.1, 0.1, 0.5, 512]]}
BOXDIFF = {"prompt": "a cat", "gligen_phrases": ["a cat"], "bbox": [[0.1, 0.1, 0.5, 0.5]]}
IDEOGRAM = {
    "high_level_description": "a cat",
    "compositional_deconstruction": {"background": "", "elements": []},
}
IMAGE = {"id": 7, "file_name": "train/a b.jpg", "width": 640, "height": 427}
LAYOUTGPT = {"query_id": 1, "iter": 0, "prompt": "a cat", "object_list": [["cat", [0.1, 0.1, 12, 0.5]]]}


def ideogram(box) -> dict:
    parts = {"background": "", "elements": [{"type": "obj", "bbox": box, "desc": "a cat"}]}
    return IDEOGRAM | {"compositional_deconstruction": parts}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gligen", [GLIGEN], r"row 1, locations\[0\]: y1 must be between 0 and 1 \(got 512\); divide pixels by"),
        ("gligen", [GLIGEN | {"locations": [[0.9, 0.1, 0.5, 0.5]]}], r"x0 must be smaller than x1 \(got 0.9 and"),
        ("gligen", [GLIGEN | {"locations": []}], "has 1 phrases and 0 locations"),
        ("gligen", [GLIGEN | {"locations": [[0.1, 0.1, "0.5", 0.5]]}], r"locations\[0\]: must be x0, y0, x1, y1"),
        ("gligen", '[{"prompt": "a", "phrases": ["a"], "locations": [[0, 0, NaN, 1]]}]', r"locations\[0\]: must be"),
        ("gligen", '[{"prompt": "a", "phrases": ["a"], "locations": [[0, 0, 1' + "0" * 400 + ", 1]]}]", "must be x"),
        ("gligen", {"images": [], "annotations": []}, "is a JSON list .* found an object with the keys images"),
        ("gligen", "Caption: a cat", "not whole JSON .*; gligen is a JSON list .*; name the format"),
        ("gligen", "[" * 100_000, "gligen is a JSON list"),
        ("boxdiff", [BOXDIFF], "row 1, bbox: must be x0, y0, x1, y1 in pixels of 512x512, these look like fractions"),
        ("boxdiff", [GLIGEN], "boxdiff is a JSON list .* with the keys prompt, phrases, locations"),
        ("lmd", "Caption: a\nObjects: [('a cat', [0.1, 0.1, 0.5, 0.5])]\n", "these look like fractions"),
        ("lmd", "Caption: a\nObjects: [('a cat', (1, 2, 3, 4))]\n", r"Objects\[0\]: must be a name and a list"),
        ("lmd", '[{"prompt": "a cat"}]', r"lmd is text of Caption:.* found '\[\{\"prompt\""),
        ("lmd", "Caption: a\nBackground prompt: b\n", "Objects is missing"),
        ("lmd-cache", {"a cat": ["[('a cat', [1, 2, 3])]"]}, r"caption 1, answer 1, Objects\[0\].*four numbers"),
        ("lmd-cache", [{"prompt": "a"}], "found a list of objects, the first with the keys prompt"),
        ("layoutgpt-css", "Prompt: a\nLayout:\ncat {height: 1em; width: 2px; top: 3px}", "'height: 1em' is"),
        ("layoutgpt-css", "Prompt: a\nLayout:\ncat {height: 1px; width: 2px; top: 3px; }", "line 3: has no left"),
        ("layoutgpt-css", "cat {}", "layoutgpt-css is blocks .* found 'cat {}'"),
        ("layoutgpt-json", [LAYOUTGPT], r"row 1, object_list\[0\]: its box must be in 0..1 \(got 12\)"),
        ("layoutgpt-json", [GLIGEN], "layoutgpt-json is a JSON list of objects with query_id"),
        ("yxyx-1000", ideogram([0, 0, 1024, 500]), r"\[0\], bbox: y_max must be between 0 and 1000 \(got 1024\)"),
        ("yxyx-1000", ideogram([0.1, 0.1, 0.5, 0.5]), "not fractions"),
        ("yxyx-1000", ideogram([500, 0, 100, 500]), "y0 must be smaller than y1"),
        ("yxyx-1000", [IDEOGRAM], "yxyx-1000 is an object with high_level_description"),
        ("yxyx-1000-flux", "a cat and no table", "yxyx-1000-flux is lines of a caption"),
        ("yxyx-1000-flux", 'a cat [{"id": "a", "bbox": [0, 0, 2000, 1], "desc": "x"}]', "row 1, bbox: y_max must be"),
        ("instancediffusion", {"caption": "a", "annos": []}, "width: must be a whole number of pixels"),
        ("instancediffusion", [1, 2], "instancediffusion is an object .* found a list of 2"),
        ("labelme", {"shapes": []}, "imageWidth: must be a whole number of pixels"),
        ("labelme", {"shapes": [], "imageWidth": True, "imageHeight": 4}, "imageWidth: must be a whole"),
        ("trueline", "{}", "prompt: is missing"),
        ("coco", {"images": [IMAGE | {"height": "8"}], "annotations": [], "categories": []}, "height: must be"),
        ("coco", {"images": [IMAGE, IMAGE], "annotations": [], "categories": []}, "id: 7 is there twice"),
        ("coco", {"images": []}, "must be an object with lists of images, annotations, categories"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read(save(tmp_path, "in", content), name)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_one_format_is_no_other(tmp_path):
    made = [Layout("a cat", [Region("a cat", (0.1, 0.1, 0.6, 0.6))])]
    for name in FORMATS:
        write(made, tmp_path / name, name, tally=Tally())
    for name in FORMATS:
        for other in set(FORMATS) - {name}:
            with pytest.raises(ValueError) as caught:
                read(tmp_path / other, name)
            assert "\n" not in str(caught.value)


def test_coco(tmp_path):
    """Clipped boxes and crowds are counted; polygons and the other captions stay."""
    images = [
        IMAGE,
        {"id": 8, "file_name": "b.jpg", "width": 100, "height": 100},
        {"id": 9, "file_name": "c.jpg", "width": 100, "height": 100},
    ]
    cat = {"id": 1, "image_id": 7, "category_id": 17, "iscrowd": 0}
    things = [
        cat | {"bbox": [600, 400, 100, 100], "segmentation": []},
        cat | {"bbox": [64, 42.7, 64, 42.7], "segmentation": [[64, 42.7, 128, 42.7, 128, 85.4, 64, 85.4]]},
        cat
        | {"bbox": [0, 0, 640, 427], "iscrowd": 1, "segmentation": {"size": [427, 640], "counts": [273280]}},
        cat | {"bbox": [5, 5, 0, 9]},
        cat | {"image_id": 8, "bbox": [10, 10, 50, 50]},
        cat | {"image_id": 99, "bbox": [10, 10, 50, 50]},
    ]
    categories = [{"id": 17, "name": "cat", "supercategory": "animal"}]
    notes = tmp_path / "annotations"
    instances = {"images": images, "annotations": things, "categories": categories}
    save(notes, "instances_val.json", instances)
    said = [{"image_id": 7, "caption": "two cats"}, {"image_id": 7, "caption": "cats"}]
    save(notes, "captions_val.json", {"images": images, "annotations": said})
    tally = Tally()
    first, second = read(tmp_path, "coco", tally=tally)
    counts = {what: count.number for what, count in tally.lost.items()}
    assert counts == {
        CUT: 1,
        CROWDS: 1,
        SMALL: 1,
        "annotations of unknown pictures or classes, left out": 1,
        "ids that are not safe as file names": 1,
        "pictures without a caption or a box, left out": 1,
    }
    assert first.regions[0].box.xyxy == pytest.approx((600 / 640, 400 / 427, 1, 1))
    mask = first.regions[1].mask_array()
    assert mask.shape == (427, 640) and mask[43:85, 64:128].all() and mask.sum() == 42 * 64
    assert (first.prompt, second.prompt, second.id) == ("two cats", "cat", "b")

    write([first, second], tmp_path / "out", "coco", tally=Tally())
    again = read(tmp_path / "out", "coco", tally=Tally())
    assert again[0].meta == first.meta and again[0].regions[1].mask == first.regions[1].mask
    assert again[0].meta["picture"] == {
        "file": "train/a b.jpg",
        "id": 7,
        "width": 640,
        "height": 427,
        "captions": ["cats"],
    }


def test_coco_in_fractions_is_refused(tmp_path):
    row = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0.1, 0.1, 0.5, 0.5]}
    image = {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}
    path = save(
        tmp_path,
        "instances_x.json",
        {"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "a"}]},
    )
    with pytest.raises(
        ValueError, match="annotations, bbox: must be x, y, width, height in pixels, these look like"
    ):
        read(path, "coco")


def test_training_reads_what_is_written_as_coco(tmp_path):
    made = [Layout("a cat", [Region("cat", (0.25, 0.25, 0.75, 0.75))], id="a", width=512, height=512)]
    write(made, tmp_path, "coco")
    from trueline.formats.coco_files import BoxFilter
    from trueline.training.data.coco import open_examples
    from trueline.training.data.examples import Rules
    from trueline.training.settings import Data

    examples = open_examples(Data(source=str(tmp_path), share="all"), Rules((512, 512), BoxFilter()))
    assert examples.samples(1) == [Layout("a cat", [Region("cat", (0.25, 0.25, 0.75, 0.75))])]


def test_gligen_keeps_what_belongs_to_gligen(tmp_path):
    row = {
        "ckpt": "x.pth",
        "prompt": "a bear and a bird",
        "phrases": ["a bear", "a bird", "style"],
        "images": [None, None, "s.jpg"],
        "locations": [[0.0, 0.09, 0.33, 0.76], [0.55, 0.11, 1.0, 0.8], [0, 1, 0, 1]],
        "text_mask": [1, 1, 0],
        "alpha_type": [0.3, 0.0, 0.7],
        "save_folder_name": "bears",
    }
    tally = Tally()
    (layout,) = read(save(tmp_path, "in.json", [row]), "gligen", tally=tally)
    assert [region.phrase for region in layout.regions] == ["a bear", "a bird"]
    assert (
        layout.meta == {"gligen": {"ckpt": "x.pth", "alpha_type": [0.3, 0.0, 0.7]}} and layout.id == "bears"
    )
    assert set(tally.lost) == {"reference pictures", "phrases that text_mask switches off, left out"}
    write([layout], tmp_path / "out.json", "gligen")
    (back,) = json.loads((tmp_path / "out.json").read_text())
    assert back["ckpt"] == "x.pth" and back["alpha_type"] == [0.3, 0.0, 0.7]
    assert read(tmp_path / "out.json", "gligen") == [layout]


def test_lmd_as_its_prompt_writes_it(tmp_path):
    """Two examples of LMD's prompt (prompt.py), the second with a list over two lines."""
    text = (
        "Caption: Two pandas in a forest without flowers\n"
        "Objects: [('a panda', [30, 171, 212, 226]), ('a panda', [264, 173, 222, 221])]\n"
        "Background prompt: A forest\nNegative prompt: flowers\n\n"
        "Caption: A cute cat and an angry dog without birds\r\n"
        "Objects: [('a cute cat', [51, 67, 271, 324]),\n  ('an angry dog', [302, 119, 211, 428])]\n"
        "Background prompt: A realistic scene\nNegative prompt: None\n"
    )
    tally = Tally()
    pandas, cat = read(save(tmp_path, "in.txt", text), "lmd", tally=tally)
    assert pandas.regions[0].box.xyxy == (30 / 512, 171 / 512, 242 / 512, 397 / 512)
    assert (pandas.negative_prompt, pandas.meta) == ("flowers", {"lmd": {"background": "A forest"}})
    assert (cat.negative_prompt, cat.meta, cat.regions[1].box.y1) == ("", {}, 1.0)
    assert {what: count.number for what, count in tally.lost.items()} == {CUT: 1}
    write([pandas], tmp_path / "out.txt", "lmd")
    assert (tmp_path / "out.txt").read_text() == text.split("\n\n")[0] + "\n"


def test_yolo_outlines_confidences_and_names(tmp_path):
    save(tmp_path, "labels/a.txt", "1 0.5 0.5 0.5 0.5 0.9\n\n0 0.25 0.25 0.75 0.25 0.75 0.75\n")
    save(tmp_path, "data.yaml", "names:\n  0: a cat\n  1: dog\n")
    tally = Tally()
    (layout,) = read(tmp_path, "yolo", tally=tally)
    assert [region.phrase for region in layout.regions] == ["dog", "a cat"] and layout.prompt == "dog, a cat"
    assert layout.regions[1].mask_array().mean() == pytest.approx(0.125, rel=0.01), "half of a quarter"
    assert list(tally.lost) == ["confidences"]
    save(tmp_path, "labels/b.txt", "1 320 0.5 0.5 0.5\n")
    with pytest.raises(
        ValueError, match=r"b.txt, line 1: cx must be between 0 and 1 \(got 320\); divide pixels"
    ):
        read(tmp_path, "yolo")
    save(tmp_path, "labels/b.txt", "2 0.5 0.5 0.5 0.5\n")
    with pytest.raises(
        ValueError, match=r"b.txt, line 1: class 2 has no name, there are 2; give the right names"
    ):
        read(tmp_path, "yolo")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"names: .* has none of data\.yaml"):
        read(tmp_path, "yolo")
    with pytest.raises(ValueError, match=r"class 1: must be text \(got True\); put it in quotes"):
        read(tmp_path, "yolo", names=save(tmp_path, "n.yaml", "names: [cat, yes]"))


@pytest.mark.parametrize("phrase", ["café", "0\x85", "a\x85b", "a\u2028b", "two\u2029"])
def test_yolo_keeps_names_with_unicodes_line_breaks(tmp_path, phrase):
    write([Layout("x", regions=[Region(phrase, (0.1, 0.1, 0.5, 0.5))])], tmp_path, "yolo")
    (layout,) = read(tmp_path, "yolo")
    assert [region.phrase for region in layout.regions] == [phrase]


@pytest.mark.parametrize("name", ["yolo", "coco"])
def test_only_the_class_names_that_are_given(tmp_path, name):
    phrases = ["cat", "a red hot dog", "The Dog", "a scat", "hotdogs"]
    made = [Layout("x", [Region(phrase, (0.1, 0.1, 0.9, 0.9)) for phrase in phrases])]
    tally = Tally()
    write(
        made, tmp_path / "out", name, names=save(tmp_path, "names.txt", "dog\ncat\nhot dog\n\n"), tally=tally
    )
    (back,) = read(tmp_path / "out", name)
    assert [region.phrase for region in back.regions] == ["cat", "hot dog", "dog"]
    lost = {what: count.number for what, count in tally.lost.items() if "phrase" in what}
    assert lost == {
        "words of phrases beyond their class names": 2,
        "regions whose phrase ends in none of the class names, left out": 2,
    }


def test_labelme_shapes(tmp_path):
    def shape(kind: str, *points, **more) -> dict:
        return {
            "label": kind,
            "points": list(points),
            "shape_type": kind,
            "flags": {},
            "group_id": None,
        } | more

    content = {
        "shapes": [
            shape("rectangle", [60, 40], [10, 20]),
            shape("polygon", [10, 10], [30, 10], [30, 30], [10, 30]),
            shape("circle", [50, 50], [60, 50], group_id=3),
            shape("line", [1, 1], [9, 9]),
        ],
        "imageWidth": 100,
        "imageHeight": 80,
        "imagePath": "..\\pics\\a.jpg",
        "imageData": None,
    }
    tally = Tally()
    (layout,) = read(save(tmp_path, "a.json", content), "labelme", tally=tally)
    box, polygon, circle = layout.regions
    assert box.box.xyxy == (0.1, 0.25, 0.6, 0.5) and box.mask is None
    assert polygon.mask_array().sum() == 400 and polygon.mask_array().shape == (80, 100)
    assert circle.box.xyxy == pytest.approx(
        (0.4, 0.5, 0.6, 0.75)
    ) and circle.mask_array().sum() == pytest.approx(314, rel=0.03)
    assert set(tally.lost) == {"group_id of shapes", "shapes of type line, left out"}
    assert (
        layout.meta["picture"] == {"file": "../pics/a.jpg", "width": 100, "height": 80} and layout.id == "a"
    )


def test_labelme_carries_a_whole_layout(tmp_path):
    regions = [Region("a cat", (0.1, 0.2, 0.5, 0.6), negative="dog", label="cat")]
    made = Layout("a cat", regions, "blurry", seed=3, id="one", width=640, height=480)
    write([made], tmp_path / "one.json", "labelme", strict=True)
    (back,) = read(tmp_path / "one.json", "labelme")
    assert back.model_copy(update={"meta": {}, "width": 640, "height": 480}) == made


def test_ideogram_and_flux(tmp_path):
    elements = [
        {
            "type": "text",
            "bbox": [360, 80, 560, 920],
            "text": "HI",
            "desc": "a headline",
            "color_palette": ["#F"],
        },
        {"type": "obj", "desc": "stars"},
    ]
    content = {
        "high_level_description": "A poster.",
        "style_description": {"medium": "photograph"},
        "compositional_deconstruction": {"background": "A gradient.", "elements": elements},
    }
    tally = Tally()
    (layout,) = read(save(tmp_path, "p.json", content), "yxyx-1000", tally=tally)
    assert layout.regions == (Region("a headline", (0.08, 0.36, 0.92, 0.56)),)
    assert set(tally.lost) == {
        "text of elements",
        "color_palette of elements",
        "elements without a box, left out",
    }
    write([layout], tmp_path / "q.json", "yxyx-1000")
    back = json.loads((tmp_path / "q.json").read_text())
    assert list(back) == list(content) and back["style_description"] == {"medium": "photograph"}
    assert back["compositional_deconstruction"]["background"] == "A gradient."
    assert layout.meta["yxyx-1000"]["background"] == "A gradient.", "writing changes no layout"

    dogs = Layout(
        "A dog and a dog <dog_1>", [Region("a dog", (0, 0, 0.4, 0.4)), Region("a dog", (0.5, 0, 1, 1))]
    )
    write([dogs], tmp_path / "f.txt", "yxyx-1000-flux")
    assert (tmp_path / "f.txt").read_text().startswith("A dog <dog_2> and a dog <dog_3> <dog_1> [{")
    assert read(tmp_path / "f.txt", "yxyx-1000-flux") == [dogs]


def test_texts_that_are_too_long_and_regions_too_many_are_counted(tmp_path):
    annos = [{"bbox": [0, 0, 10 + i, 10], "mask": [], "caption": "word " * 60} for i in range(31)]
    content = {"caption": "long " * 500, "width": 512, "height": 427, "annos": annos}
    tally = Tally()
    (layout,) = read(save(tmp_path, "a.json", content), "instancediffusion", tally=tally)
    assert len(layout.regions) == 30 and layout.regions[0].box.width * 512 == pytest.approx(11)
    assert len(layout.prompt) <= 2000 and layout.regions[0].phrase.endswith("word")
    assert {what: count.number for what, count in tally.lost.items()} == {
        "phrases cut to 256 characters": 31,
        "prompts cut to 2000 characters": 1,
        "regions beyond 30, the smallest, left out": 1,
    }
    assert (layout.width, layout.meta["picture"]) == (None, {"width": 512, "height": 427}), (
        "427 is no side of a picture"
    )


junk = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([10**400, -1, "1"])
)
values = st.recursive(
    junk, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some, max_size=3)
)


def spots(value, path=()) -> list[tuple]:
    """Where every value within a JSON value stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, part in inner for spot in spots(part, (*path, key)))]


def changed(value, spot: tuple, new):
    if not spot:
        return new
    copy = value.copy()
    copy[spot[0]] = changed(value[spot[0]], spot[1:], new)
    return copy


WHOLE = Layout("a cat", [Region("a cat", (0.1, 0.1, 0.9, 0.9), "8x8:9,9,46")], "blurry", 512, 512, 7, "one")


@pytest.mark.parametrize(
    "name",
    [
        "gligen",
        "lmd-cache",
        "boxdiff",
        "instancediffusion",
        "layoutgpt-json",
        "labelme",
        "yxyx-1000",
        "coco",
        "trueline",
    ],
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(new=values, draw=st.randoms(use_true_random=False))
def test_a_file_with_anything_in_a_field_is_read_or_refused(name, new, draw: random.Random):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out"
        write([WHOLE], target, name, tally=Tally())
        files = sorted(target.rglob("*.json")) or [target]
        file = draw.choice(files)
        content = json.loads(file.read_text())
        file.write_text(json.dumps(changed(content, draw.choice(spots(content)), new)))
        try:
            back = read(target, name, tally=Tally())
        except ValueError as error:
            assert "\n" not in str(error) or name == "trueline"
        else:
            assert all(isinstance(layout, Layout) for layout in back)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(new=values)
def test_a_layout_with_anything_in_its_meta_is_written(name, new):
    try:
        layout = WHOLE.model_validate(
            WHOLE.model_dump() | {"meta": {"picture": new, name: new, "lmd": {"background": new}}}
        )
    except ValueError:
        return  # no JSON
    with tempfile.TemporaryDirectory() as folder:
        try:
            write([layout], Path(folder) / "out", name, tally=Tally())
        except ValueError as error:
            assert "meta.lmd.background" in str(error)
        else:
            assert len(read(Path(folder) / "out", name, tally=Tally())) == 1
