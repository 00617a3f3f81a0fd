"""What guidance costs: a guided step in plain steps, for every method, and Attend-and-Excite beside diffusers' own.

    python benchmarks_perf/guided_step.py --out results/speed.json && trueline results

Random weights in the shape of Stable Diffusion 1.4's and GLIGEN's U-Net, float32 on the CPU, one picture, two boxes.
The text encoder and the VAE are tiny: they are not what is measured. Methods and plain sampling take their steps in
turns, in one process; a cost is the ratio to the plain steps just before and after. On one thread, time is the CPU's,
so that other processes count little.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _measured import GUIDANCE_SCALE, LAYOUT, TOKENS, backbone_of, entry, origin, row, said
from diffusers import (
    DDIMScheduler,
    StableDiffusionAttendAndExcitePipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTokenizer

from trueline.commands._parser import Parser
from trueline.files import write_text
from trueline.layout import Layout
from trueline.methods import METHODS, make
from trueline.models.stable_diffusion import StableDiffusion
from trueline.sampling.loop import sample
from trueline.sampling.method import Step
from trueline.sampling.options import Sampling

WORDS = ("a", "and", "cat", "clock")
SUBJECTS = ("cat", "clock")

#: Settings with which each step is guided, by one look (one forward and backward pass) where a method takes several.
#: Others have their own: without an inner loop, and the same in every step.
ONE_LOOK: dict[str, dict[str, Any]] = {
    "attend-and-excite": {"until": 1, "thresholds": ()},
    "attention-refocusing": {"stages": ((0.0, 4.0, 1),), "dense": 1, "until": 1, "early": 1},
    "boxdiff": {"until": 1, "thresholds": ()},
    "dense-diffusion": {"duration": 1},
    "layout-guidance": {"until": 1, "iterations": 1, "enough": 0},
    "multidiffusion": {"bootstrap": 1},
    "token-weights": {"weights": {LAYOUT.prompt.split()[-1]: 2.0}},
}
RECOMPUTED = "attend-and-excite, recomputed"  #: with Backbone.enable_gradient_checkpointing()
PLAIN = "plain"
#: HCMA's net is trained for a checkpoint, and its gradient takes no pass of the U-Net.
CASES = [*(name for name in METHODS if name != "hcma"), RECOMPUTED]
#: Those whose gradient goes through the U-Net to attention maps; their cost has a goal.
MAP_GRADIENT = ("attend-and-excite", "attention-refocusing", "boxdiff", "layout-guidance")
MOST_COST, LEAST_GAIN = (
    1.9,
    1.3,
)  #: the goals: a map-gradient method's step in plain steps; diffusers' run in ours

SD_1_4 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SMALL = SD_1_4 | {
    "sample_size": 16,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="guided_step.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}")
    top.add_argument("--nets", nargs="+", choices=("plain", "gated"), default=["plain", "gated"])
    top.add_argument("--repeats", type=_positive, default=2, help="steps of each method (default 2)")
    top.add_argument("--steps", type=_even, default=4, help="of a whole run, half of them guided (default 4)")
    top.add_argument(
        "--runs", type=int, default=1, help="whole runs of Attend-and-Excite; 0 = none (default 1)"
    )
    top.add_argument("--threads", type=_positive, default=1, help="of the CPU (default 1)")
    top.add_argument("--small", action="store_true", help="a small net: to try the script, not to measure")
    top.add_argument("--out", type=Path, help="rows for `trueline results`, such as results/speed.json")
    return top


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {text})")
    return int(text)


def _even(text: str) -> int:
    if int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"must be an even number, for half of them are guided (got {text})")
    return int(text)


# Nets


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that has the words of the prompt and single letters."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for i in range(1, len(parts)):
            merges.append(f"{''.join(parts[:i])} {parts[i]}")
            vocabulary.append("".join(parts[: i + 1]))
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges), ""]))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def random_backbone(shape: dict[str, Any], *, gated: bool) -> StableDiffusion:
    """A U-Net of that shape, with text encoder and VAE that fit it and cost nothing; the noise schedule is SD's."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**shape, attention_type="gated" if gated else "default")
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "alpha_" in name:  # gates start at 0, and gradients through them would be 0
                weight.fill_(0.5)
    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer(Path(folder))
    text = {
        "hidden_size": shape["cross_attention_dim"],
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    return backbone_of(unet, text, words)


# Measuring


@dataclass
class Cost:
    """Of one method's steps: seconds, GiB kept for gradients, and seconds in those of a plain step."""

    seconds: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def add(self, seconds: float, kept: float, ratio: float = 1.0) -> None:
        self.seconds.append(seconds)
        self.kept.append(kept)
        self.ratios.append(ratio)


def guided_steps(
    backbone: StableDiffusion, names: Sequence[str], repeats: int, clock: Callable[[], float]
) -> dict[str, Cost]:
    """Every method takes its n-th step, three at a time between plain steps, before any takes the next."""
    weights = {weight.untyped_storage().data_ptr() for weight in backbone.unet.parameters()}

    def step(name: str, run: Iterator[Step]) -> tuple[float, float]:
        backbone.enable_gradient_checkpointing(name == RECOMPUTED)
        with kept_for_gradients(weights) as kept:
            start = clock()
            next(run)
            seconds = clock() - start
        backbone.enable_gradient_checkpointing(False)
        gib = sum(kept.values()) / 2**30
        say(f"{name:32} {seconds:8.2f} s {gib:6.2f} GiB kept")
        return seconds, gib

    groups = [names[i : i + 3] for i in range(0, len(names), 3)]
    plain = steps_of(backbone, PLAIN, repeats * (len(groups) + 1))
    runs = {name: steps_of(backbone, name, repeats) for name in names}
    costs = {name: Cost() for name in (PLAIN, *names)}
    # Not counted: memory and libraries are at their ease after a step of each kind.
    for name in (PLAIN, "attend-and-excite"):
        step(name, steps_of(backbone, name, 1))
    for _ in range(repeats):
        before = step(PLAIN, plain)
        costs[PLAIN].add(*before)
        for group in groups:
            measured = {name: step(name, runs[name]) for name in group}
            after = step(PLAIN, plain)
            for name, (seconds, gib) in measured.items():
                costs[name].add(seconds, gib, seconds / ((before[0] + after[0]) / 2))
            before = after
    return costs


@contextmanager
def kept_for_gradients(weights: set[int]) -> Iterator[dict[int, int]]:
    """Bytes of every storage that autograd keeps within, but for the weights' own."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def how(steps: int, **options: Any) -> Sampling:
    return Sampling(steps=steps, guidance_scale=GUIDANCE_SCALE, **options)


def steps_of(backbone: StableDiffusion, name: str, steps: int) -> Iterator[Step]:
    """A run of a method of which each step is guided; of none for ``plain``."""
    name = "attend-and-excite" if name == RECOMPUTED else name
    if name == PLAIN and not backbone.grounded:
        return checked(sample(backbone, [Layout(LAYOUT.prompt, seed=0)], (), how(steps)))
    methods = [] if name == PLAIN else [make(name, ONE_LOOK.get(name, {}))]
    return checked(sample(backbone, [LAYOUT], methods, how(steps, grounding_schedule=(1, 0, 0))))


def checked(steps: Iterator[Step]) -> Iterator[Step]:
    """Latents are finite and no guidance was left out: else it would not be what is measured."""
    for step in steps:
        if step.notes or not step.z.isfinite().all():
            raise RuntimeError(
                f"step {step.index} is not as it should be: {step.notes or 'latents not finite'}"
            )
        yield step


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Whole:
    """A run of Attend-and-Excite: its seconds, those of each step, and of a plain step of the same library."""

    plain: float
    steps: list[float]
    latents: Tensor

    @property
    def seconds(self) -> float:
        return sum(self.steps)


def whole_runs(
    backbone: StableDiffusion, steps: int, runs: int, clock: Callable[[], float]
) -> list[tuple[Whole, Whole]]:
    """Pairs of runs, ours and diffusers', from the same noise: the first half guided, no refinement.

    Raises:
        RuntimeError: the two do not make the same latents, so that their times cannot be compared.
    """
    found = []
    for _ in range(runs):
        noise = torch.randn(1, *backbone.latent_size(), generator=torch.Generator().manual_seed(0))
        ours, theirs = our_run(backbone, steps, noise, clock), their_run(backbone, steps, noise, clock)
        difference = float((ours.latents - theirs.latents).norm() / theirs.latents.norm())
        say(
            f"whole run: {ours.seconds:.2f} s, diffusers {theirs.seconds:.2f} s, latents differ by {difference:.0e}"
        )
        if not difference < 1e-2:
            raise RuntimeError(f"ours and diffusers' latents differ by {difference:.1e} of their norm")
        found.append((ours, theirs))
    return found


def our_run(backbone: StableDiffusion, steps: int, noise: Tensor, clock: Callable[[], float]) -> Whole:
    method = make("attend-and-excite", {"thresholds": ()})
    runs = (
        sample(backbone, [Layout(LAYOUT.prompt)], (), how(1), latents=noise.clone()),
        checked(sample(backbone, [LAYOUT], [method], how(steps), latents=noise.clone())),
    )
    times: list[float] = []
    for run in runs:
        start = clock()
        for step in run:
            times.append(clock() - start)
            start, latents = clock(), step.z
    return Whole(times[0], times[1:], latents)


def their_run(backbone: StableDiffusion, steps: int, noise: Tensor, clock: Callable[[], float]) -> Whole:
    def pipeline(kind: Any) -> Any:
        scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
        parts = backbone.vae, backbone.text_encoder, backbone.tokenizer, backbone.unet, scheduler, None, None
        made = kind(*parts, requires_safety_checker=False)
        made.set_progress_bar_config(disable=True)
        return made

    marks: list[float] = []

    def mark(*_: Any) -> dict[str, Any]:
        marks.append(clock())
        return {}

    shared: dict[str, Any] = {"guidance_scale": GUIDANCE_SCALE, "output_type": "latent"}
    start = clock()
    pipeline(StableDiffusionPipeline)(
        LAYOUT.prompt, num_inference_steps=1, latents=noise.clone(), callback_on_step_end=mark, **shared
    )
    plain = marks[0] - start
    ids = backbone.tokenizer(LAYOUT.prompt).input_ids
    subjects = [ids.index(backbone.tokenizer.convert_tokens_to_ids(f"{word}</w>")) for word in SUBJECTS]
    side = backbone.unet.config.sample_size
    excite = pipeline(StableDiffusionAttendAndExcitePipeline)
    marks[:], start = [], clock()
    latents = excite(
        LAYOUT.prompt,
        subjects,
        num_inference_steps=steps,
        latents=noise.clone(),
        callback=mark,
        max_iter_to_alter=steps // 2,
        thresholds={},
        attn_res=(min(16, side),) * 2,
        **shared,
    ).images
    return Whole(plain, [b - a for a, b in zip([start, *marks], marks, strict=False)], latents)


# Rows


def step_rows(costs: dict[str, Cost], model: str, made: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, cost in costs.items():
        value = statistics.median(cost.ratios)
        goal = f"at most {MOST_COST}: {'holds' if value <= MOST_COST else '**does not hold**'}"
        rows += [
            row(
                made,
                "guided step",
                model,
                name,
                "step_cost",
                cost.ratios,
                STEP_COST,
                goal if name in MAP_GRADIENT else None,
            ),
            row(made, "guided step", model, name, "step_seconds", cost.seconds, made["clock"]),
        ]
        if any(cost.kept):
            rows.append(row(made, "guided step", model, name, "kept_memory_gib", cost.kept, KEPT))
    return rows


STEP_COST = (
    "seconds of a step in those of a plain one with classifier-free guidance, the mean of the plain steps before and "
    "after. Every step is guided, by one look (forward and backward) where the method would take several; "
    "multidiffusion is bootstrapping, dense-diffusion modulating; recomputed = with activation checkpointing"
)
KEPT = "what autograd keeps for the gradient of a look, but for the weights"


def run_rows(
    found: list[tuple[Whole, Whole]], model: str, steps: int, made: dict[str, Any]
) -> list[dict[str, Any]]:
    half, name = steps // 2, "Attend-and-Excite"
    protocol = (
        f"{steps} steps of DDIM from the same noise to the same latents, the first {half} guided, refinement off on "
        "both sides, else as published; both on one net whose weights take no gradient"
    )
    own = "seconds of a step in those of the same library's plain step (diffusers: StableDiffusionPipeline)"
    gains = [theirs.seconds / ours.seconds for ours, theirs in found]
    goal = (
        f"at least {LEAST_GAIN}: {'holds' if statistics.median(gains) >= LEAST_GAIN else '**does not hold**'}"
    )
    rows = []
    for place, library in enumerate(("trueline", "diffusers")):
        whole = [pair[place] for pair in found]
        ratios = gains if place else [1.0] * len(found)
        early = [seconds / one.plain for one in whole for seconds in one.steps[:half]]
        late = [seconds / one.plain for one in whole for seconds in one.steps[half:]]
        rows += [
            row(made, name, model, library, "run_seconds", [one.seconds for one in whole], protocol),
            row(
                made,
                name,
                model,
                library,
                "run_cost",
                ratios,
                "run_seconds in trueline's",
                goal if place else None,
            ),
            row(made, name, model, library, "guided_step_cost", early, own),
            row(made, name, model, library, "unguided_step_cost", late, own),
        ]
    return rows


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock, kind = (time.process_time, "CPU") if options.threads == 1 else (time.perf_counter, "wall")
    made = origin("guided_step.py", arguments)
    made["clock"] = f"{kind} time, threads {options.threads}, float32, torch {torch.__version__}"
    names = options.only or CASES
    shape, rows = SMALL if options.small else SD_1_4, []
    size = "small" if options.small else "1.4"
    for net in options.nets:
        model = {"plain": f"Stable Diffusion {size}", "gated": f"GLIGEN {size}"}[
            net
        ] + " U-Net, random weights"
        say(model)
        backbone = random_backbone(shape, gated=net == "gated")
        rows += step_rows(guided_steps(backbone, names, options.repeats, clock), model, made)
        if net == "plain" and options.runs and "attend-and-excite" in names:
            found = whole_runs(backbone, options.steps, options.runs, clock)
            rows += run_rows(found, model, options.steps, made)
        del backbone
        gc.collect()
        if options.out:  # after each net: a long run that is stopped leaves what it has
            write_text(options.out, json.dumps(rows, indent=1) + "\n")
    return said(rows, options.out)


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    entry(main)
