"""COCO-MIG's rule by hand, in both modes, on detections and on painted pictures."""

import random

import numpy as np
import pytest
from benchmark_forms import FORMS, examples, write
from PIL import Image

from trueline.boxes import iou
from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.coco_mig import CocoMig, Instance, best, score
from trueline.evaluation.judges import Boxes, make_judges, role, unmeasured
from trueline.layout import Layout
from trueline.perception import Detection

BOX = (0.0, 0.0, 0.5, 0.5)
HALF = (0.0, 0.0, 0.5, 0.25)  # IoU 1/2
THIRD = (0.25, 0.0, 0.75, 0.5)  # IoU 1/3
ALL = {"isr": (1, 1), "success_rate": (1, 1), "miou": (1, 1)}
NONE = {"isr": (0, 1), "success_rate": (0, 1), "miou": (0, 1)}


def test_right_place_and_colour():
    seen = [Detection("cat", BOX, 0.4, "red")]
    for mode in ("official", "fixed"):
        assert score(seen, [Instance("cat", "red", BOX, {"red", "brown"})], mode) == ALL


def test_half_is_enough():
    assert score([Detection("cat", HALF)], [Instance("cat", "red", BOX, {"red"})]) == {
        "isr": (1, 1),
        "success_rate": (1, 1),
        "miou": (0.5, 1),
    }


@pytest.mark.parametrize(("mode", "overlap"), [("official", 1 / 3), ("fixed", 0)])
def test_a_box_elsewhere_fails_but_its_iou_counts(mode, overlap):
    result = score([Detection("cat", THIRD, 1, "red")], [Instance("cat", "red", BOX, {"red"})], mode)
    assert result == {**NONE, "miou": (pytest.approx(overlap), 1)}


def test_a_wrong_colour_costs_the_iou_too():
    for mode in ("official", "fixed"):
        seen = [Detection("cat", BOX, 1, "blue")]
        assert score(seen, [Instance("cat", "red", BOX, {"blue"})], mode) == NONE


def test_colour_of_the_true_box_or_of_the_detection():
    seen, instance = [Detection("cat", HALF, 1, "blue")], Instance("cat", "red", BOX, {"red"})
    assert score(seen, [instance], "official") == {**ALL, "miou": (0.5, 1)}
    assert score(seen, [instance], "fixed") == NONE


def test_best_overlap_of_the_class_counts():
    seen = [
        Detection("cat", THIRD, 0.9, "red"),
        Detection("cat", BOX, 0.3, "red"),
        Detection("dog", BOX, 1, "red"),
    ]
    wanted = [Instance("cat", "red", BOX, {"red"}), Instance("cow", "red", BOX, {"red"})]
    for mode in ("official", "fixed"):
        assert score(seen, wanted, mode) == {"isr": (1, 2), "success_rate": (0, 1), "miou": (1, 2)}
    assert score([], wanted) == {"isr": (0, 2), "success_rate": (0, 1), "miou": (0, 2)}


def test_nms_leaves_the_surer_of_two_that_are_nearly_one():
    near = (0.0, 0.0, 0.5, 0.45)  # IoU .9 with the box
    wanted = Instance("cat", "red", BOX)
    sure, unsure = Detection("cat", near, 0.9), Detection("cat", BOX, 0.5)
    assert best([unsure, sure], wanted) == sure, "the better box is taken away"
    apart = Detection("cat", (0.0, 0.0, 0.5, 0.4), 0.9)  # IoU .8, not above
    assert best([unsure, apart], wanted) == unsure
    assert best([sure, Detection("dog", BOX, 0.5)], wanted) == sure, "other classes are left alone"


# Colours of pictures


class Mask:
    """The left ``part`` of each box, in pixels."""

    name = "mask"

    def __init__(self, part=1.0):
        self.part, self.boxes = part, []

    def segment(self, images, boxes):
        self.boxes += boxes
        return [[self._mask(i.size, box) for box in row] for i, row in zip(images, boxes, strict=True)]

    def _mask(self, size, box):
        x0, y0, x1, y1 = (round(v * s) for v, s in zip(box, (*size, *size), strict=True))
        mask = np.zeros(size[::-1], np.float32)
        mask[y0:y1, x0 : x0 + round((x1 - x0) * self.part)] = 1
        return mask


def painted(*patches):
    image = np.full((64, 64, 3), 127, np.uint8)
    for (x0, y0, x1, y1), colour in patches:
        image[round(y0 * 64) : round(y1 * 64), round(x0 * 64) : round(x1 * 64)] = colour
    return Image.fromarray(image)


RED, BLUE = (255, 0, 0), (0, 0, 255)
CAT = Example("x", Layout("a photo of a red cat"), "L2", {"instances": [["cat", "red", list(BOX)]]})


def of(detections, image, segmenter, mode="official"):
    return CocoMig.score_picture(CAT, detections, image, segmenter, mode, 0.0)


def test_a_fifth_of_the_mask_is_enough():
    seen = [Detection("cat", BOX, 0.9)]
    for width, wanted in ((0.125, ALL), (0.0625, NONE)):  # a quarter and an eighth of the box
        image = painted(((0, 0, width, 0.5), RED))
        assert of(seen, image, Mask()) == wanted
    assert of(seen, painted(((0, 0, 0.0625, 0.5), RED)), Mask(0.5)) == ALL, "a quarter of the mask"
    assert of(seen, painted((BOX, RED)), Mask(0)) == NONE, "an empty mask has no colour"


def test_official_looks_at_the_true_box_and_fixed_at_what_was_found():
    seen, image = [Detection("cat", HALF, 0.9)], painted((BOX, BLUE), ((0, 0.3125, 0.5, 0.5), RED))
    masks = Mask()
    assert of(seen, image, masks, "official") == {**ALL, "miou": (0.5, 1)}
    assert masks.boxes == [[BOX]]
    assert of(seen, image, masks, "fixed") == NONE
    assert masks.boxes[1:] == [[HALF]]


def test_without_masks_nothing_is_said_but_what_is_missing():
    assert of([Detection("cat", BOX)], painted((BOX, RED)), None) == {}
    (said,) = unmeasured(benchmark_class("coco-mig"), ["oracle", "world-clip"])
    assert said == "not measured: isr, success_rate, miou (for it, give judges sam=facebook/sam-vit-huge)"
    assert role("sam=x") == role("sam2=x") == "segmenter"


def test_on_1000_pictures_against_the_rule_written_otherwise():
    """One instance at a time, colours by the whole box, as ``eval_mig.py`` tells it."""
    draw = random.Random(0)
    colours = {"red": RED, "blue": BLUE, "green": (0, 255, 0), "white": (255, 255, 255), "black": (0, 0, 0)}
    for _ in range(1000):
        corners = [[draw.randrange(44), draw.randrange(44)] for _ in range(3)]
        boxes = [
            (x / 64, y / 64, (x + draw.randint(8, 20)) / 64, (y + draw.randint(8, 20)) / 64)
            for x, y in corners
        ]
        wanted = [(draw.choice(["cat", "dog"]), draw.choice(list(colours)), box) for box in boxes]
        image = painted(*((box, colours[draw.choice([own, *colours])]) for _, own, box in wanted))
        seen = [
            Detection(label, tuple(min(1, max(0, v + draw.randint(-3, 3) / 64)) for v in box), draw.random())
            for label, _, box in wanted
            if draw.random() < 0.8
        ]
        right, added = 0, 0.0
        for label, colour, box in wanted:
            left, kept = sorted((d for d in seen if d.label == label), key=lambda d: d.score), []
            while left:
                kept.append(left.pop())
                left = [d for d in left if iou(d.box, kept[-1].box) <= 0.8]
            overlap = max((iou(d.box, box) for d in kept), default=0.0)
            x0, y0, x1, y1 = (round(v * 64) for v in box)
            pixels = np.asarray(image)[y0:y1, x0:x1].reshape(-1, 3)
            filled = float((pixels == colours[colour]).all(1).mean()) >= 0.2
            right += overlap >= 0.5 and filled
            added += overlap if overlap < 0.5 or filled else 0.0
        truth = {"instances": [[label, colour, list(box)] for label, colour, box in wanted]}
        found = CocoMig.score_picture(
            Example("x", Layout("x"), "L3", truth), seen, image, Mask(), "official", 0.0
        )
        assert found == {
            "isr": (right, 3),
            "success_rate": (right == 3, 1),
            "miou": (pytest.approx(added), 3),
        }


def test_the_judge_hands_the_segmenter_on(tmp_path, monkeypatch):
    class Finds:
        name = "finds"

        def detect(self, images, labels):
            return [
                [Detection("cat", BOX, 0.9), Detection("stop sign", (0.5, 0.5, 1, 1), 0.9)] for _ in images
            ]

    write(tmp_path, FORMS["coco-mig"])
    example = examples(tmp_path, "coco-mig")[0]
    image = painted((BOX, RED), ((0.5, 0.5, 1, 1), RED))
    models = {"owlv2=x": Finds(), "sam=x": Mask()}
    monkeypatch.setattr("trueline.evaluation.judges.load", lambda name, *_: models[name])
    (judge,) = make_judges(list(models), benchmark_class("coco-mig"), "official", "cpu", "float32", False)
    assert isinstance(judge, Boxes) and "masks by mask" in judge.protocol
    (seen,) = judge.look([example], [image])
    assert seen["ratio/isr[finds,official]"].tolist() == [1, 2], "the sign is not blue"
    assert seen["ratio/success_rate[finds,official]"].tolist() == [0, 1]
    assert seen["ratio/miou[finds,official]"].tolist() == [1, 2]
