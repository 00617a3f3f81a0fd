"""``trueline dataset``: pictures with boxes to train on, made from prompts and checked by a person."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.commands._engine import add_engine, read_engine, recorded_end
from trueline.commands._parser import DTYPES, SPARING, Parser, add_flags, flag_of

if TYPE_CHECKING:
    from trueline.dataset import Wish
    from trueline.dataset.build import DatasetBuild
    from trueline.dataset.settings import DatasetSettings

WORLD = "world"
NOBODY = "none"
#: Kind of CLIP -> least cosine of picture and prompt, where none is given. With 48 renders of the world the lowest is
#: 0.50 for their own captions, and 95 % are below 0.36 for others'; that of other CLIPs is judged.
LEAST_CLIP = {"world-clip": 0.45, "clip": 0.2}
USAGE = """usage: trueline dataset ACTION ...

actions:
  build   prompts, pictures, boxes, a filter of agreement, and a page to review them on; goes on where it stopped
  finish  apply the decisions of the review: data.jsonl, images and a data card

`trueline dataset ACTION --help` tells more."""
EPILOG = """examples:
  trueline dataset build --out out/goal2k_world --tries 8
  trueline dataset build --words common --captions-from captions.txt --model stabilityai/stable-diffusion-2-1 \\
    --detector grounding-dino=IDEA-Research/grounding-dino-base --clip clip=openai/clip-vit-large-patch14 \\
    --out out/goal2k
  trueline dataset build --words common --captions 0 --prompts-only --out out/mine     # prompts.jsonl: draw them ...
  trueline dataset build --words common --captions 0 --images PICTURES --detector owlv2=... --out out/mine

Writes into --out: prompts.jsonl, pictures, seen (who saw what), items.jsonl (what agrees), rejected.jsonl (what does
not, and why), summary.json, and review.html, on which k keeps, d drops and u takes back. Then: trueline dataset
finish."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    action, *rest = arguments
    actions = {"build": _build, "finish": _finish}
    if action not in actions:
        raise ValueError(f"dataset: there is no action {action!r}; there are {', '.join(actions)}")
    return actions[action](rest)


def build_parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline dataset build",
        description="Make pictures with boxes from prompts, as GOAL2K was made.",
        epilog=EPILOG,
    )
    top.add_argument("--out", required=True, metavar="DIR", help="where the build lives")
    _prompts(top.add_argument_group("prompts"))
    _pictures(top.add_argument_group("pictures"))
    _who(top.add_argument_group("who looks"))
    top.add_argument("--quiet", action="store_true", help="say nothing on the way")
    add_engine(top.add_argument_group("who works"))
    return top


def _prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--words", default=WORLD, help="world, common, or a YAML file with objects, colours, shapes, textures"
    )
    kinds = {
        "--templates N": "prompts of templates (default 1000)",
        "--captions N": "natural captions (default 1000)",
    }
    add_flags(group, kinds, type=int, default=1000)
    add_flags(
        group, {"--captions-from FILE": "one per line, or JSON with prompt and id; default: the world's own"}
    )
    group.add_argument("--seed", type=int, default=0, help="of prompts and of noise (default 0)")
    group.add_argument("--prompts-only", action="store_true", help="write prompts.jsonl and stop")


def _pictures(group: argparse._ArgumentGroup) -> None:
    add_flags(
        group,
        {
            "--model NAME": "world, a folder, or a Hub id (default world)",
            "--images DIR": "pictures that are there, named by the ids of the prompts",
            "--device NAME": "default: cuda where there is one",
        },
    )
    tries = "seeds of a prompt, until it agrees (default 1); may become more or fewer in the same folder"
    add_flags(group, {"--tries N": tries}, type=int, default=1)
    add_flags(group, {"--steps N": "denoising steps (default 50)"}, type=int, default=50)
    add_flags(group, {"--batch-size N": "pictures at a time (default 16)"}, type=int, default=16)
    add_flags(
        group,
        {"--guidance-scale W": "default: the model's own, 7.5 where it has none"},
        type=float,
    )
    add_flags(group, {"--scheduler NAME": "default ddim"}, default="ddim")
    group.add_argument("--dtype", choices=DTYPES, help="default: bf16 where it is fast")
    add_flags(group, SPARING)


def _who(group: argparse._ArgumentGroup) -> None:
    models = {
        "--detector KIND=CHECKPOINT": "owlv2, grounding-dino (default for the world's words: oracle)",
        "--clip KIND=CHECKPOINT": "clip, or none (default for the world's words: world-clip)",
    }
    add_flags(group, models)
    group.add_argument(
        "--ask", choices=("phrases", "nouns"), help="for what (default: the oracle nouns, others phrases)"
    )
    least = ", ".join(f"{value:g} for {kind}" for kind, value in LEAST_CLIP.items())
    bounds = {
        "--min-score S": "least score of a box (default: the detector's own)",
        "--min-clip S": f"least cosine with the prompt (default {least})",
    }
    add_flags(group, bounds, type=float)
    broken = {"--max-broken SHARE": "of pictures that cannot be used (default 0.05)"}
    add_flags(group, broken, type=float, default=0.05)


def finish_parser() -> argparse.ArgumentParser:
    top = Parser(prog="trueline dataset finish", description="Apply the decisions of a review.")
    top.add_argument("--out", required=True, metavar="DIR", help="the build's folder")
    top.add_argument(
        "--decisions", nargs="+", default=[], type=Path, metavar="FILE", help="what the pages saved"
    )
    top.add_argument("--undecided", choices=("keep", "drop"), help="what becomes of items without a decision")
    top.add_argument("--to", metavar="DIR", help="the set's folder (default: set in the build's)")
    top.add_argument("--title", default="Pictures with boxes", help="of the data card")
    top.add_argument("--licence", default="unknown", help="of the set, for the data card: yours to say")
    return top


def _build(arguments: Sequence[str]) -> int:
    options = build_parser().parse_args(arguments)
    engine, _ = read_engine(options, "dataset", ["build", *arguments])
    _check(options)
    from trueline.dataset.captions import natural_wishes
    from trueline.dataset.templates import template_wishes
    from trueline.dataset.words import read_words

    words = read_words(options.words)
    wishes = template_wishes(words, options.templates, options.seed)
    natural, passed = natural_wishes(
        _captions_from(options) or "", options.captions, options.seed, world=options.words == WORLD
    )
    wishes += natural
    _check_ids(wishes)
    if options.prompts_only:
        return _prompts_only(options, wishes)
    settings = _settings(options)
    from trueline.commands._model import check_loading, find_device, load_pipeline, warnings_as_lines
    from trueline.dataset.build import Checker, DatasetBuild
    from trueline.dataset.pictures import DrawnPictures, GivenPictures
    from trueline.perception import load as load_model

    looked = (("detector", settings.detector), ("clip", settings.clip))
    check_loading(settings.model or WORLD, options.device, None, looked)

    def pipe() -> Any:
        given = {"model": options.model or WORLD, "revision": None, "lora": None, "dtype": settings.dtype}
        spared = {"offload": options.offload, "vae_tiling": settings.vae_tiling}
        return load_pipeline(given | {"device": options.device} | spared)

    def checker() -> Checker:
        device = str(find_device(options.device))
        clip = None if settings.clip is None else load_model(settings.clip, device)
        return Checker(load_model(settings.detector, device), clip, settings)

    def say(sentence: str) -> None:
        if not options.quiet:
            print(sentence, file=sys.stderr, flush=True)

    out = Path(options.out)
    with warnings_as_lines():
        given = Path(options.images) if options.images else None
        pictures = DrawnPictures(settings, wishes, pipe) if given is None else GivenPictures(given)
        build = DatasetBuild(out, settings, wishes, pictures, checker, passed, options.max_broken, say)
        with recorded_end(lambda status: _stopped(build, status)):
            if not build.draw_and_look(engine, options.quiet):
                return 0
            summary, pages = _end(build)
    return _told(out, len(wishes), summary, pages)


def _stopped(build: "DatasetBuild", status: str) -> None:
    if not build.folder.forget():
        build.folder.close(status, build.jobs)


def _end(build: "DatasetBuild") -> tuple[dict[str, Any], list[Path]]:
    """Write what comes out; the summary, and the pages of the review."""
    from trueline.dataset.finish import read_items
    from trueline.dataset.review import write_review

    with build.folder.alone("end", wait=True):
        summary = build.write()
        pages = write_review(build.folder, build.digest, read_items(build.folder.path), "Keep or drop")
        build.folder.close("complete", build.jobs)
    return summary, pages


def _told(out: Path, wishes: int, summary: dict[str, Any], pages: list[Path]) -> int:
    rejected = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items()) or "none"
    agreed = sum(summary["agreed"].values())
    print(f"{agreed} of {wishes} prompts have a picture that agrees; rejected: {rejected}")
    if not pages:
        print(f"nothing agrees; {out / 'rejected.jsonl'} says why")
        return 1
    print(
        f"review them: {', '.join(map(str, pages))}; then: trueline dataset finish --out {out} --decisions FILE"
    )
    return 0


def _finish(arguments: Sequence[str]) -> int:
    options = finish_parser().parse_args(arguments)
    from trueline.dataset.build import digest_of, read_manifest
    from trueline.dataset.finish import finish, read_items
    from trueline.dataset.review import read_decisions
    from trueline.files import MANIFEST

    out = Path(options.out)
    items = read_items(out)
    digest = digest_of(read_manifest(out / MANIFEST))
    decided = read_decisions(options.decisions, digest, items)
    for sentence in decided.remarks():
        print(sentence, file=sys.stderr)
    target = Path(options.to) if options.to else out / "set"
    about = finish(
        out, target, digest, decided.choices, options.undecided, title=options.title, licence=options.licence
    )
    made = f"{about['items']} pictures, {about['boxes']} boxes"
    print(f"{made}: {target / 'data.jsonl'}; the card: {target / 'README.md'}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be told without a library."""
    from trueline.layout import MAX_SEED

    for name, low in (
        ("templates", 0),
        ("captions", 0),
        ("seed", 0),
        ("tries", 1),
        ("steps", 1),
        ("batch_size", 1),
    ):
        if getattr(options, name) < low:
            raise ValueError(f"{flag_of(name)}: must be at least {low} (got {getattr(options, name)})")
    if options.seed > MAX_SEED:
        raise ValueError(f"--seed: must be from 0 to {MAX_SEED} (got {options.seed})")
    for name in ("max_broken", "min_score"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{flag_of(name)}: must be between 0 and 1 (got {value})")
    if options.templates + options.captions == 0:
        raise ValueError("--templates: with no captions either there is nothing to make; ask for some")
    if options.images and options.model:
        raise ValueError("--images: a model draws nothing where pictures are given; leave one of them out")
    if options.images and options.tries > 1:
        raise ValueError("--tries: has no effect with --images; leave it out")
    if options.captions and _captions_from(options) is None:
        raise ValueError("--captions-from: give a file of captions, or --captions 0")
    if options.captions_from and not options.captions:
        raise ValueError("--captions-from: has no effect with --captions 0; leave it out")
    if options.min_clip is not None and _clip(options) is None:
        raise ValueError("--min-clip: has no effect without --clip; give one, or leave it out")
    if options.words != WORLD and options.detector is None and not options.prompts_only:
        raise ValueError("--detector: give one, such as grounding-dino=IDEA-Research/grounding-dino-base")


def _clip(options: argparse.Namespace) -> str | None:
    clip = options.clip or ("world-clip" if options.words == WORLD else NOBODY)
    return None if clip == NOBODY else clip


def _captions_from(options: argparse.Namespace) -> str | None:
    return options.captions_from or (WORLD if options.words == WORLD else None)


def _check_ids(wishes: "Sequence[Wish]") -> None:
    seen: set[str] = set()
    for wish in wishes:
        if wish.id.casefold() in seen:
            raise ValueError(
                f"--captions-from: the id {wish.id!r} is that of a template's prompt; name it otherwise"
            )
        seen.add(wish.id.casefold())


def _prompts_only(options: argparse.Namespace, wishes: "Sequence[Wish]") -> int:
    from trueline.dataset.build import PROMPTS
    from trueline.files import Folder, json_lines

    folder = Folder(options.out)
    path = folder.write(PROMPTS, lambda file: file.write(json_lines([wish.to_json() for wish in wishes])))
    print(f"{len(wishes)} prompts: {path}; draw each as ID.png, then give the same command with --images DIR")
    return 0


def _settings(options: argparse.Namespace) -> "DatasetSettings":
    from trueline.commands._model import fast_dtype
    from trueline.dataset.pictures import anywhere
    from trueline.dataset.settings import DatasetSettings
    from trueline.models.shipped import own_guidance_scale
    from trueline.sampling.options import Sampling

    drawn = not options.images
    detector = options.detector or "oracle"
    clip = _clip(options)
    model = options.model or WORLD
    scale = own_guidance_scale(model) if options.guidance_scale is None else options.guidance_scale
    least = options.min_clip
    if least is None and clip is not None:
        least = LEAST_CLIP.get(clip.partition("=")[0])
    options_of_drawing = {"steps": options.steps, "guidance_scale": scale, "scheduler": options.scheduler}
    return DatasetSettings(
        words=anywhere(options.words, WORLD, "common"),
        templates=options.templates,
        captions=options.captions,
        captions_from=anywhere(_captions_from(options) or "", WORLD) if options.captions else None,
        seed=options.seed,
        model=anywhere(model, WORLD) if drawn else None,
        images=None if drawn else str(Path(options.images).resolve()),
        sampling=Sampling(**options_of_drawing) if drawn else None,
        dtype=(options.dtype or fast_dtype(options.device)) if drawn else None,
        vae_tiling=options.vae_tiling if drawn else None,
        batch_size=options.batch_size,
        tries=options.tries,
        detector=detector,
        clip=clip,
        ask=options.ask or ("nouns" if detector.partition("=")[0] == "oracle" else "phrases"),
        min_score=options.min_score,
        min_clip=least,
    )
