"""A tiny random CLIP of the real classes, whose two towers tell inputs apart."""

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from trueline.training.clip import FrozenCLIP

SIDE, WIDTH = 32, 16  #: of the pictures it reads, pixels; of its vectors
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def clip_parts(
    tokenizer: CLIPTokenizer, width: int = WIDTH
) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessor]:
    """Model, tokenizer and processor, as ``save_pretrained`` writes them."""
    torch.manual_seed(4)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    text = layers | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "projection_dim": width,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = layers | {"image_size": SIDE, "patch_size": 8, "projection_dim": width}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    with torch.no_grad():  # random towers hardly tell inputs apart; louder words and patches do
        model.text_model.embeddings.token_embedding.weight.normal_()
        model.vision_model.embeddings.patch_embedding.weight.normal_(std=0.2)
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN,
        image_std=STD,
    )
    return model, tokenizer, processor


def tiny_clip(tokenizer: CLIPTokenizer) -> FrozenCLIP:
    return FrozenCLIP(*clip_parts(tokenizer))
