"""``trueline train gligen``: layers beside plain weights, what moves, dropping, gap and warnings, the result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from training_builders import loop_of, twin

from trueline.cli import main
from trueline.layout import Layout, Region
from trueline.models.backbone import Backbone
from trueline.models.grounding import fusers
from trueline.models.grounding_layers import is_grounding, prepare_grounding, with_grounding
from trueline.sampling.pipeline import Pipeline
from trueline.training.data.examples import Rules
from trueline.training.data.records import open_examples
from trueline.training.losses.denoising import DenoisingObjective
from trueline.training.objective import Batch, Nets
from trueline.training.parts import open_part
from trueline.training.recipes.gligen import (
    MEASURED,
    GligenObjectiveSettings,
    GligenSettings,
    GroundingObjective,
    Probe,
    add_layers,
)
from trueline.training.settings import Optimisation

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = ["steps=4", "batch=2", "warmup=1", "lr=0.01", "log_every=1", "save_every=2", "precision=fp32"]
SCENES = (
    Layout("a cat", [Region("a red apple", (0, 0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1, 1))]),
    Layout("a cat", [Region("a cat", (0.25, 0.25, 0.75, 1))]),
    Layout("a cat", [Region("the green chair", (0.5, 0, 1, 0.75))]),
    Layout("a cat", [Region("a clock", (0, 0.5, 0.75, 1))]),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A .jsonl of the scenes: each box in a colour of its own; and a last picture without a box."""
    folder = tmp_path_factory.mktemp("gligen") / "data"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (5, 3, 3))
    lines = []
    for row, layout in enumerate((*SCENES, Layout("a cat"))):
        pixels = np.tile(colours[row, 0].astype(np.uint8), (64, 64, 1))
        for place, region in enumerate(layout.regions, start=1):
            x0, y0, x1, y1 = region.box.pixels(64, 64)
            pixels[y0:y1, x0:x1] = colours[row, place]
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append(json.dumps(layout.to_record() | {"image": f"{row}.png"}) + "\n")
    (folder / "layouts.jsonl").write_text("".join(lines))
    return folder / "layouts.jsonl"


def settings(data: Path, **more) -> GligenSettings:
    return GligenSettings(**({"data": {"source": str(data)}, "steps": 4, "batch": 2, "warmup": 1} | more))


def plain_weights(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in unet.state_dict().items() if not is_grounding(name)}


# Layers


def test_layers_stand_beside_the_plain_weights(plain):
    made, again, other = (with_grounding(plain.unet, seed) for seed in (0, 0, 1))
    before = plain.unet.state_dict()
    assert made.config.attention_type == "gated" and len(fusers(made)) == len(fusers(again)) > 0
    assert plain_weights(made).keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in plain_weights(made).items())
    layers = [{n: w for n, w in net.state_dict().items() if is_grounding(n)} for net in (made, again, other)]
    assert all(torch.equal(w, layers[1][n]) for n, w in layers[0].items()), "the same seed, the same layers"
    assert not all(torch.equal(w, layers[2][n]) for n, w in layers[0].items())
    assert all(not layer.alpha_attn and not layer.alpha_dense for layer in fusers(made)), "GLIGEN's start"
    state = torch.random.get_rng_state()
    with_grounding(plain.unet, 7)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's generator is left alone"


@pytest.mark.filterwarnings("ignore:this backbone has no grounding layers")
def test_at_gligens_start_nothing_is_changed(plain, layouts):
    """Gates of 0: the pictures are those of the plain checkpoint, whatever the boxes."""
    backbone = twin(plain)
    before = Pipeline(backbone)(layouts[3], steps=2, seeds=[0], progress=False, output_type="pt").images
    backbone.unet = with_grounding(backbone.unet)
    after = Pipeline(backbone)(layouts[3], steps=2, seeds=[0], progress=False, output_type="pt").images
    assert torch.allclose(before, after, atol=1e-6)


def test_a_unet_of_another_kind_is_refused(plain):
    backbone = twin(plain)
    backbone.unet.register_to_config(attention_type="gated-text-image")
    with pytest.raises(ValueError, match=r"model: its U-Net has attention layers of type 'gated-text-image'"):
        with_grounding(backbone.unet)


def test_a_prepared_start_opens_the_gates_and_whitens_the_phrases(plain, data):
    backbone = twin(plain)
    wish = settings(data, objective={"start": "prepared"})
    examples = open_examples(wish.data, Rules.of(wish.data, (64, 64), 30))
    state = torch.random.get_rng_state()
    add_layers(wish, backbone, examples)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(layer.alpha_attn == 1 == layer.alpha_dense for layer in fusers(backbone.unet))
    phrases = backbone.encode_phrases([region.phrase for layout in SCENES for region in layout.regions])
    null = backbone.unet.position_net.null_positive_feature
    assert torch.allclose(null, phrases.mean(0), atol=1e-5)
    twice = twin(plain)
    add_layers(wish, twice, examples)
    theirs = twice.unet.state_dict()
    assert all(torch.equal(w, theirs[n]) for n, w in backbone.unet.state_dict().items())


def test_given_layers_go_on_and_others_are_left_behind(plain, gated, data):
    given = twin(gated)
    add_layers(settings(data, objective={"start": "given"}), given, None)
    before = gated.unet.state_dict()
    assert all(torch.equal(w, before[n]) for n, w in given.unet.state_dict().items())
    fresh = twin(gated)
    add_layers(settings(data), fresh, None)
    assert all(not layer.alpha_attn for layer in fusers(fresh.unet))
    with pytest.raises(ValueError, match=r"objective\.start: .* has no grounding layers"):
        add_layers(settings(data, objective={"start": "given"}), twin(plain), None)


# The objective


def batch(**more) -> Batch:
    made = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(4, 4, 8, 8, generator=made) for _ in range(2))
    return Batch(latents, SCENES, noise, torch.tensor([50, 250, 450, 650]), **more)


def probe(*shares: float) -> Probe:
    one = batch()
    return Probe(one.latents, one.layouts, one.noise, rows=3, shares=shares or (0.95,))


@torch.no_grad()
def test_the_gap_is_what_boxes_take_off_the_loss(gated, plain):
    found = probe(0.95, 0.7).gaps(gated)
    assert [key for key in found if "/" in key] == ["gap/950", "gap/700"]
    objective, one = DenoisingObjective(), batch()
    t, none = torch.full((4,), 700), torch.zeros(4, dtype=torch.bool)
    losses = [
        float(objective(Batch(one.latents, SCENES, one.noise, t, boxed=boxed), Nets(gated))["total"])
        for boxed in (None, none)
    ]
    assert found["gap/700"] == pytest.approx(100 * (1 - losses[0] / losses[1]), abs=1e-3) and found["gap/700"]
    assert found["gap"] == pytest.approx(np.mean([v for k, v in found.items() if "/" in k]))
    shut = twin(plain)
    shut.unet = with_grounding(shut.unet)
    assert all(value == 0 for value in probe().gaps(shut).values()), "gates of 0"


def test_a_share_of_the_timesteps_is_drawn_where_the_layout_is_decided():
    wish = GligenObjectiveSettings(t_from=600, t_share=0.7)
    objective = GroundingObjective(DenoisingObjective(), probe(), wish, (0, 900))
    low = torch.arange(4000) % 600
    one = Batch(torch.zeros(4000, 1, 1, 1), (), torch.zeros(4000, 1, 1, 1), low, generator=torch.Generator())
    t = objective.timed(one).t
    anew = t[t >= 600]
    assert 0.67 < len(anew) / 4000 < 0.73 and t.max() < 900 and len(anew.unique()) > 290
    assert torch.equal(t[t < 600], low[t < 600]), "the others stay as they were drawn"
    assert GroundingObjective(DenoisingObjective(), probe(), GligenObjectiveSettings()).timed(one) is one


@torch.no_grad()
def test_layers_that_stay_shut_are_warned_of_once(plain):
    backbone = twin(plain)
    backbone.unet = with_grounding(backbone.unet)
    objective = GroundingObjective(
        DenoisingObjective(), probe(), GligenObjectiveSettings(gap_every=2, warn_after=4)
    )
    seen = []
    for step in (0, 1, 2, 3):
        seen.append(objective(batch(step=step), Nets(backbone)))
    assert ["gap" in terms for terms in seen] == [True, False, True, False]
    with pytest.warns(
        UserWarning, match=r"after 4 steps: the gates are near zero .* and the loss is no smaller"
    ):
        seen.append(objective(batch(step=4), Nets(backbone)))
    assert float(seen[-1]["gap"]) == float(seen[-1]["gap/950"]) == 0
    assert "gap" not in objective(batch(step=4), Nets(backbone)), "accumulated batches measure once"
    objective(batch(step=6), Nets(backbone))  # no second warning: warnings are errors in these tests
    for layer in fusers(backbone.unet):
        torch.nn.init.ones_(layer.alpha_attn)
    objective = GroundingObjective(
        DenoisingObjective(), probe(), GligenObjectiveSettings(gap_every=2, warn_after=4, least_gap=1e3)
    )
    with pytest.warns(UserWarning, match=r"after 4 steps: the loss is no smaller with boxes than without"):
        objective(batch(step=4), Nets(backbone))


@torch.no_grad()
def test_dropped_boxes_are_null_tokens(gated):
    """What the U-Net is shown of a picture whose boxes are dropped is what it is shown of one without boxes."""
    one = batch(boxed=torch.tensor([False, True, False, True]))
    bare = tuple(
        layout if keep else Layout(layout.prompt) for layout, keep in zip(SCENES, one.boxed, strict=True)
    )
    without = Batch(one.latents, bare, one.noise, one.t)
    kept = Batch(one.latents, SCENES, one.noise, one.t)
    objective = GroundingObjective(DenoisingObjective(), probe(), GligenObjectiveSettings(gap_every=0))
    dropped, said, whole = (float(objective(each, Nets(gated))["total"]) for each in (one, without, kept))
    assert dropped == said != whole


def test_boxes_are_learned_where_nothing_else_tells(tmp_path, plain):
    """Two pictures whose z_t and caption are the same: the frozen net cannot tell them apart, boxes can."""
    backbone, t, scenes = twin(plain), 850, SCENES[:2]
    backbone.settings["max_regions"] = 2
    clean = torch.stack(
        [1.5 * torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(row)) for row in (0, 1)]
    ).expand(2, 4, 8, 8)
    signal = backbone.scheduler.alphas_cumprod[t]
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = (z - signal.sqrt() * clean) / (1 - signal).sqrt()
    before = backbone.unet.state_dict()
    backbone.unet = with_grounding(backbone.unet)
    torch.manual_seed(0)
    phrases = [region.phrase for layout in scenes for region in layout.regions]
    prepare_grounding(backbone.unet, backbone.encode_phrases(phrases))

    class Same:
        def batch(self, step, places):
            boxed = torch.full((2,), step % 4 != 3)  # null tokens are learned too
            return Batch(clean, scenes, noise, torch.full((2,), t), boxed=boxed, step=step)

    watch = Probe(clean, scenes, noise, rows=2, shares=(t / 1000,))
    objective = GroundingObjective(DenoisingObjective(), watch, GligenObjectiveSettings(gap_every=40))
    trained = {f"unet.{n}": w for n, w in open_part(backbone, "fusers").items()}
    plan = Optimisation(steps=41, batch=2, warmup=0, lr=0.02, log_every=1, save_every=1000, precision="fp32")
    lines = list(loop_of(tmp_path, objective, Nets(backbone), trained, Same(), plan))
    gaps = [line["gap"] for line in lines if "gap" in line]
    assert len(gaps) == 2 and abs(gaps[0]) < 0.5 and gaps[1] > 5
    assert all(torch.equal(w, before[n]) for n, w in plain_weights(backbone.unet).items())


# The command


@pytest.fixture
def train(plain_folder, data, tmp_path, capsys):
    """Run ``trueline train gligen`` on the tiny plain checkpoint; gives exit code and stderr."""

    def call(*sets: str, out: str = "out", source: Path = data) -> tuple[int, str]:
        given = [part for setting in (*QUICK, *sets) for part in ("--set", setting)]
        where = [
            "--model",
            str(plain_folder),
            "--data",
            str(source),
            "--device",
            "cpu",
            "--out",
            str(tmp_path / out),
        ]
        code = main(["train", "gligen", *where, *given])
        return code, capsys.readouterr().err

    return call


def test_a_run_makes_a_checkpoint_that_honours_boxes(train, tmp_path, plain_folder, layouts):
    code, said = train(
        "objective.start=prepared",
        "objective.gap_every=2",
        "objective.gap_n=2",
        "objective.warn_after=4",
        "objective.least_gap=1000",
        "data.max_boxes=6",
        "position_net=false",
    )
    assert (
        code == 0
        and "warning: objective.warn_after: the checkpoint of 4 steps: the loss is no smaller" in said
    )
    final = tmp_path / "out" / "final"
    made, before = (UNet2DConditionModel.from_pretrained(f / "unet") for f in (final, plain_folder))
    plain_state = before.state_dict()
    assert made.config.attention_type == "gated"
    assert all(torch.equal(weight, plain_state[name]) for name, weight in plain_weights(made).items())
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "gap" in line] == [1, 3] and "gap/950" in lines[1]
    assert all("gate_attn" in line for line in lines[1:])
    found = json.loads((final / MEASURED).read_text())
    assert {"gap", "gap/950", "gate_attn", "gate_ff"} <= found.keys() and found["gate_attn"] > 0.5
    facts = json.loads((final / "train.json").read_text())
    assert facts["slots"] == 6 and facts["start"] == "prepared"
    backbone = Backbone.from_pretrained(final)
    assert backbone.grounded and backbone.max_regions == 6
    bare = layouts[3].model_copy(update={"regions": ()})
    options = {
        "steps": 2,
        "seeds": [0],
        "progress": False,
        "output_type": "pt",
        "grounding_schedule": (1, 0, 0),
    }
    with_boxes, without = (Pipeline(backbone)(each, **options).images for each in (layouts[3], bare))
    assert (with_boxes - without).abs().max() > 1e-3
    from diffusers import StableDiffusionGLIGENPipeline

    theirs = StableDiffusionGLIGENPipeline.from_pretrained(final, safety_checker=None, feature_extractor=None)
    state = backbone.unet.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in theirs.unet.state_dict().items())


def test_data_that_cannot_teach_boxes_is_refused(train, tmp_path, data):
    lines = data.read_text().splitlines()
    shutil.copytree(data.parent, tmp_path / "data")
    bare = tmp_path / "data" / "bare.jsonl"
    bare.write_text(lines[-1] + "\n")
    assert "--data: no picture has a box" in train(source=bare)[1]
    one = tmp_path / "data" / "one.jsonl"
    one.write_text(lines[1] + "\n")
    assert "objective.start: prepared needs at least two" in train("objective.start=prepared", source=one)[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"part": "all"}, "part: input should be 'fusers'"),
        ({"lora": 4}, "lora: input should be less than or equal to 0"),
        ({"objective": {"t_from": 600}}, r"objective\.t_from: has no effect while objective\.t_share is 0"),
        (
            {"objective": {"t_from": 950, "t_share": 0.5}, "t_high": 900},
            r"objective\.t_from: must be from t_low",
        ),
        ({"data": {"drop_boxes": 1.0}}, r"data\.drop_boxes: leaves no box"),
        ({"data": {"max_boxes": 0}}, r"data\.max_boxes: leaves no box"),
    ],
)
def test_settings_without_sense_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        GligenSettings(**given)


@pytest.mark.parametrize("name", ["gligen_world", "gligen_sd14"])
def test_the_configurations_that_ship_are_whole(name, capsys):
    assert main(["train", "gligen", "--config", str(CONFIGS / f"{name}.yaml"), "--out", "x", "--show"]) == 0
    assert "drop_captions: 0.5" in capsys.readouterr().out
