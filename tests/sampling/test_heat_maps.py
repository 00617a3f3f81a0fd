"""Where phrases look: what the maps are, that looking leaves no trace, and the files of ``generate --maps``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.cli import main
from trueline.layout import Layout, Region
from trueline.models.text import locate
from trueline.sampling.heat_maps import AttentionRecorder, HeatMaps, phrase_maps
from trueline.sampling.loop import sample
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import Pipeline

APPLE, CAR = Region("a red apple", (0, 0, 0.5, 1)), Region("a blue car", (0.5, 0, 1, 1))
TWO = Layout("a red apple and a blue car", [APPLE, CAR], seed=1)
WIDE = TWO.model_copy(update={"width": 128, "height": 64})
FAST = {"steps": 3, "progress": False}


def recorded(backbone, layouts, **settings):
    recorder = AttentionRecorder(**settings)
    for _ in sample(backbone, layouts, [recorder], Sampling(steps=3)):
        pass
    return recorder


def mean_of_maps(backbone, layout, scale):
    """The loop's own recording of the same layers, averaged over layers, heads and steps."""
    steps = sample(
        backbone,
        [layout],
        sampling=Sampling(steps=3),
        record=lambda site: site.kind == "cross" and site.scale == scale,
    )
    found = [probs.mean(1)[0] for step in steps for probs in step.maps.values()]
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("layout", [TWO, WIDE])
def test_the_maps_are_the_mean_of_what_the_layers_attend_to(gated, layout):
    scales = sorted({site.scale for site in gated.sites() if site.kind == "cross"})
    fine = recorded(gated, [layout], cells=8).of(0)
    assert fine.shape[:2] == ((8, 8) if layout is TWO else (8, 16)), "high, wide"
    torch.testing.assert_close(fine.flatten(0, 1), mean_of_maps(gated, layout, scales[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(fine.sum(-1), torch.ones(fine.shape[:2]), rtol=0, atol=1e-4)


def test_maps_of_all_sizes_but_the_coarsest_are_brought_to_one(gated, monkeypatch):
    """Of constant maps the mean is known: enlarging keeps a constant, and each layer counts once."""
    recorder = AttentionRecorder()
    found = {site.scale for site in gated.sites() if site.kind == "cross"}
    recorded_scales = recorded(gated, [TWO])._sums.keys()
    assert recorded_scales == found - {max(found)} or len(found) == 1
    recorder._grids = {1: (8, 8), 2: (4, 4)}
    recorder._sums = {1: torch.full((1, 64, 2), 0.5), 2: torch.full((1, 16, 2), 3 * 0.1)}
    recorder._count = 4
    torch.testing.assert_close(recorder.of(0), torch.full((8, 8, 2), 0.2))


def test_a_map_does_not_depend_on_batch_mates(gated):
    other = Layout("a green chair and a clock", [Region("a clock", (0.1, 0.1, 0.9, 0.9))], seed=2)
    together, alone = recorded(gated, [other, TWO]), recorded(gated, [TWO])
    torch.testing.assert_close(together.of(1), alone.of(0), rtol=0, atol=1e-5)


def test_a_phrase_has_all_its_tokens_and_one_that_is_not_there_has_no_map(gated):
    layout = Layout(
        "two cats and a red apple", [APPLE, Region("cat", (0, 0, 1, 1)), Region("dog", (0, 0, 1, 1))]
    )
    maps = torch.rand(4, 4, gated.text_length)
    found = phrase_maps(maps, layout, gated)
    tokens = {each.phrase: each.tokens for each in locate(gated, layout)}
    assert list(found) == ["a red apple", "cat"] and len(tokens["a red apple"]) >= 3
    for phrase, share in found.items():
        torch.testing.assert_close(share, sum(maps[..., token] for token in tokens[phrase]))
    assert list(phrase_maps(maps, Layout("a red apple and a blue car"), gated)) == [
        "a red apple",
        "a blue car",
    ]
    nothing = HeatMaps.of(maps, Layout("red"), gated)
    assert nothing.phrases == () and nothing.shares.shape == (0, 4, 4)


@pytest.mark.filterwarnings("ignore")
def test_looking_leaves_no_trace(plain):
    """Nor does it keep a note away: that boxes act on nothing here."""
    seen, usual = Pipeline(plain)([TWO, WIDE], maps=True, **FAST), Pipeline(plain)([TWO, WIDE], **FAST)
    assert [a.tobytes() for a in seen.images] == [b.tobytes() for b in usual.images]
    assert seen.records == usual.records and usual.maps is None
    assert "ignores the boxes" in str(usual.records[0]["notes"])
    assert [maps.shares.shape for maps in seen.maps] == [(2, 8, 8), (2, 8, 16)]


def test_a_picture_that_is_lost_has_no_map(plain, monkeypatch):
    def decode(self, z, **options):
        return torch.full((len(z), 3, 64, 64), torch.nan)

    monkeypatch.setattr(type(plain), "decode", decode)
    with pytest.warns(UserWarning, match="not finite"):
        (picture,) = Pipeline(plain).stream(TWO, maps=True, **FAST)
    assert picture.failed and picture.maps is None


def test_a_backbone_without_cross_attention_says_so(gated, monkeypatch):
    own = [site for site in gated.sites() if site.kind != "cross"]
    monkeypatch.setattr(type(gated), "sites", lambda self: own)
    with pytest.raises(ValueError, match="maps: this backbone has no cross-attention"):
        Pipeline(gated)(TWO, maps=True, **FAST)


@pytest.mark.slow
def test_phrases_look_into_their_boxes():
    """On the world, with grounding: more attention for each cell within the box than for one without."""
    pipe = Pipeline.from_pretrained("world")
    boxes = ((0.06, 0.3, 0.44, 0.72), (0.52, 0.34, 0.96, 0.7))
    layout = Layout(
        "a red apple and a blue car", [Region(r.phrase, b) for r, b in zip((APPLE, CAR), boxes, strict=True)]
    )
    result = pipe([layout] * 4, seeds=[0, 1, 2, 3], steps=12, maps=True, progress=False)
    ratios = []
    for maps in result.maps:
        for (x0, y0, x1, y1), share in zip(boxes, maps.shares, strict=True):
            inside = np.zeros(share.shape, bool)
            inside[round(16 * y0) : round(16 * y1), round(16 * x0) : round(16 * x1)] = True
            ratios.append(share[inside].mean() / share[~inside].mean())
    assert sorted(ratios)[1] > 1.2, ratios


def test_a_sheet_shows_least_and_greatest_in_the_ends_of_the_ramp(gated):
    shares = np.zeros((2, 8, 8), np.float32)
    shares[0, :, :4], shares[1, :, 4:] = 0.3, 0.6
    image = Image.new("RGB", (400, 400), (128, 128, 128))
    sheet = HeatMaps(("a red apple", "a blue car"), shares).sheet(image, TWO)
    assert sheet.width > 3 * 400
    left, right = (sheet.getpixel((12 + 412 * cell + x, 200)) for cell, x in ((1, 60), (1, 340)))
    assert sum(left) > 2 * sum(right), "bright within, dark without"
    left, right = (sheet.getpixel((12 + 412 * 2 + x, 200)) for x in (60, 340))
    assert sum(right) > 2 * sum(left)


@pytest.mark.filterwarnings("ignore")
def test_generate_writes_them_with_the_picture(gated_folder, tmp_path, capsys):
    asked = [
        "generate",
        TWO.prompt,
        "--box",
        "a red apple@0,0,.5,1",
        "--model",
        str(gated_folder),
        "--steps",
        "2",
    ]
    asked += ["--n", "2", "--quiet", "--device", "cpu", "--out"]
    out, usual = tmp_path / "maps", tmp_path / "usual"
    assert main([*asked, str(out), "--maps"]) == 0 and main([*asked, str(usual)]) == 0
    for name in ("0000-0.png", "0000-1.png", "0000-0.json"):
        assert (out / name).read_bytes() == (usual / name).read_bytes()
    file = out / "0000-1-maps.npz"
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["phrases"].tolist() == ["a red apple"]
        assert arrays["shares"].shape == (1, 8, 8) and 0 < arrays["shares"].max() <= 1
    assert Image.open(out / "0000-0-maps.png").width > 400, "two cells"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    assert main([*asked, str(out), "--maps"]) == 0 and file.read_bytes() == content, "it is a file of the run"
    assert main([*asked, str(out)]) == 2 and "another maps (True, now None)" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["settings"]["maps"] is True
    assert main([*asked, str(tmp_path / "x"), "--maps", "--realign"]) == 2
    assert "--maps: is of pictures that are drawn once" in capsys.readouterr().err
