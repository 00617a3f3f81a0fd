"""The oracle on renders, damaged and hand-made pictures; the judging functions on hand-made detections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from trueline.boxes import Corners, iou
from trueline.perception import Detection
from trueline.world.captions import Caption, CaptionGroup, caption
from trueline.world.judge import CaptionVerdict, ThingMatch, accuracy, check, ghosts, match
from trueline.world.oracle import SURE, background, detect
from trueline.world.scenes import (
    SIZE,
    Background,
    Scene,
    Thing,
    extent,
    make_scenes,
    render,
    render_background,
)
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES

Picture = np.ndarray
PLACE = Background(tint=0, brightness=0.9, light=0.15)


def thing(name: str, colour: str, texture: str, x: int, y: int, longest: int = 44) -> Thing:
    return Thing(name, colour, texture, x, y, *extent(name, longest))


def draw(*things: Thing) -> Picture:
    return render(Scene("test", 0, things, PLACE))


def sure(picture: Picture) -> list[Detection]:
    return [d for d in detect(picture) if d.score >= SURE]


def detection(name: str, colour: str, texture: str, box: Corners, score: float = 1) -> Detection:
    return Detection(name, box, score, colour, texture, np.zeros((SIZE, SIZE), np.float32))


def said(text: str, *groups: CaptionGroup, relation: str | None = None) -> Caption:
    return Caption(text, groups, relation)


def blurred(picture: Picture, sigma: float = 1.2) -> Picture:
    return ndimage.gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0)).astype(np.uint8)


def noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 8, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def warped(picture: Picture, reach: float = 2.0) -> Picture:
    """Every pixel moved by at most ``reach`` px, neighbours alike."""
    shift = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(2, SIZE, SIZE)), (0, 7, 7))
    shift *= reach / np.abs(shift).max()
    at = np.mgrid[:SIZE, :SIZE] + shift
    channels = np.moveaxis(picture, -1, 0)
    return np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in channels], -1)


def tinted(picture: Picture) -> Picture:
    return np.clip(picture * 1.05 + np.array([6.0, -4.0, 3.0]), 0, 255).astype(np.uint8)


class TestAccuracy:
    def test_on_clean_renders(self) -> None:
        result = accuracy(make_scenes("oracle", 96))
        assert min(result["name"], result["colour"], result["texture"]) >= 0.99
        assert max(result["miss"], result["false"]) <= 0.01
        assert result["iou"] >= 0.95
        assert result["ghosts"] <= 0.01

    @pytest.mark.parametrize("damage", [blurred, noisy, warped, tinted, lambda p: noisy(blurred(warped(p)))])
    def test_on_damaged_renders(self, damage: Callable[[Picture], Picture]) -> None:
        result = accuracy(make_scenes("oracle", 32), damage)
        assert min(result["name"], result["colour"], result["texture"]) >= 0.95
        assert max(result["miss"], result["false"]) <= 0.03

    @pytest.mark.parametrize("name", OBJECTS)
    def test_knows_every_object(self, name: str) -> None:
        colour = list(COLOURS)[OBJECTS.index(name) % len(COLOURS)]
        texture = TEXTURES[OBJECTS.index(name) % len(TEXTURES)]
        truth = thing(name, colour, texture, 37, 52, 48)
        (found,) = sure(draw(truth))
        assert (found.label, found.colour, found.texture) == truth.kind
        assert iou(found.box, truth.box) > 0.9

    @pytest.mark.parametrize("colour", COLOURS)
    @pytest.mark.parametrize("texture", TEXTURES)
    def test_tells_colours_and_textures_apart(self, colour: str, texture: str) -> None:
        (found,) = sure(draw(thing("apple", colour, texture, 45, 61, 50)))
        assert (found.label, found.colour, found.texture) == ("apple", colour, texture)


class TestDetect:
    @pytest.mark.parametrize("tint", range(6))
    def test_an_empty_picture_has_no_objects(self, tint: int) -> None:
        empty = render(Scene("test", 0, (), Background(tint, 0.9, 0.2)))
        assert detect(empty) == []
        assert detect(noisy(empty)) == []

    def test_counts_two_of_a_kind(self) -> None:
        found = sure(draw(thing("cat", "red", "plain", 8, 10), thing("cat", "red", "plain", 70, 60)))
        assert [d.label for d in found] == ["cat", "cat"]

    def test_separates_objects_that_touch(self) -> None:
        left = thing("camera", "blue", "plain", 20, 40)
        right = thing("apple", "red", "plain", left.x + left.w, 38)
        found = sure(draw(left, right))
        assert {(d.label, d.colour) for d in found} == {("camera", "blue"), ("apple", "red")}

    def test_texture_does_not_depend_on_its_phase(self) -> None:
        picture = draw(thing("book", "green", "checkered", 40, 40, 50))
        inked = (np.abs(picture.astype(int) - render_background(PLACE)).sum(-1) > 30)[..., None]
        rows, columns = np.mgrid[:SIZE, :SIZE]
        shifted = ((rows + 2) // 6 + (columns + 4) // 6) % 2
        inks = np.array(COLOURS["green"], np.uint8)[shifted]
        (found,) = sure(np.where(inked, inks, picture))
        assert found.texture == "checkered"

    def test_is_deterministic(self) -> None:
        picture = noisy(draw(thing("frog", "white", "striped", 30, 30)))
        first, second = detect(picture), detect(picture)
        assert [(d.label, d.box, d.score) for d in first] == [(d.label, d.box, d.score) for d in second]

    def test_refuses_other_pictures(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            detect(np.zeros((64, 64, 3), np.uint8))

    def test_background_is_fitted_under_large_objects(self) -> None:
        picture = draw(thing("book", "black", "plain", 4, 4, 72), thing("hat", "white", "plain", 60, 82, 60))
        assert np.abs(background(picture) - render_background(PLACE)).mean() < 3

    def test_checks_in_white_stay_one_object_when_blurred(self) -> None:
        (found,) = sure(blurred(draw(thing("couch", "white", "checkered", 30, 50, 60)), 1.0))
        assert (found.label, found.colour, found.texture) == ("couch", "white", "checkered")


class TestGhosts:
    def test_a_shape_of_no_object_is_a_ghost(self) -> None:
        picture = draw(thing("key", "blue", "plain", 70, 70))
        picture[20:26, 10:60] = COLOURS["red"][0]
        assert ghosts(picture, detect(picture)) > 0.15
        assert all(d.colour == "blue" for d in sure(picture))

    def test_a_clean_picture_has_none(self) -> None:
        picture = draw(thing("key", "blue", "plain", 70, 70))
        assert ghosts(picture, detect(picture)) < 0.01
        assert ghosts(draw(), []) == 0


class TestMatch:
    CAR = Thing("car", "red", "plain", 0, 0, 64, 64)
    CAT = Thing("cat", "blue", "plain", 64, 64, 64, 64)

    def test_reports_what_is_right_at_each_box(self) -> None:
        found = [
            detection("cat", "blue", "striped", (0.5, 0.5, 1, 1)),
            detection("dog", "red", "plain", (0, 0, 0.5, 0.4)),
        ]
        car, cat = match(found, [self.CAR, self.CAT])
        assert (car.matched, car.name, car.colour, car.texture) == (True, False, True, True)
        assert car.iou == pytest.approx(0.8)
        assert (cat.name, cat.colour, cat.texture, cat.iou) == (True, True, False, 1.0)

    def test_one_detection_serves_one_box(self) -> None:
        first, second = match([detection("car", "red", "plain", (0, 0, 0.5, 0.5))], [self.CAR, self.CAR])
        assert first.matched != second.matched

    def test_takes_the_best_assignment_as_a_whole(self) -> None:
        wide = Thing("car", "red", "plain", 0, 0, 80, 64)
        found = [
            detection("car", "red", "plain", (0, 0, 0.5, 0.5)),
            detection("car", "red", "plain", (0, 0, 0.3, 0.5)),
        ]
        assert [round(m.iou, 2) for m in match(found, [wide, self.CAR])] == [0.8, 0.6]

    def test_far_and_unsure_detections_do_not_count(self) -> None:
        far = detection("car", "red", "plain", (0.3, 0.3, 0.8, 0.8))
        unsure = detection("car", "red", "plain", (0, 0, 0.5, 0.5), score=0.4)
        assert match([far, unsure], [self.CAR]) == [ThingMatch(None, 0.0, False, False, False, False)]
        assert match([], [self.CAR])[0].iou == 0
        assert match([far], []) == []


class TestCheck:
    CAT = CaptionGroup("cat", "red", "plain", (0,), (6, 9))
    DOG = CaptionGroup("dog", "blue", "striped", (1,), (20, 23))
    LEFT = detection("cat", "red", "plain", (0.1, 0.4, 0.3, 0.6))
    RIGHT = detection("dog", "blue", "striped", (0.7, 0.4, 0.9, 0.6))
    TEXT = said("a red cat to the left of a blue striped dog", CAT, DOG, relation="left")

    def test_all_right(self) -> None:
        assert check([self.LEFT, self.RIGHT], self.TEXT) == CaptionVerdict(1, 1, 1, 1, True, True)

    def test_renders_satisfy_their_own_captions(self) -> None:
        scenes = list(make_scenes("oracle", 12))
        verdicts = [check(detect(render(s)), caption(s)) for s in scenes]
        assert sum(v.all_right for v in verdicts) >= 11

    def test_wrong_relation(self) -> None:
        swapped = [
            detection("cat", "red", "plain", self.RIGHT.box),
            detection("dog", "blue", "striped", self.LEFT.box),
        ]
        assert check(swapped, self.TEXT) == CaptionVerdict(1, 1, 1, 1, False, False)

    def test_swapped_colours(self) -> None:
        leaked = [
            detection("cat", "blue", "plain", self.LEFT.box),
            detection("dog", "red", "striped", self.RIGHT.box),
        ]
        assert check(leaked, self.TEXT) == CaptionVerdict(1, 0, 1, 1, True, False)

    def test_missing_and_surplus_objects(self) -> None:
        assert check([self.LEFT], self.TEXT) == CaptionVerdict(0.5, 0.5, 0.5, 0.5, False, False)
        surplus = check([self.LEFT, self.LEFT, self.RIGHT], self.TEXT)
        assert (surplus.object, surplus.count, surplus.all_right) == (1, 0.5, False)
        stranger = check(
            [self.LEFT, self.RIGHT, detection("key", "red", "plain", (0, 0, 0.2, 0.2))], self.TEXT
        )
        assert stranger == CaptionVerdict(1, 1, 1, 1, True, False)

    def test_counts_of_groups_with_one_name(self) -> None:
        two = said(
            "two red cats and a blue cat",
            CaptionGroup("cat", "red", "plain", (0, 1), (8, 12)),
            CaptionGroup("cat", "blue", "plain", (2,), (24, 27)),
        )
        cats = [detection("cat", c, "plain", (0.1, 0.1, 0.2, 0.2)) for c in ("red", "red", "blue")]
        assert check(cats, two).all_right
        assert check(cats[:2], two).count == 0

    def test_silent_captions_ask_for_names_only(self) -> None:
        bare = said("a cat", CaptionGroup("cat", None, None, (0,), (2, 5)))
        assert check([self.LEFT], bare).all_right
        assert check([], bare) == CaptionVerdict(0, 1, 1, 0, True, False)
