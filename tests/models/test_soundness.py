"""Checkpoints that were copied by half, edited or made to do harm: one sentence each, before they cost anything."""

import json
import os
import shutil
import time

import pytest
import safetensors.torch
import torch
from faults import often
from faults.checkpoints import broken_checkpoints
from tiny import tiny_backbone, write_tokenizer

from trueline.layout import Layout
from trueline.models.backbone import Backbone, CheckpointError
from trueline.models.shipped import own_guidance_scale
from trueline.sampling.pipeline import Pipeline


@pytest.fixture
def folder(gated_folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(gated_folder, tmp_path / "copy")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights(folder, part, change):
    (path,) = (folder / part).glob("*.safetensors")
    state = safetensors.torch.load_file(path)
    key = next(name for name in sorted(state) if name.endswith("weight"))
    state[key] = change(state[key])
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})


def half(path):
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[: len(kept) // 2]))


def vocabulary(folder, change):
    """The tokenizer as two files, as Stable Diffusion's is, with another vocabulary."""
    backend = json.loads((folder / "tokenizer.json").read_text())["model"]
    words = change(dict(sorted(backend["vocab"].items(), key=lambda item: item[1])))
    (folder / "vocab.json").write_text(json.dumps(words))
    merges = "".join(" ".join(pair) + "\n" for pair in backend["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    (folder / "tokenizer.json").unlink()


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def settings(folder, **values):
    edit(folder / "model_index.json", trueline=values)


SCHEDULER, VAE = "scheduler/scheduler_config.json", "vae/config.json"
BROKEN = {
    "no tokenizer.json": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "has 2 tokens, and its text"),
    "half a vocabulary": (
        lambda f: vocabulary(f / "tokenizer", lambda words: dict(list(words.items())[:100])), "out of vocabulary"),
    "half of merges.txt": (
        lambda f: (vocabulary(f / "tokenizer", dict), half(f / "tokenizer/merges.txt")), "nothing makes the token"),
    "empty merges.txt": (
        lambda f: (vocabulary(f / "tokenizer", dict), (f / "tokenizer/merges.txt").write_text("")), "is not whole"),
    "a tokenizer of another model": (
        lambda f: edit(f / "text_encoder/config.json", eos_token_id=5), "ends a text with token"),
    "room for no word": (lambda f: edit(f / "tokenizer/tokenizer_config.json", model_max_length=1), "no room for a"),
    "integers": (lambda f: weights(f, "unet", lambda w: w.to(torch.int64)), "are no floating-point numbers"),
    "int8": (lambda f: weights(f, "vae", lambda w: w.to(torch.int8)), "not a quantised one"),
    "nan": (lambda f: weights(f, "text_encoder", lambda w: w * torch.nan), "are not finite ("),
    "infinity": (lambda f: weights(f, "vae", lambda w: w + torch.inf), "are not finite ("),
    "another size": (lambda f: weights(f, "unet", lambda w: torch.cat([w, w])), "make no UNet2DConditionModel"),
    "scale 0": (lambda f: edit(f / VAE, scaling_factor=0), "scaling_factor must be a number other than 0 (got 0)"),
    "scale nan": (lambda f: edit(f / VAE, scaling_factor=float("nan")), "scaling_factor is out of range (got nan)"),
    "no scale": (lambda f: edit(f / VAE, scaling_factor=None), "other than 0 (got None)"),
    "shift": (lambda f: edit(f / VAE, shift_factor=float("inf")), "shift_factor is out of range (got inf)"),
    "pipe as config": (lambda f: fifo(f / "unet/config.json"), "unet/config.json is no ordinary file"),
    "pipe as weights": (lambda f: fifo(f / "vae/x.safetensors"), "x.safetensors is no ordinary file"),
    "pipe as vocabulary": (lambda f: fifo(f / "tokenizer/vocab.json"), "vocab.json is no ordinary file"),
    "a device": (
        lambda f: (f / "unet/extra.json").symlink_to("/dev/zero"), "extra.json is no ordinary file"),
    "a link to nowhere": (lambda f: (f / "vae/x").symlink_to(f / "y"), "No such file"),
    "-5 timesteps": (lambda f: edit(f / SCHEDULER, num_train_timesteps=-5), "num_train_timesteps must be a"),
    "10^10 timesteps": (lambda f: edit(f / SCHEDULER, num_train_timesteps=10**10), "(got 10000000000)"),
    "beta inf": (lambda f: edit(f / SCHEDULER, beta_end=float("inf")), "beta_end must be a number in 0..1 (got inf)"),
    "beta nan": (lambda f: edit(f / SCHEDULER, beta_start=float("nan")), "beta_start must be a number in 0..1"),
    "betas": (lambda f: edit(f / SCHEDULER, trained_betas=[0.1]), "trained_betas must be a list of 1000 numbers"),
    "a schedule": (lambda f: edit(f / SCHEDULER, beta_schedule="x"), "cannot be made"),
    "noise that falls": (lambda f: edit(f / SCHEDULER, beta_start=0.0, beta_end=0.0), "levels that do not rise"),
    "a prediction": (lambda f: edit(f / SCHEDULER, prediction_type="x0"), "must be one of epsilon, v_pred"),
    "10^9 regions": (lambda f: settings(f, max_regions=10**9), "max_regions: must be from 1 to 30 (got 1000000000)"),
    "no region": (lambda f: settings(f, max_regions=0), "max_regions: must be from 1 to 30"),
    "a schedule of 2": (lambda f: settings(f, grounding_schedule=[1, 0]), "trueline.grounding_schedule: give three"),
    "an interval": (lambda f: settings(f, guidance_interval=[1, 0]), "guidance_interval: must be start"),
    "a scale": (lambda f: settings(f, guidance_scale=-1), "trueline.guidance_scale: must be"),
    "a vast scale": (lambda f: settings(f, guidance_scale=10**400), "guidance_scale: must be a number"),
    "a vocabulary": (lambda f: settings(f, vocabulary="words"), "trueline.vocabulary: must be a list of words"),
    "10^9 layers": (lambda f: edit(f / "unet/config.json", layers_per_block=10**9), "layers_per_block (1000000000)"),
    "10^9 layers of text": (
        lambda f: edit(f / "text_encoder/config.json", num_hidden_layers=10**9), "num_hidden_layers (1000000000)"),
    "half the layers of text": (
        lambda f: edit(f / "text_encoder/config.json", num_hidden_layers=1), "which its config has no place for"),
    "a vast net": (lambda f: edit(f / "unet/config.json", block_out_channels=[32, 2**40]), "is out of range"),
    "a wide net": (lambda f: edit(f / "unet/config.json", block_out_channels=[32, 2**30]), "make no UNet2D"),
    "a vast picture": (lambda f: edit(f / "unet/config.json", sample_size=10**9), "sample_size must be a"),
    "another padding": (lambda f: edit(f / "unet/config.json", downsample_padding=7), "do not run together"),
    "a vast config": (lambda f: (f / "vae/config.json").write_text(" " * 2**27), "is too large"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BROKEN)
def test_one_sentence_for_each(folder, name):
    breaks, sentence = BROKEN[name]
    breaks(folder)
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        Backbone.from_pretrained(folder, local_files_only=True)
    assert sentence in str(caught.value) and "\n" not in str(caught.value), caught.value
    assert time.monotonic() - start < 10


def test_a_pipe_as_the_index_is_not_waited_for(folder, tmp_path):
    fifo(folder / "model_index.json")
    assert own_guidance_scale(str(folder)) is None
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no model_index.json"):
        Backbone.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w * torch.nan, "no finite numb"),
        (lambda w: w.to(torch.int8), "no finite numbers"),
        (None, "no ord"),
    ],
    ids=["nan", "int8", "pipe"],
)
def test_loras_too(gated, tmp_path, change, sentence):
    path = tmp_path / "lora.safetensors"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    halves = {"A": torch.ones(2, 64), "B": torch.ones(64, 2)}
    if change is None:
        os.mkfifo(path)
    else:
        state = {f"{layer}.lora_{half}.weight": change(weight) for half, weight in halves.items()}
        safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match=sentence):
        gated.load_lora(path)
    assert not gated.adapters


def test_two_files_are_as_good_as_one(folder, gated):
    """Stable Diffusion's tokenizer comes as vocab.json and merges.txt."""
    vocabulary(folder / "tokenizer", dict)
    loaded = Backbone.from_pretrained(folder, local_files_only=True)
    assert torch.equal(loaded.encode(["a red apple"]).states, gated.encode(["a red apple"]).states)


def test_a_net_that_half_precision_is_too_small_for_still_loads(tmp_path):
    """Weights beyond float16 are infinite there, and it says what helps."""
    backbone = tiny_backbone(write_tokenizer(tmp_path / "tokenizer"), gated=False)
    backbone.vae.decoder.conv_in.weight.data[0, 0, 0, 0] = 1e5
    backbone.save_pretrained(tmp_path / "large")
    Backbone.from_pretrained(tmp_path / "large", dtype=torch.bfloat16)
    with pytest.raises(
        CheckpointError, match=r"decoder.conv_in.weight, in float16\); .* or load it in float32"
    ):
        Backbone.from_pretrained(tmp_path / "large", dtype=torch.float16)


@pytest.mark.faults
def test_broken_checkpoints(gated_folder, tmp_path):
    """As many as the suite has time for."""
    count = often(40, 500)
    ends = broken_checkpoints(gated_folder, tmp_path, count, seed=1)
    print(ends)
    assert ends["refused"] > count / 2 and ends["drawn"] > 0 and sum(ends.values()) == count


def test_what_is_whole_draws(folder):
    assert Pipeline.from_pretrained(folder)(Layout("a red apple"), steps=1, progress=False).images
