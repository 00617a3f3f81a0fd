"""Scenes are what their truth says, and captions say only what is true."""

import numpy as np
import pytest

from trueline.english.plurals import plural
from trueline.layout import Layout, Region
from trueline.world.captions import caption, place, relation
from trueline.world.scenes import SIZE, Thing, make_scene, make_scenes, masks, render, render_background
from trueline.world.vocabulary import COLOURS, OBJECTS, RELATIONS, words

SCENES = list(make_scenes("test", 60))


def test_a_scene_is_a_function_of_split_and_index():
    assert make_scene("test", 5) == make_scene("test", 5)
    assert make_scene("test", 5).things != make_scene("test", 6).things
    assert make_scene("test", 5).things != make_scene("train", 5).things


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_things_as_asked(count):
    assert all(len(s.things) == count for s in make_scenes("test", 10, count))


def test_things_lie_inside_and_apart():
    for scene in SCENES:
        covered = np.zeros((SIZE, SIZE), int)
        for t in scene.things:
            assert t.x > 0 and t.x + t.w < SIZE and t.y > 0 and t.y + t.h < SIZE
            covered[t.y : t.y + t.h, t.x : t.x + t.w] += 1
        assert covered.max() == 1


def test_pictures_differ_from_the_background_exactly_at_the_things():
    for scene in SCENES[:20]:
        change = np.abs(render(scene).astype(float) - render_background(scene.background)).max(2)
        inside = masks(scene).any(0)
        assert (change[inside] > 12).mean() > 0.97, scene
        boxes = np.zeros((SIZE, SIZE), bool)
        for t in scene.things:
            boxes[t.y : t.y + t.h, t.x : t.x + t.w] = True
        assert change[~boxes].max() <= 1


def test_every_colour_stands_out_from_every_background():
    """White on a light background was what the first VAE blurred."""
    from trueline.world.scenes import Background
    from trueline.world.vocabulary import BACKGROUNDS

    for tint in range(len(BACKGROUNDS)):
        for brightness in (0.84, 0.94):
            back = render_background(Background(tint, brightness, 0.24))
            for inks in COLOURS.values():
                distance = np.linalg.norm(back - np.array(inks[0], np.float32), axis=2)
                assert distance.min() > 40


def test_boxes_make_a_layout():
    for scene in SCENES:
        layout = Layout(caption(scene).text, regions=[Region(t.phrase, t.box) for t in scene.things])
        assert len(layout.regions) == len(scene.things)


def test_captions_use_only_known_words_and_name_every_thing():
    known = set(words())
    for scene in SCENES:
        for variant in range(4):
            said = caption(scene, variant)
            assert set(said.text.replace(",", "").split()) <= known, said.text
            assert sorted(i for g in said.groups for i in g.things) == list(range(len(scene.things)))
            for group in said.groups:
                noun = said.text[slice(*group.noun_span)]
                assert noun == (plural(group.name) if len(group.things) > 1 else group.name)


def test_a_said_relation_is_true():
    said = [(s, caption(s, v)) for s in make_scenes("test", 200, 2) for v in range(2)]
    checked = [(s, c) for s, c in said if c.relation]
    assert len(checked) > 50
    for scene, c in checked:
        a, b = (scene.things[g.things[0]] for g in c.groups)
        assert relation(a, b) == c.relation
        assert any(phrase in c.text for phrase in RELATIONS[c.relation])


@pytest.mark.parametrize(
    ("x", "y", "seen"),
    [(10, 54, "left"), (98, 54, "right"), (54, 8, "above"), (54, 98, "below"), (54, 54, "middle")],
)
def test_place(x, y, seen):
    assert place(Thing("apple", "red", "plain", x, y, 20, 20)) == seen


def test_diagonal_neighbours_have_no_relation():
    a, b = (Thing("apple", "red", "plain", v, v, 20, 20) for v in (10, 60))
    assert relation(a, b) is None


def test_every_object_occurs():
    drawn = {t.name for s in make_scenes("test", 300) for t in s.things}
    assert drawn == set(OBJECTS)
