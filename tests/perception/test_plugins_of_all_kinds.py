"""A user's function as tagger, captioner and segmenter; as matcher: ``test_load``."""

import sys

import numpy as np
import pytest
import torch

from trueline.perception import Captioner, Segmenter, Tagger, load

MODULE = """
import numpy as np, torch
def tags(images, prompts): return [["cat", " dog", "cat", ""]] * (len(images) - 1) + [()]
def says(images): return [f" {image.width} wide " for image in images]
def masks(images, boxes):
    return [[np.full((i.height, i.width), k / 4) for k in range(len(b))] for i, b in zip(images, boxes)]
def tensors(images, boxes): return [torch.ones(len(b), i.height, i.width) for i, b in zip(images, boxes)]
def one(images, more=None): return ["cat"]
def text(images, more=None): return "cat"
def nothing(images, more=None): return None
def numbers(images, more=None): return [[1, 2]] * len(images)
def small(images, boxes): return [[np.zeros((3, 3))] * len(b) for b in boxes]
def loud(images, boxes): return [[np.full((i.height, i.width), 2.0)] * len(b) for i, b in zip(images, boxes)]
def broken(images, boxes): return [[np.full((i.height, i.width), np.nan)] * len(b) for i, b in zip(images, boxes)]
def words(images, boxes): return [["mask"] * len(b) for b in boxes]
"""
BOXES = [[(0, 0, 1, 1), (0, 0, 0.5, 0.5)], [], [(0, 0, 1, 1)]]


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_looks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_looks", None)


def test_a_plug_in_tags_and_says(pictures):
    tagger, captioner = load("ram=my_looks:tags"), load("blip3=my_looks:says")
    assert isinstance(tagger, Tagger) and isinstance(captioner, Captioner) and tagger.name == "ram"
    assert tagger.tag(pictures, ["a", "b", "c"]) == [["cat", "dog"], ["cat", "dog"], []]
    assert captioner.caption(pictures) == ["60 wide", "40 wide", "48 wide"]
    assert tagger.tag([], []) == captioner.caption([]) == tagger.segment([], []) == []
    with pytest.raises(ValueError, match="for each picture"):
        tagger.tag(pictures, ["a"])


@pytest.mark.parametrize(("name", "second"), [("masks", 0.25), ("tensors", 1.0)])
def test_a_plug_in_segments(pictures, name, second):
    segmenter = load(f"sam3=my_looks:{name}")
    assert isinstance(segmenter, Segmenter)
    masks = segmenter.segment(pictures, BOXES)
    assert [[mask.shape for mask in row] for row in masks] == [[(40, 60)] * 2, [], [(48, 48)]]
    assert all(isinstance(mask, np.ndarray) and mask.dtype == np.float32 for row in masks for mask in row)
    assert (masks[0][1] == second).all()


@pytest.mark.parametrize(
    ("method", "name", "got"),
    [
        ("tag", "one", "1 for 3"),
        ("tag", "text", "a str"),
        ("tag", "nothing", "a NoneType"),
        ("tag", "numbers", r"\[1, 2\]"),
        ("tag", "says", "takes 1 positional"),
        ("caption", "text", "a str"),
        ("caption", "numbers", "a list"),
        ("segment", "one", "1 for 3"),
        ("segment", "numbers", r"shape \(\), not"),
        ("segment", "small", r"shape \(3, 3\), not \(40, 60\)"),
        ("segment", "loud", "values 2 to 2"),
        ("segment", "broken", "values nan to nan"),
        ("segment", "words", "a str"),
    ],
)
def test_what_it_returns_is_checked(pictures, method, name, got):
    plugin = load(f"mine=my_looks:{name}")
    more = {"tag": [["a", "b", "c"]], "caption": [], "segment": [[[(0, 0, 1, 1), (0, 0, 1, 0.5)]] * 3]}[
        method
    ]
    with pytest.raises((ValueError, TypeError), match=got):
        getattr(plugin, method)(pictures, *more)


def test_gradients_are_left_behind(pictures, monkeypatch):
    plugin = load("mine=my_looks:tensors")
    monkeypatch.setattr(plugin, "function", lambda images, boxes: [[torch.ones(40, 60, requires_grad=True)]])
    assert plugin.segment(pictures[:1], [[(0, 0, 1, 1)]])[0][0].all()
