"""The world's matcher: which captions are wrong, what the loss asks, and that judges read what is packed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.perception import load
from trueline.world import matcher, pack
from trueline.world.captions import caption
from trueline.world.fitting import StageSettings, StepDraws
from trueline.world.scenes import SIZE, make_scene, render
from trueline.world.vae import to_tensor
from trueline.world.workspace import Workspace


def test_a_scenes_own_captions_are_true_of_it():
    for index in range(60):
        scene = make_scene("test", index)
        for variant in range(matcher.VARIANTS):
            said = caption(scene, variant)
            assert matcher.true_of(scene, said), said.text


def test_a_wrong_caption_is_wrong_and_close_by():
    rng, kinds, related = np.random.default_rng(0), Counter(), Counter()
    for index in range(300):
        scene, variant = make_scene("test", index), index % matcher.VARIANTS
        right = caption(scene, variant)
        text, change = matcher.wrong_caption(scene, variant, rng)
        assert text != right.text
        kinds[change] += 1
        if right.relation:
            related[change] += 1
        if change == "places":
            assert right.relation and sorted(text.split()) != right.text.split()
        if change == "name":
            words = Counter(text.replace(",", "").split()), Counter(right.text.replace(",", "").split())
            assert words[0] != words[1]
    assert set(kinds) == set(matcher.CHANGES) and min(kinds.values()) >= 5
    assert related["places"] > 0.3 * related.total(), (
        "half of the captions that state a relation are turned round"
    )


@pytest.mark.parametrize("change", matcher.CHANGES)
def test_only_what_was_named_is_altered(change):
    pairs = (s for s in (make_scene("test", i) for i in range(99)) if len(s.things) == 2)
    scene = next(s for s in pairs if s.things[0].name != s.things[1].name)
    one, two = scene.things
    scene = replace(scene, things=(replace(one, colour="red"), replace(two, colour="blue")))
    changed = matcher.altered(scene, change, np.random.default_rng(1))
    kinds = [{(t.name, t.colour, t.texture) for t in s.things} for s in (scene, changed)]
    spots = [[(t.x, t.y, t.w, t.h) for t in s.things] for s in (scene, changed)]
    assert (spots[0] != spots[1]) == (change == "places") and (kinds[0] != kinds[1]) == (change != "places")
    if change == "places":
        assert spots[0] == spots[1][::-1]
    elif change == "colours":
        assert [t.colour for t in changed.things] == ["blue", "red"]
    else:
        fields = ("name", "colour", "texture")
        differ = [
            f
            for a, b in zip(scene.things, changed.things, strict=True)
            for f in fields
            if getattr(a, f) != getattr(b, f)
        ]
        assert differ == [change]


class FirstStep:
    """The same eight pictures and the same draws at every step."""

    def batch(self, step, places):
        return StepDraws(0, torch.Generator().manual_seed(0))


def test_the_loss_teaches_it_eight_pictures(tokenizer, trips, tmp_path):
    """Every part of the loss falls, and the true captions of the pictures it saw come out above the wrong ones."""
    settings = StageSettings(steps=45, batch=8, lr=2e-3, warmup=5, log_every=1)
    loop = matcher.train_matcher(tmp_path, tokenizer, trips, settings, torch.device("cpu"))
    loop.stream = FirstStep()
    lines = list(loop)
    for part in ("contrast", "close", "match", "patches"):
        assert lines[-1][part] < 0.6 * lines[0][part], part


def test_matcher_figures_are_those_of_its_scores(tokenizer, monkeypatch):
    scenes = [make_scene("held-out", i) for i in range(24)]
    right = [caption(s).text for s in scenes]
    eye = torch.eye(len(scenes))

    def scores(_net, _tokenizer, _pixels, texts):
        won = torch.tensor([float(t == own) for t, own in zip(texts, right, strict=True)])
        return {"image": eye, "text": eye.roll(0 if won.all() else 1, 0), "itm": won, "itc": -won}

    monkeypatch.setattr(matcher, "_scores", scores)
    figures = matcher.measure(None, tokenizer, torch.zeros(24, 3, SIZE, SIZE), scenes)
    assert figures.pop("itm_right") == figures.pop("itc_among") == 1
    assert {v for k, v in figures.items() if k.startswith("itm")} == {1.0}
    assert {v for k, v in figures.items() if k.startswith("itc")} == {0.0}


def test_the_packed_matcher_judges(tokenizer, tmp_path):
    build = Workspace(tmp_path, torch.device("cpu"))
    torch.manual_seed(0)
    made = matcher.make_matcher(tokenizer)
    tokenizer.save_pretrained(build.stage("tokenizer"))
    made.save_pretrained(build.stage("matcher") / "final")
    assert pack.pack_perception(build, tmp_path / "packed") == ["matcher"]
    folder = tmp_path / "packed" / "matcher"
    scenes = [make_scene("test", i) for i in range(4)]
    pictures, texts = [render(s) for s in scenes], [caption(s).text for s in scenes]
    net = made.half().float().eval()
    wanted = matcher._scores(net, tokenizer, to_tensor(np.stack(pictures)), texts)
    for head in ("itm", "itc"):
        judge = load(f"world-{head}={folder}")
        assert judge.name == f"world-{head}"
        assert torch.allclose(
            judge.match([Image.fromarray(p) for p in pictures], texts), wanted[head], atol=1e-4
        )


def test_a_missing_matcher_says_how_to_make_it(tmp_path):
    with pytest.raises(ValueError, match="no matcher of the world; run `trueline world build`"):
        load(f"world-itm={tmp_path}")
