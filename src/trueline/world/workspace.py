"""Where a build of the world works: its settings, the folder of each stage, and the nets that earlier stages made."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.world.denoiser import Conditioner, LatentCache, load_cache
from trueline.world.fitting import StageSettings
from trueline.world.scenes import Scene, make_scene
from trueline.world.training_pictures import Trips
from trueline.world.vocabulary import COLOURS

WEIGHTS = Path(__file__).with_name("weights")  #: what the package ships
SCENES = 30_000  #: scenes whose latents are cached
TRIPS = 768  #: pictures through the VAE from which captioner, matcher and seer learn

#: Two CPU cores: about six hours in all.
SETTINGS: dict[str, StageSettings] = {
    "text": StageSettings(steps=1400, batch=96, lr=1e-3, decay=0.4),
    "vae_crops": StageSettings(steps=2000, batch=24, lr=2e-3, ema=0.995),
    "vae": StageSettings(steps=700, batch=8, lr=1.3e-3, warmup=20, decay=0.5, ema=0.99),
    "unet": StageSettings(steps=19_000, batch=32, lr=8e-4, warmup=200, ema=0.999, decay=0.3),
    "grounding": StageSettings(
        steps=7500, batch=32, lr=1e-3, warmup=100, ema=0.998, decay=0.3, weight_decay=0.0
    ),
    "decoder": StageSettings(steps=1500, batch=8, lr=1e-3, warmup=20, ema=0.995, decay=0.5),
    "clip": StageSettings(steps=1500, batch=96, lr=1e-3, decay=0.5, weight_decay=0.05),
    "captioner": StageSettings(steps=6000, batch=32, lr=1e-3, decay=0.5, weight_decay=0.05),
    "matcher": StageSettings(steps=9000, batch=32, lr=1e-3, decay=0.5, weight_decay=0.05),
    "seer": StageSettings(steps=2400, batch=12, lr=2e-3, decay=0.6),
}


@dataclass(frozen=True)
class Workspace:
    """Settings and folders of one build. ``smoke`` runs every stage for a few steps on a few scenes.

    Raises:
        ValueError: no steps, a colour that the world does not have, or a factor that is not above 0.
    """

    folder: Path
    device: torch.device
    smoke: bool = False
    compiled: bool = False
    steps: int | None = None  #: instead of the stage's own
    lr: float | None = None  #: the highest learning rate, instead of the stage's own
    favour: tuple[str, float] | None = (
        None  #: a colour whose scenes the U-Net is shown so many times as often
    )

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps: {self.steps} is not a number of training steps; give 1 or more")
        colour, factor = self.favour or (next(iter(COLOURS)), 1.0)
        if colour not in COLOURS:
            raise ValueError(f"favour: there is no colour {colour!r}; there are {', '.join(COLOURS)}")
        if not 0 < factor < float("inf"):
            raise ValueError(f"favour: give a factor above 0, as white=4 (got {factor:g})")

    def settings(self, stage: str) -> StageSettings:
        changes = {"steps": self.steps, "lr": self.lr}
        if self.smoke:
            changes = {"lr": self.lr, "steps": 2, "batch": 4, "warmup": 1, "log_every": 1, "save_every": 2}
        given = {name: value for name, value in changes.items() if value is not None}
        return StageSettings(**SETTINGS[stage].model_dump() | given)

    @property
    def scenes(self) -> int:
        return 32 if self.smoke else SCENES

    def held_out(self, count: int, smoke: int = 4) -> list[Scene]:
        """The first ``count`` scenes (``smoke`` in a smoke build) on which nothing is trained."""
        return [make_scene("held-out", i) for i in range(smoke if self.smoke else count)]

    def stage(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def final(self, stage: str) -> Path:
        """Where the stage's finished net is saved."""
        return self.stage(stage) / "final"

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.stage("tokenizer"))

    def tower(self) -> CLIPTextModel:
        return CLIPTextModel.from_pretrained(self.final("text")).eval()

    def autoencoder(self, stage: str = "vae") -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.final(stage)).eval()

    def unet(self, stage: str) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_pretrained(self.final(stage))

    def restored_unet(self, stage: str) -> UNet2DConditionModel | None:
        """The net to go on from when this stage's was restored (see :mod:`.restore`), or None."""
        return self.unet(stage) if self.final(stage).exists() else None

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
    def conditioner(self) -> Conditioner:
        return Conditioner(self.tower(), self.tokenizer, self.device)

    @cached_property
    def cache(self) -> LatentCache:
        cache = load_cache(self.stage("latents") / "train.safetensors")
        return cache.favouring(*self.favour) if self.favour else cache
