"""Tiny random checkpoints, made once per test run."""

import signal
from pathlib import Path

import pytest
import torch
from tiny import tiny_backbone, write_tokenizer
from transformers import CLIPTokenizer

from trueline.layout import Layout, Region
from trueline.models.backbone import Backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """A shell starts what runs in its background with Ctrl-C ignored, and so would be all that the tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("clip") / "tokenizer")


@pytest.fixture(scope="session")
def plain(tokenizer) -> Backbone:
    return tiny_backbone(tokenizer, gated=False)


@pytest.fixture(scope="session")
def gated(tokenizer) -> Backbone:
    return tiny_backbone(tokenizer, gated=True)


@pytest.fixture(scope="session")
def gated_v(tokenizer) -> Backbone:
    return tiny_backbone(tokenizer, gated=True, prediction_type="v_prediction")


@pytest.fixture(scope="session")
def plain_folder(plain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    plain.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gated_folder(gated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gated") / "checkpoint"
    gated.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def layouts() -> list[Layout]:
    """Eight different pictures with 0 to 4 regions."""
    regions = [
        Region("a red apple", (0.05, 0.35, 0.4, 0.7)),
        Region("a blue car", (0.55, 0.35, 0.95, 0.7)),
        Region("the green chair", (0.1, 0.1, 0.9, 0.3)),
        Region("cat", (0.3, 0.6, 0.5, 0.95)),
    ]
    prompts = ["a red apple", "a blue car", "a cat and a clock", "the green chair to the left of a cat"]
    return [
        Layout(prompts[i % 4], regions=regions[: i % 5], negative_prompt="clock" * (i % 2)) for i in range(8)
    ]
