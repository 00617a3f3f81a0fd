"""OWLv2 and Grounding DINO: boxes, labels and scores against the raw output of the nets."""

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.perception import Detector, load
from trueline.perception.grounding_dino import GroundingDino, caption, label_of
from trueline.perception.owlv2 import GREY, Owlv2, pad, unpad


@pytest.fixture(scope="module")
def owlv2(owlv2_folder):
    return Owlv2(owlv2_folder, threshold=0.0)


@pytest.fixture(scope="module")
def dino(dino_folder):
    return GroundingDino(dino_folder, threshold=0.0, text_threshold=0.0)


def test_a_box_of_the_padded_square_is_given_back_in_the_picture():
    # A picture of 200 x 100 lies in the upper half of its square: y doubles, x stays.
    boxes = unpad(torch.tensor([[0.5, 0.25, 0.5, 0.25], [0.9, 0.5, 0.4, 0.2]]), 200, 100)
    assert boxes[0].tolist() == pytest.approx([0.25, 0.25, 0.75, 0.75])
    assert boxes[1].tolist() == pytest.approx([0.7, 0.8, 1.0, 1.0])  # cut at the edge
    assert unpad(torch.tensor([[0.25, 0.5, 0.25, 0.5]]), 100, 200)[0].tolist() == pytest.approx(
        [0.25, 0.25, 0.75, 0.75]
    )


def test_the_square_is_grey_beside_the_picture():
    square = np.asarray(pad(Image.new("RGB", (4, 2), (1, 2, 3))))
    assert square.shape == (4, 4, 3)
    assert (square[:2] == (1, 2, 3)).all()
    assert (square[2:] == GREY).all()


def test_owlv2_gives_each_box_its_best_label(owlv2, pictures):
    assert isinstance(owlv2, Detector)
    wide, tall, square = pictures
    labels = [["red apple", "cat", "blue car"], [], ["clock"]]
    found = owlv2.detect([wide, tall, square], labels)
    assert found[1] == []
    assert len(found[0]) == len(found[2]) == 16  # threshold 0: every box of the 4 x 4 patches, once
    assert {d.label for d in found[2]} == {"clock"}

    pixels = owlv2.pictures([pad(wide)], return_tensors="pt").pixel_values
    ids, mask = owlv2.tokens(labels[:1])
    with torch.no_grad():
        out = owlv2.model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    scores, best = out.logits[0].sigmoid().max(1)
    order = scores.argsort(descending=True)
    assert [d.score for d in found[0]] == pytest.approx(scores[order].tolist(), abs=1e-6)
    assert [d.label for d in found[0]] == [labels[0][int(i)] for i in best[order]]
    cx, cy, w, h = out.pred_boxes[0, order[0]].tolist()
    by_hand = [cx - w / 2, (cy - h / 2) * 60 / 40, cx + w / 2, (cy + h / 2) * 60 / 40]
    assert found[0][0].box == pytest.approx(np.clip(by_hand, 0, 1), abs=1e-6)
    assert all(0 <= v <= 1 for d in found[0] for v in d.box)


def test_a_longer_list_of_labels_in_the_batch_changes_nothing(owlv2, pictures):
    alone = owlv2.detect(pictures[:1], [["cat"]])[0]
    beside = owlv2.detect(pictures[:2], [["cat"], ["red apple", "dog", "clock"]])[0]
    assert [d.label for d in beside] == ["cat"] * 16
    assert [d.score for d in beside] == pytest.approx([d.score for d in alone], abs=1e-5)


def test_per_label_keeps_a_box_for_each_label(owlv2_folder, pictures):
    detector = load(f"owlv2-per-label={owlv2_folder}")
    detector.threshold = 0.0
    found = detector.detect(pictures[:1], [["cat", "dog"]])[0]
    assert detector.name == "owlv2-per-label"
    assert sorted(d.label for d in found) == ["cat"] * 16 + ["dog"] * 16


def test_owlv2_takes_only_scores_above_the_threshold(owlv2, owlv2_folder, pictures):
    scores = [d.score for d in owlv2.detect(pictures[:1], [["cat"]])[0]]
    middle = (scores[7] + scores[8]) / 2
    strict = Owlv2(owlv2_folder, threshold=middle)
    assert len(strict.detect(pictures[:1], [["cat"]])[0]) == 8


def test_one_list_of_labels_for_each_picture(owlv2, dino, pictures):
    for detector in (owlv2, dino):
        with pytest.raises(ValueError, match="for each picture"):
            detector.detect(pictures, [["cat"]])


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("red apple", "red apple"),
        ("Red Apple.", "red apple"),
        ("apple", "red apple"),  # a part that only one label has
        ("##board", "skateboard"),  # a piece of a word
        ("the green car", "green car"),  # a label with more around it
        ("car", None),  # green car or blue car?
        ("red apple green car", None),  # two labels at once
        ("dog", None),
        ("", None),
    ],
)
def test_a_phrase_of_grounding_dino_goes_to_its_label(phrase, label):
    assert label_of(phrase, ["red apple", "green car", "blue car", "skateboard"]) == label


def test_the_caption_is_labels_with_full_stops():
    assert caption(["a Cat", " red car. "]) == "a cat. red car."


def test_grounding_dino_end_to_end(dino, pictures):
    assert isinstance(dino, Detector)
    labels = [["cat"], ["cat", "red apple"], []]
    dino.unmatched = 0
    found = dino.detect(pictures, labels)
    assert found[2] == []
    # All tokens pass a text threshold of 0: for one label the phrase is the label, and every box is its.
    assert [d.label for d in found[0]] == ["cat"] * 12
    # For two it is both labels and the stops between them: nobody's.
    assert found[1] == [] and dino.unmatched == 12

    inputs = dino.processor(images=pictures[:1], text=["cat."], return_tensors="pt")
    with torch.no_grad():
        out = dino.model(**inputs)
    scores = out.logits[0].sigmoid().max(1).values
    order = scores.argsort(descending=True)
    assert [d.score for d in dino.detect(pictures[:1], [["cat"]])[0]] == pytest.approx(
        scores[order].tolist(), abs=1e-5
    )
    cx, cy, w, h = out.pred_boxes[0, order[0]].tolist()
    by_hand = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, 1)
    assert dino.detect(pictures[:1], [["cat"]])[0][0].box == pytest.approx(by_hand, abs=1e-5)


def test_grounding_dino_refuses_more_labels_than_it_reads(dino, pictures):
    with pytest.raises(ValueError, match="ask for fewer"):
        dino.detect(pictures[:1], [["red apple"] * 20])


def test_another_kind_of_detector_is_refused(owlv2_folder):
    with pytest.raises(ValueError, match="not a Grounding DINO"):
        GroundingDino(owlv2_folder)
