"""Tiny random BLIP and BLIP-2 of the real classes, with a BERT tokenizer; loud weights, so that inputs matter."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipImageProcessor,
    OPTConfig,
    T5Config,
)

WORDS = ["a", "the", "red", "blue", "green", "apple", "car", "cat", "dog", "clock", "and", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIDE = 16
VISION = {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
PROCESSOR = BlipImageProcessor(size={"height": SIDE, "width": SIDE}, resample=3)


def bert_tokenizer(folder: Path, words: list[str] = WORDS) -> BertTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + words) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


def loud(net: Any, std: float = 0.3) -> Any:
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.normal_(std=std)
    return net.eval()


def blip_config(tokenizer: Any) -> BlipConfig:
    begin = len(tokenizer)  # as BLIP: [DEC] and [ENC] behind BERT's words
    text = {
        "vocab_size": begin + 2,
        "bos_token_id": begin,
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
        "max_position_embeddings": 48,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    return BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=8, projection_dim=8)


def blip(tokenizer: Any, kind: Any) -> Any:
    torch.manual_seed(3)
    return loud(kind(blip_config(tokenizer)))


def _qformer(tokenizer: Any) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "use_qformer_text_input": True,
    }


def blip2_text(tokenizer: Any, kind: Any) -> Any:
    """Retrieval or its text half."""
    torch.manual_seed(4)
    config = Blip2Config(
        vision_config=VISION, qformer_config=_qformer(tokenizer), num_query_tokens=3, image_text_hidden_size=8
    )
    return loud(kind(config))


def blip2_captioner(tokenizer: Any, language: str) -> Blip2ForConditionalGeneration:
    """On OPT or T5. Start and end are [CLS] and [SEP]; the picture's place-holder is behind all words."""
    torch.manual_seed(5)
    words = len(tokenizer) + 1
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text: Any = OPTConfig(
        vocab_size=words,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        dropout=0.0,
        **ends,
    )
    if language == "t5":
        text = T5Config(
            vocab_size=words,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            dropout_rate=0.0,
            **ends,
        )
    qformer = _qformer(tokenizer) | {"use_qformer_text_input": False}
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=qformer,
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=words - 1,
    )
    return loud(Blip2ForConditionalGeneration(config))
