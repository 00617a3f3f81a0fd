"""``trueline train goal``: over-fitting a few scenes, going on, what moves, what is written, misuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import clip_parts, tiny_clip
from training_builders import After, loop_of, stream, twin

from trueline.cli import main
from trueline.commands.train import gathered, parser
from trueline.layout import Layout, Region
from trueline.models.backbone import Backbone
from trueline.training.clip import FrozenCLIP
from trueline.training.loop import TrainingLoop
from trueline.training.losses.denoising import decoded, ground, noised
from trueline.training.losses.dsalign import DSAlign, region_pictures
from trueline.training.losses.goal import GoalObjective
from trueline.training.losses.maalign import MAAlign
from trueline.training.objective import Batch, Nets
from trueline.training.parts import open_part
from trueline.training.recipes.goal import GoalSettings, attention_view, goal_clip, prepare
from trueline.training.recipes.recipe import Task
from trueline.training.settings import Optimisation

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = {"batch": 2, "warmup": 0, "lr": 0.01, "log_every": 1, "save_every": 2, "precision": "fp32"}


@pytest.fixture(scope="module")
def clip(tokenizer) -> FrozenCLIP:
    return tiny_clip(tokenizer)


@pytest.fixture(scope="module")
def clip_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("goal") / "clip"
    for part in clip_parts(tokenizer):
        part.save_pretrained(folder)
    return folder


def fit(
    folder, backbone, clip, plan, objective=None, source=None, part="fusers+attention", **more
) -> TrainingLoop:
    names = open_part(backbone, part, position_net=False)
    return loop_of(
        folder,
        objective or GoalObjective(dsa=0.1, maa=0.1),
        Nets(backbone, {"clip": clip}),
        {f"unet.{name}": weight for name, weight in names.items()},
        source or stream(0),
        plan,
        **more,
    )


# Going on


@pytest.mark.filterwarnings("ignore:MAAlign")  # the captions of these examples lack some of the phrases
@pytest.mark.parametrize(
    ("accumulate", "questions"), [(1, 1), (2, 3)], ids=["mid-epoch", "inside-an-accumulation"]
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, gated, clip, accumulate, questions):
    """Two steps = stopped after one, and one more, of five examples."""
    plan = Optimisation(**QUICK, steps=2, accumulate=accumulate, ema=0.9)
    whole = fit(tmp_path / "whole", twin(gated), clip, plan)
    list(whole)
    first = fit(tmp_path / "parts", twin(gated), clip, plan, stop=After(questions))
    list(first)
    assert (first.step, first.finished) == (1, False)
    second = fit(tmp_path / "parts", twin(gated), clip, plan)
    assert second.step == 1
    list(second)
    assert second.finished and whole.trained.keys() == second.trained.keys()
    assert all(torch.equal(weight, second.trained[name]) for name, weight in whole.trained.items())
    assert all(
        torch.equal(value, second.average.values[name]) for name, value in whole.average.values.items()
    )
    began = dict(gated.unet.named_parameters())
    assert any(not torch.equal(w, began[name.removeprefix("unet.")]) for name, w in whole.trained.items())


def test_two_batches_of_one_are_one_of_two(tmp_path, gated, clip):
    """Pictures without a term count as 0 of it, so that how pictures are batched does not matter."""

    class Odd:
        """A picture with two boxes, and one with none."""

        def batch(self, step, places):
            made = torch.Generator().manual_seed(7)
            latents, noise = (torch.randn(2, 4, 8, 8, generator=made) for _ in range(2))
            both = (Layout("a red apple", [Region("a red apple", (0, 0, 0.5, 0.5))]), Layout("a cat"))
            rows = slice(places.start % 2, places.start % 2 + len(places))
            return Batch(latents[rows], both[rows], noise[rows], torch.tensor([300, 600])[rows])

    found = []
    for batch, accumulate in ((2, 1), (1, 2)):
        plan = Optimisation(**QUICK | {"batch": batch, "clip": 1e6}, steps=1, accumulate=accumulate)
        made = fit(tmp_path / str(batch), twin(gated), clip, plan, source=Odd())
        list(made)
        found.append({name: w.grad for name, w in made.trained.items() if w.grad is not None})
    scale = max(float(grad.abs().max()) for grad in found[0].values())
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) < 1e-5 * scale


# Learning

SCENES = (
    Layout(
        "a red apple and a blue car",
        [Region("a red apple", (0, 0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1, 1))],
    ),
    Layout("a cat", [Region("a cat", (0.25, 0.25, 0.75, 1))]),
    Layout("the clock", [Region("clock", (0.5, 0, 1, 0.75))]),
    Layout("a blue apple", [Region("a blue apple", (0, 0.5, 0.75, 1))]),
)


def scene_latents() -> torch.Tensor:
    """Each box in a colour of its own, on a background of its own."""
    colours = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    latents = 0.5 * colours[:, 0, :, None, None].expand(4, 4, 8, 8).clone()
    for row, layout in enumerate(SCENES):
        for place, region in enumerate(layout.regions, start=1):
            x0, y0, x1, y1 = (round(8 * side) for side in region.box.xyxy)
            latents[row, :, y0:y1, x0:x1] = 1.5 * colours[row, place].view(4, 1, 1)
    return latents


def teach(clip: FrozenCLIP, pictures: torch.Tensor) -> None:
    """A CLIP that tells the four scenes and their regions apart."""
    texts = [text for layout in SCENES for text in (layout.prompt, *(r.phrase for r in layout.regions))]
    ids = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        pairs = list(zip(pictures, SCENES, strict=True))
        shown = [(clip.fitted(p[None]), region_pictures(clip, p, s.regions, "black")) for p, s in pairs]
        shown = torch.cat([part for parts in shown for part in parts])
    same = torch.tensor([[one == other for other in texts] for one in texts]).float()
    clip.model.requires_grad_(True)
    optimiser = torch.optim.Adam(clip.model.parameters(), lr=1e-3)
    for _ in range(50):
        image, text = (
            clip.images(shown),
            F.normalize(clip.model.get_text_features(**ids).pooler_output, dim=-1),
        )
        loss = (
            F.cross_entropy(20 * image @ text.T, same / same.sum(1, keepdim=True))
            + 1
            - (image * text).sum(1).mean()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    clip.model.requires_grad_(False)


@pytest.mark.slow
def test_four_scenes_are_over_fitted(tmp_path, gated, tokenizer):
    """All losses fall to near zero, and the one-step pictures show the scenes."""
    backbone, clip = twin(gated), tiny_clip(tokenizer)
    latents = scene_latents()
    with torch.no_grad():
        pictures = decoded(backbone, latents)
    teach(clip, pictures)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(latents, SCENES, noise, torch.tensor([600, 700, 800, 900]))

    class Same:
        def batch(self, step, places):
            return batch

    objective = GoalObjective(dsa=0.3, maa=0.1, maalign=MAAlign(tokens="sum"))
    plan = Optimisation(**QUICK | {"batch": 4, "lr": 3e-3, "save_every": 100}, steps=45)
    lines = list(fit(tmp_path, backbone, clip, plan, objective, Same(), "all"))
    first, last = lines[0], lines[-1]
    ceilings = {"noise": 0.05, "dsa_local": 0.02, "dsa_global": 0.02, "maa_in": 0.2, "maa_out": 0.05}
    for name, ceiling in ceilings.items():
        assert last[name] < ceiling and last[name] < 0.3 * first[name], (name, first[name], last[name])
    with torch.no_grad():
        z = noised(latents, noise, backbone.noise_level(batch.t))
        said = backbone.predict(z, batch.t, backbone.encode(batch.captions), ground(backbone, batch))
        shown = decoded(backbone, backbone.x0(said, z, batch.t))
        seen = clip.images(clip.fitted(shown)) @ clip.texts([layout.prompt for layout in SCENES]).T
    assert (shown - pictures).abs().mean() < 0.3 * pictures.std() and seen.argmax(1).tolist() == [0, 1, 2, 3]


# The command


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """The encoded pictures, once for all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(gated_folder, clip_folder, cache, tmp_path, capsys):
    """Run ``trueline train goal`` on the tiny checkpoint; gives exit code and stderr."""

    def call(*arguments: str, out: str = "out", clip: bool = True, **changes: object) -> tuple[int, str]:
        settings = QUICK | {"steps": 2, "data.n": 6, "data.cache": cache} | changes
        if clip:
            settings = {"objective.clip": clip_folder} | settings
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        where = ["--model", str(gated_folder), "--device", "cpu", "--out", str(tmp_path / out)]
        code = main(["train", "goal", *where, *sets, *arguments])
        return code, capsys.readouterr().err

    return call


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][1:]


def test_from_arguments_to_files(train, tmp_path, gated_folder):
    more = {
        "validation.every": 2,
        "validation.n": 2,
        "validation.steps": 2,
        "ema": 0.9,
        "checkpointing": "true",
    }
    code, said = train(**more, tensorboard="true")
    assert code == 0, said
    out = tmp_path / "out"
    terms = {"total", "noise", "dsa_local", "dsa_global", "maa_in", "maa_out", "unboxed", "unphrased"}
    lines = lines_of(out)
    assert terms <= set(lines[0]) | set(lines[1]) and any("/" in name for name in lines[0])
    progress = next(line for line in said.splitlines() if line.startswith("step 1 of 2"))
    assert "maa_in" in progress and "maa/" not in progress, "the spans are in the log alone"
    record = json.loads((out / "train.json").read_text())
    assert record["status"] == "complete" and all("up_blocks.1" in name for name in record["maps"])
    before, after = (Backbone.from_pretrained(folder) for folder in (gated_folder, out / "final"))
    old = dict(before.unet.named_parameters())
    changed = {name for name, weight in after.unet.named_parameters() if not torch.equal(weight, old[name])}
    parts = (".fuser.", ".attn1.", ".attn2.")
    assert changed == {name for name in old if any(part in name for part in parts)}, "and no position net"
    vae = dict(before.vae.state_dict())
    assert all(torch.equal(value, vae[name]) for name, value in after.vae.state_dict().items())
    sheets = sorted(path.name for path in (out / "validation").iterdir())
    assert sheets == ["step-00000002-attention.png", "step-00000002.png"]
    sizes = {Image.open(out / "validation" / name).size for name in sheets}
    assert len(sizes) == 1 and min(sizes.pop()) > 128
    assert any((out / "tensorboard").iterdir())


def test_a_lora(train, tmp_path, gated_folder):
    assert train(lora=2, steps=1)[0] == 0
    backbone = Backbone.from_pretrained(gated_folder)
    backbone.load_lora(tmp_path / "out" / "final")
    layers = {name.split(".lora_")[0] for name, _ in backbone.unet.named_parameters() if ".lora_A." in name}
    assert layers and all(any(part in name for part in (".fuser.", ".attn1.", ".attn2.")) for name in layers)


def test_settings_become_the_objective(gated, clip_folder):
    def task(**objective) -> Task:
        given = {"clip": str(clip_folder)} | objective
        return prepare(GoalSettings(**{"model": "x", "objective": given}), gated, Path())

    assert task().objective == GoalObjective() and set(task().further) == {"clip"} and task().facts["maps"]
    found = task(
        dsa=0, heads="each", tokens="head", softmax="content", rounding="half", union=False, top=0.2, bins=2
    )
    attention = MAAlign(heads="each", tokens="head", softmax="content", rounding="half", union=False, top=0.2)
    assert found.objective == GoalObjective(0.0, 1e-3, DSAlign(), attention, 2) and not found.further
    found = task(maa=0, dsa_local=False, background="mean", dsa_t_max=500, dsa_snr_gamma=5)
    assert found.objective == GoalObjective(1e-2, 0.0, DSAlign(False, True, "mean", 500, 5.0))
    assert not found.sheets([], []) and "maps" not in found.facts
    found = task(dsa_global=False, maa_in=False, place="mid", fraction=0.5)
    attention = MAAlign(inside=False, place="mid", fraction=0.5)
    assert found.objective == GoalObjective(dsalign=DSAlign(globe=False), maalign=attention)
    assert [name.split(".")[0] for name in found.facts["maps"]] == ["mid_block"]
    assert task(maa_out=False, cells=8).objective.maalign == MAAlign(outside=False, cells=8)


def test_without_both_losses_it_needs_no_clip_and_is_the_control_of_hcma(
    train, tmp_path, cache, gated_folder
):
    same = {"objective.dsa": 0, "objective.maa": 0, "part": "fusers", "position_net": "true"}
    assert train(clip=False, **same)[0] == 0
    settings = QUICK | {"steps": 2, "data.n": 6, "data.cache": cache}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    where = ["--model", str(gated_folder), "--device", "cpu", "--out", str(tmp_path / "hcma"), "--quiet"]
    assert main(["train", "hcma", "--stage", "control", *sets, *where]) == 0
    weights = [
        tmp_path / run / "final" / "unet" / "diffusion_pytorch_model.safetensors" for run in ("out", "hcma")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.dsa_local": "false", "objective.dsa_global": "false"}, "objective.dsa: with dsa_local and"),
        ({"objective.maa_in": "false", "objective.maa_out": "false"}, "objective.maa: with maa_in and maa_out"),
        ({"objective.cells": 3, "objective.fraction": 0.5}, "objective.fraction: give it or cells, not both"),
        ({"objective.cells": 3}, "objective.cells: the maps of this U-Net's up blocks have 8, not 3"),
        ({"objective.fraction": 0.25}, "objective.fraction: the maps of this U-Net's up blocks have 1, not 0.25"),
        ({"objective.maa": -1}, "objective.maa: input should be greater than or equal to 0 (got -1)"),
        ({"objective.background": "pink"}, "objective.background: input should be 'black', 'grey', 'mean' or 'crop'"),
        ({"objective.beta": 1}, "objective.beta: unknown key; GoalObjectiveSettings has dsa, maa, clip"),
        ({"stage": "align"}, "--stage: unknown key; GoalSettings has"),
    ],
)  # fmt: skip
def test_misuse_is_one_sentence(train, changes, message):
    code, said = train(**changes)
    assert code == 2 and message in said, said
    assert len(said.strip().splitlines()) == 1 and said.startswith("trueline: ")


def test_a_clip_must_be_named_but_for_the_world(train, gated_folder):
    code, said = train(clip=False)
    assert (
        code == 2
        and "objective.clip: give the CLIP of DSAlign, such as openai/clip-vit-large-patch14" in said
    )
    assert goal_clip(GoalSettings()).fitting.side == (128, 128)
    assert goal_clip(GoalSettings(**{"model": "x", "objective": {"clip": "world"}})).length == 32


def test_a_clip_that_is_half_missing_or_of_another_width(gated, tokenizer, tmp_path):
    def load(name: str) -> FrozenCLIP:
        return goal_clip(GoalSettings(**{"model": "x", "objective": {"clip": str(tmp_path / name)}}))

    parts = clip_parts(tokenizer, width=24)  # any width does: its vectors are only compared with each other
    for part in parts:
        part.save_pretrained(tmp_path / "wide")
    with torch.no_grad():
        batch = stream(0).batch(0, range(2))
        found = GoalObjective(maa=0.0)(batch, Nets(gated, {"clip": load("wide")}))
    assert found["dsa_global"].isfinite()
    shutil.copytree(tmp_path / "wide", tmp_path / "half")
    weights = load_file(tmp_path / "half" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("vision_model.")}
    save_file(kept, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"^objective\.clip: the checkpoint .* has no weights for .* partly random"
    ):
        load("half")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^objective\.clip: the weights of .*empty cannot be read"):
        load("empty")


def test_a_phrase_that_no_caption_holds_and_pictures_without_boxes(train, tmp_path):
    path = tmp_path / "layouts.jsonl"
    rows = [
        {"prompt": "a cat", "image": "x.png", "regions": [{"phrase": "a clock", "box": [0, 0, 0.5, 0.5]}]},
        {"prompt": "a red apple", "image": "x.png"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (80, 60), (90, 0, 0)).save(tmp_path / "x.png")
    drops = {"data.drop_captions": 0, "data.drop_boxes": 0, "data.n": 2}
    code, said = train("--data", str(path), **drops)
    assert code == 0
    assert (
        said.count("MAAlign: the prompt does not hold the phrase 'a clock'; such regions are left out of it")
        == 1
    )
    line = lines_of(tmp_path / "out")[0]
    assert line["unphrased"] == 1 and line["unboxed"] == 0.5 and "maa_in" not in line and "dsa_local" in line


def test_where_a_phrase_looks_is_bright(gated):
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    layout = SCENES[0]
    lit = attention_view(gated, MAAlign(), image, layout)
    assert lit.size == image.size and lit.getextrema()[0][0] < lit.getextrema()[0][1], (
        "some places are brighter"
    )
    assert attention_view(gated, MAAlign(), image, Layout("a cat", [Region("clock", (0, 0, 1, 1))])) is image
    other = Layout("a blue car and a red apple", [Region("a red car", (0, 0, 1, 1))])
    assert attention_view(gated, MAAlign(), image, other) is image


# What ships


def settings_of(name: str, *more: str) -> GoalSettings:
    where = ["goal", "--config", str(CONFIGS / f"{name}.yaml"), "--out", "x", *more]
    return GoalSettings(**(gathered(parser().parse_args(where))))


def test_the_papers_settings_are_the_defaults():
    own, paper = GoalSettings(), settings_of("goal_sd14")
    for found in (own, paper):
        assert (found.steps, found.batch, found.lr, found.schedule, found.warmup) == (
            14_000,
            1,
            5e-5,
            "constant",
            0,
        )
        assert (found.objective.dsa, found.objective.maa, found.part) == (1e-2, 1e-3, "fusers+attention")
        assert not found.position_net and found.weight_decay == 0
    assert paper.objective.clip == "openai/clip-vit-large-patch14" and paper.model == "gligen"
    plain = paper.objective.model_copy(update={"clip": None, "cells": None})
    assert plain == own.objective, "the rest are defaults"


def test_the_worlds_configuration(capsys):
    found = settings_of("goal_world")
    assert found.steps * found.batch == 14_000 and found.objective.background == "crop"
    world = Backbone.from_pretrained("world")
    for change, block in (({}, "up_blocks.2"), ({"cells": 4}, "up_blocks.0"), ({"cells": 8}, "up_blocks.1")):
        wish = found.objective.model_copy(update=change)
        sites = MAAlign(place=wish.place, cells=wish.cells).sites(world, (16, 16))
        assert len(sites) == 2 and all(site.name.startswith(block) for site in sites)
    assert len(MAAlign(place="mid", cells=4).sites(world, (16, 16))) == 1
    control = settings_of("goal_world", "--set", "objective.dsa=0", "--set", "objective.maa=0")
    assert control.objective == found.objective.model_copy(update={"dsa": 0.0, "maa": 0.0})


def test_objectives_are_frozen_settings():
    assert GoalObjective() == GoalObjective(1e-2, 1e-3, DSAlign(), MAAlign())
    with pytest.raises(AttributeError):
        GoalObjective().dsa = 1.0  # type: ignore[misc]
