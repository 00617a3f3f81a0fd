"""NegCLIP (Yuksekgonul et al., "When and why vision-language models behave like bags-of-words", 2023).

It is published in open_clip's format (``open_clip_model.safetensors``, e.g. Nano1337/negclip). This reads that
file into transformers' ``CLIPModel``, so that neither open_clip nor torchvision is needed.

The trap: NegCLIP was tuned from OpenAI's weights, which use the quick GELU ``x * sigmoid(1.702 x)``. open_clip's
plain ``ViT-B-32`` has the exact GELU and gives other scores from the same file (mertyg/vision-language-models-
are-bows#35, open_clip#771). Here it is always the quick one.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from trueline.models.pretrained import Checkpoint, Dtype, precision
from trueline.perception.clip import Clip

WEIGHTS = "open_clip_model.safetensors"
_HEAD = 64  #: width of an attention head in all of OpenAI's ViT towers
_NORMS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
_OUTER = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}


class NegClip(Clip):
    """A ``Clip`` from a folder (or Hub id) with open_clip's safetensors file and a CLIP tokenizer.

    ``processor`` names a folder with a tokenizer where the first has none; "openai/clip-vit-base-patch32" fits.
    """

    def __init__(self, checkpoint: str, device: str = "cpu", dtype: Dtype = "float32", **more: Any):
        super().__init__(checkpoint, device, dtype, name="negclip", **more)
        self.protocol += ", quick GELU"

    def _model(self, source: Checkpoint, device: str, dtype: Dtype) -> CLIPModel:
        file = _weights(source)
        try:
            state = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors ({error}); fetch it again") from error
        return from_open_clip(state).to(device, precision(dtype)).eval().requires_grad_(False)

    def _pictures(self, source: Checkpoint) -> Any:
        """OpenAI's preprocessing at the net's own size: open_clip's folders have no preprocessor_config.json."""
        import transformers

        side = self.model.config.vision_config.image_size
        kind = getattr(transformers, "CLIPImageProcessorPil", CLIPImageProcessor)
        return kind(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def _weights(source: Checkpoint) -> Path:
    """The safetensors file of a folder, or of a repository on the Hub."""
    if Path(source.name).is_dir():
        if (file := Path(source.name) / WEIGHTS).is_file():
            return file
        raise ValueError(
            f"{source.name} has no {WEIGHTS}; a pickled negclip.pth can run code when loaded: load it with open_clip "
            "in an environment you trust and save its state_dict with safetensors under that name"
        )
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            str(source.name), WEIGHTS, revision=source.revision, local_files_only=source.local_files_only
        )
    except Exception as error:  # the Hub's errors have no common base
        cure = f"give a folder with {WEIGHTS} and a CLIP tokenizer"
        raise ValueError(f"{source.name} is no folder, nor a repository with {WEIGHTS}; {cure}") from error
    return Path(found)


def from_open_clip(state: dict[str, Tensor]) -> CLIPModel:
    """A ``CLIPModel`` with quick GELU and the weights of an open_clip ViT; sizes are read off the tensors.

    Raises:
        ValueError: the tensors are not those of an open_clip ViT with OpenAI's text tower.
    """
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        named |= _renamed(key, value)
    try:
        clip = CLIPModel(CLIPConfig(**_sizes(state)))
        clip.load_state_dict(named)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"the weights are not those of an open_clip ViT such as ViT-B-32 ({json.dumps(str(error)[:120])}); "
            f"give NegCLIP's own {WEIGHTS}"
        ) from error
    return clip


def _renamed(key: str, value: Tensor) -> dict[str, Tensor]:
    """One open_clip tensor under transformers' names; the joint query-key-value weights become three."""
    if key in _OUTER:
        return {_OUTER[key]: value}
    if key in ("text_projection", "visual.proj"):  # stored for x @ W, transformers' Linear computes x @ W.T
        tower = "text_projection" if key == "text_projection" else "visual_projection"
        return {f"{tower}.weight": value.T.contiguous()}
    if "resblocks." not in key:
        return {key: value}
    tower = "vision_model" if key.startswith("visual.") else "text_model"
    number, part = key.split("resblocks.")[1].split(".", 1)
    layer, (part, leaf) = f"{tower}.encoder.layers.{number}", part.rsplit(".", 1)
    if leaf.startswith("in_proj_"):
        kind = leaf.removeprefix("in_proj_")
        return {f"{layer}.self_attn.{n}_proj.{kind}": v for n, v in zip("qkv", value.chunk(3), strict=True)}
    if part == "attn.out_proj":
        return {f"{layer}.self_attn.out_proj.{leaf}": value}
    return {f"{layer}.{_NORMS.get(part, part)}.{leaf}": value}


def _sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """``CLIPConfig``'s settings, from the shapes of the tensors."""

    def tower(prefix: str, width: int) -> dict[str, Any]:
        start = f"{prefix}resblocks."
        layers = {key.removeprefix(start).split(".")[0] for key in state if key.startswith(start)}
        inner = state[f"{start}0.mlp.c_fc.weight"].shape[0]
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(width // _HEAD, 1),
            "hidden_act": "quick_gelu",
            "projection_dim": common,
        }

    patches, width = state["visual.positional_embedding"].shape
    patch, common = state["visual.conv1.weight"].shape[-1], state["text_projection"].shape[1]
    words, text_width = state["token_embedding.weight"].shape
    side = patch * round((patches - 1) ** 0.5)
    vision = tower("visual.transformer.", width) | {"image_size": side, "patch_size": patch}
    # open_clip takes the state at the highest id, and the end token is the last word of the vocabulary.
    text = tower("transformer.", text_width) | {
        "vocab_size": words,
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
    }
    return {"vision_config": vision, "text_config": text, "projection_dim": common}
