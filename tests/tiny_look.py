"""Tiny random checkpoints of the real classes that look at pictures: Florence-2, Grounding DINO, SAM, captioners.

Folders are written by ``save_pretrained``, with loud weights, so that inputs matter.
"""

import json
from pathlib import Path

import tiny_blip
import torch
from tiny_blip import loud
from transformers import (
    BartConfig,
    BartTokenizer,
    BertConfig,
    BlipForConditionalGeneration,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SwinConfig,
    ViTImageProcessor,
)

FLORENCE_SIDE = 32
SAM_SIDE = 32


def captioner_folder(folder: Path, kind: str) -> Path:
    """``kind``: "blip", or the language model of BLIP-2, "opt" or "t5"."""
    words = tiny_blip.bert_tokenizer(folder)
    net = (
        tiny_blip.blip(words, BlipForConditionalGeneration)
        if kind == "blip"
        else tiny_blip.blip2_captioner(words, kind)
    )
    for part in (net, tiny_blip.PROCESSOR):
        part.save_pretrained(folder)
    return folder


def florence2_tokenizer(folder: Path) -> BartTokenizer:
    """Letters, and as in Florence-2 a token for each of 1000 places and for the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)] + [
        "\u0120"
    ]  # as byte-level BPE writes a space
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    tokenizer = BartTokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    places = [f"<loc_{i}>" for i in range(1000)]
    tokenizer.add_tokens(["<od>", "</od>", *places, "<sep>", "<poly>", "</poly>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def florence2_folder(folder: Path, positions: int = 256) -> Path:
    tokenizer = florence2_tokenizer(folder)
    torch.manual_seed(6)
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=positions,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    vision = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 4,
        "projection_dim": 16,
        "drop_path_rate": 0.0,
    }
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    side = {"height": FLORENCE_SIDE, "width": FLORENCE_SIDE}
    pictures = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    for part in (loud(Florence2ForConditionalGeneration(config)), pictures):
        part.save_pretrained(folder)
    return folder


_DECODER = {
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}


def sam_folder(folder: Path) -> Path:
    torch.manual_seed(7)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SAM_SIDE,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": SAM_SIDE,
            "patch_size": 4,
            "image_embedding_size": SAM_SIDE // 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config=_DECODER,
    )
    square = {"height": SAM_SIDE, "width": SAM_SIDE}
    pictures = SamImageProcessor(size={"longest_edge": SAM_SIDE}, pad_size=square)
    for part in (loud(SamModel(config)), pictures):
        part.save_pretrained(folder)
    return folder


def sam2_folder(folder: Path) -> Path:
    torch.manual_seed(8)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SAM_SIDE, SAM_SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [2, 2, 2, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    quarter = SAM_SIDE // 4
    config = Sam2Config(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[quarter, quarter], [quarter // 2] * 2, [quarter // 4] * 2],
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": SAM_SIDE,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config=_DECODER,
    )
    side = {"height": SAM_SIDE, "width": SAM_SIDE}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    # ``Sam2ImageProcessor`` needs torchvision: its file is that of another with the same keys.
    pictures = ViTImageProcessor(size=side, image_mean=mean, image_std=std, resample=2)
    for part in (loud(Sam2Model(config)), pictures):
        part.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"image_processor_type": "Sam2ImageProcessorFast"})
    )
    return folder


def grounding_dino(tokenizer) -> GroundingDinoForObjectDetection:
    torch.manual_seed(2)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_text_len=32,
    )
    return GroundingDinoForObjectDetection(config)
