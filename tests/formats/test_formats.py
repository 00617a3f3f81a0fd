"""Every format: there and back within a pixel, or refused in a sentence; what files of others say; what is lost."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from shared_data import SHARED, needs

from trueline.boxes import MIN_AREA, Box
from trueline.formats import EXTRAS, FORMATS, _masks, read, write
from trueline.formats._conversion import Tally
from trueline.formats._output import whole
from trueline.formats.lmd import pairs
from trueline.layout import Layout, Region

#: Steps of the grid that a format counts in; the others keep fractions or fine pixels.
GRID = {
    "lmd": 512,
    "lmd-cache": 512,
    "boxdiff": 512,
    "layoutgpt-css": 64,
    "yxyx-1000": 1000,
    "yxyx-1000-flux": 1000,
}
#: Formats that are text, and the marks that they may refuse.
MARKS = ("\n", "\r", "{", "}", "Prompt:", "Objects:", "Background prompt:", "Negative prompt:")
REFUSING = {"lmd", "lmd-cache", "layoutgpt-css", "yxyx-1000-flux"}
NASTY = [
    "a cat's toy", 'the "big" dog', "it's \"two\"", "a, b; c", "two\nlines", "tab\tand\rreturn", "{left: 3px;}",
    "naïve 猫 🐈\u200d⬛", "back\\slash \\n", "[('x', [1, 2, 3, 4])]", "a <cat_1> here", "Objects: [", "- yes: no",
    "Prompt: x", "</script>", " spaces ", "a\u2028b\x85\x1f", "a: b", "'", '"', "[", "1e5", "%s %(x)s {0}",
    "#1", "null",
]  # fmt: skip

texts = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
).filter(str.strip)


@st.composite
def boxes(draw) -> Box:
    """Any box that a layout may have, thin and tiny ones too."""
    width = draw(st.floats(MIN_AREA * 1.001, 1))
    height = draw(st.floats(min(1.0, MIN_AREA * 1.000001 / width), 1))
    x0, y0 = draw(st.floats(0, 1)) * (1 - width), draw(st.floats(0, 1)) * (1 - height)
    return Box(x0, y0, min(1.0, x0 + width), min(1.0, y0 + height))


@st.composite
def layouts(draw) -> Layout:
    phrases = draw(st.lists(texts, max_size=4))
    regions = [Region(phrase, draw(boxes())) for phrase in phrases]
    size = draw(st.sampled_from([(None, None), (512, 512), (768, 512), (2048, 64)]))
    return Layout(draw(texts), regions, width=size[0], height=size[1])


def there_and_back(made: list[Layout], name: str, **sizes: tuple[int, int]) -> list[Layout]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out"
        write(made, target, name, size=sizes.get("size"), tally=Tally())
        return read(target, name, size=sizes.get("size"), tally=Tally())


def same(first: Layout, second: Layout, step: float) -> None:
    """The same phrases, and corners at most ``step`` (of the picture) apart."""
    assert [region.phrase for region in first.regions] == [region.phrase for region in second.regions]
    for one, other in zip(first.regions, second.regions, strict=True):
        assert np.abs(np.subtract(one.box.xyxy, other.box.xyxy)).max() <= step + 1e-9


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.lists(layouts(), min_size=1, max_size=3))
@example(made=[Layout("x", [Region("thin", (0.5, 0, 0.500101, 1)), Region("tiny", (0.98999, 0.99, 1, 1))])])
def test_there_and_back_within_a_pixel_or_refused_for_its_text(name, made):
    said = "".join(layout.prompt + "".join(region.phrase for region in layout.regions) for layout in made)
    try:
        back = there_and_back(made, name)
    except ValueError as error:
        assert name in REFUSING or name == "yolo", error
        if name == "yolo":  # no prompts: a picture without a box is nothing
            assert not any(layout.regions for layout in made)
        assert any(mark in said for mark in MARKS) or said.strip(". ") == "" or name == "yolo", error
        return
    if name == "lmd-cache":  # answers of one caption stand together
        made = sorted(
            made,
            key=lambda layout: [x.prompt.strip().rstrip(".") for x in made].index(
                layout.prompt.strip().rstrip(".")
            ),
        )
    elif name == "yolo":
        made = [layout for layout in made if layout.regions]
    assert len(back) == len(made)
    for first, second in zip(made, back, strict=True):
        same(first, second, 1 / GRID[name] if name in GRID else 1e-6)
        if "prompt" in FORMATS[name].holds and name != "lmd-cache":
            assert second.prompt == first.prompt
        if name in ("trueline", "instancediffusion"):
            assert (second.width, second.height) == (
                (first.width, first.height) if first.width or name == "trueline" else (512, 512)
            )


@pytest.mark.parametrize("name", ["lmd", "boxdiff", "layoutgpt-css"])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(box=boxes(), size=st.sampled_from([(512, 512), (768, 512), (1024, 64)]))
def test_a_canvas_that_is_named_is_the_grid(name, box, size):
    (back,) = there_and_back([Layout("a cat", [Region("a cat", box)])], name, size=size)
    assert np.abs(np.subtract(back.regions[0].box.xyxy, box.xyxy) * (*size, *size)).max() <= 1 + 1e-9


@settings(max_examples=100, deadline=None)
@given(box=boxes(), width=st.integers(8, 3000), height=st.integers(8, 3000))
def test_whole_steps_keep_a_box_a_box(box, width, height):
    x0, y0, x1, y1 = whole(box, width, height)
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert (x1 - x0) * (y1 - y0) >= MIN_AREA * width * height * (1 - 1e-9)
    exact = np.multiply(box.xyxy, (width, height, width, height))
    assert np.abs(np.subtract((x0, y0, x1, y1), exact)).max() <= 1 + 1e-9


@pytest.mark.parametrize("name", ["coco", "instancediffusion", "labelme", "trueline"])
def test_masks_come_back_bit_for_bit(name):
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 96), dtype=bool)
    mask[10:50, 20:90] = rng.random((40, 70)) < 0.5
    made = Layout("x", [Region("a blob", (20 / 96, 10 / 64, 90 / 96, 50 / 64), mask)], width=96, height=64)
    (back,) = there_and_back([made], name)
    assert np.array_equal(back.regions[0].mask_array(), mask)
    same(made, back, 1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_run_lengths_go_down_the_columns(bits):
    mask = np.array(bits).reshape(3, 4)
    packed = _masks.to_runs(mask)
    back = _masks.from_runs(packed, "mask")
    assert np.array_equal(back, mask) if mask.any() else back is None


def test_run_lengths_are_those_of_pycocotools():
    """Written by pycocotools: demos/demo_corgi_kitchen.json of frank-xwang/InstanceDiffusion@722900ef03e3 holds such;
    here a rectangle, whose text can be told by hand: 6 false, then 2 true and 2 false in turn, 6 left."""
    mask = np.zeros((4, 5), dtype=bool)
    mask[2:4, 1:4] = True
    assert _masks.to_runs(mask) == {"size": [4, 5], "counts": "622000" + "2"}
    assert np.array_equal(_masks.from_runs({"size": [4, 5], "counts": [6, 2, 2, 2, 2, 2, 4]}, "mask"), mask)


def test_polygons_cover_the_pixels_whose_centres_they_hold():
    square = [[1, 1, 4, 1, 4, 3, 1, 3]]
    expected = np.zeros((5, 6), dtype=bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(_masks.from_polygons(square, (6, 5), "x"), expected)
    two = _masks.from_polygons([[0, 0, 2, 0, 2, 2, 0, 2], [4, 3, 9, 3, 9, 9, 4, 9]], (6, 5), "x")
    assert two[:2, :2].all() and two[3:, 4:].all() and two.sum() == 8, "a union, cut at the picture"
    triangle = _masks.from_polygons([[0, 0, 400, 0, 0, 300]], (400, 300), "x")
    assert triangle.sum() == pytest.approx(60_000, rel=0.005), "half of width times height"
    assert _masks.from_polygons([[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]], (6, 5), "x") is None
    assert _masks.from_polygons([[100, 100, 120, 100, 120, 120]], (6, 5), "x") is None


@given(st.lists(st.tuples(texts, st.lists(st.integers(-999, 9999), min_size=4, max_size=4)), max_size=3))
def test_names_in_quotes_are_read_as_python_writes_them(things):
    assert pairs(repr(things), "x") == [(name, [float(v) for v in box]) for name, box in things]


@pytest.mark.parametrize(
    "text",
    ["", "[", "__import__('os').system('x')", "[('a', [1, 2, 3])]", "[('a', [1, 2, 3, 4])] + 1", "{'a': 1}",
     "[('a', [1, 2, 3, x])]", "[(f'a', [1, 2, 3, 4])]", "[('a' 'b', [1, 2, 3, 4])]", "[('a', [1, 2, 3, 1e9])]",
     "[('\\q', [1, 2, 3, 4])]", "[('\\Uffffffff', [1, 2, 3, 4])]", "[('a', [1, 2, 3, 4]),, ]",
     "[('a', [9" + "9" * 400 + ", 2, 3, 4])]", "[('a', [9" + "9" * 9000 + ", 2, 3, 4])]", "[" * 5000,
     "[('a', [" + "-" * 50_000 + "1, 2, 3, 4])]", "[('a', [1, 2, 3, True])]", "[('a', (1, 2, 3, 4))]",
     "[(b'a', [1, 2, 3, 4])]", "[('a', [1, 2, 3, 4]), ('b')]", "[('a', [1, 2, 3, 4])] " * 5000,
     "[('a\0', [1, 2, 3, 4])]", "[('a', [1, 2, 3, 2 ** 9])]", "[('a', [1, 2, 3, 4])" + ", " * 9 + "]"],
)  # fmt: skip
def test_other_text_of_a_language_model_is_refused(text):
    with pytest.raises(ValueError, match=r"^answer 7.*; write |^answer 7.*must be four numbers"):
        pairs(text, "answer 7")


CAT = Region("a cat", (0.1, 0.1, 0.9, 0.9), np.ones((8, 8), dtype=bool), "a dog", "cat")
FULL = Layout("a cat", [CAT], "blurry", 512, 512, 7, "one")


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_cannot_hold_is_counted_and_gone(tmp_path, name):
    tally = Tally()
    write([FULL], tmp_path / "out", name, tally=tally)
    (back,) = read(tmp_path / "out", name, tally=Tally())
    lost = set(tally.lost) & set(EXTRAS.values())
    assert lost == set(FORMATS[name].lacks)
    has = {
        "negative_prompt": back.negative_prompt == "blurry",
        "seed": back.seed == 7,
        "mask": back.regions[0].mask is not None,
        "negative": back.regions[0].negative == "a dog",
        "label": back.regions[0].label == "cat",
    }
    assert {key for key, there in has.items() if there} == set(has) & set(FORMATS[name].holds)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"trueline"}))
def test_strict_writes_nothing(tmp_path, name):
    one = FULL.model_copy(update={"meta": {"mine": 1}})
    with pytest.raises(ValueError, match=r"^strict: this would be lost on the way to"):
        write([one], tmp_path / "out", name, strict=True, tally=Tally())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_written_over_unless_asked_to(tmp_path, name):
    made = [Layout("a cat", [Region("a cat", (0.1, 0.1, 0.9, 0.9))])]
    target = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(made, target, name)
        before = {
            path: path.read_bytes() for path in target.rglob("*") if path.is_file()
        } or target.read_bytes()
        with pytest.raises(ValueError, match=r"is there already|is not empty"):
            write([Layout("another", made[0].regions)], target, name)
        assert (
            {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} or target.read_bytes()
        ) == before
        write([Layout("another", made[0].regions)], target, name, replace=True)
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_losses_are_a_warning_where_nobody_counts(tmp_path):
    with pytest.warns(UserWarning, match="gligen cannot hold: .*seeds: 1"):
        write([FULL], tmp_path / "out.json", "gligen")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda path: read(path, "csv"), "there is no format 'csv'; there are trueline, coco"),
        (lambda path: read(path / "none", "coco"), "none: is not there"),
        (lambda path: read(path, "gligen"), "gligen is a JSON list .* found a folder"),
        (lambda path: read(path, "trueline"), "trueline is JSON Lines.* found a folder"),
        (lambda path: read(path, "coco"), "found no instances_"),
        (lambda path: read(path, "yolo", names=path / "x.txt"), "x.txt: cannot read it"),
        (lambda path: read(path, "gligen", size=(4, 4)), "^size: boxes of gligen do not depend on it"),
        (lambda path: read(path, "coco", size=(4, 4)), "^size: boxes of coco do not"),
        (lambda path: read(path, "lmd", names=path), "^names: lmd takes none, only coco, yolo"),
        (lambda path: write([FULL], path / "x", "yolo", size=(4, 4)), "^size: yolo has no place for it"),
        (
            lambda path: write([FULL], path / "x", "trueline", size=(5, 5)),
            "^size: width: must be a multiple of 8",
        ),
        (lambda path: write([], path / "x", "trueline"), "there is no layout to write"),
        (lambda path: write([FULL, FULL], path / "x.json", "labelme"), "both would be the file one"),
        (lambda path: write([FULL], path, "gligen"), "is a folder; gligen is one file"),
        (
            lambda path: write([Layout("a"), Layout("b")], path / "x.json", "yxyx-1000"),
            "give a folder, a name",
        ),
    ],
)
def test_calls_that_cannot_be_met(tmp_path, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


@needs("nsr_1k")
def test_published_plans_go_through_every_text_format(tmp_path):
    path = SHARED / "nsr_1k/layoutgpt_llm_layouts/spatial/gpt4.spatial.k-similar.k_8.px_64.json"
    plans = read(path, "layoutgpt-json", tally=Tally())
    assert len(plans) == 1415 and sum(len(plan.regions) for plan in plans) > 2800
    plans = plans[::10]
    for name in ("layoutgpt-json", "layoutgpt-css", "lmd", "boxdiff", "yxyx-1000-flux", "gligen"):
        write(plans, tmp_path / name, name, tally=Tally())
        for first, second in zip(plans, read(tmp_path / name, name, tally=Tally()), strict=True):
            same(first, second, 1 / GRID.get(name, 1e9))
            assert first.prompt == second.prompt
