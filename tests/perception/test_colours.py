"""Colours of crops: golden hues, published bins and ranges, the zero-shot rule on an embedder made by hand."""

import colorsys
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.perception import Detection
from trueline.perception.colours import (
    GENEVAL_COLOURS,
    clip_colours,
    colour_share,
    hsv,
    hue_colour,
    hue_colours,
    masked_crop,
)

GOLDEN = {  # cv2.cvtColor(..., COLOR_RGB2HSV) of OpenCV 5.0.0
    (255, 0, 0): (0, 255, 255),
    (0, 255, 0): (60, 255, 255),
    (0, 0, 255): (120, 255, 255),
    (255, 255, 255): (0, 0, 255),
    (0, 0, 0): (0, 0, 0),
    (153, 153, 153): (0, 0, 153),
    (255, 128, 0): (15, 255, 255),
    (200, 30, 40): (178, 217, 200),
    (17, 201, 99): (73, 233, 201),
    (90, 60, 200): (126, 178, 200),
}


def test_hsv_on_opencvs_scale():
    got = hsv(np.array(list(GOLDEN), np.uint8))
    assert got.dtype == np.uint8
    assert [tuple(int(v) for v in row) for row in got] == list(GOLDEN.values())


def test_hsv_is_within_a_step_of_the_exact_values():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (500, 3), dtype=np.uint8)
    for pixel, got in zip(pixels, hsv(pixels).astype(int), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        assert abs((got[0] - 180 * hue + 90) % 180 - 90) <= 0.6
        assert abs(got[1] - 255 * saturation) <= 0.6 and got[2] == round(255 * value)


@pytest.mark.parametrize(
    ("hue", "colour"),
    [(1, "red"), (14, "red"), (15, "orange"), (21, "orange"), (22, "yellow"), (38, "yellow"), (39, "green"),
     (77, "green"), (78, "blue"), (130, "blue"), (131, "red"), (179, "red")],
)  # fmt: skip
def test_hue_bins(hue, colour):
    assert hue_colour(np.array([hue])) == colour


def test_the_mean_hue_leaves_zeros_out_and_knows_no_circle():
    assert hue_colour(np.array([0, 0, 0, 60])) == "green"
    assert hue_colour(np.array([0, 0])) == "red"
    assert hue_colour(np.array([5, 175])) == "blue"  # two reds: the published quirk


def _two_halves() -> Image.Image:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = (0, 200, 0), (0, 0, 200)
    return Image.fromarray(pixels)


def test_hue_colours_by_box_and_by_mask():
    left, whole = Detection("cat", (0, 0, 0.5, 1)), Detection("cat", (0, 0, 1, 1))
    mask = np.zeros((20, 40), np.float32)
    mask[:, 25:] = 1
    masked = Detection("cat", (0, 0, 1, 1), mask=mask)
    assert [d.colour for d in hue_colours(_two_halves(), [left, whole, masked])] == ["green", "blue", "blue"]


def test_coco_migs_share():
    picture, whole = _two_halves(), Detection("cat", (0, 0, 1, 1))
    assert colour_share(picture, whole, "green") == 0.5
    assert colour_share(picture, whole, "blue") == 0.5
    assert colour_share(picture, whole, "red") == 0.0
    assert colour_share(picture, Detection("cat", (0, 0, 0.75, 1)), "green") == pytest.approx(2 / 3)
    both_ends = Image.fromarray(
        np.array([[(255, 0, 0), (255, 0, 40), (255, 255, 255), (10, 10, 10)]], np.uint8)
    )
    assert [colour_share(both_ends, whole, c) for c in ("red", "white", "black")] == [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="no range for 'purple'"):
        colour_share(picture, whole, "purple")


def test_the_masked_crop_is_grey_outside_the_mask():
    mask = np.zeros((20, 40), np.float32)
    mask[5:15, 5:15] = 0.9
    crop = np.asarray(masked_crop(_two_halves(), Detection("cat", (0, 0, 0.5, 1), mask=mask)))
    assert crop.shape == (20, 20, 3)
    assert (crop[5:15, 5:15] == (0, 200, 0)).all()
    assert (crop[:5] == 0x99).all()
    small = masked_crop(_two_halves(), Detection("cat", (0.5, 0.5, 0.501, 0.501)))
    assert small.size == (1, 1)
    with pytest.raises(ValueError, match="covers the whole picture"):
        masked_crop(_two_halves(), Detection("cat", (0, 0, 1, 1), mask=np.ones((4, 4), np.float32)))


class MeanColour:
    """An embedder that knows what it does: a picture is its mean colour, a text the colour that it names."""

    name = "mean-colour"
    inks: ClassVar = {"green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "red": (1.0, 0.0, 0.0)}

    def __init__(self):
        self.asked = []

    def images(self, images):
        means = torch.tensor(
            np.stack([np.asarray(i).reshape(-1, 3).mean(0) for i in images]), dtype=torch.float32
        )
        return torch.nn.functional.normalize(means, dim=-1)

    def texts(self, texts):
        self.asked += texts
        grey = (0.577, 0.577, 0.577)
        return torch.tensor([next((v for k, v in self.inks.items() if f" {k}" in t), grey) for t in texts])


def test_clip_colours_follow_the_embedder_and_ask_genevals_sentences():
    embedder = MeanColour()
    halves = [Detection("cat", (0, 0, 0.5, 1), 0.9), Detection("dog", (0.5, 0, 1, 1), 0.8)]
    seen = clip_colours(embedder, _two_halves(), halves)
    assert [(d.label, d.score, d.colour) for d in seen] == [("cat", 0.9, "green"), ("dog", 0.8, "blue")]
    assert embedder.asked[:3] == [
        "a photo of a red cat",
        "a photo of a red-colored cat",
        "a photo of a red object",
    ]
    assert len(embedder.asked) == 2 * 3 * len(GENEVAL_COLOURS) == 60
    assert clip_colours(embedder, _two_halves(), []) == []
