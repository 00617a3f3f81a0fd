"""The official prompts that the world can draw, as categories of its benchmark."""

import numpy as np
import pytest
from PIL import Image
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.worded import Meaning, Stated
from trueline.evaluation.benchmarks.world import OFFICIAL, World, _adopted
from trueline.evaluation.world_judge import WorldJudge
from trueline.layout import Layout, Region
from trueline.world.oracle import detect
from trueline.world.scenes import SIZE, make_scene, render

DATA = SHARED


@needs("abc6k_cc500", "t2i_compbench", "nsr_1k")
def test_how_many_prompts_the_world_can_draw():
    with pytest.warns(UserWarning, match="38 boxes without area"):
        world = World(DATA)
    assert world.covered == {
        "cc-500": (54, 446),
        "compbench-color": (12, 300),
        "compbench-spatial": (20, 300),
        "compbench-numeracy": (9, 300),
        "nsr-counting": (30, 762),
        "nsr-spatial": (21, 283),
    }
    assert len(world.examples) == len({e.id for e in world.examples}) == 600 + 146
    assert "cc-500 54 of 446" in world.source
    for example in world.examples[600:]:
        assert example.category in OFFICIAL
        assert (example.layout.width, example.layout.height) == (SIZE, SIZE)
        assert world.said(example).text == example.prompt
        assert world.reference(example) is None and world.things(example) == ()


def test_boxes_can_be_called_by_name(monkeypatch):
    monkeypatch.setenv("TRUELINE_DATA", "/nowhere")
    world, named = World(), World(labels="name")
    assert "boxes called by name" in named.source
    for plain, bare in zip(world.examples, named.examples, strict=True):
        assert (plain.id, plain.prompt) == (bare.id, bare.prompt)
        things = named.things(bare)
        for thing, told, before in zip(things, bare.layout.regions, plain.layout.regions, strict=True):
            assert before.grounding_phrase == before.phrase == told.phrase == thing.phrase
            article, name = told.grounding_phrase.split()
            assert name == thing.name and article == ("an" if name[0] in "aeiou" else "a")
    with pytest.raises(ValueError, match=r"^labels: must be one of phrase, name"):
        World(labels="none")


def test_without_files_there_are_only_scenes(monkeypatch):
    monkeypatch.setenv("TRUELINE_DATA", "/nowhere")
    assert World().covered == {} and len(World().examples) == 600


def adopted(scene, relation=None):
    things = tuple(Stated(t.name, t.colour, t.texture, 1) for t in scene.things)
    layout = Layout("a prompt", regions=[Region("cat", (0.1, 0.1, 0.5, 0.5))])
    return _adopted("cc-500", Example("cc500-000001", layout), Meaning(things, relation))


def test_the_judge_asks_for_words_but_not_for_boxes():
    world = World()
    judge = WorldJudge(world)
    scenes = (make_scene("adopted", i, 2) for i in range(99))
    scene = next(s for s in scenes if s.things[0].name != s.things[1].name)
    names = {thing.name for thing in scene.things}
    others = (make_scene("other", i, 2) for i in range(99))
    other = next(s for s in others if not names & {thing.name for thing in s.things})
    example = adopted(scene)
    assert example.id == "cc-500-cc500-000001" and example.layout.regions
    right, wrong = (judge.look([example], [Image.fromarray(render(s))])[0] for s in (scene, other))
    for metric in ("object_accuracy", "color_accuracy", "texture_accuracy", "count_accuracy"):
        assert right[f"ratio/{metric}"].tolist() == [2, 2]
        assert wrong[f"ratio/{metric}"][0] == 0
    assert right["ratio/mean_iou"].tolist() == [0, 0]
    assert right["features/regions"].shape[0] == 0


def test_a_stated_relation_is_asked_and_nearness_is_not():
    scene = next(s for i in range(99) if _left(s := make_scene("adopted", i, 2)))
    world = World()
    assert world.said(adopted(scene, "near")).relation is None
    judge = WorldJudge(world)
    for relation, kept in (("left", 1), ("right", 0)):
        seen = judge.look([adopted(scene, relation)], [Image.fromarray(render(scene))])[0]
        assert seen["ratio/relation_accuracy"].tolist() == [kept, 1]
    assert len(detect(np.asarray(render(scene)))) == 2


def _left(scene):
    a, b = scene.things
    return a.name != b.name and b.centre[0] - a.centre[0] > 2 * abs(a.centre[1] - b.centre[1])
