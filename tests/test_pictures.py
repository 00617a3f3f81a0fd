"""Boxes and phrases drawn on pictures: where they stand, that they can be read, that nothing spills."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from trueline.layout import Layout, Region
from trueline.pictures import (
    COLOURS,
    GAP,
    LEGIBLE,
    MAX_CAPTION_LINES,
    _cut,
    _font,
    _wrap,
    contact_sheet,
    overlay,
)

GREY = (120, 120, 120)


def blank(width: int = 128, height: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def where(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The smallest rectangle that holds all pixels of one colour: x0, y0, x1, y1."""
    ys, xs = np.nonzero((np.asarray(picture) == colour).all(-1))
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def test_a_box_is_drawn_where_it_is():
    layout = Layout("x", [Region("a", (0.25, 0.5, 0.75, 1.0))])
    picture = overlay(blank(512, 512), layout)
    x0, _, x1, y1 = where(picture, COLOURS[0])
    assert (x0, x1, y1) == pytest.approx((128, 384, 512), abs=2)
    assert picture.getpixel((256, 384)) == GREY, "the inside of the box stays visible"


@pytest.mark.parametrize(("side", "drawn"), [(64, 192), (128, 384), (256, 512), (512, 512), (2048, 2048)])
def test_small_pictures_are_enlarged(side, drawn):
    assert overlay(blank(side, side), Layout("x")).size == (drawn, drawn)
    assert min(overlay(blank(128, 640), Layout("x")).size) == LEGIBLE


def test_the_original_is_left_alone():
    picture = blank(512, 512)
    overlay(picture, Layout("x", [Region("a", (0, 0, 1, 1))]))
    assert picture.getcolors() == [(512 * 512, GREY)]


def test_phrases_are_written():
    def ink(phrase: str) -> int:
        picture = np.asarray(overlay(blank(), Layout("x", [Region(phrase, (0.1, 0.4, 0.9, 0.9))])))
        return int((picture == GREY).all(-1).sum())

    assert ink("a red apple to the left") < ink("a") - 500, "a longer phrase covers more of the picture"
    assert not np.array_equal(
        *(
            np.asarray(overlay(blank(), Layout("x", [Region(p, (0.1, 0.4, 0.9, 0.9))])))
            for p in ("cat", "car")
        )
    )


def test_labels_of_boxes_in_one_place_do_not_cover_each_other():
    box = (0.2, 0.3, 0.8, 0.8)
    picture = np.asarray(
        overlay(blank(), Layout("x", [Region(p, box) for p in ("first", "second", "third")]))
    )
    spans = [where(Image.fromarray(picture), colour) for colour in COLOURS[:3]]
    # The last box hides the outlines of the others: what is left of their colours is the labels.
    for one, other in combinations(spans[:2], 2):
        assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(
            one[1], other[1]
        )
    assert all(span[2] - span[0] > 20 for span in spans)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 0.0005, 1), (0.99, 0.99, 1, 1), (0, 0.9995, 1, 1)])
def test_extreme_boxes_and_phrases(box):
    for phrase in ("a", "word " * 50, "x" * 256, "naïve 猫\n\t🐈"):
        assert overlay(blank(), Layout("x", [Region(phrase, box)])).size == (384, 384)


def test_thirty_regions():
    regions = [Region(f"thing {i}", (i / 30, 0.1, i / 30 + 0.03, 0.9)) for i in range(30)]
    picture = np.asarray(overlay(blank(512, 512), Layout("x", regions)))
    assert all((picture == colour).all(-1).any() for colour in COLOURS)


def test_contact_sheet_has_rows_and_columns():
    sheet = contact_sheet([blank()] * 5, [Layout("x")] * 5, [""] * 5, columns=3)
    assert sheet.width == 3 * 384 + 4 * GAP
    assert 2 * 384 + 3 * GAP <= sheet.height <= 2 * 384 + 3 * GAP + 20
    cell = 384 + GAP
    assert [sheet.getpixel((GAP + column * cell + 192, GAP + 192)) for column in range(3)] == [GREY] * 3
    assert sheet.getpixel((GAP + 2 * cell + 192, sheet.height - GAP - 192)) == (255, 255, 255), (
        "the sixth is empty"
    )


def test_contact_sheet_without_captions_shows_the_prompts():
    layouts = [Layout("a cat"), Layout("a red apple")]
    sheets = [
        contact_sheet([blank()] * 2, layouts, captions) for captions in (None, ["a cat", "a red apple"])
    ]
    assert sheets[0] == sheets[1]
    assert sheets[0].height > contact_sheet([blank()] * 2, layouts, ["", ""]).height


def test_contact_sheet_of_one_is_one_column():
    assert contact_sheet([blank()], [Layout("x")], ["caption"]).width == 384 + 2 * GAP


def test_contact_sheet_of_different_sizes():
    sheet = contact_sheet([blank(512, 512), blank(128, 256)], [Layout("x")] * 2, ["a", "b"])
    assert sheet.size[0] == 2 * 512 + 3 * GAP
    assert sheet.size[1] >= 768


def test_contact_sheet_wants_as_many_of_each():
    with pytest.raises(ValueError, match=r"captions.*\(got 1, 1, 0\)"):
        contact_sheet([blank()], [Layout("x")], [])
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], [], [])


def test_long_captions_are_wrapped_within_the_width():
    lines = _wrap("a red apple to the left of a blue car " * 20, 384)
    assert len(lines) == MAX_CAPTION_LINES
    assert all(0 < _font().getlength(line) <= 384 for line in lines)
    assert lines[-1].endswith("…")


def test_short_captions_keep_every_word():
    text = "a red apple to the left of a blue car and above a green chair, at night"
    assert " ".join(_wrap(text, 200)) == text
    assert _wrap("", 200) == []


def test_a_word_wider_than_the_line_is_cut():
    assert _font().getlength(_cut("x" * 300, 100)) <= 100
    assert _cut("short", 100) == "short"
