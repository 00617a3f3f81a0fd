"""The world's seer: labels, pieces, what is measured, and the tagger, detector and segmenter made of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.perception import Detector, Segmenter, Tagger, load
from trueline.world import pack, seer
from trueline.world.fitting import StageSettings
from trueline.world.scenes import SIZE, Background, Scene, Thing, extent, make_scene, masks, render
from trueline.world.training_pictures import FIRST, Trips
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES
from trueline.world.workspace import Workspace


def _sure(scenes):
    """The logits of a net that is right about every cell and pixel."""
    labels = seer.labels_of(scenes)

    def one_hot(classes, count):
        return 9.0 * torch.nn.functional.one_hot(classes.clamp(min=0), count).permute(0, 3, 1, 2).float()

    counts = (len(OBJECTS) + 1, len(COLOURS), len(TEXTURES))
    columns = [one_hot(c, n) for c, n in zip(labels[:3], counts, strict=True)]
    return seer.SeerLogits(*columns, 18.0 * labels.ink.float() - 9.0)


class Known(torch.nn.Module):
    """In place of the net: says the truth of the scenes it was given, in their order."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, scenes):
        super().__init__()
        self.scenes = list(scenes)

    def forward(self, pixels):
        now, self.scenes = self.scenes[: len(pixels)], self.scenes[len(pixels) :] + self.scenes[: len(pixels)]
        return _sure(now)


def _scene(*things):
    return Scene("hand", 0, things, Background(0, 0.9, 0.1))


def _thing(name, colour, texture, x, y, longest=56):
    return Thing(name, colour, texture, x, y, *extent(name, longest))


def test_a_body_is_one_piece_and_stays_in_its_box():
    for name in OBJECTS:
        for longest in (44, 88):
            thing = _thing(name, "red", "plain", 10, 10, longest)
            mask = masks(_scene(thing))[0]
            whole = seer.body(mask)
            assert (whole & mask == mask).all()
            assert seer.ndimage.label(whole)[1] == 1, name
            inside = np.zeros_like(whole)
            inside[thing.y : thing.y + thing.h, thing.x : thing.x + thing.w] = True
            assert not (whole & ~inside).any()


def test_perfect_answers_give_the_scenes_back():
    """Every thing is found once: neighbours stay apart, things of several pieces stay whole."""
    scenes = [make_scene("test", i) for i in range(40)]
    found = seer.detect(Known(scenes), to_tensor(np.stack([render(s) for s in scenes])))
    for detections, scene in zip(found, scenes, strict=True):
        assert sorted((d.label, d.colour, d.texture) for d in detections) == sorted(
            t.kind for t in scene.things
        )
    figures = seer.measure(found, scenes)
    assert figures["name_precision"] == figures["colour_recall"] == 1
    assert figures["box_iou"] > 0.97 and figures["mask_iou"] > 0.95


def test_measuring_counts_what_is_missed_and_what_is_too_much():
    scene = _scene(_thing("car", "red", "plain", 4, 4), _thing("cat", "blue", "striped", 66, 66))
    found = seer.detect(Known([scene]), to_tensor(render(scene)[None]))[0]
    car, cat = sorted(found, key=lambda d: d.label)
    assert (car.label, cat.label) == ("car", "cat")
    figures = seer.measure([[car]], [scene])
    assert (figures["name_precision"], figures["name_recall"]) == (1, 0.5)
    assert figures["box_iou"] == pytest.approx(0.5, abs=0.02) == figures["mask_iou"]
    figures = seer.measure([[car, cat, cat, replace(car, colour="green")]], [scene])
    assert (figures["name_precision"], figures["colour_precision"]) == (0.5, 0.5)
    assert seer.measure([[replace(car, colour="green"), cat]], [scene])["colour_recall"] == 0.5
    assert seer.measure([[]], [scene])["name_precision"] == 0


def test_a_few_cells_of_another_name_belong_to_the_thing_around_them():
    chances = np.full((len(OBJECTS) + 1, seer.GRID, seer.GRID), 0.01)
    chances[seer.NOTHING] = 0.9
    chances[:, 10:30, 10:30] = 0.01
    chances[3, 10:30, 10:30] = 0.9
    chances[3, 12:15, 12:15], chances[5, 12:15, 12:15] = 0.3, 0.6
    ((own, piece),) = seer.pieces(chances)
    assert own == 3 and piece.sum() == 400
    chances[5, 10:30, 18:30], chances[3, 10:30, 18:30] = 0.9, 0.01  # now most of it
    assert [(own, int(p.sum())) for own, p in seer.pieces(chances)] == [(3, 160), (5, 240)]
    chances[seer.NOTHING] = 2.0
    assert seer.pieces(chances) == []


def test_the_loss_is_least_for_the_truth_and_asks_colours_where_there_is_ink():
    scenes = [make_scene("test", i) for i in range(4)]
    labels, right = seer.labels_of(scenes), _sure(scenes)
    assert float(seer.seer_loss(right, labels)["total"]) < 0.02
    wrong = right._replace(colour=right.colour.roll(1, dims=1))
    assert float(seer.seer_loss(wrong, labels)["colour"]) > 5
    blank = right._replace(colour=torch.where((labels.colour < 0)[:, None], 0.0, right.colour))
    assert float(seer.seer_loss(blank, labels)["colour"]) == float(seer.seer_loss(right, labels)["colour"])


def test_training_lowers_the_loss(tmp_path):
    trips = Trips(np.stack([render(make_scene("train", FIRST + i)) for i in range(2)]))
    settings = StageSettings(steps=9, batch=2, lr=3e-3, warmup=2, log_every=3)
    lines = list(seer.train_seer(tmp_path, trips, settings, torch.device("cpu")))
    assert lines[-1]["total"] < 0.93 * lines[0]["total"]


@pytest.fixture
def packed(tmp_path):
    build = Workspace(tmp_path / "build", torch.device("cpu"), smoke=True)
    torch.manual_seed(0)
    net = seer.SeerNet()
    assert sum(p.numel() for p in net.parameters()) < 1.5e6
    net.save_pretrained(build.stage("seer") / "final")
    assert pack.pack_perception(build, tmp_path) == ["seer"]
    return tmp_path / "seer"


def test_the_packed_net_is_the_net(packed):
    net = seer.load_seer(packed)
    torch.manual_seed(0)
    made = seer.SeerNet().eval()
    pixels = torch.randn(1, 3, SIZE, SIZE)
    for a, b in zip(net(pixels), made(pixels), strict=True):
        assert torch.allclose(a, b, atol=2e-2)
    assert "/" not in (packed / "config.json").read_text()


def test_a_seer_that_cannot_be_used_is_refused(packed, tmp_path):
    with pytest.raises(ValueError, match="no seer of the world; run `trueline world build`"):
        load(f"world-seer={tmp_path / 'none'}")
    config = (packed / "config.json").read_text()
    (packed / "config.json").write_text(config.replace("25", "26"))
    with pytest.raises(ValueError, match="run `trueline world build`"):
        load(f"world-seer={packed}")
    (packed / "config.json").write_text(config)
    (packed / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read"):
        load(f"world-seer={packed}")


@pytest.fixture
def looker(packed):
    """The seer's adapter with a net that knows the scene, so that what it makes of answers is tested alone."""
    scene = _scene(
        _thing("car", "red", "plain", 4, 8),
        _thing("cat", "blue", "striped", 68, 66),
        _thing("car", "green", "plain", 66, 4, 50),
    )
    made = load(f"world-seer={packed}")
    made.net = Known([scene])
    return made, scene, Image.fromarray(render(scene))


def test_it_keeps_the_protocols(looker):
    made, _, image = looker
    assert isinstance(made, Detector) and isinstance(made, Tagger) and isinstance(made, Segmenter)
    assert sorted(made.tag([image], ["a dog"])[0]) == ["car", "cat"]
    assert made.tag([], []) == made.detect([], []) == made.segment([], []) == []
    with pytest.raises(ValueError, match="one text"):
        made.tag([image], [])


def test_it_finds_what_is_asked_for_under_the_name_that_was_asked(looker):
    made, scene, image = looker
    (found,) = made.detect([image], [["a red car", "zebra", "cars", "dogs"]])
    assert {d.label for d in found} == {"a red car"}, "of two labels for one name the first"
    assert sorted(d.colour for d in found) == ["green", "red"]
    for d in found:
        thing = next(t for t in scene.things if t.name == "car" and t.colour == d.colour)
        assert np.allclose(d.box, thing.box, atol=0.02)
        assert d.mask.shape == (SIZE, SIZE) and d.mask.dtype == np.float32
    assert made.detect([image], [[]]) == [[]]


def test_it_segments_the_thing_that_fits_the_box(looker):
    made, scene, image = looker
    true = masks(scene)
    car, cat = scene.things[0].box, scene.things[1].box
    half = (car[0], car[1], (car[0] + car[2]) / 2, car[3])
    nothing = (0.0, 0.9, 0.1, 1.0)
    (found,) = made.segment([image], [[car, cat, half, nothing, (0.5, 0.5, 0.5, 0.5)]])
    assert seer._mask_iou(found[0] > 0.5, true[0]) > 0.95
    assert seer._mask_iou(found[1] > 0.5, true[1]) > 0.95
    left = found[2] > 0.5
    assert left.any() and not (left & ~true[0]).any() and not left[:, round(half[2] * SIZE) :].any()
    assert found[3].sum() == found[4].sum() == 0
    assert all(m.shape == (SIZE, SIZE) and m.dtype == np.float32 for m in found)


def test_pictures_of_other_sizes_are_resized_and_masks_fit_them(looker):
    made, scene, image = looker
    with pytest.warns(UserWarning, match="the seer knows pictures of 128"):
        (found,) = made.segment([image.resize((200, 160))], [[scene.things[0].box]])
    assert found[0].shape == (160, 200) and found[0].max() > 0.9
