"""``trueline train``: train a recipe; a run that was stopped goes on with the same command."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trueline.commands._methods import read_value
from trueline.commands._parser import Parser, add_flags
from trueline.training.recipes import RECIPES

EPILOG = """examples:
  trueline train hcma --config configs/hcma_world.yaml --stage align --out out/hcma/align
  trueline train hcma --config configs/hcma_world.yaml --stage joint \\
      --set objective.alignment=out/hcma/align/final --out out/hcma/joint
  trueline train hcma --model gligen --data ~/coco --set data.split=train2014 --set steps=2000 \\
      --set objective.depth=6 --out out/hcma
  trueline train goal --config configs/goal_world.yaml --out out/goal
  trueline train goal --config configs/goal_sd14.yaml --data goal2k.jsonl --set lora=16 --out out/goal_sd14

recipes:
{recipes}

Writes into --out: final (the result), best (the weights of the step with the best held-out score, where there is
one), train.json (all settings and what was done), log.jsonl, checkpoints, cache (the encoded pictures),
left_out.jsonl (what of the data was not used), validation (pictures drawn on the way), not_finite.jsonl (the last bad
steps of a run that gave up). Several processes:
accelerate launch --multi_gpu --num_processes 2 -m trueline.cli train ..."""

#: Argument of the library -> flag, where the names differ.
FLAGS = {"data.source": "--data"}


def parser() -> argparse.ArgumentParser:
    recipes = "\n".join(f"  {name}  {what}" for name, what in RECIPES.items())
    top = Parser(
        prog="trueline train",
        description="Train a recipe; a run that was stopped goes on with the same command.",
        epilog=EPILOG.format(recipes=recipes),
    )
    top.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES))
    add_flags(
        top,
        {
            "--config FILE": "YAML of settings; those under stages.NAME for that stage only. A file, or the name of "
            "one that comes with the package, such as goal_world",
            "--stage NAME": "of hcma: align, joint or control",
            "--model NAME": "what to begin with: world, a diffusers folder, or a Hub id (default world)",
            "--data SOURCE": "world, a folder in COCO's format, or a .jsonl of layouts",
            "--device NAME": "cpu, cuda, cuda:1, mps; default: cuda where there is one",
        },
    )
    top.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, over the file's; repeatable",
    )
    top.add_argument("--out", metavar="DIR", help="where the run lives")
    top.add_argument("--quiet", action="store_true", help="say nothing on the way")
    top.add_argument("--show", action="store_true", help="print all settings as YAML and stop")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.recipe not in RECIPES:
        raise ValueError(f"there is no recipe {options.recipe!r}; there are {', '.join(RECIPES)}")
    given = gathered(options)
    from trueline.training.recipes.recipe import recipe

    settings = recipe(options.recipe).settings(**given)
    if options.show:
        import yaml

        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    if options.out is None:
        raise ValueError("--out: give the folder in which the run lives")
    from pathlib import Path

    from trueline.commands._model import check_loading, find_device, warnings_as_lines
    from trueline.sampling.records import commit
    from trueline.training.run import TrainingRun

    check_loading(settings.model, options.device)
    _check_places(settings)
    device = find_device(options.device)
    with warnings_as_lines(), _progress_on_stderr(options.quiet):
        return TrainingRun(options.recipe, settings, Path(options.out), device, commit())()


def _check_places(settings: Any) -> None:
    """Data and further models are there, or may be on the Hub."""
    from trueline.models.alignment import net_config
    from trueline.models.shipped import WORLD, check_place
    from trueline.training.data.examples import reader_of
    from trueline.training.settings import flat

    reader_of(settings.data)
    given = flat(settings.model_dump())
    if given.get("objective.clip") not in (None, WORLD):
        check_place(given["objective.clip"], "objective.clip")
    if given.get("objective.alignment") is not None:
        net_config(given["objective.alignment"])


@contextmanager
def _progress_on_stderr(quiet: bool) -> Iterator[None]:
    """What training logs, as plain lines."""
    logger, handler = logging.getLogger("trueline.training"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def gathered(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the file, of its section for the stage, and of the flags, later ones over earlier ones."""
    from trueline.training.settings import flat, put, read_yaml

    settings = read_yaml(options.config) if options.config else {}
    stages = _section(settings.pop("stages", None), "stages", options.config)
    over = _flags(options)
    stage = over.get("stage", settings.get("stage"))
    chosen = {name: content for name, content in stages.items() if name == stage}
    section = _section(chosen.get(f"{stage}"), f"stages.{stage}", options.config)
    if stages and not chosen:
        raise ValueError(f"--stage: {options.config} has settings for {', '.join(stages)}; name one of them")
    for key, value in (flat(section) | over).items():
        put(settings, key, value)
    return settings


def _section(content: Any, name: str, file: str) -> dict[str, Any]:
    """A group of settings of a file; one that holds nothing is empty."""
    if not isinstance(content, dict | None):
        raise ValueError(
            f"--config: {name} in {file} must hold settings as `key: value` lines (got {content!r})"
        )
    return content or {}


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    named = {"model": options.model, "data.source": options.data, "stage": options.stage}
    over = {key: value for key, value in named.items() if value is not None}
    for text in options.set:
        key, mark, value = text.partition("=")
        if not (mark and key):
            raise ValueError(f"--set: write KEY=VALUE, such as steps=2000 (got {text!r})")
        if key in over:
            raise ValueError(f"--set: {key} is there twice")
        over[key] = read_value(value)
    return over
