"""Stable Diffusion 1 and 2, and GLIGEN: a U-Net that predicts noise or velocity, read by CLIP's text encoder.

The nets, the VAE, the schedulers, the tokenizer and the LoRA layers are diffusers', transformers' and peft's;
the loading rules are in ``checkpoint.py`` and ``lora.py``, the grounding in ``grounding.py``.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.files import disk_full_said
from trueline.models import checkpoint
from trueline.models.attention import Edit, Maps, Site, Values, sites, tapped
from trueline.models.backbone import Backbone, Part, Time
from trueline.models.encoded import Encoded, Spans
from trueline.models.grounding import Grounding, grounded


class StableDiffusion(Backbone):
    """``unet`` (the denoiser), ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler`` of one checkpoint."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
        *,
        settings: Mapping[str, Any] | None = None,
        source: str = "memory",
        revision: str | None = None,
    ):
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        super().__init__(settings, source, revision)
        for net in (unet, vae):  # a seventh faster on a CPU, and what tensor cores want
            net.to(memory_format=torch.channels_last)

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.unet

    @denoiser.setter
    def denoiser(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def nets(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder, "unet": self.unet, "vae": self.vae}

    def save_pretrained(self, folder: str | Path) -> None:
        if self.adapters:
            raise ValueError("a LoRA is loaded and would be lost in the folder; call unload_lora() first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with disk_full_said(folder):
            for name in ("unet", "vae", "text_encoder"):
                getattr(self, name).save_pretrained(folder / name, safe_serialization=True)
            self.tokenizer.save_pretrained(folder / "tokenizer")
            self.scheduler.save_pretrained(folder / "scheduler")
            index = checkpoint.model_index(self.scheduler, grounded=self.grounded, settings=self.settings)
            (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @property
    def grounded(self) -> bool:
        return self.unet.config.attention_type == "gated"

    @property
    def text_length(self) -> int:
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @property
    def phrase_width(self) -> int:
        return self.text_encoder.config.hidden_size

    # Text

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Last hidden states after the final layer norm (no CLIP skip)."""
        for prompt in prompts:
            if cut := self.words_cut(prompt):
                warnings.warn(f'prompt cut to {self.text_length} tokens; not read: "{cut}"', stacklevel=2)
        states = self._text_states(prompts).last_hidden_state.to(self.dtype)
        spans = (self.token_spans(prompt) for prompt in prompts)
        padding = ((0, 0),) * self.text_length
        return Encoded(states, None, tuple(((*row, *padding[len(row) :]),) for row in spans))

    def encode_phrases(self, phrases: Sequence[str]) -> Float[Tensor, "phrases width"]:
        """GLIGEN's phrase feature: the end token after the final layer norm, before CLIP's projection."""
        return self._text_states(phrases).pooler_output

    def token_spans(self, prompt: str, cut: bool = True) -> Spans:
        limit = {"truncation": True, "max_length": self.text_length} if cut else {"truncation": False}
        tokens = self.tokenizer(prompt, return_offsets_mapping=True, verbose=False, **limit)
        return tuple((start, end) for start, end in tokens["offset_mapping"])

    def words_cut(self, prompt: str) -> str:
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

    # The U-Net

    def predict(
        self,
        latents: Float[Tensor, "rows c h w"],
        t: Time,
        text: Encoded,
        grounding: Grounding | None = None,
        grounding_scale: float | Float[Tensor, " rows"] = 1.0,
    ) -> Float[Tensor, "rows c h w"]:
        net_input = latents.to(self.dtype)
        with grounded(self.unet, grounding, grounding_scale, like=net_input) as kwargs:
            output = self.unet(
                net_input, t, encoder_hidden_states=text.states.to(self.dtype), cross_attention_kwargs=kwargs
            )
        return output.sample.float()

    def sites(self) -> list[Site]:
        return sites(self.unet)

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
        return tapped(self.unet, where, edits, values=values, record=record, skip=skip, stop=stop)

    def trainable(self, part: Part, position_net: bool = True) -> dict[str, nn.Parameter]:
        if "fusers" in part and not self.grounded:
            raise ValueError(
                "part: this U-Net has no grounding layers (fusers); use a GLIGEN checkpoint, or part=attention or all"
            )
        return {
            name: weight
            for name, weight in self.unet.named_parameters()
            if _belongs(name, part, position_net) and ".lora_" not in name
        }


def _belongs(name: str, part: Part, position_net: bool) -> bool:
    """Whether a parameter of the U-Net with that name is of the part."""
    if name.startswith("position_net."):
        return position_net and part in ("fusers", "fusers+attention", "all")
    if ".fuser." in name:
        return part in ("fusers", "fusers+attention", "all")
    if ".attn1." in name or ".attn2." in name:
        return part in ("attention", "fusers+attention", "all")
    return part == "all"
