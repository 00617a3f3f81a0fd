"""Tiny random checkpoints of the real classes, written by ``save_pretrained`` and read as a user's would be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_look import grounding_dino
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    GroundingDinoImageProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
)

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "apple",
    "car",
    "cat",
    "dog",
    "clock",
    "yes",
    "no",
    "and",
    ".",
    "?",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert_tokenizer(folder: Path) -> BertTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Three noisy pictures: wide, tall, square."""
    rng = np.random.default_rng(0)
    sizes = ((40, 60, 3), (60, 40, 3), (48, 48, 3))
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def save(folder: Path, *parts) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def _clip_text(tokenizer) -> dict:
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 24,
        "projection_dim": 16,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }


VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="session")
def clip_folder(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=_clip_text(tokenizer), vision_config=VISION | {"projection_dim": 16}, projection_dim=16
    )
    clip = CLIPModel(config)
    with torch.no_grad():  # random towers hardly tell inputs apart; louder words and patches do
        clip.text_model.embeddings.token_embedding.weight.normal_()
        clip.vision_model.embeddings.patch_embedding.weight.normal_()
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return save(tmp_path_factory.mktemp("clip") / "tiny-clip", clip, tokenizer, pictures)


@pytest.fixture(scope="session")
def owlv2_folder(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(1)
    text = _clip_text(tokenizer) | {"max_position_embeddings": 8, "projection_dim": 32}
    config = Owlv2Config(text_config=text, vision_config=VISION | {"projection_dim": 32}, projection_dim=32)
    net = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        net.owlv2.text_model.embeddings.token_embedding.weight.normal_()
        net.owlv2.vision_model.embeddings.patch_embedding.weight.normal_()
    pictures = Owlv2ImageProcessor(size={"height": 32, "width": 32})
    return save(tmp_path_factory.mktemp("owlv2") / "tiny-owlv2", net, tokenizer, pictures)


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dino") / "tiny-dino"
    tokenizer = write_bert_tokenizer(folder)
    pictures = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return save(folder, grounding_dino(tokenizer), pictures)


def _blip_config(tokenizer) -> BlipConfig:
    begin = len(tokenizer)  # as BLIP: [DEC] and [ENC] behind BERT's words
    text = {
        "vocab_size": begin + 2,
        "bos_token_id": begin,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 16,
        "max_position_embeddings": 48,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    return BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=16, projection_dim=16)


def _blip(folder: Path, kind) -> Path:
    tokenizer = write_bert_tokenizer(folder)
    torch.manual_seed(3)
    net = kind(_blip_config(tokenizer))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)
    return save(folder, net, BlipImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture(scope="session")
def vqa_folder(tmp_path_factory) -> Path:
    return _blip(tmp_path_factory.mktemp("vqa") / "tiny-vqa", BlipForQuestionAnswering)


@pytest.fixture(scope="session")
def blip_folder(tmp_path_factory) -> Path:
    return _blip(tmp_path_factory.mktemp("blip") / "tiny-blip", BlipForImageTextRetrieval)


@pytest.fixture(scope="session")
def blip2_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip2") / "tiny-blip2"
    tokenizer = write_bert_tokenizer(folder)
    torch.manual_seed(4)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 48,
            "use_qformer_text_input": True,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    net = Blip2ForImageTextRetrieval(config)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)
    return save(folder, net, BlipImageProcessor(size={"height": 32, "width": 32}))
