"""What HCMA costs: a picture with it in pictures of plain GLIGEN sampling, in time and in memory.

    python benchmarks_perf/hcma_cost.py --out results/hcma-speed.json && trueline results

Random weights in the shape of Stable Diffusion 1.4's GLIGEN U-Net and text encoder, and of the default alignment net;
float32 on the CPU, one picture, two boxes, every step aligned. Pictures with and without HCMA take their steps in
turns, in one process. A picture is all that sampling does from the prompt to the last latents, text features of
caption and labels included; the VAE, the same for both, is left out. On one thread time is CPU time, so that other
processes count little.
"""

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _measured import GUIDANCE_SCALE, LAYOUT, TOKENS, backbone_of, entry, origin, row, said
from diffusers import UNet2DConditionModel
from transformers import CLIPTokenizer

from trueline.commands._parser import Parser
from trueline.methods import make
from trueline.models.alignment import AlignmentNet
from trueline.models.stable_diffusion import StableDiffusion
from trueline.sampling.loop import sample
from trueline.sampling.method import Method, Step
from trueline.sampling.options import Sampling

PLAIN, ALIGNED = "gligen", "gligen+hcma"
MOST_TIME, MOST_MEMORY = 1.10, 1.05  #: the goals, in plain pictures

UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
NET: dict[str, Any] = {}  #: the default alignment net
SMALL_UNET = UNET | {
    "sample_size": 16,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SMALL_NET = {"width": 32, "depth": 1, "heads": 2}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="hcma_cost.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--pictures", type=_positive, default=2, help="of each kind (default 2)")
    top.add_argument("--steps", type=_positive, default=4, help="of a picture (default 4)")
    top.add_argument("--threads", type=_positive, default=1, help="of the CPU (default 1)")
    top.add_argument("--small", action="store_true", help="small nets: to try the script, not to measure")
    top.add_argument("--out", type=Path, help="rows for `trueline results`, such as results/hcma-speed.json")
    return top


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {text})")
    return int(text)


# Nets


def random_backbone(unet_shape: dict[str, Any], text_shape: dict[str, Any]) -> StableDiffusion:
    """A GLIGEN checkpoint of that shape, with a VAE that is never asked."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_shape, attention_type="gated")
    return backbone_of(unet, text_shape, tokenizer())


def tokenizer() -> CLIPTokenizer:
    """CLIP's, with letters for words: the text encoder reads ``TOKENS`` tokens, whatever they are."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: place for place, token in enumerate(tokens)},
        merges=[],
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=TOKENS,
    )


# Measuring


@dataclass
class Cost:
    """Of one kind of picture: seconds of each, and the most memory of the process while its steps ran, in GiB."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def measure(
    backbone: StableDiffusion, method: Method, pictures: int, steps: int, clock: Callable[[], float]
) -> dict[str, Cost]:
    """Pictures with and without the method, step by step in turns; which is first changes with every step."""
    costs = {PLAIN: Cost(), ALIGNED: Cost()}
    kinds = {PLAIN: [], ALIGNED: [method]}
    for methods in kinds.values():  # memory and libraries are at their ease, and the net is read
        list(checked(sample(backbone, [LAYOUT], methods, Sampling(steps=1, guidance_scale=GUIDANCE_SCALE))))
    sampling = Sampling(steps=steps, guidance_scale=GUIDANCE_SCALE)
    for _ in range(pictures):
        runs = {
            name: checked(sample(backbone, [LAYOUT], methods, sampling)) for name, methods in kinds.items()
        }
        seconds, memory, latents = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0.0), {}
        for index in range(steps):
            for name in list(runs)[:: 1 if index % 2 else -1]:
                took, most, latents[name] = timed(runs[name], clock)
                seconds[name] += took
                memory[name] = max(memory[name], most)
        if torch.equal(latents[PLAIN], latents[ALIGNED]):
            raise RuntimeError("the aligned picture is the plain one: nothing was measured")
        for name, cost in costs.items():
            cost.seconds.append(seconds[name])
            cost.memory.append(memory[name])
            print(f"{name:14} {seconds[name]:8.2f} s {memory[name]:6.2f} GiB", file=sys.stderr, flush=True)
    return costs


def checked(steps: Iterator[Step]) -> Iterator[Step]:
    """Latents are finite and no alignment was left out: else it would not be what is measured."""
    for step in steps:
        if step.notes or not step.z.isfinite().all():
            raise RuntimeError(
                f"step {step.index} is not as it should be: {step.notes or 'latents not finite'}"
            )
        yield step


def timed(steps: Iterator[Step], clock: Callable[[], float]) -> tuple[float, float, torch.Tensor]:
    """Seconds of the next step, the most GiB in use meanwhile (NaN where the system is mute), and its latents."""
    gc.collect()
    memory("VmHWM", reset=True)
    start = clock()
    step = next(steps)
    return clock() - start, memory("VmHWM"), step.z


def memory(name: str, reset: bool = False) -> float:
    """GiB of this process by Linux; VmHWM is the most since the last ``reset``."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20
    except (OSError, StopIteration):
        return math.nan


# Rows


PICTURE_COST = (
    "seconds of a picture in those of a plain one made in turns with it; all steps aligned, without the VAE"
)
PEAK = "most memory of the process in that of a plain picture, which is spared the alignment net's weights"


def rows_of(costs: dict[str, Cost], net_gib: float, model: str, made: dict[str, Any]) -> list[dict[str, Any]]:
    plain, rows = costs[PLAIN], []

    def goal(method: str, values: Sequence[float], most: float) -> str | None:
        holds = "holds" if statistics.median(values) <= most else "**does not hold**"
        return f"at most {most}: {holds}" if method != PLAIN else None

    for name, cost in costs.items():
        own = made, "HCMA's cost", model, name
        times, spaces = [1.0] * len(cost.seconds), [1.0] * len(cost.memory)
        if name != PLAIN:
            times = [one / other for one, other in zip(cost.seconds, plain.seconds, strict=True)]
            spaces = [one / (other - net_gib) for one, other in zip(cost.memory, plain.memory, strict=True)]
        rows += [
            row(*own, "picture_cost", times, PICTURE_COST, goal(name, times, MOST_TIME)),
            row(*own, "picture_seconds", cost.seconds, made["clock"]),
        ]
        if all(map(math.isfinite, cost.memory)):  # not where the system is mute
            rows += [
                row(*own, "peak_memory", spaces, PEAK, goal(name, spaces, MOST_MEMORY)),
                row(*own, "peak_gib", cost.memory, "most memory of the process, all nets in it"),
            ]
    return rows


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock, kind = (time.process_time, "CPU") if options.threads == 1 else (time.perf_counter, "wall")
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    made = origin("hcma_cost.py", arguments)
    made["clock"] = f"{kind} time, {threads}, float32, torch {torch.__version__}"
    unet, text, sizes = (SMALL_UNET, SMALL_TEXT, SMALL_NET) if options.small else (UNET, TEXT, NET)
    model = f"GLIGEN {'small' if options.small else '1.4'} U-Net, random weights"
    backbone = random_backbone(unet, text)
    with tempfile.TemporaryDirectory() as folder:
        net = AlignmentNet.for_backbone(backbone, **sizes)
        gib = sum(value.numel() * value.element_size() for value in net.state_dict().values()) / 2**30
        net.save_pretrained(folder)
        del net
        gc.collect()
        costs = measure(backbone, make("hcma", {"weights": folder}), options.pictures, options.steps, clock)
    rows = rows_of(costs, gib, model, made)
    return said(rows, options.out)


if __name__ == "__main__":
    entry(main)
