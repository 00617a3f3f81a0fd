"""``trueline world build``: makes every file of the world from nothing, stage by stage, resumable.

Each stage works in its own folder, logs its metrics to ``log.jsonl`` and leaves ``done.json``; a stage that is done
is not run again, a stage that was stopped goes on from its last checkpoint. The same code runs on a CPU and on a GPU.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPModel

from trueline.files import Claims, disk_full_said, write_text
from trueline.world import captioner, clip, denoiser, language, matcher, seer, vae
from trueline.world.fitting import Fitting, finished
from trueline.world.pack import pack_world
from trueline.world.restore import restore
from trueline.world.scenes import Scene, render
from trueline.world.silhouettes import draw_silhouettes
from trueline.world.training_pictures import round_trips
from trueline.world.workspace import WEIGHTS, Workspace

log = logging.getLogger(__name__)

Metrics = dict[str, Any]


def run(loop: Fitting) -> Any:
    """Train to the end, logging every line; returns the net with its averaged weights."""
    for line in loop:
        log.info("%s %s", loop.folder.name, " ".join(f"{k}={v}" for k, v in line.items()))
    return finished(loop)


def silhouettes(work: Workspace) -> Metrics:
    path = draw_silhouettes(work.stage("silhouettes") / "silhouettes.png")
    return {"bytes": path.stat().st_size}


def tokenizer(work: Workspace) -> Metrics:
    made = language.train_tokenizer(language.sample_captions(500 if work.smoke else 20_000))
    made.save_pretrained(work.stage("tokenizer"))
    lengths = [len(made(text).input_ids) for text in language.sample_captions(500, "held-out")]
    return {"tokens": len(made), "longest_caption": max(lengths)}


def text(work: Workspace) -> Metrics:
    tower = run(
        language.train_text(work.stage("text"), work.tokenizer, work.settings("text"), work.device)
    ).tower
    tower.save_pretrained(work.final("text"))
    return {"parameters": sum(p.numel() for p in tower.parameters())}


def vae_crops(work: Workspace) -> Metrics:
    """Most of the VAE is learned on small pieces around the things, where there is something to learn."""
    net = run(vae.train_vae(work.stage("vae_crops"), work.settings("vae_crops"), work.device, side=vae.CROP))
    net.save_pretrained(work.final("vae_crops"))
    return _psnr(work, net)


def autoencoder(work: Workspace) -> Metrics:
    """Whole pictures last: group norms see other statistics there than on the pieces."""
    start = work.final("vae_crops")
    net = run(vae.train_vae(work.stage("vae"), work.settings("vae"), work.device, start=start)).cpu()
    encoded = denoiser.encode_scenes(net, "train", max(16, work.scenes // 30), torch.device("cpu"))
    vae.standardise(net, encoded.mean((0, 2, 3)), encoded.std((0, 2, 3)))
    net.save_pretrained(work.final("vae"))
    return _psnr(work, net)


def _psnr(work: Workspace, net: AutoencoderKL) -> Metrics:
    values = vae.psnr(net.to(work.device), work.held_out(128), work.device)
    return {"psnr": float(values.mean()), "psnr_p05": float(np.quantile(values, 0.05))}


def latents(work: Workspace) -> Metrics:
    """Encode the training scenes once; the VAE's scaling factor makes their variance one, as in Stable Diffusion."""
    net = work.autoencoder()
    encoded = denoiser.encode_scenes(net, "train", work.scenes, work.device)
    # A VAE restored from a finished world says its factor; the nets restored with it expect that one.
    said = net.config.scaling_factor
    factor = 1 / float(encoded.std()) if said == vae.UNSCALED else said
    denoiser.save_cache(work.stage("latents") / "train.safetensors", encoded * factor)
    return {"scenes": len(encoded), "scaling_factor": factor, "mean": encoded.mean((0, 2, 3)).tolist()}


def unet(work: Workspace) -> Metrics:
    parts = work.cache, work.conditioner, work.settings("unet"), work.compiled, work.restored_unet("unet")
    net = run(denoiser.train_unet(work.stage("unet"), *parts))
    net.save_pretrained(work.final("unet"))
    return {"parameters": sum(p.numel() for p in net.parameters())}


def grounding(work: Workspace) -> Metrics:
    base, restored = work.unet("unet"), work.restored_unet("grounding")
    parts = work.cache, work.conditioner, work.settings("grounding"), work.compiled, restored
    net = run(denoiser.train_grounding(work.stage("grounding"), base, *parts))
    net.save_pretrained(work.final("grounding"))
    return {name: float(value) for name, value in held_out_gaps(work, net).items()}


def held_out_gaps(work: Workspace, net: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The grounding gap on scenes never trained on, per timestep."""
    factor = json.loads((work.stage("latents") / "done.json").read_text())["scaling_factor"]
    scenes = work.held_out(64)
    x0 = denoiser.encode_scenes(work.autoencoder(), "held-out", len(scenes), work.device) * factor
    loss = denoiser.Denoising(net, work.cache, work.conditioner, len(scenes), 0, 0.0, 0.0)
    return loss.gaps(scenes, x0)


def decoder(work: Workspace) -> Metrics:
    """Polish the decoder with the encoder frozen, so that every latent stays what it was."""
    folder, settings, start = work.stage("decoder"), work.settings("decoder"), work.final("vae")
    net = run(vae.train_vae(folder, settings, work.device, frozen_encoder=True, start=start))
    net.save_pretrained(work.final("decoder"))
    return _psnr(work, net)


def clip_stage(work: Workspace) -> Metrics:
    folder, settings = work.stage("clip"), work.settings("clip")
    net = run(clip.train_clip(folder, work.tower(), work.tokenizer, settings, work.device)).clip
    net.save_pretrained(work.final("clip"))
    return retrieval(work, net)


def retrieval(work: Workspace, net: CLIPModel) -> Metrics:
    """Share of held-out pictures (regions) whose caption (phrase) is found among 256, or all phrases."""
    scenes, every = work.held_out(256, smoke=16), language.all_phrases()
    whole, region = clip.scene_retrieval(net.to("cpu"), work.tokenizer, scenes)
    _, region_of_all = clip.scene_retrieval(net, work.tokenizer, scenes, every)
    return {
        "caption_among_256": float(whole.mean()),
        "phrase_among_256": float(region.mean()),
        f"phrase_among_{len(every)}": float(region_of_all.mean()),
    }


def captioner_stage(work: Workspace) -> Metrics:
    net = _blip(work, "captioner", BlipForConditionalGeneration, captioner.train_captioner)

    def accuracy(pixels: torch.Tensor, scenes: list[Scene]) -> Metrics:
        return captioner.caption_accuracy(captioner.captions_of(net, work.tokenizer, pixels), scenes)

    return on_renders_and_trips(work, accuracy)


def matcher_stage(work: Workspace) -> Metrics:
    net = _blip(work, "matcher", BlipForImageTextRetrieval, matcher.train_matcher)
    return on_renders_and_trips(
        work, lambda pixels, scenes: matcher.measure(net, work.tokenizer, pixels, scenes)
    )


def _blip(work: Workspace, stage: str, kind: Any, train: Callable[..., Fitting]) -> Any:
    """The BLIP of that stage, trained on from where it is, and saved."""
    final = work.final(stage)
    start = kind.from_pretrained(final).float() if final.exists() else None
    net = run(
        train(work.stage(stage), work.tokenizer, work.trips, work.settings(stage), work.device, start)
    ).net
    net.save_pretrained(final)
    return net


def seer_stage(work: Workspace) -> Metrics:
    final = work.final("seer")
    start = seer.load_seer(final).requires_grad_() if final.exists() else None
    net = run(seer.train_seer(work.stage("seer"), work.trips, work.settings("seer"), work.device, start))
    net.save_pretrained(final)
    return on_renders_and_trips(work, lambda pixels, scenes: seer.measure(seer.detect(net, pixels), scenes))


def on_renders_and_trips(
    work: Workspace, measure: Callable[[torch.Tensor, list[Scene]], Metrics], count: int = 256
) -> Metrics:
    """``measure`` on the renders of held-out scenes, and on those after the VAE ("vae_...")."""
    scenes = work.held_out(count)
    renders = np.stack([render(s) for s in scenes])
    trips = round_trips(work.finished_autoencoder.to(work.device), scenes)
    decoded = measure(vae.to_tensor(trips), scenes)
    return measure(vae.to_tensor(renders), scenes) | {f"vae_{name}": v for name, v in decoded.items()}


def pack(work: Workspace) -> Metrics:
    """Put the finished nets into one folder as diffusers and transformers write them, float16."""
    return {"bytes": pack_world(work, work.stage("pack") if work.smoke else WEIGHTS)}


STAGES: dict[str, Callable[[Workspace], Metrics]] = {
    "silhouettes": silhouettes,
    "tokenizer": tokenizer,
    "text": text,
    "vae_crops": vae_crops,
    "vae": autoencoder,
    "latents": latents,
    "unet": unet,
    "grounding": grounding,
    "decoder": decoder,
    "clip": clip_stage,
    "captioner": captioner_stage,
    "matcher": matcher_stage,
    "seer": seer_stage,
    "pack": pack,
}


def run_stage(work: Workspace, name: str, again: bool = False) -> Metrics:
    """Run one stage unless it is done, or although it is with ``again``; returns its metrics."""
    done = work.stage(name) / "done.json"
    if done.exists() and not again:
        return json.loads(done.read_text())
    began = time.monotonic()
    with disk_full_said(done.parent):
        metrics = {**STAGES[name](work), "seconds": round(time.monotonic() - began, 1)}
    write_text(done, json.dumps(metrics, indent=1) + "\n")
    log.info("%s done: %s", name, metrics)
    return metrics


def build_world(
    work: Workspace, stages: Sequence[str] = (), again: bool = False, from_shipped: bool = False
) -> None:
    """Run the stages, all by default, in the order given.

    Args:
        again: run a stage although it is done, from its checkpoint.
        from_shipped: begin with the nets that ship; stages that have not begun then count as done.

    Raises:
        Busy: another build works in the folder.
    """
    with Claims(work.folder / "claims").held("build", what=f"folder: {work.folder}"):
        if from_shipped:
            restored = ", ".join(restore(work, WEIGHTS))
            log.info("restored: %s", restored or "nothing, every stage has begun")
        for name in stages or STAGES:
            run_stage(work, name, again)
