"""Every stage of ``trueline world build`` runs, resumes, and leaves a checkpoint that Trueline and CLIP load."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trueline.commands.world import main
from trueline.files import Busy, Claims
from trueline.layout import Layout, Region
from trueline.models import devices
from trueline.sampling.pipeline import Pipeline
from trueline.world import denoiser, language, vae
from trueline.world.build import STAGES
from trueline.world.fitting import StageSettings, finished, fit
from trueline.world.restore import restore
from trueline.world.scenes import make_scene, render
from trueline.world.workspace import Workspace


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A smoke build: all stages, a few steps each."""
    folder = tmp_path_factory.mktemp("world")
    assert main(["build", "--smoke", "--folder", str(folder), "--device", "cpu"]) == 0
    return folder


def test_a_second_build_in_the_folder_says_who_builds(built, capsys):
    with (
        Claims(built / "claims").held("build"),
        pytest.raises(Busy, match=r"^folder: .* is in use by process \d+ on "),
    ):
        main(["build", "--smoke", "--folder", str(built), "--device", "cpu"])


def test_every_stage_is_done_and_says_how_it_went(built):
    for name in STAGES:
        assert json.loads((built / name / "done.json").read_text())["seconds"] >= 0
    trained = (
        "text",
        "vae_crops",
        "vae",
        "unet",
        "grounding",
        "decoder",
        "clip",
        "captioner",
        "matcher",
        "seer",
    )
    for name in trained:
        lines = [json.loads(line) for line in (built / name / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == Workspace(built, torch.device("cpu"), smoke=True).settings(name).steps
        assert all(line["skipped"] == 0 for line in lines)


def test_the_built_world_draws(built):
    pipe = Pipeline.from_pretrained(built / "pack" / "pipeline")
    layout = Layout("a red apple", regions=[Region("a red apple", (0.1, 0.1, 0.6, 0.6))])
    image = pipe(layout, steps=2, seeds=[0], progress=False).images[0]
    assert image.size == (128, 128)
    assert pipe.backbone.max_regions == denoiser.MAX_REGIONS


def test_a_done_stage_is_not_run_again(built):
    before = (built / "unet" / "log.jsonl").read_text()
    main(["build", "--smoke", "--folder", str(built), "--device", "cpu", "--stage", "unet"])
    assert (built / "unet" / "log.jsonl").read_text() == before


def test_grounding_leaves_the_plain_unet_as_it_was(built):
    plain = denoiser.UNet2DConditionModel.from_pretrained(built / "unet" / "final").state_dict()
    gated = denoiser.UNet2DConditionModel.from_pretrained(built / "grounding" / "final").state_dict()
    assert all(torch.equal(gated[name], value) for name, value in plain.items())
    assert {name for name in gated if name not in plain} == {n for n in gated if denoiser.is_grounding(n)}


def test_a_build_can_begin_with_the_nets_that_were_packed(built, tmp_path):
    """Every net comes back (rounded to float16) as a stage that is done; training one further starts from it."""
    build = Workspace(tmp_path, torch.device("cpu"), smoke=True)
    named = [
        "tokenizer",
        "text",
        "vae",
        "decoder",
        "unet",
        "grounding",
        "clip",
        "captioner",
        "matcher",
        "seer",
    ]
    assert restore(build, built / "pack") == named
    assert restore(build, built / "pack") == []
    for stage in ("unet", "grounding"):
        made = Workspace(built, torch.device("cpu")).unet(stage).state_dict()
        for name, weight in build.unet(stage).state_dict().items():
            assert torch.equal(weight, made[name].half().float())
    arguments = ["build", "--smoke", "--folder", str(tmp_path), "--device", "cpu", "--stage"]
    assert main([*arguments, "latents"]) == 0
    factor = [json.loads((f / "latents/done.json").read_text())["scaling_factor"] for f in (built, tmp_path)]
    assert factor[0] == pytest.approx(factor[1], abs=1e-6)
    before = build.unet("unet").state_dict()
    assert main([*arguments, "unet", "--again", "--steps", "1"]) == 0
    moved = [(value - before[name]).abs().max() for name, value in build.unet("unet").state_dict().items()]
    assert 0 < max(moved) < 0.01
    for stage in (
        "captioner",
        "matcher",
        "seer",
    ):  # they go on from what was restored, and are measured again
        before = _weights(tmp_path / stage / "final")
        assert main([*arguments, stage, "--again", "--steps", "1"]) == 0
        after = _weights(tmp_path / stage / "final")
        moved = [float((after[n] - before[n]).abs().max()) for n in before]
        assert 0 < max(moved) < 0.05
        assert "vae_" in (tmp_path / stage / "done.json").read_text()


def _weights(folder):
    """What is trained: without the statistics of batches."""
    (file,) = folder.glob("*.safetensors")
    return {n: w for n, w in load_file(file).items() if "running" not in n and "batches" not in n}


def test_a_world_without_nets_that_look_is_restored_without_them(built, tmp_path):
    shipped = tmp_path / "shipped"
    shutil.copytree(built / "pack", shipped, ignore=shutil.ignore_patterns("captioner", "matcher", "seer"))
    build = Workspace(tmp_path / "build", torch.device("cpu"), smoke=True)
    assert not {"captioner", "matcher", "seer"} & set(restore(build, shipped))
    assert not (build.stage("seer") / "done.json").exists()


def test_the_nets_that_look_are_packed_and_measured(built):
    for stage, wanted in (
        ("captioner", "named_and_coloured"),
        ("matcher", "itm_right"),
        ("seer", "mask_iou"),
    ):
        figures = json.loads((built / stage / "done.json").read_text())
        assert 0 <= figures[wanted] <= 1 and 0 <= figures[f"vae_{wanted}"] <= 1
        assert (built / "pack" / stage / "config.json").exists()


def test_scenes_of_a_favoured_colour_are_drawn_more_often():
    count, size = 40, 400
    latents = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 4, 2, 2).half()
    held = [any(t.colour == "white" for t in make_scene("train", i).things) for i in range(count)]
    cache = denoiser.LatentCache(latents, "train").favouring("white", 4.0)
    drawn, scenes = cache.batch(0, torch.Generator().manual_seed(0), size)
    assert [s.index for s in scenes] == drawn[:, 0, 0, 0].int().tolist(), "each latent beside its own scene"
    expected = 4 * sum(held) / (4 * sum(held) + count - sum(held))
    share = sum(held[s.index] for s in scenes) / size
    assert abs(share - expected) < 3 * (expected * (1 - expected) / size) ** 0.5
    assert sum(held) / count < share, "more often than they are there"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("mauve=4", "there is no colour"),
        ("white=0", "above 0"),
        ("white", "above 0"),
        ("white=inf", "above 0"),
    ],
)
def test_a_favour_that_means_nothing_is_refused(given, problem, tmp_path):
    with pytest.raises(ValueError, match=f"favour: .*{problem}"):
        main(["build", "--folder", str(tmp_path), "--favour", given])
    assert not list(tmp_path.iterdir())


def test_autocast_is_on_where_bfloat16_is_native(monkeypatch):
    for able, wanted in (
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert devices.fast_bfloat16(torch.device("cpu")) is wanted
        with devices.autocast(torch.device("cpu")):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype is (torch.bfloat16 if wanted else torch.float32)


def _toy(folder, steps, stop_after=None):
    """A training whose loss is noisy, so that a resume that repeated or skipped randomness would show."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3)
    settings = StageSettings(steps=steps, batch=1, lr=0.1, warmup=2, ema=0.9, save_every=3, log_every=1)

    def loss(step, generator):
        return {"total": (net(torch.randn(4, 3, generator=generator)) - 1).square().mean()}

    loop = fit(folder, net, settings, loss, seed=0)
    for line in loop:
        if line["step"] == stop_after:
            break
    return loop


def test_a_stopped_stage_goes_on_as_if_it_had_not_been(tmp_path):
    whole = _toy(tmp_path / "whole", 9)
    _toy(tmp_path / "parts", 9, stop_after=5)
    resumed = _toy(tmp_path / "parts", 9)
    for name, weight in whole.trained.items():
        assert torch.equal(weight, resumed.trained[name])
    for name, value in whole.average.values.items():
        assert torch.equal(value, resumed.average.values[name])
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["total"] for line in log] for log in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 9


def test_the_result_has_the_averaged_weights(tmp_path):
    loop = _toy(tmp_path, 9)
    last = {name: weight.detach().clone() for name, weight in loop.trained.items()}
    net = finished(loop)
    for name, weight in net.named_parameters():
        assert torch.equal(weight, loop.average.values[name]) and not torch.equal(weight, last[name])


def test_the_rate_rises_stays_and_falls():
    settings = StageSettings(steps=100, lr=1.0, warmup=10, decay=0.2)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:80] == pytest.approx([1.0] * 70)
    assert rates[90] == pytest.approx(0.5) and 0 < rates[99] < 0.01


def test_a_bad_loss_is_skipped_and_counted(tmp_path):
    net = torch.nn.Linear(1, 1)
    before = net.weight.detach().clone()

    def loss(step, generator):
        return {"total": net(torch.ones(1, 1)).sum() * float("nan")}

    settings = StageSettings(steps=2, batch=1, lr=1.0, log_every=1)
    lines = list(fit(tmp_path, net, settings, loss, seed=0))
    assert [line["skipped"] for line in lines] == [1, 2], "so far"
    assert torch.equal(net.weight, before)


def test_a_probe_is_logged_now_and_then_and_at_the_end(tmp_path):
    net = torch.nn.Linear(1, 1)

    def loss(step, generator):
        return {"total": net(torch.ones(1, 1)).sum()}

    settings = StageSettings(steps=150, batch=1, lr=1e-3, log_every=50)
    lines = list(fit(tmp_path, net, settings, loss, seed=0, probe=lambda: {"gap": net.weight.detach()}))
    assert [line["step"] for line in lines if "gap" in line] == [100, 150]


def test_standardise_changes_latents_but_no_picture():
    torch.manual_seed(0)
    net = vae.make_vae().eval()
    picture = vae.to_tensor(np.stack([render(make_scene("test", i)) for i in range(2)]))
    with torch.no_grad():
        before = net.encode(picture).latent_dist
        drawn = net.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        vae.standardise(net, mean, std)
        after = net.encode(picture).latent_dist
        assert torch.allclose(net.decode(after.mean).sample, drawn, atol=1e-4)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(after.std, before.std / std[None, :, None, None], rtol=1e-3)


def test_the_tokenizer_splits_some_words_and_keeps_the_end():
    tokenizer = language.train_tokenizer(language.sample_captions(2000))
    assert len(tokenizer.tokenize("umbrellas")) > 1
    assert (
        tokenizer.decode(tokenizer("a red apple").input_ids, skip_special_tokens=True).strip()
        == "a red apple"
    )
    cut = tokenizer("a red apple " * 80, truncation=True, max_length=language.LENGTH).input_ids
    assert len(cut) == language.LENGTH and cut[-1] == tokenizer.eos_token_id


def test_targets_stand_at_the_nouns():
    from trueline.world.captions import caption

    tokenizer = language.train_tokenizer(language.sample_captions(2000))
    said = [caption(make_scene("test", i), 1) for i in range(20)]
    read = tokenizer([c.text for c in said], padding="max_length", max_length=32, return_offsets_mapping=True)
    found = language.targets(said, read["offset_mapping"])
    assert len(found.nouns) == sum(len(c.groups) for c in said)
    for row, position, name, *_ in found.nouns.tolist():
        end = read["offset_mapping"][row][position][1]
        assert said[row].text[:end].rstrip("s").endswith(language.OBJECTS[name].rstrip("s"))


def test_whitened_phrases_reach_the_position_net_with_unit_variance():
    torch.manual_seed(0)
    phrases = torch.randn(400, 192) @ torch.randn(192, 192) * 0.1 + 5
    unet = denoiser.make_unet(gated=True)
    denoiser.prepare_grounding(unet, phrases)
    first = unet.position_net.linears[0]
    with torch.no_grad():
        out = phrases @ first.weight[:, :192].T + first.bias
    assert 0.5 < float(out.std()) < 2.5
    assert abs(float(out.mean())) < 0.2
    assert float(unet.mid_block.attentions[0].transformer_blocks[0].fuser.alpha_attn.detach()) == 1.0
