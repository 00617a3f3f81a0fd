"""``trueline world build``: makes every file of the world from nothing, stage by stage, resumable.

Each stage works in its own folder under ``--folder``, logs its metrics to ``log.jsonl`` and leaves ``done.json``;
a stage that is done is not run again, a stage that was stopped goes on from its last checkpoint. The same code
runs on a CPU and on a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    CLIPTextModel,
    CLIPTokenizer,
)

from trueline.world import captioner, clip, denoiser, language, matcher, seer, vae
from trueline.world.captions import caption
from trueline.world.fitting import Fit, Plan
from trueline.world.restore import restore
from trueline.world.scenes import Scene, make_scene, render
from trueline.world.silhouettes import draw_sheet
from trueline.world.training_pictures import Trips, round_trips
from trueline.world.vocabulary import COLOURS

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).with_name("weights")  #: what the package ships

#: Two CPU cores: about six hours in all.
PLANS: dict[str, Plan] = {
    "text": Plan(steps=1400, batch=96, lr=1e-3, decay=0.4),
    "vae_crops": Plan(steps=2000, batch=24, lr=2e-3, ema=0.995),
    "vae": Plan(steps=700, batch=8, lr=1.3e-3, warmup=20, decay=0.5, ema=0.99),
    "unet": Plan(steps=19_000, batch=32, lr=8e-4, warmup=200, ema=0.999, decay=0.3),
    "grounding": Plan(steps=7500, batch=32, lr=1e-3, warmup=100, ema=0.998, decay=0.3, weight_decay=0.0),
    "decoder": Plan(steps=1500, batch=8, lr=1e-3, warmup=20, ema=0.995, decay=0.5),
    "clip": Plan(steps=1500, batch=96, lr=1e-3, decay=0.5, weight_decay=0.05),
    "captioner": Plan(steps=6000, batch=32, lr=1e-3, decay=0.5, weight_decay=0.05),
    "matcher": Plan(steps=9000, batch=32, lr=1e-3, decay=0.5, weight_decay=0.05),
    "seer": Plan(steps=2400, batch=12, lr=2e-3, decay=0.6),
}
SCENES = 30_000  #: scenes whose latents are cached
TRIPS = 768  #: pictures through the VAE from which captioner, matcher and seer learn


@dataclass(frozen=True)
class Build:
    """Settings of one build. ``smoke`` runs every stage for a few steps on a few scenes."""

    folder: Path
    device: torch.device
    smoke: bool = False
    compiled: bool = False
    steps: int | None = None  #: instead of the plan's
    rate: float | None = None  #: the highest learning rate, instead of the plan's
    favour: tuple[str, float] | None = None  #: a colour whose scenes the U-Net sees so many times as often

    def plan(self, stage: str) -> Plan:
        plan = PLANS[stage]
        if self.steps:
            plan = replace(plan, steps=self.steps)
        if self.rate:
            plan = replace(plan, lr=self.rate)
        return replace(plan, steps=2, batch=4, warmup=1, log_every=1, save_every=2) if self.smoke else plan

    @property
    def scenes(self) -> int:
        return 32 if self.smoke else SCENES

    def stage(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.stage("tokenizer"))

    def tower(self) -> CLIPTextModel:
        return CLIPTextModel.from_pretrained(self.stage("text") / "final").eval()

    def autoencoder(self, stage: str = "vae") -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.stage(stage) / "final").eval()

    def unet(self, stage: str) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_pretrained(self.stage(stage) / "final")

    def before(self, stage: str) -> UNet2DConditionModel | None:
        """The net to go on from when this stage's was restored (see :mod:`.restore`), or None."""
        return self.unet(stage) if (self.stage(stage) / "final").exists() else None

    @property
    def finished_autoencoder(self) -> AutoencoderKL:
        """With the polished decoder, if there is one."""
        polished = (self.stage("decoder") / "done.json").exists()
        return self.autoencoder("decoder" if polished else "vae")

    @cached_property
    def trips(self) -> Trips:
        """Pictures through the VAE: made once, by the first stage that wants them."""
        path = self.stage("trips") / "trips.safetensors"
        if not path.exists():
            net = self.finished_autoencoder.to(self.device)
            Trips.make(net, 8 if self.smoke else TRIPS).save(path)
        return Trips.load(path)

    @cached_property
    def conditioner(self) -> denoiser.Conditioner:
        return denoiser.Conditioner(self.tower(), self.tokenizer, self.device)

    @cached_property
    def cache(self) -> denoiser.Cache:
        cache = denoiser.load_cache(self.stage("latents") / "train.safetensors")
        return cache.favouring(*self.favour) if self.favour else cache


Metrics = dict[str, Any]


def run(fit: Fit) -> Any:
    """Train to the end, saying how it goes; returns the net with its averaged weights."""
    for line in fit:
        log.info("%s %s", fit.folder.name, " ".join(f"{k}={v}" for k, v in line.items()))
    if fit.average:
        fit.average.copy_to(fit.net)
    return fit.net.eval()


def silhouettes(build: Build) -> Metrics:
    sheet = draw_sheet(build.stage("silhouettes") / "silhouettes.png")
    return {"bytes": sheet.stat().st_size}


def tokenizer(build: Build) -> Metrics:
    made = language.train_tokenizer(language.sample_captions(500 if build.smoke else 20_000))
    made.save_pretrained(build.stage("tokenizer"))
    lengths = [len(made(text).input_ids) for text in language.sample_captions(500, "held-out")]
    return {"tokens": len(made), "longest_caption": max(lengths)}


def text(build: Build) -> Metrics:
    folder = build.stage("text")
    reader = run(language.train_text(folder, build.tokenizer, build.plan("text"), build.device))
    reader.tower.save_pretrained(folder / "final")
    return {"parameters": sum(p.numel() for p in reader.tower.parameters())}


def vae_crops(build: Build) -> Metrics:
    """Most of the VAE is learned on small pieces around the things, where there is something to learn."""
    folder = build.stage("vae_crops")
    net = run(vae.train_vae(folder, build.plan("vae_crops"), build.device, side=vae.CROP))
    net.save_pretrained(folder / "final")
    return _psnr(build, net)


def autoencoder(build: Build) -> Metrics:
    """Whole pictures last: group norms see other statistics there than on the pieces."""
    folder, start = build.stage("vae"), build.stage("vae_crops") / "final"
    net = run(vae.train_vae(folder, build.plan("vae"), build.device, start=start)).cpu()
    encoded = denoiser.encode_scenes(net, "train", max(16, build.scenes // 30), torch.device("cpu"))
    vae.standardise(net, encoded.mean((0, 2, 3)), encoded.std((0, 2, 3)))
    net.save_pretrained(folder / "final")
    return _psnr(build, net)


def _psnr(build: Build, net: AutoencoderKL) -> Metrics:
    scenes = [make_scene("held-out", i) for i in range(4 if build.smoke else 128)]
    values = vae.psnr(net.to(build.device), scenes, build.device)
    return {"psnr": float(values.mean()), "psnr_p05": float(np.quantile(values, 0.05))}


def latents(build: Build) -> Metrics:
    """Encode the training scenes once; the VAE's scaling factor makes their variance one, as in Stable Diffusion."""
    net = build.autoencoder()
    encoded = denoiser.encode_scenes(net, "train", build.scenes, build.device)
    # A VAE restored from a finished world says its factor; the nets restored with it expect that one.
    said = net.config.scaling_factor
    factor = 1 / float(encoded.std()) if said == vae.UNSCALED else said
    denoiser.save_cache(build.stage("latents") / "train.safetensors", encoded * factor)
    return {"scenes": len(encoded), "scaling_factor": factor, "mean": encoded.mean((0, 2, 3)).tolist()}


def unet(build: Build) -> Metrics:
    folder, plan = build.stage("unet"), build.plan("unet")
    fit = denoiser.train_unet(
        folder, build.cache, build.conditioner, plan, build.compiled, start=build.before("unet")
    )
    net = run(fit)
    net.save_pretrained(folder / "final")
    return {"parameters": sum(p.numel() for p in net.parameters())}


def grounding(build: Build) -> Metrics:
    folder, plan = build.stage("grounding"), build.plan("grounding")
    fit = denoiser.train_grounding(
        folder,
        build.unet("unet"),
        build.cache,
        build.conditioner,
        plan,
        build.compiled,
        start=build.before("grounding"),
    )
    net = run(fit)
    net.save_pretrained(folder / "final")
    return {name: float(value) for name, value in held_out_gaps(build, net).items()}


def held_out_gaps(build: Build, net: UNet2DConditionModel, count: int = 64) -> dict[str, torch.Tensor]:
    """The grounding gap on scenes never trained on, per timestep."""
    factor = json.loads((build.stage("latents") / "done.json").read_text())["scaling_factor"]
    count = 4 if build.smoke else count
    x0 = denoiser.encode_scenes(build.autoencoder(), "held-out", count, build.device) * factor
    loss = denoiser.Denoising(net, build.cache, build.conditioner, count, 0, 0.0, 0.0)
    return loss.gaps([make_scene("held-out", i) for i in range(count)], x0)


def decoder(build: Build) -> Metrics:
    """Polish the decoder with the encoder frozen, so that every latent stays what it was."""
    folder, plan = build.stage("decoder"), build.plan("decoder")
    start = build.stage("vae") / "final"
    net = run(vae.train_vae(folder, plan, build.device, frozen_encoder=True, start=start))
    net.save_pretrained(folder / "final")
    return _psnr(build, net)


def clip_stage(build: Build) -> Metrics:
    folder = build.stage("clip")
    net = run(clip.train_clip(folder, build.tower(), build.tokenizer, build.plan("clip"), build.device)).clip
    net.save_pretrained(folder / "final")
    return retrieval(build, net)


def retrieval(build: Build, net: Any) -> Metrics:
    """Share of held-out pictures (regions) whose caption (phrase) is found among 256."""
    count = 16 if build.smoke else 256
    scenes = [make_scene("held-out", i) for i in range(count)]
    pictures, said = np.stack([render(s) for s in scenes]), [caption(s).text for s in scenes]
    things = [s.things[0] for s in scenes]
    crops = np.stack([clip.crop_box(p, t.box) for p, t in zip(pictures, things, strict=True)])
    phrases, every = [t.phrase for t in things], language.all_phrases()
    net = net.to("cpu")
    return {
        "caption_among_256": float(clip.retrieval(net, build.tokenizer, pictures, said, said).mean()),
        "phrase_among_256": float(clip.retrieval(net, build.tokenizer, crops, phrases, phrases).mean()),
        f"phrase_among_{len(every)}": float(
            clip.retrieval(net, build.tokenizer, crops, phrases, every).mean()
        ),
    }


def captioner_stage(build: Build) -> Metrics:
    net = _blip(build, "captioner", BlipForConditionalGeneration, captioner.train_captioner)

    def look(pixels: torch.Tensor, scenes: list[Scene]) -> Metrics:
        return captioner.heard(captioner.captions_of(net, build.tokenizer, pixels), scenes)

    return looked_at(build, look)


def matcher_stage(build: Build) -> Metrics:
    net = _blip(build, "matcher", BlipForImageTextRetrieval, matcher.train_matcher)
    return looked_at(build, lambda pixels, scenes: matcher.measure(net, build.tokenizer, pixels, scenes))


def _blip(build: Build, stage: str, kind: Any, train: Callable[..., Fit]) -> Any:
    """The net of that stage, trained on from where it is, and saved; what learns holds it by the stage's name."""
    folder = build.stage(stage)
    start = kind.from_pretrained(folder / "final").float() if (folder / "final").exists() else None
    learner = run(train(folder, build.tokenizer, build.trips, build.plan(stage), build.device, start))
    net = getattr(learner, stage)
    net.save_pretrained(folder / "final")
    return net


def seer_stage(build: Build) -> Metrics:
    folder, plan = build.stage("seer"), build.plan("seer")
    final = folder / "final"
    start = seer.load_seer(final).requires_grad_() if final.exists() else None
    net = run(seer.train_seer(folder, build.trips, plan, build.device, start))
    net.save_pretrained(final)
    return looked_at(build, lambda pixels, scenes: seer.measure(seer.look(net, pixels), scenes))


def looked_at(
    build: Build, look: Callable[[torch.Tensor, list[Scene]], Metrics], count: int = 256
) -> Metrics:
    """What ``look`` says of held-out scenes: of their renders, and of those after the VAE ("vae_...")."""
    scenes = [make_scene("held-out", i) for i in range(4 if build.smoke else count)]
    renders = np.stack([render(s) for s in scenes])
    trips = round_trips(build.finished_autoencoder.to(build.device), scenes)
    return look(vae.to_tensor(renders), scenes) | {
        f"vae_{name}": value for name, value in look(vae.to_tensor(trips), scenes).items()
    }


def pack(build: Build) -> Metrics:
    """Put the finished nets into one folder as diffusers and transformers write them, float16."""
    from trueline.world.pack import pack_world

    target = build.stage("pack") if build.smoke else WEIGHTS
    return {"bytes": pack_world(build, target)}


STAGES: dict[str, Callable[[Build], Metrics]] = {
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


def run_stage(build: Build, name: str, again: bool = False) -> Metrics:
    """Run one stage unless it is done; returns its metrics."""
    done = build.stage(name) / "done.json"
    if done.exists() and not again:
        return json.loads(done.read_text())
    began = time.monotonic()
    metrics = {**STAGES[name](build), "seconds": round(time.monotonic() - began, 1)}
    done.write_text(json.dumps(metrics, indent=1) + "\n")
    log.info("%s done: %s", name, metrics)
    return metrics


def _favour(text: str) -> tuple[str, float]:
    colour, _, factor = text.partition("=")
    if colour not in COLOURS:
        raise argparse.ArgumentTypeError(f"there is no colour {colour!r}; there are {', '.join(COLOURS)}")
    try:
        number = float(factor)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"give a factor above 0, as white=4 (got {text!r})")
    return colour, number


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("trueline world build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="only this stage (repeatable)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/world"), help="where stages work (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of every stage, to see that all of it runs"
    )
    parser.add_argument(
        "--compile", action="store_true", dest="compiled", help="train the U-Net through torch.compile"
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--again", action="store_true", help="run a stage although it is done (from its checkpoint)"
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="begin with the nets that ship: stages not begun count as done; train them further with --again",
    )
    parser.add_argument("--steps", type=int, help="training steps, instead of the plan's")
    parser.add_argument("--lr", type=float, help="highest learning rate, instead of the plan's")
    parser.add_argument(
        "--favour",
        type=_favour,
        metavar="COLOUR=FACTOR",
        help="draw scenes with this colour so much more often",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps: {options.steps} is not a number of training steps; give 1 or more")
    build = Build(
        options.folder,
        torch.device(options.device),
        options.smoke,
        options.compiled,
        options.steps,
        options.lr,
        options.favour,
    )
    if options.restore:
        log.info("restored: %s", ", ".join(restore(build, WEIGHTS)) or "nothing, every stage has begun")
    for name in options.stage or list(STAGES):
        run_stage(build, name, options.again)
    return 0


if __name__ == "__main__":
    sys.exit(main())
