"""The report's figures: means, intervals that respect scenes, and a page that says what does not hold."""

import numpy as np
import pytest

from trueline.evaluation.world_report import (
    Figure,
    figure,
    full_caption,
    full_prompt,
    layout_of,
    two_thing_scenes,
)
from trueline.world.captions import caption
from trueline.world.judge import check
from trueline.world.oracle import detect
from trueline.world.scenes import make_scene, render


def test_a_figure_is_the_mean_over_values_not_over_scenes():
    f = figure("x", [[1, 1, 1], [0]])
    assert f.mean == 0.75 and f.n == 4


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        f = figure("x", [[float(rng.random() < 0.7)] for _ in range(80)])
        covered += f.low <= 0.7 <= f.high
    assert covered >= 105


def test_scenes_are_drawn_whole():
    """Values that agree within a scene carry less information: the interval must be wider."""
    alone = figure("x", [[float(i % 2)] for i in range(200)])
    together = figure("x", [[float(i % 2)] * 10 for i in range(20)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(("name", "value", "held"), [("vae_psnr", 34, True), ("vae_psnr", 32, False)])
def test_a_goal_that_is_missed_is_said(name, value, held):
    assert ("does not" not in Figure(name, value, value, value, 1).verdict) == held


def test_headroom_is_wanted():
    assert "does not" in Figure("two_objects_and_colours", 0.95, 0.9, 1, 1).verdict
    assert "does not" not in Figure("two_objects_and_colours", 0.5, 0.4, 0.6, 1).verdict


def test_a_true_picture_passes_its_own_examination():
    scenes = two_thing_scenes(8)
    assert all(len({t.name for t in s.things}) == 2 for s in scenes)
    verdicts = [check(detect(render(s)), full_caption(s)) for s in scenes]
    assert np.mean([v.colour == 1 for v in verdicts]) >= 0.85


def test_layouts_say_what_the_scene_is():
    scene = make_scene("test", 4)
    layout = layout_of(scene, caption(scene).text, boxes=True)
    assert [r.phrase for r in layout.regions] == [t.phrase for t in scene.things]
    assert not layout_of(scene, full_prompt(scene.things), boxes=False).regions
