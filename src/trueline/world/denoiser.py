"""The world's U-Net: first learned from captions alone, then its grounding layers on the frozen rest (as GLIGEN)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.models.devices import autocast
from trueline.models.grounding_layers import is_grounding, prepare_grounding
from trueline.training.objective import Losses
from trueline.world.captions import caption
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.language import WIDTH, all_phrases, read_phrases, tokenize
from trueline.world.scenes import Scene, make_scene, render
from trueline.world.vae import to_tensor

MAX_REGIONS = 8  #: grounding tokens of a picture
DROP_CAPTION = 0.1  #: share of samples without a caption, for classifier-free guidance
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction (as Stable Diffusion 2.1).

    In x0 the weight of a v-loss is 1 / (1 - alpha_bar): it never vanishes at high noise, where the layout of a
    picture is decided. With epsilon-prediction grounding is not learned at all in our budget.
    """
    return DDIMScheduler(**SCHEDULER)


def make_unet(gated: bool) -> UNet2DConditionModel:
    """An untrained U-Net of the world's size, with GLIGEN's grounding layers if ``gated``."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
        attention_type="gated" if gated else "default",
    )


@dataclass(frozen=True)
class LatentCache:
    """Scaled latents of training scenes, float16 (scenes, 4, 16, 16), in the order of the scenes' indices.

    ``weights``: how often each scene is drawn, in proportion; None = all alike.
    """

    latents: Tensor
    split: str
    weights: Tensor | None = None

    def favouring(self, colour: str, factor: float) -> LatentCache:
        """The same scenes; those that hold a thing of ``colour`` are drawn ``factor`` times as often as others."""
        scenes = (make_scene(self.split, i) for i in range(len(self.latents)))
        held = [any(thing.colour == colour for thing in scene.things) for scene in scenes]
        return replace(self, weights=torch.where(torch.tensor(held), factor, 1.0))

    def batch(self, step: int, generator: torch.Generator, size: int) -> tuple[Tensor, list[Scene]]:
        if self.weights is None:
            index = torch.randint(len(self.latents), (size,), generator=generator)
        else:
            index = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        return self.latents[index].float(), [make_scene(self.split, int(i)) for i in index]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, split: str, count: int, device: torch.device) -> Tensor:
    """Unscaled posterior means of ``count`` scenes, float32 (count, 4, 16, 16)."""
    vae = vae.to(device=device, memory_format=torch.channels_last)
    parts = []
    for start in range(0, count, 32):
        scenes = [make_scene(split, i) for i in range(start, min(count, start + 32))]
        pictures = to_tensor(np.stack([render(s) for s in scenes]))
        pictures = pictures.to(device, memory_format=torch.channels_last)
        with autocast(device):
            parts.append(vae.encode(pictures).latent_dist.mean.float().cpu())
    return torch.cat(parts)


def load_cache(path: Path, split: str = "train") -> LatentCache:
    return LatentCache(load_file(path)["latents"], split)


def save_cache(path: Path, latents: Tensor) -> None:
    save_file({"latents": latents.half().contiguous()}, path)


def draw_times(generator: torch.Generator, count: int, low: int, share: float) -> Tensor:
    """Timesteps: a ``share`` of them uniform in low..999, the rest uniform in 0..999."""
    high = torch.rand(count, generator=generator) < share
    start = torch.where(high, low, 0)
    return start + (torch.rand(count, generator=generator) * (1000 - start)).long()


class Conditioner:
    """Captions and boxes of scenes as the U-Net takes them, from the frozen text tower."""

    def __init__(self, tower: CLIPTextModel, tokenizer: CLIPTokenizer, device: torch.device):
        self.tower = tower.to(device).eval().requires_grad_(False)
        self.tokenizer, self.device = tokenizer, device
        self.phrases = dict(zip(all_phrases(), read_phrases(tower, tokenizer, all_phrases()), strict=True))

    @torch.no_grad()
    def text(self, captions: list[str]) -> Tensor:
        """(batch, LENGTH, WIDTH)"""
        ids = tokenize(self.tokenizer, captions).input_ids
        with autocast(self.device):
            return self.tower(ids.to(self.device)).last_hidden_state

    def boxes(self, scenes: list[Scene], keep: Tensor) -> dict[str, Tensor]:
        """GLIGEN's grounding input; scenes where ``keep`` is False get null tokens only."""
        boxes = torch.zeros(len(scenes), MAX_REGIONS, 4)
        embeddings = torch.zeros(len(scenes), MAX_REGIONS, WIDTH)
        mask = torch.zeros(len(scenes), MAX_REGIONS)
        for row, scene in enumerate(scenes):
            if keep[row]:
                for i, thing in enumerate(scene.things):
                    boxes[row, i] = torch.tensor(thing.box)
                    embeddings[row, i] = self.phrases[thing.phrase]
                    mask[row, i] = 1
        packed = {"boxes": boxes, "positive_embeddings": embeddings, "masks": mask}
        return {k: v.to(self.device) for k, v in packed.items()}


@dataclass
class Denoising:
    """The v-prediction loss on cached scenes, with or without boxes."""

    unet: UNet2DConditionModel
    cache: LatentCache
    conditioner: Conditioner
    batch: int
    low: int  #: lower end of the timesteps drawn more often
    share: float  #: how many of them are
    drop_caption: float
    drop_boxes: float | None = None  #: None = no boxes at all
    compiled: bool = False  #: train through torch.compile: a fifth faster, after minutes of compiling

    def __post_init__(self) -> None:
        self.forward = torch.compile(self.unet) if self.compiled else self.unet
        self.scheduler = make_scheduler()
        self.device = self.conditioner.device

    def error(
        self,
        net: Callable,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        text: Tensor,
        boxes: dict[str, Tensor] | None,
    ) -> Tensor:
        """Squared error of the predicted v, one value per sample."""
        z = self.scheduler.add_noise(x0, noise, t).to(self.device, memory_format=torch.channels_last)
        v = self.scheduler.get_velocity(x0, noise, t).to(self.device)
        more = {"cross_attention_kwargs": {"gligen": boxes}} if boxes is not None else {}
        with autocast(self.device):
            out = net(z, t.to(self.device), encoder_hidden_states=text, **more).sample
        return F.mse_loss(out.float(), v, reduction="none").flatten(1).mean(1)

    def __call__(self, step: int, generator: torch.Generator) -> Losses:
        x0, scenes = self.cache.batch(step, generator, self.batch)
        silent = torch.rand(self.batch, generator=generator) < self.drop_caption
        variants = torch.randint(6, (self.batch,), generator=generator)
        drawn = zip(scenes, variants, silent, strict=True)
        said = ["" if is_silent else caption(scene, int(v)).text for scene, v, is_silent in drawn]
        boxes = None
        if self.drop_boxes is not None:
            keep = torch.rand(self.batch, generator=generator) >= self.drop_boxes
            boxes = self.conditioner.boxes(scenes, keep)
        noise = torch.randn(x0.shape, generator=generator)
        t = draw_times(generator, self.batch, self.low, self.share)
        error = self.error(self.forward, x0, noise, t, self.conditioner.text(said), boxes)
        high = t.to(self.device) >= 700
        # The mean of no timesteps is not finite; the log leaves such values out.
        return {"total": error.mean(), "v_low": error[~high].mean(), "v_high": error[high].mean()}

    @torch.no_grad()
    def gaps(
        self, scenes: list[Scene], x0: Tensor, times: tuple[int, ...] = (950, 850, 700, 500, 250)
    ) -> Losses:
        """How much smaller the error is with boxes than with null boxes, in %, per timestep: grounding learned.

        The loss itself does not show it (GLIGEN's users, IGLIGEN's issue 5). Also ``gate``, the mean |tanh(alpha)|
        of the fusers' attention: gates that stay small are what users report when boxes are ignored.
        """
        text = self.conditioner.text([caption(s).text for s in scenes])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
        given = self.conditioner.boxes(scenes, torch.ones(len(scenes), dtype=torch.bool))
        null = self.conditioner.boxes(scenes, torch.zeros(len(scenes), dtype=torch.bool))
        result = {}
        for t in times:
            at = torch.full((len(scenes),), t)
            with_boxes, without = (
                self.error(self.unet, x0, noise, at, text, b).mean() for b in (given, null)
            )
            result[f"gap_{t}"] = 100 * (1 - with_boxes / without)
        gates = [p.tanh().abs() for n, p in self.unet.named_parameters() if n.endswith("alpha_attn")]
        return result | {"gate": torch.stack(gates).mean()}


def plain_attention(unet: UNet2DConditionModel) -> None:
    """Use the unfused attention: at 256 tokens its backward pass on a CPU is nearly twice as fast."""
    unet.set_attn_processor(AttnProcessor())


def train_unet(
    folder: Path,
    cache: LatentCache,
    conditioner: Conditioner,
    settings: StageSettings,
    compiled: bool = False,
    start: UNet2DConditionModel | None = None,
) -> Fitting:
    """Text to picture, all weights, from scratch or from those of ``start``."""
    torch.manual_seed(3)
    unet = (start or make_unet(gated=False)).to(device=conditioner.device, memory_format=torch.channels_last)
    plain_attention(unet)
    parts = unet, cache, conditioner, settings.batch
    loss = Denoising(*parts, low=400, share=0.5, drop_caption=DROP_CAPTION, compiled=compiled)
    return fit(folder, unet, settings, loss, seed=3)


def train_grounding(
    folder: Path,
    base: UNet2DConditionModel,
    cache: LatentCache,
    conditioner: Conditioner,
    settings: StageSettings,
    compiled: bool = False,
    start: UNet2DConditionModel | None = None,
) -> Fitting:
    """Grounding layers only, on the frozen U-Net ``base``, from scratch or from those of ``start``."""
    torch.manual_seed(4)
    unet = start or make_unet(gated=True)
    missing = unet.load_state_dict(base.state_dict(), strict=False)
    if missing.unexpected_keys or not all(map(is_grounding, missing.missing_keys)):
        raise ValueError(f"the plain U-Net does not fit the gated one: {missing}")
    if start is None:
        prepare_grounding(unet, torch.stack(list(conditioner.phrases.values())))
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(is_grounding(name))
    unet = unet.to(device=conditioner.device, memory_format=torch.channels_last)
    plain_attention(unet)
    parts = unet, cache, conditioner, settings.batch
    loss = Denoising(*parts, low=250, share=0.8, drop_caption=0.5, drop_boxes=0.1, compiled=compiled)
    scenes = [make_scene(cache.split, i) for i in range(min(64, len(cache.latents)))]

    def probe() -> Losses:
        return loss.gaps(scenes, cache.latents[: len(scenes)].float())

    return fit(folder, unet, settings, loss, seed=4, probe=probe)
