"""Checkpoint folders that were copied by half, edited or made to do harm: each loads and draws, or is one sentence.

broken_checkpoints(model, folder, count=500, seed=0)
"""

import json
import os
import random
import resource
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from trueline.layout import Layout, Region
from trueline.sampling.pipeline import PictureError, Pipeline

SECONDS = 20  #: for one folder, on a machine that does much else
MEMORY = 2**30  #: bytes that all of them may take more than the first
LAYOUT = Layout("a red apple", [Region("a red apple", (0, 0, 0.5, 0.5))], width=64, height=64, seed=1)
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2, 3, 7, 10**9, 2**63, 10**400, -(10**30), 0.0, -0.5, 1e-30, 1e30, float("nan"),
    float("inf"), "", "x", "1", "gelu\n\n", [], [1], [0, 0], [-1, "x"], [None] * 1000, {}, {"a": 1}, [[[]]],
    ["diffusers", ["x"]], 10**5, 10**6,
]  # fmt: skip


def broken_checkpoints(model: Path, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """How many were refused and how many drew a picture.

    Raises:
        AssertionError: another error, one of several lines, or one that took too long or too much memory.
    """
    draw, ends = random.Random(seed), Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(model, copy)
        what = draw.choice(KINDS)(copy, draw)
        start = time.monotonic()
        end = _end(copy, f"{number}: {what}")
        assert time.monotonic() - start < SECONDS, f"{number}: {what} took {time.monotonic() - start:.0f} s"
        ends[end] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"{grown} bytes more"
    return dict(ends)


def _end(folder: Path, what: str) -> str:
    def hangs(_number: int, _frame: Any) -> None:
        raise AssertionError(f"{what}: hangs")

    usual = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Pipeline.from_pretrained(folder, local_files_only=True)(LAYOUT, steps=2, progress=False)
        return "drawn"
    except (ValueError, PictureError) as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 1000, f"{what}: {said}"
        return "refused"
    except AssertionError:
        raise
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)


# What is done to them


def _file(folder: Path, draw: random.Random, *ends: str) -> Path:
    return draw.choice(sorted(p for p in folder.rglob("*") if p.is_file() and (not ends or p.suffix in ends)))


def a_file(folder: Path, draw: random.Random) -> str:
    """Gone, cut, empty, or something else."""
    how = draw.choice(["gone", "cut", "empty", "junk", "flipped", "pipe", "folder", "link"])
    path = _file(folder, draw)
    content = path.read_bytes()
    path.unlink()
    if how in ("cut", "junk", "flipped", "empty"):
        at = draw.randrange(len(content))
        flipped = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
        path.write_bytes(
            {"cut": content[:at], "junk": draw.randbytes(100), "flipped": flipped, "empty": b""}[how]
        )
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        path.symlink_to(path.parent / "nowhere")
    return f"{path.relative_to(folder)} {how}"


def lines(folder: Path, draw: random.Random) -> str:
    """A text file that ends early, at the end of a line."""
    path = _file(folder, draw, ".txt", ".json")
    kept = path.read_text().splitlines(keepends=True)
    kept = kept[: draw.randrange(len(kept) + 1)]
    path.write_text("".join(kept))
    return f"{path.relative_to(folder)} of {len(kept)} lines"


def a_value(folder: Path, draw: random.Random) -> str:
    """One value of a JSON file, at any depth: another, or gone."""
    path = _file(folder, draw, ".json")
    content = json.loads(path.read_text())
    places = [(content, key) for key in content]
    for value in content.values():
        if isinstance(value, dict | list):
            places += [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
    where, key = draw.choice(places)
    if draw.random() < 0.1:
        del where[key]
        said = "gone"
    else:
        where[key] = draw.choice(VALUES)
        said = repr(where[key])[:60]
    path.write_text(json.dumps(content))
    return f"{path.relative_to(folder)} {key} {said}"


def a_known_value(folder: Path, draw: random.Random) -> str:
    """One of the values that decide sizes, counts and scales."""
    names = {
        "scheduler/scheduler_config.json": ["num_train_timesteps", "beta_start", "beta_end", "trained_betas"],
        "vae/config.json": [
            "scaling_factor",
            "shift_factor",
            "latent_channels",
            "block_out_channels",
            "sample_size",
        ],
        "unet/config.json": [
            "sample_size",
            "in_channels",
            "layers_per_block",
            "attention_head_dim",
            "norm_num_groups",
        ],
        "text_encoder/config.json": [
            "vocab_size",
            "num_hidden_layers",
            "hidden_size",
            "max_position_embeddings",
        ],
        "tokenizer/tokenizer_config.json": ["model_max_length", "eos_token", "unk_token"],
    }
    name = draw.choice(sorted(names))
    path, key, value = folder / name, draw.choice(names[name]), draw.choice(VALUES)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    return f"{name} {key} {value!r}"[:120]


def a_setting(folder: Path, draw: random.Random) -> str:
    """Of Trueline's own."""
    path = folder / "model_index.json"
    key = draw.choice(
        ["max_regions", "guidance_scale", "grounding_schedule", "guidance_interval", "vocabulary"]
    )
    value = draw.choice(VALUES)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trueline": {key: value}}))
    return f"{key} {value!r}"[:120]


def a_weight(folder: Path, draw: random.Random) -> str:
    """One tensor: of another type, size or name, not finite, or gone."""
    path = _file(folder, draw, ".safetensors")
    state = safetensors.torch.load_file(path)
    key = draw.choice(sorted(name for name, weight in state.items() if weight.ndim))
    changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "int64": lambda w: w.to(torch.int64), "int8": lambda w: w.to(torch.int8), "bool": lambda w: w > 0,
        "nan": lambda w: w * torch.nan, "inf": lambda w: w + torch.inf, "huge": lambda w: w.double() * 1e200,
        "cropped": lambda w: w[: len(w) // 2], "flat": lambda w: w.flatten(), "none": lambda w: w[:0],
        "longer": lambda w: torch.cat([w, w]), "zero": lambda w: w * 0,
    }  # fmt: skip
    how = draw.choice([*changes, "gone", "renamed", "all int8"])
    if how == "all int8":
        state = {name: weight.to(torch.int8) for name, weight in state.items()}
    elif how in changes:
        state[key] = changes[how](state[key]).contiguous()
    else:
        weight = state.pop(key)
        if how == "renamed":
            state[f"{key}.x"] = weight
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    return f"{path.relative_to(folder)} {key} {how}"


KINDS = [a_file, lines, a_value, a_value, a_known_value, a_known_value, a_setting, a_weight, a_weight]
