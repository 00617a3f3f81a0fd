"""Where DSAlign pulls colours: by forces whose direction is known."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trueline.sampling.pipeline import Pipeline
from trueline.training.losses import dsalign
from trueline.training.recipes.goal import GoalSettings, goal_clip
from trueline.world.scenes import make_scene, render

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(STUDIES))
    try:
        yield importlib.import_module("goal_slope")
    finally:
        sys.path.remove(str(STUDIES))
        for name in ("goal_slope", "_common"):
            sys.modules.pop(name, None)


def test_colours_of_things_are_read_within_their_outlines(script):
    scene = next(s for s in (make_scene("held-out", i) for i in range(99)) if s.things[0].texture == "plain")
    picture = torch.from_numpy(render(scene)).permute(2, 0, 1)[None] / 255
    (found,) = script.colours(picture, [scene])
    from trueline.world.vocabulary import COLOURS

    assert found.shape == (len(scene.things), 3)
    assert np.allclose(255 * found[0], COLOURS[scene.things[0].colour][0], atol=12), "but for its soft edge"


def test_a_pull_towards_the_truth_is_seen_and_one_away_from_it(script, monkeypatch):
    backbone = Pipeline.from_pretrained("world", dtype=torch.float32).backbone
    clip, scenes = goal_clip(GoalSettings(model="world")), [make_scene("held-out", i) for i in range(4)]
    truth = torch.stack([torch.from_numpy(render(s)).permute(2, 0, 1) / 255 for s in scenes])

    def force(sign):
        def call(_self, _clip, decode, clean, *_rest):
            away = (decode(clean) - truth).square().flatten(1).mean(1)
            return dsalign.Distances(sign * away, away * 0, None, None)

        monkeypatch.setattr(script.DSAlign, "__call__", call)
        return {figure.name: figure for figure in script.pulled(backbone, clip, scenes, 900)}

    towards, away = force(1), force(-1)
    assert towards["off"].mean == away["off"].mean > 5, "at t = 900 colours are not yet right"
    assert towards["nearer"].mean > 0.6 > 0.4 > away["nearer"].mean


def test_it_runs_and_refuses(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "TIMES", (500,))
    assert script.main(["--n", "2", "--out", str(tmp_path / "rows.json")]) == 0
    assert '"metric": "nearer"' in (tmp_path / "rows.json").read_text()
    with pytest.raises(ValueError, match="--n: must be 1 or more"):
        script.main(["--n", "0"])
