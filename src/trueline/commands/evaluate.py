"""``trueline evaluate``: draw what a benchmark asks for, look at it, and write the table."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.commands._engine import add_engine, read_engine
from trueline.commands._images import read_images, read_pattern
from trueline.commands._methods import Given, read_value
from trueline.commands._parser import DTYPES, SPARING, Parser, add_flags, add_settings, settings_of
from trueline.commands._planners import (
    NONE,
    PLANNERS,
    check_planners,
    make_chosen,
    split_all,
)
from trueline.commands._rows import check_boxes, compared_with, default_rows, read_loras, read_rows
from trueline.errors import redacted_arguments
from trueline.evaluation.benchmarks import BENCHMARKS, LAYOUT_BENCHMARKS, load
from trueline.methods import METHODS
from trueline.models.shipped import own_guidance_scale
from trueline.sampling.options import Sampling, recorded

if TYPE_CHECKING:
    from trueline.engine import Engine, Shard
    from trueline.evaluation.benchmarks.benchmark import Benchmark
    from trueline.evaluation.drawing_list import Wanted
    from trueline.evaluation.planning import Asking
    from trueline.evaluation.run import Row

NO_JUDGES = ["none"]
MAX_PICTURES_EACH = 1000  #: of one prompt
GROUPS = (*METHODS, *PLANNERS)  #: names with settings of their own, --NAME.setting
EPILOG = """benchmarks:
  world           held-out scenes of the embedded world, judged by its oracle and its CLIP; with --data also those
                  prompts of CC-500, T2I-CompBench and NSR-1K that the world knows every word of
  nsr-1k-layout, t2i-compbench-layout
                  plans (boxes, no pictures) for NSR-1K's prompts, or T2I-CompBench's of space and number; need
                  --planner, as [NAME=]rules, llm:MODEL, replay:FILE; several are rows of one table
  the others      read their official files from --data DIR (or TRUELINE_DATA); with --planner, prompts without
                  boxes get planned ones

methods:
  plain    the words only
  gligen   words and boxes, through the model's grounding layers; for benchmarks with boxes
  NAME     one of `trueline methods`, without the grounding layers; gligen+NAME with them; A+B both, in this order;
           --NAME.scale 20 sets it for all rows, NAME@scale=20,until=.5 for this row
  lora:NAME  with the LoRA of that name, of the package's (--model world) or of --loras, in this row only:
           gligen+lora:goal, lora:realign, gligen+lora:goal@weight=.5+boxdiff; several add up

judges, as kind=checkpoint (a folder, a Hub id, or a file of weights); what they are for:
  owlv2, owlv2-per-label, grounding-dino, oracle   boxes: spatial, numeracy, counting, GenEval, HRS, 7Bench,
                                                   OverLayBench, AP; with a segmenter also COCO-MIG
  sam, sam2, world-seer                            masks in which colours are read: COCO-MIG
  clip, negclip, world-clip                        CLIP score of pictures and regions, CMMD, OverLayScore
  blip-vqa                                         B-VQA, GenEval 2's Soft-TIFA
  inception-tf, clean                              FID, KID, region FID, where there are real pictures
  pickscore, blip-itm, blip-itc, blip2-itm, blip2-itc, world-itm, world-itc, NAME=package.module:function
With --model world the judges are oracle and world-clip. "none" draws only.

A run that was stopped goes on when the same command is given again; several of them, on machines that share the
folder, share the work. Exit code 1: a picture could not be made; the world's judge was not sure enough on the world's
own pictures (below 99%, or 97% after the autoencoder); or more than 5% of the plans are by a stand-in (the rules,
where a language model made none), so that the table is in doubt.

examples:
  trueline evaluate world --methods plain gligen --n 256 --out out/world
  trueline evaluate t2i-compbench --data DIR --option categories=spatial --model stabilityai/stable-diffusion-2-1 \\
    --judges owlv2=google/owlv2-base-patch16-ensemble --images-per-prompt 10
  trueline evaluate geneval --data DIR --images boxdiff=out/boxdiff --judges owlv2=... clip=...
  trueline evaluate drawbench --data DIR --planner rules --methods plain gligen --model gligen --judges clip=...
  trueline evaluate nsr-1k-layout --data DIR --planner rules gpt4=replay:gpt4.json,gpt4.spatial.json"""


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline evaluate",
        description="Draw what a benchmark asks for, look at it, and write the table.",
        epilog=EPILOG,
    )
    names = (*BENCHMARKS, *LAYOUT_BENCHMARKS)
    top.add_argument("benchmark", metavar="BENCHMARK", choices=names, help=" | ".join(names))
    _what(top.add_argument_group("what to draw"))
    _who(top.add_argument_group("who looks"))
    _how(top.add_argument_group("how"))
    top.add_argument("--out", default="out/evaluation", metavar="FOLDER", help="default out/evaluation")
    top.add_argument(
        "--export",
        metavar="FOLDER",
        help="copy each method's pictures to FOLDER/METHOD as the benchmark's own scorer takes them (of one that has "
        "none: as T2I-CompBench's)",
    )
    add_flags(top, {"--export-pattern PATTERN": "instead; as --images-pattern"})
    top.add_argument("--quiet", action="store_true", help="no progress")
    add_engine(top.add_argument_group("who works"), "draw and look at this part only")
    return top


def _what(group: argparse._ArgumentGroup) -> None:
    several = {
        "--loras NAME=FILE": "LoRAs by the names that rows call them by, as lora:NAME",
        "--images [NAME=]DIR": "pictures made elsewhere, as methods of those names: ID.png or ID-COPY.png, or as the "
        "benchmark's own scorer has them (T2I-CompBench, GenEval, HRS, ImageReward)",
        "--option NAME=VALUE": "of the benchmark: split=train, categories=...",
    }
    names = {
        "--methods NAME": "default: plain gligen, or plain where there are no boxes; none with --images",
        "--planner NAME": "who makes the boxes: rules, llm:MODEL, replay:FILE",
    }
    counts = {
        "--n COUNT": "prompts (default: all)",
        "--images-per-prompt COUNT": "default: as many as seeds, or 1",
    }
    others = {
        "--images-pattern PATTERN": "where each picture lies, such as {index:05d}/samples/{k:04d}.png; with index, "
        "k, number, prompt, id",
        "--data DIR": "the benchmarks' files (or TRUELINE_DATA)",
        "--against NAME": "the row, or planner, that the others are compared with (default: the first)",
    }
    add_flags(group, names, nargs="+")
    add_flags(group, several, nargs="+", default=[])
    add_flags(group, counts, type=int)
    add_flags(group, {"--seeds SEED": "default: 0, 1, ... one per picture"}, type=int, nargs="+")
    add_flags(group, others)


def _who(group: argparse._ArgumentGroup) -> None:
    add_flags(group, {"--judges KIND=CHECKPOINT": "models that measure; see below"}, nargs="+")
    group.add_argument(
        "--mode",
        choices=("official", "fixed"),
        default="official",
        help="the published scorers' rules with their quirks, or without (default official)",
    )


def _how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="world", help="the package's model, a folder, or a Hub id")
    add_settings(group, Sampling, recorded())
    group.add_argument("--dtype", choices=DTYPES, help="default: bf16 where the device has it, or else fp32")
    group.add_argument("--device", help="default: cuda where there is one")
    add_flags(group, SPARING)
    group.add_argument("--batch-size", type=int, default=16, metavar="COUNT", help="default 16")


def main(arguments: Sequence[str]) -> int:
    command = " ".join(["trueline evaluate", *redacted_arguments(arguments)])
    rest, given, of_planners = split_all(arguments)
    options = parser().parse_args(rest)
    engine, shard = read_engine(options, "evaluate", arguments)
    if options.benchmark in LAYOUT_BENCHMARKS:
        return _plans(options, command, given, of_planners, engine)
    return _pictures(options, command, given, of_planners, engine, shard)


def read_seeds(options: argparse.Namespace) -> tuple[int, ...]:
    """One seed per picture of a prompt."""
    given, copies = options.seeds, options.images_per_prompt
    if copies is not None and not 1 <= copies <= MAX_PICTURES_EACH:
        raise ValueError(f"--images-per-prompt: must be from 1 to {MAX_PICTURES_EACH} (got {copies})")
    if given is None:
        return tuple(range(copies or 1))
    if copies not in (None, len(given)):
        raise ValueError(f"--seeds: give one per picture of a prompt ({copies}), got {len(given)}")
    if len(set(given)) < len(given) or min(given) < 0:
        raise ValueError("--seeds: must be different and not negative")
    return tuple(given)


def _plans(
    options: argparse.Namespace, command: str, given: Given, of_planners: Given, engine: "Engine"
) -> int:
    if given:
        name, settings = next(iter(given.items()))
        raise ValueError(f"--{name}.{next(iter(settings))}: belongs to benchmarks with pictures")
    several = options.seeds is not None or options.images_per_prompt is not None
    seeds = read_seeds(options) if several else ()
    from trueline.commands._layout_scores import score

    return score(options, read_options(options), seeds, command, of_planners, engine)


def _pictures(
    options: argparse.Namespace,
    command: str,
    given: Given,
    of_planners: Given,
    engine: "Engine",
    shard: "Shard",
) -> int:
    seeds, names = read_seeds(options), judge_names(options)
    from trueline.commands._evaluation import Evaluation
    from trueline.commands._model import fast_dtype, warnings_as_lines
    from trueline.evaluation.drawing_list import choose, wanted
    from trueline.evaluation.run import EvaluationRun, EvaluationSettings

    loras = _checked(options, names)
    settings = EvaluationSettings(
        benchmark=options.benchmark,
        model=options.model,
        n=options.n,
        seeds=seeds,
        sampling=settings_of(options, Sampling, {"guidance_scale": own_guidance_scale(options.model)}),
        dtype=options.dtype or fast_dtype(options.device),
        batch_size=options.batch_size,
        vae_tiling=options.vae_tiling,
    )
    with warnings_as_lines():
        benchmark = load(options.benchmark, options.data, **read_options(options))
        if not benchmark.examples:
            raise ValueError(f"{options.benchmark}: no examples are left; loosen --option")
        asking, places = read_asking(options, of_planners, benchmark, shard)
        if asking is not None:
            settings = settings.model_copy(update={"planner": asking.to_json()})
        pictures = wanted(benchmark.examples, choose(benchmark.examples, options.n), seeds)
        elsewhere = read_images(options, pictures, benchmark)
        read_pattern(options, "export")
        asked = None
        if options.methods is not None or loras:
            asked = read_rows(options.methods or [], given, loras, options.model)

        def chosen(pictures: "Sequence[Wanted]") -> "tuple[list[Row], str | None]":
            rows = default_rows(pictures, bool(options.images)) if asked is None else asked
            check_boxes(rows, pictures, options.benchmark)
            named = [*(row.name for row in rows), *(each.method for each in elsewhere)]
            return rows, compared_with(options.against, named)

        if asking is None:  # else it is known when the boxes are
            chosen(pictures)
        run = EvaluationRun(Path(options.out), benchmark, settings, shard, elsewhere)
    own = options.benchmark == "world" and options.judges != NO_JUDGES
    return Evaluation(run, chosen, names, own, options, command, engine, asking, places)()


def _checked(options: argparse.Namespace, names: Sequence[str]) -> "dict[str, Path]":
    """What needs neither network nor weights to be refused; the LoRAs."""
    from trueline.commands._model import check_loading

    check_loading(options.model, options.device, None, (("judges", name) for name in names))
    return read_loras(options.loras)


def read_asking(
    options: argparse.Namespace, given: Given, benchmark: "Benchmark", shard: "Shard"
) -> "tuple[Asking | None, list[int]]":
    """Who is asked for boxes, and for which places of the benchmark."""
    from trueline.evaluation.planning import Asking, bare_places, questions

    check_planners(options.planner or [], given)
    if options.planner in (None, [NONE]):
        return None, []
    if len(options.planner) > 1:
        raise ValueError("--planner: give one; pictures of several are runs of their own, each in its folder")
    (spec,), (planner,) = options.planner, make_chosen(options.planner, given)
    places = bare_places(benchmark, options.n)
    asked = questions([benchmark.examples[place] for place in places])
    asking = Asking(planner, asked, spec, given.get(spec.partition(":")[0], {}))
    if shard.count > 1 and not asking.repeatable:
        raise ValueError(
            f"--shard: {spec} may plan otherwise in each shard; make the boxes first, with trueline plan, and give "
            "them as --planner replay:FILE"
        )
    return asking, places


def judge_names(options: argparse.Namespace) -> list[str]:
    """The models that look, besides the world's own judge on the world's benchmark."""
    if options.judges is not None:
        return [] if options.judges == NO_JUDGES else list(options.judges)
    if options.benchmark == "world":
        return []
    if options.model == "world":
        return ["oracle", "world-clip"]
    raise ValueError(
        "--judges: nothing would be measured; give models as kind=checkpoint, such as "
        "clip=openai/clip-vit-base-patch32, or none to draw only"
    )


def read_options(options: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's own, of --option."""
    given: dict[str, Any] = {}
    for option in options.option:
        name, equals, value = option.partition("=")
        if not (name and equals):
            raise ValueError(f"--option: write it as NAME=VALUE (got {option!r})")
        name, dot, part = name.partition(".")  # boxes.min_boxes=3
        if dot:
            given.setdefault(name, {})[part] = read_value(value)
        else:
            given[name] = read_value(value)
    return given
