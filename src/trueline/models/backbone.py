"""The protocol of a latent-diffusion checkpoint, whatever its family: text in, predictions, latents to pictures.

Everything outside ``models`` speaks to a checkpoint through ``Backbone`` alone. A family of nets is one module with a
subclass, and one line in ``FAMILIES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trueline.layout import Layout
from trueline.models import checkpoint, lora
from trueline.models import vae as autoencoder
from trueline.models.attention import Edit, Maps, Site, Values, outputs_of, recomputed
from trueline.models.checkpoint import CheckpointError
from trueline.models.encoded import Encoded, Spans
from trueline.models.grounding import RELEASED_SCHEDULE, RELEASED_SLOTS, Grounding, pack
from trueline.models.schedulers import Level, Stepper, make_scheduler, target_of, x0_of
from trueline.models.schedules import RELEASED_SCALE, check_interval, check_scale, check_schedule
from trueline.models.soundness import try_out
from trueline.models.vae import DecodeError, Latents, Pictures, Report

__all__ = ["FAMILIES", "Backbone", "CheckpointError", "DecodeError", "Part"]

#: The class in "module:class" form for each pipeline that a ``model_index.json`` may name.
FAMILIES = {
    "StableDiffusionPipeline": "stable_diffusion:StableDiffusion",
    "StableDiffusionGLIGENPipeline": "stable_diffusion:StableDiffusion",
}

#: What of a denoiser may be trained: "fusers" are its grounding layers, "attention" its other attention layers.
Part = Literal["none", "fusers", "attention", "fusers+attention", "all"]

Time = Float[Tensor, ""] | Int[Tensor, ""] | Int[Tensor, " rows"] | int | float


class Backbone(ABC):
    """One checkpoint, ready for inference.

    Latents that the denoiser reads are alpha x0 + sigma noise, at the ``noise_level`` of their timestep.

    Attributes:
        denoiser: the net that predicts, and that is trained and saved.
        vae: pictures to latents and back.
        scheduler: a template, which is never stepped; ``stepper`` makes fresh ones.
        settings: the "trueline" entry of the checkpoint's ``model_index.json``, a dictionary that may hold
            ``max_regions``, ``grounding_schedule``, ``guidance_scale``, ``guidance_interval`` and ``vocabulary``.
        source, revision: where it came from.
        adapters: the LoRAs that are loaded, by name, and their weights.
        checkpointing: see ``enable_gradient_checkpointing``.
    """

    denoiser: Any
    vae: Any
    scheduler: Any

    def __init__(
        self, settings: Mapping[str, Any] | None = None, source: str = "memory", revision: str | None = None
    ):
        self.settings, self.source, self.revision = dict(settings or {}), source, revision
        self.adapters: dict[str, float] = {}
        self.checkpointing = False
        self._offload_device: torch.device | None = None
        self._offload_hooks: list[Any] = []
        for net in self.nets().values():
            net.eval().requires_grad_(False)

    # Loading, saving, moving

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "Backbone":
        """Load the embedded ``"world"``, a diffusers folder, an alias such as ``"gligen"``, or a Hub id.

        Raises:
            CheckpointError: not found, offline, pickled, corrupt, incomplete, or of an unknown class.
        """
        location = checkpoint.locate(name_or_path, revision, cache_dir, local_files_only)
        index = checkpoint.read_index(location.folder)
        module, _, name = FAMILIES[index["_class_name"]].partition(":")
        family = getattr(import_module(f"trueline.models.{module}"), name)
        parts, settings = checkpoint.load(location.folder, index, dtype), index.get("trueline", {})
        backbone = family(**parts, settings=settings, source=str(name_or_path), revision=location.revision)
        return try_out(backbone.to(device=device or "cpu"))

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that diffusers' own pipeline loads too. A ValueError if a LoRA is loaded."""

    @abstractmethod
    def nets(self) -> dict[str, nn.Module]:
        """All nets by the names of their folders in a checkpoint, in the order in which sampling runs them."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Backbone":
        """Move and cast all nets, in place."""
        if self._offload_hooks and device is not None:
            raise ValueError("device: the nets are under enable_model_cpu_offload(); leave device out")
        given: Any = {k: v for k, v in (("device", device), ("dtype", dtype)) if v is not None}
        for net in self.nets().values():
            net.to(**given)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str = "cuda") -> None:
        """Keep the nets on the CPU; each moves to ``device`` when it runs and back when the next one does."""
        from accelerate import cpu_offload_with_hook

        self._offload_device, hook = torch.device(device), None
        for net in self.nets().values():
            _, hook = cpu_offload_with_hook(net, self._offload_device, prev_module_hook=hook)
            self._offload_hooks.append(hook)

    def enable_vae_tiling(self, enabled: bool = True) -> None:
        """Decode large pictures in overlapping tiles: less memory, slightly different pixels."""
        self.vae.enable_tiling() if enabled else self.vae.disable_tiling()

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Let everything that follows gradients (latent guidance, training) keep the inputs of the nets' blocks only
        and run those again: less memory, more time, the same pictures."""
        self.checkpointing = enabled

    def load_lora(self, path: str | Path, adapter_name: str = "default", weight: float = 1.0) -> None:
        """Add a LoRA for the denoiser: safetensors in diffusers' or peft's naming, or for the model ``"world"`` one
        of the package's by its name, such as ``"goal"``. Several add up.

        One that was made for another version of this net is loaded with a warning.

        Raises: as ``lora.find`` and ``lora.load``.
        """
        lora.load(lora.find(path, self.source), self.denoiser, self.adapters, adapter_name, weight)

    def unload_lora(self) -> None:
        """Remove all LoRAs; the denoiser is as it was before."""
        if self.adapters:
            self.denoiser.unload_lora()
            self.adapters.clear()

    # Sizes and limits

    @property
    def device(self) -> torch.device:
        """Where the nets run."""
        return self._offload_device or self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return self.denoiser.dtype

    @property
    @abstractmethod
    def grounded(self) -> bool:
        """Whether the denoiser has grounding layers (GLIGEN's), so that boxes reach it."""

    @property
    def max_regions(self) -> int:
        """Grounding tokens per picture: 30 for released weights, else what the checkpoint says."""
        return int(self.settings.get("max_regions", RELEASED_SLOTS))

    @property
    def grounding_schedule(self) -> tuple[float, float, float]:
        """The checkpoint's own scheduled sampling (see ``grounding.alpha_schedule``)."""
        return check_schedule(self.settings.get("grounding_schedule", RELEASED_SCHEDULE))

    @property
    def guidance_scale(self) -> float:
        """The weight of the prompt that the checkpoint wants; 7.5 where it does not say."""
        return check_scale(self.settings.get("guidance_scale", RELEASED_SCALE))

    @property
    def guidance_interval(self) -> tuple[float, float]:
        """Between which fractions of the steps the checkpoint wants guidance (see ``sample``)."""
        return check_interval(self.settings.get("guidance_interval", (0.0, 1.0)))

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """The words that the model was trained on; None for models of the whole language."""
        words = self.settings.get("vocabulary")
        return None if words is None else frozenset(word.lower() for word in words)

    @property
    def vae_factor(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    @abstractmethod
    def text_length(self) -> int:
        """Tokens of a prompt, special ones counted: the second dimension of ``Encoded.states``."""

    @property
    @abstractmethod
    def phrase_width(self) -> int:
        """Width of the vectors of ``encode_phrases``."""

    @property
    def timesteps(self) -> int:
        """Timesteps of the training: t is 0 to ``timesteps`` - 1, the last with the most noise."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def predicts(self) -> str:
        """What the denoiser predicts: "epsilon" (noise), "v_prediction" (velocity) or "sample" (x0)."""
        return str(self.scheduler.config.prediction_type)

    def picture_size(self, width: int | None, height: int | None) -> tuple[int, int]:
        """Width and height in pixels, with the model's own size for None."""
        own = self.denoiser.config.sample_size
        own_height, own_width = own if isinstance(own, list | tuple) else (own, own)
        return width or own_width * self.vae_factor, height or own_height * self.vae_factor

    def latent_size(self, width: int | None = None, height: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of that size in pixels.

        Raises:
            ValueError: a side that is not a whole number of latents.
        """
        width, height = self.picture_size(width, height)
        for name, side in (("width", width), ("height", height)):
            if side % (step := self.vae_factor):
                raise ValueError(f"{name}: must be a multiple of {step} for this model (got {side})")
        return self.denoiser.config.in_channels, height // self.vae_factor, width // self.vae_factor

    # Text

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Encoded:
        """The prompts as the denoiser reads them, padded to ``text_length``, in ``dtype`` and without gradients.

        A longer prompt is cut before its end token, with a warning that names the words cut.
        """

    @abstractmethod
    def encode_phrases(self, phrases: Sequence[str]) -> Float[Tensor, "phrases width"]:
        """One vector per phrase, ``phrase_width`` wide: what grounding layers read, and what alignment aims at."""

    @abstractmethod
    def token_spans(self, prompt: str, cut: bool = True) -> Spans:
        """The characters of each token of the prompt, without padding; ``cut``: as ``encode`` cuts it."""

    @abstractmethod
    def words_cut(self, prompt: str) -> str:
        """What ``encode`` would cut off; empty when the prompt fits."""

    def ground(self, layouts: Sequence[Layout]) -> Grounding:
        """The layouts' regions as grounding tokens, on the CPU.

        Raises:
            ValueError: a layout has more than ``max_regions``.
        """
        return pack(layouts, self.encode_phrases, self.max_regions, self.phrase_width)

    # Noise

    def stepper(self, scheduler: str | None, steps: int) -> Stepper:
        """A run of so many steps of a fresh scheduler: a name of ``schedulers.SCHEDULERS``; None = the own kind.

        Raises:
            ValueError: an unknown name.
        """
        return Stepper(make_scheduler(scheduler, self.scheduler), steps, self.device)

    def noise_level(self, t: Int[Tensor, " rows"]) -> Level:
        """(alpha, sigma) of timesteps: latents are alpha x0 + sigma noise. (rows, 1, 1, 1), float32, on ``device``.

        Raises:
            ValueError: a timestep outside 0 to ``timesteps`` - 1.
        """
        signal = self._signal(t).view(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()

    def snr(self, t: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Signal-to-noise ratio of timesteps, (alpha / sigma)^2; as ``noise_level``."""
        signal = self._signal(t)
        return signal / (1 - signal)

    def _signal(self, t: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """alpha^2: the share of the clean latents in the variance."""
        signal = self.scheduler.alphas_cumprod.float()
        if int(t.min()) < 0 or int(t.max()) >= len(signal):
            raise ValueError(f"t: this model has the timesteps 0 to {len(signal) - 1} (got {int(t.max())})")
        return signal[t.cpu()].to(self.device)

    def target(self, x0: Latents, noise: Latents, t: Int[Tensor, " rows"]) -> Latents:
        """What the denoiser should predict at alpha x0 + sigma noise."""
        return target_of(self.predicts, x0, noise, self.noise_level(t))

    def x0(self, prediction: Latents, z: Latents, t: Int[Tensor, " rows"]) -> Latents:
        """The clean latents that a prediction at z means, in a single step; gradients flow."""
        return x0_of(self.predicts, prediction, z, self.noise_level(t))

    @abstractmethod
    def predict(
        self,
        latents: Latents,
        t: Time,
        text: Encoded,
        grounding: Grounding | None = None,
        grounding_scale: float | Float[Tensor, " rows"] = 1.0,
    ) -> Latents:
        """The denoiser's raw output (see ``predicts``), in float32.

        ``latents`` must be as the denoiser reads them (``Stepper.net_input``). A row of scale 0 runs as if there were
        no grounding layers. Gradients flow when they are enabled.
        """

    def features(
        self,
        latents: Latents,
        t: Time,
        text: Encoded,
        names: Sequence[str],
        grounding: Grounding | None = None,
        grounding_scale: float | Float[Tensor, " rows"] = 1.0,
    ) -> dict[str, Tensor]:
        """What the named modules of the denoiser give out in one ``predict``, in the nets' dtype, with gradients.

        Raises:
            ValueError: a name that the denoiser does not have, or a module that gives no tensor.
        """
        with outputs_of(self.denoiser, names) as outputs:
            self.predict(latents, t, text, grounding, grounding_scale)
        if odd := [name for name in names if not isinstance(outputs.get(name), Tensor)]:
            raise ValueError(f"names: the module {odd[0]!r} gives no tensor")
        return outputs

    # Attention and training

    @abstractmethod
    def sites(self) -> list[Site]:
        """All attention layers that can be tapped, in the order in which the denoiser registers them."""

    @abstractmethod
    def tapped(
        self,
        where: Callable[[Site], bool],
        edits: Sequence[Edit] = (),
        *,
        values: Values | None = None,
        record: Callable[[Site], bool] = lambda _site: True,
        skip: int = 0,
        stop: bool = False,
    ) -> AbstractContextManager[Maps]:
        """Open the layers that ``where`` chooses; the arguments and errors are those of ``attention.tapped``."""

    def recomputed(self) -> AbstractContextManager[None]:
        """After ``enable_gradient_checkpointing``, passes of the denoiser within keep the inputs of its blocks only;
        else nothing happens."""
        wanted = self.checkpointing or self.denoiser.is_gradient_checkpointing
        return recomputed(self.denoiser) if wanted else nullcontext()

    @abstractmethod
    def trainable(self, part: Part, position_net: bool = True) -> dict[str, nn.Parameter]:
        """The denoiser's parameters of that part, by name. ``position_net``: the net that makes grounding tokens
        counts among the "fusers".

        Raises:
            ValueError: the denoiser has no such part.
        """

    # Pictures

    def encode_images(self, pictures: Pictures) -> Latents:
        """Pictures in -1..1 as latents of unit variance, float32: the means of the VAE's posterior."""
        return autoencoder.latents_of(self.vae, pictures.to(self.device))

    def reconstruct(self, pictures: Pictures) -> Pictures:
        """Pictures in -1..1 after the VAE's round trip, in its dtype: nothing is scaled between its two halves."""
        return autoencoder.reconstructed(self.vae, pictures.to(self.device))

    def decode(self, latents: Latents, report: Report | None = None, partial: bool = False) -> Pictures:
        """Pictures in 0..1, float32.

        Rows that come out non-finite are decoded once more in float32; ``report(row, sentence)`` hears of each that
        this mends. ``partial``: the others come out as NaN, which is an error without it.

        Raises:
            DecodeError: still not finite.
        """
        return autoencoder.pictures_of(self.vae, latents, report, partial)

    def decode_with_gradient(self, latents: Latents) -> Pictures:
        """Pictures of about 0..1, not clamped, in float32 at least; gradients reach the latents.

        After ``enable_gradient_checkpointing`` in less memory and more time.
        """
        with recomputed(self.vae) if self.checkpointing else nullcontext():
            return autoencoder.pixels_of(self.vae, latents)
