"""Builders of tiny random checkpoints of the real classes: plain Stable Diffusion and GLIGEN."""

import copy
import json
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trueline.models.encoded import Encoded
from trueline.models.stable_diffusion import StableDiffusion
from trueline.sampling.loop import sample
from trueline.sampling.method import Step
from trueline.sampling.options import Sampling

WORDS = [
    "a",
    "red",
    "apple",
    "blue",
    "car",
    "and",
    "green",
    "chair",
    "clock",
    "cat",
    "left",
    "of",
    "the",
    "to",
]
TEXT_WIDTH = 32
TOKENS = 24


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges make whole words of ``WORDS`` and letters of the rest."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocab = letters + [f"{letter}</w>" for letter in letters]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.append(pieces[0])
    vocab = [*dict.fromkeys(vocab), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    )
    return CLIPTokenizer.from_pretrained(folder)


def tiny_backbone(
    tokenizer: CLIPTokenizer, *, gated: bool, prediction_type: str = "epsilon"
) -> StableDiffusion:
    """A whole checkpoint, random but seeded: 64 x 64 pixels, 8 x 8 latents, 1.2 M parameters in the U-Net."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        attention_type="gated" if gated else "default",
    )
    with torch.no_grad():  # gates start at 0 and null features too: open them, or grounding could not be seen
        for name, weight in unet.named_parameters():
            if "alpha_" in name:
                weight.fill_(1.0)
            if "null_" in name:
                weight.normal_()
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.convert_tokens_to_ids("<|startoftext|>"),
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        # Milder than Stable Diffusion's: a net that does not predict the noise would blow the latents up
        # 15 times, and float32 rounding with them.
        beta_start=0.0002,
        beta_end=0.002,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusion(unet, vae, text_encoder, tokenizer, scheduler)


def exact(backbone: StableDiffusion) -> StableDiffusion:
    """A copy that computes in float64: what a processor rounds otherwise in a batch than alone is far below 1e-5."""
    return copy.deepcopy(backbone).to(dtype=torch.float64)


def sampled(
    backbone: StableDiffusion,
    layouts,
    methods=(),
    steps: int = 50,
    guidance_scale: float = 7.5,
    **options: Any,
) -> Generator[Step, torch.Tensor | None, None]:
    """``sample`` with the fields of ``Sampling`` as keywords."""
    options |= {"steps": steps, "guidance_scale": guidance_scale}
    of_loop = {name: options.pop(name) for name in Sampling.model_fields if name in options}
    return sample(backbone, layouts, methods, Sampling(**of_loop), **options)


def reading(tokenizer: CLIPTokenizer) -> StableDiffusion:
    """A backbone of a tokenizer alone, for what needs no net: ``token_spans``."""
    backbone = object.__new__(StableDiffusion)
    backbone.tokenizer = tokenizer
    config = SimpleNamespace(max_position_embeddings=tokenizer.model_max_length)
    backbone.text_encoder = SimpleNamespace(config=config)
    return backbone


def as_encoded(states: torch.Tensor) -> Encoded:
    """States of no words."""
    return Encoded(states, None, ((((0, 0),) * states.shape[1],),) * len(states))
