"""What HCMA's alignment net reads in a noisy latent: the right caption among 64, the right label among all labels.

    python studies/hcma_retrieval.py --out results/hcma-retrieval.json --figure docs/hcma_retrieval.png

Held-out scenes of the world, noised to each timestep. A caption counts as found when its text feature is the nearest
of the 64 of its group to the net's global feature; a label, when it is the nearest of all phrases of the world to the
feature of its box. The control is the same net before training. Intervals are over scenes.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import entry

from trueline.commands._parser import Parser
from trueline.errors import redacted_arguments
from trueline.evaluation.world_report import SPLIT, Figure, figure, layout_of
from trueline.files import write_text
from trueline.methods import make
from trueline.models.alignment import AlignmentNet, load_net, misfit
from trueline.models.alignment_loss import targets
from trueline.models.backbone import Backbone
from trueline.sampling.pipeline import Pipeline
from trueline.sampling.records import commit
from trueline.training.data.latents import encode_pictures
from trueline.training.losses.denoising import noised
from trueline.world.captions import caption
from trueline.world.language import all_phrases
from trueline.world.scenes import make_scene, render

GROUP = 64  #: captions to choose from
TIMES = (50, 150, 250, 350, 450, 550, 650, 750, 850, 900, 950, 990)
CAPTION, LABEL = f"caption_among_{GROUP}", "label_among_all"


def retrieval(
    net: AlignmentNet, backbone: Backbone, latents: torch.Tensor, layouts: Sequence[Any], t: int
) -> list[Figure]:
    """Shares of captions and of labels found in latents noised to ``t``, with intervals."""
    labels = all_phrases()
    of_labels = F.normalize(net.text_targets(backbone, labels), dim=-1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
    times = torch.full((len(latents),), t)
    captions: list[list[float]] = []
    found: list[list[float]] = []
    for start in range(0, len(layouts), GROUP):
        part = slice(start, start + GROUP)
        wanted = targets(net, backbone, layouts[part])
        z = noised(latents[part], noise[part], backbone.noise_level(times[part]))
        with torch.no_grad():
            seen = net(z, times[part], wanted.boxes, wanted.present)
        of_captions = F.normalize(wanted.caption, dim=-1)
        best = (F.normalize(seen.globe, dim=-1) @ of_captions.T).argmax(1)
        said = [layout.prompt for layout in layouts[part]]
        captions += [[float(said[int(b)] == own)] for b, own in zip(best, said, strict=True)]
        nearest = (F.normalize(seen.local, dim=-1) @ of_labels.T).argmax(-1)
        found += [
            [float(labels[int(n)] == region.phrase) for n, region in zip(row, layout.regions, strict=False)]
            for row, layout in zip(nearest, layouts[part], strict=True)
        ]
    return [figure(CAPTION, captions), figure(LABEL, found)]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The two curves over t, trained and untrained, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True)
    titles = {CAPTION: f"its caption among {GROUP}", LABEL: f"a box's label among {len(all_phrases())}"}
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for method, style in (("trained", "o-"), ("untrained", "s--")):
            some = [row for row in rows if row["metric"] == metric and row["method"] == method]
            t = [int(row["category"].removeprefix("t = ")) for row in some]
            mean = np.array([row["value"] for row in some])
            spread = [mean - [row["low"] for row in some], [row["high"] for row in some] - mean]
            axis.errorbar(t, mean, spread, fmt=style, markersize=4, linewidth=1.2, capsize=2, label=method)
        axis.set(title=title, xlabel="timestep t of the latent (999 is noise)", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share found first")
    axes[0].legend(frameon=False)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="hcma_retrieval.py", description=(__doc__ or "").split("\n\n")[0])
    top.add_argument("--weights", type=Path, help="folder of the net (default: the world's own)")
    top.add_argument("--n", type=int, default=512, help="scenes (default: %(default)s)")
    top.add_argument("--out", type=Path, help="rows for `trueline results`")
    top.add_argument("--figure", type=Path, help="the curves as a PNG")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.n < GROUP or options.n % GROUP:
        raise ValueError(
            f"--n: must be {GROUP}, the captions to choose from, or a multiple of it (got {options.n})"
        )
    net = load_net(options.weights or make("hcma", {}).folder)
    backbone = Pipeline.from_pretrained("world", dtype=torch.float32).backbone
    if problem := misfit(net.config, backbone, backbone.latent_size()):
        raise ValueError(f"--weights: the net in {options.weights} {problem}")
    torch.manual_seed(0)
    untrained = AlignmentNet.from_config(net.config).eval()
    untrained.text_projection.copy_(net.text_projection)
    scenes = [make_scene(SPLIT, i) for i in range(options.n)]
    layouts = [layout_of(s, caption(s).text, boxes=True) for s in scenes]
    latents = torch.cat(
        [
            encode_pictures(backbone, np.stack([render(s) for s in scenes[i : i + 16]])).float()
            for i in range(0, len(scenes), 16)
        ]
    )
    command = shlex.join(["python", "studies/hcma_retrieval.py", *redacted_arguments(arguments)])
    rows: list[dict[str, Any]] = []
    for method, one in (("trained", net), ("untrained", untrained)):
        for t in TIMES:
            for result in retrieval(one, backbone, latents, layouts, t):
                rows.append(
                    {
                        "benchmark": "HCMA's alignment net",
                        "model": "world",
                        "method": method,
                        "metric": result.name,
                        "category": f"t = {t}",
                        "value": result.mean,
                        "low": result.low,
                        "high": result.high,
                        "n": result.n,
                        "images_per_prompt": 1,
                        "seeds": [t],
                        "protocol": f"held-out scenes noised to t; {len(all_phrases())} labels",
                        "command": command,
                        "commit": commit(),
                    }
                )
            print(method, t, *(f"{row['metric']} {row['value']:.3f}" for row in rows[-2:]), flush=True)
    if options.out:
        write_text(options.out, json.dumps(rows, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)
    return 0


if __name__ == "__main__":
    entry(main)
