"""A latent-diffusion checkpoint as one object: text in, noise predictions, latents to pictures.

The nets, the VAE, the schedulers, the tokenizer and the LoRA layers are diffusers', transformers' and peft's;
the loading rules are in ``checkpoint.py`` and ``lora.py``, the grounding in ``grounding.py``.
"""

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.errors import first_line
from trueline.models import checkpoint, lora
from trueline.models.checkpoint import CheckpointError
from trueline.models.grounding import RELEASED_SCHEDULE, RELEASED_SLOTS, Grounding, grounded
from trueline.models.schedules import check_interval, check_schedule

__all__ = ["Backbone", "CheckpointError", "DecodeError"]


class DecodeError(RuntimeError):
    """The VAE gave numbers that are not finite, in float32 too."""


class Backbone:
    """``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler`` of one checkpoint, ready for
    inference.

    ``settings`` is the "trueline" entry of the checkpoint's ``model_index.json``, a dictionary that may hold
    ``max_regions``, ``grounding_schedule``, ``guidance_interval`` and ``vocabulary``. ``source`` and ``revision`` say
    where it came from. The scheduler is a template: it is never stepped.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
        *,
        settings: dict[str, Any] | None = None,
        source: str = "memory",
        revision: str | None = None,
    ):
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.settings, self.source, self.revision = dict(settings or {}), source, revision
        self.adapters: dict[str, float] = {}
        self.checkpointing = False
        self._offload_device: torch.device | None = None
        self._offload_hooks: list[Any] = []
        for net in self._nets():
            net.eval().requires_grad_(False)
        for net in (unet, vae):  # a seventh faster on a CPU, and what tensor cores want
            net.to(memory_format=torch.channels_last)

    # Loading, saving, moving

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "Backbone":
        """Load the embedded ``"world"``, a diffusers folder, an alias such as ``"gligen"``, or a Hub id.

        Raises:
            CheckpointError: one sentence: not found, offline, pickled, corrupt, incomplete, or of an unknown
                class.
        """
        location = checkpoint.locate(name_or_path, revision, cache_dir, local_files_only)
        parts, settings = checkpoint.load(location.folder, dtype)
        backbone = cls(**parts, settings=settings, source=str(name_or_path), revision=location.revision)
        return backbone.to(device=device or "cpu")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that diffusers' own Stable Diffusion (or GLIGEN) pipeline and this class load."""
        if self.adapters:
            raise ValueError("a LoRA is loaded and would be lost in the folder; call unload_lora() first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("unet", "vae", "text_encoder"):
            getattr(self, name).save_pretrained(folder / name, safe_serialization=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        index = checkpoint.model_index(self.scheduler, grounded=self.grounded, settings=self.settings)
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Backbone":
        """Move and cast all nets, in place."""
        if self._offload_hooks and device is not None:
            raise ValueError(
                "device: the nets are under enable_model_cpu_offload(), which places them itself"
            )
        given: dict[str, Any] = {
            name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None
        }
        for net in self._nets():
            net.to(**given)
        return self

    def enable_model_cpu_offload(self, device: torch.device | str = "cuda") -> None:
        """Keep the nets on the CPU; each moves to ``device`` when it runs and back when the next one does."""
        from accelerate import cpu_offload_with_hook

        self._offload_device, hook = torch.device(device), None
        for net in self._nets():
            _, hook = cpu_offload_with_hook(net, self._offload_device, prev_module_hook=hook)
            self._offload_hooks.append(hook)

    def enable_vae_tiling(self, enabled: bool = True) -> None:
        """Decode large pictures in overlapping tiles: less memory, slightly different pixels."""
        self.vae.enable_tiling() if enabled else self.vae.disable_tiling()

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Let methods that follow gradients (latent guidance) keep the inputs of the U-Net's blocks only and run
        those again: less memory, more time, the same pictures."""
        self.checkpointing = enabled

    def load_lora(self, path: str | Path, adapter_name: str = "default", weight: float = 1.0) -> None:
        """Add a LoRA for the U-Net: safetensors in diffusers' or peft's naming, or for the model ``"world"`` one of
        the package's by its name, such as ``"goal"``. Several add up.

        One that was made for another version of this U-Net is loaded with a warning.

        Raises:
            CheckpointError: no such name, not safetensors, or layers that this U-Net does not have.
            ValueError: a LoRA of that ``adapter_name`` is loaded already.
        """
        if adapter_name in self.adapters:
            raise ValueError(
                f"adapter_name: a LoRA {adapter_name!r} is loaded; give another name, or unload_lora() first"
            )
        found = lora.read(lora.find(path, self.source))
        layers = {name for name, _ in self.unet.named_modules()}
        if strange := sorted(found.layers() - layers):
            raise CheckpointError(f"{path} does not fit this U-Net, which has no layer {strange[0]!r}")
        other_base = found.other_base(self.unet)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
                self.unet.load_lora_adapter(
                    found.state, prefix=found.prefix, adapter_name=adapter_name, metadata=found.metadata
                )
        except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
            if not self.adapters:
                self.unet.unload_lora()  # what is left of it
            problem = first_line(error)
            raise CheckpointError(f"{path} does not fit this U-Net: {problem}") from error
        self.adapters[adapter_name] = weight
        self.unet.set_adapters(list(self.adapters), list(self.adapters.values()))
        self.unet.requires_grad_(False)
        if other_base:
            warnings.warn(other_base, stacklevel=2)

    def unload_lora(self) -> None:
        """Remove all LoRAs; the U-Net is as it was before."""
        if self.adapters:
            self.unet.unload_lora()
            self.adapters.clear()

    # Facts

    @property
    def device(self) -> torch.device:
        """Where the nets run."""
        return self._offload_device or self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def grounded(self) -> bool:
        """Whether the U-Net has GLIGEN's gated layers, so that boxes reach it."""
        return self.unet.config.attention_type == "gated"

    @property
    def max_regions(self) -> int:
        """Grounding tokens per picture: 30 for released weights, else what the checkpoint says."""
        return int(self.settings.get("max_regions", RELEASED_SLOTS))

    @property
    def grounding_schedule(self) -> tuple[float, float, float]:
        """The checkpoint's own scheduled sampling (see ``grounding.alpha_schedule``)."""
        return check_schedule(self.settings.get("grounding_schedule", RELEASED_SCHEDULE))

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
    def text_length(self) -> int:
        """Tokens of a prompt with its start and end."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def picture_size(self, width: int | None, height: int | None) -> tuple[int, int]:
        """Width and height in pixels, with the model's own size for None."""
        own = self.unet.config.sample_size
        own_height, own_width = own if isinstance(own, list | tuple) else (own, own)
        return width or own_width * self.vae_factor, height or own_height * self.vae_factor

    def latent_size(self, width: int | None = None, height: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of that size in pixels.

        Raises:
            ValueError: a side that is not a whole number of latents.
        """
        width, height = self.picture_size(width, height)
        for name, side in (("width", width), ("height", height)):
            if side % self.vae_factor:
                raise ValueError(
                    f"{name}: must be a multiple of {self.vae_factor} for this model (got {side})"
                )
        return self.unet.config.in_channels, height // self.vae_factor, width // self.vae_factor

    # Text

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Last hidden states after the final layer norm (no CLIP skip), padded to ``text_length``.

        A longer prompt is cut before its end token, with a warning that names the words cut.
        """
        for prompt in prompts:
            if cut := self.words_cut(prompt):
                warnings.warn(f'prompt cut to {self.text_length} tokens; not read: "{cut}"', stacklevel=2)
        return self._text_states(prompts).last_hidden_state.to(self.dtype)

    def encode_phrases(self, phrases: Sequence[str]) -> Float[Tensor, "batch width"]:
        """GLIGEN's phrase feature: the end token after the final layer norm, before CLIP's projection."""
        return self._text_states(phrases).pooler_output

    def words_cut(self, prompt: str) -> str:
        """What ``encode`` would cut off; empty when the prompt fits."""
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        return (
            self.tokenizer.decode(ids[self.text_length - 1 : -1]).strip()
            if len(ids) > self.text_length
            else ""
        )

    @torch.no_grad()
    def _text_states(self, texts: Sequence[str]) -> Any:
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_tensors="pt",
        )
        # Stable Diffusion 1 and 2 were trained with attention to the padding; a few checkpoints ask for the
        # mask.
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if masked else None
        return self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)

    # Noise and pictures

    def predict(
        self,
        latents: Float[Tensor, "rows c h w"],
        t: Float[Tensor, ""] | Int[Tensor, ""] | Int[Tensor, " rows"] | int | float,
        text: Float[Tensor, "rows tokens width"],
        grounding: Grounding | None = None,
        grounding_scale: float | Float[Tensor, " rows"] = 1.0,
    ) -> Float[Tensor, "rows c h w"]:
        """The U-Net's raw output (noise or velocity, as the scheduler's ``prediction_type`` says), in
        float32.

        ``latents`` must already have been through the scheduler's ``scale_model_input``. A row of scale 0
        runs as if the U-Net were a plain one. Gradients flow when they are enabled.
        """
        net_input = latents.to(self.dtype)
        with grounded(self.unet, grounding, grounding_scale, like=net_input) as kwargs:
            output = self.unet(
                net_input, t, encoder_hidden_states=text.to(self.dtype), cross_attention_kwargs=kwargs
            )
        return output.sample.float()

    def decode(
        self, latents: Float[Tensor, "batch c h w"], report: Callable[[int, str], None] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Pictures in 0..1, float32.

        Rows that come out non-finite are decoded once more in float32; ``report(row, sentence)`` hears of
        each.

        Raises:
            DecodeError: still not finite.
        """
        pictures = self._decode(latents)
        broken = [row for row, picture in enumerate(pictures) if not picture.isfinite().all()]
        if broken:
            pictures[broken] = self._decode_in_float32(latents[broken])
            for row in broken:
                (report or _warn_row)(
                    row, f"the VAE gave non-finite pixels in {self.vae.dtype}; decoded in float32"
                )
        return (pictures / 2 + 0.5).clamp(0, 1)

    def _decode(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()

    def _decode_in_float32(
        self, latents: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch 3 height width"]:
        if self.vae.dtype == torch.float32:
            raise DecodeError(
                "the VAE gave non-finite pixels in float32; the latents or the weights are broken"
            )
        with _in_float32(self.vae):
            pictures = self._decode(latents)
        if not pictures.isfinite().all():
            raise DecodeError(
                "the VAE gave non-finite pixels, in float32 too; the latents or the weights are broken"
            )
        return pictures

    def _nets(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """In the order in which sampling runs them."""
        return self.text_encoder, self.unet, self.vae

    def __deepcopy__(self, memo: dict) -> "Backbone":
        twin = object.__new__(type(self))
        twin.__dict__ = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()}
        return twin


@contextmanager
def _in_float32(net: nn.Module) -> Iterator[None]:
    """The former weights come back as they were, whatever happens inside."""
    before = {name: weight.data for name, weight in net.named_parameters()}
    try:
        net.float()
        yield
    finally:
        for name, weight in net.named_parameters():
            weight.data = before[name]


def _warn_row(row: int, sentence: str) -> None:
    warnings.warn(f"picture {row}: {sentence}", stacklevel=3)
