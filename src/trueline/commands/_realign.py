"""``trueline generate --realign``: two stages for each picture, and all that came between as files.

Besides NAME.png and NAME.json, a folder NAME-realign: round-K.png and .json (round 0 is stage one); for each phrase
that led round K its mask and its attention before and after (round-K-mask-I.png and so on; attention-K.npz has the
numbers and the phrases), and what was too much (round-K-surplus.png); looked.json (tags, scores, phrases, boxes,
notes) and panel.png, which shows it all.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trueline.chat.answered import Answered
from trueline.commands._methods import Given
from trueline.commands._planners import refuse_secrets
from trueline.errors import one_line
from trueline.files import Bundle, Subfolder, Target, pixel_hash
from trueline.methods import make as make_method

if TYPE_CHECKING:
    from PIL.Image import Image

    from trueline.commands._pictures import BatchFiles, Make, NamedLayout
    from trueline.perception.reason import Reasoner
    from trueline.realign import Realignment, Round
    from trueline.sampling.pipeline import Pipeline

METHOD, WORLD, NOUNS, NONE = "realign", "world-seer", "noun-phrases", "none"


@dataclass(frozen=True)
class Redrawing:
    """What --realign was asked for."""

    models: dict[str, str | None]
    spec: str
    reasoner: Reasoner
    method: Any
    rounds: int
    check: bool

    @property
    def settings(self) -> dict[str, Any]:
        """For run.json."""
        about = {"rounds": self.rounds, "check": self.check, "reasoner": self.spec}
        return about | {"method": self.method.model_dump(mode="json")} | self.models

    def answered(self, about: Iterable[Mapping[str, Any]]) -> dict[str, Answered | None]:
        """By what was answered. ``about``: what ``prepare``'s function returned, of each batch."""
        lines = [each for each in about if "tags" in each]
        return {
            "tags": Answered.of(self.reasoner.name, (who for each in lines for who in each["tags"])),
            "pictures": Answered.of(METHOD, (who for each in lines for who in each["pictures"])),
        }

    def told(self, about: Iterable[Mapping[str, Any]]) -> str:
        """How many were drawn again, in a sentence. ``about``: as ``answered``."""
        again = [each for line in about for each in line.get("again", ())]
        return f"{sum(again)} of {len(again)} pictures were drawn again"

    def prepare(self, pipe: Pipeline, settings: Mapping[str, Any]) -> Make:
        """Load the models that look; what draws a batch, looks at it and draws it again."""
        from trueline.commands._model import find_device, silence_libraries
        from trueline.realign import Realign, VisionModels

        silence_libraries()
        models = VisionModels.load(**self.models, device=str(find_device(settings["device"])))  # type: ignore[arg-type]
        stages = Realign(pipe, models, self.reasoner, self.method, rounds=self.rounds, check=self.check)

        def make(batch: Sequence[NamedLayout], how: Mapping[str, Any], files: BatchFiles) -> dict[str, Any]:
            answered: dict[str, list[str]] = {"tags": [], "pictures": []}  # "": who was asked
            again: list[bool] = []
            for done in _survivors(stages.stream([one.layout for one in batch], **how), batch, files):
                _keep(batch[done.index], done, models.names, files)
                for at in (each.observation for each in done.rounds if each.observation):
                    tags = dict.fromkeys(one.tag for one in at.objects)
                    answered["tags"].extend("rules" if tag in at.by_rules else "" for tag in tags)
                failed = f"round {done.kept}" if done.kept else "stage one"
                answered["pictures"].append(failed if done.failed else "")
                again.append(done.kept > 0)
            return answered | {"again": again}

        return make


def _keep(picture: NamedLayout, done: Realignment, models: Any, files: BatchFiles) -> None:
    """The picture, and all that led to it."""
    about = done.about() | {"models": models, "folder": f"{picture.name}-realign"}
    final = done.rounds[done.kept]
    files.keep(replace(picture, layout=final.layout), final.image, final.record | {"realign": about})
    apart = Bundle()
    try:
        _write(Subfolder(apart, about["folder"]), picture, done, files.made_with, about)
    except Exception as error:  # of a picture that is kept, what led to it
        warnings.warn(f"{about['folder']} is not complete: {one_line(error)}", stacklevel=2)
    files.files |= apart.files


def _survivors(
    stream: Iterator[Realignment], batch: Sequence[NamedLayout], files: BatchFiles
) -> Iterator[Realignment]:
    """The pictures; those of which there is not even a first one are counted."""
    from trueline.sampling.pipeline import PictureError

    try:
        yield from stream
    except PictureError as error:
        for index, why in error.failed.items():
            files.lose(batch[index], why)


def read_realign(
    options: argparse.Namespace, settings: dict[str, Any], given: Given, of_planners: Given
) -> Redrawing:
    """The flags, checked as far as that needs no model; the settings that are this command's leave ``given`` and
    ``of_planners``.
    """
    if METHOD in (options.method or []):
        raise ValueError(
            f"--method {METHOD}: --realign brings it for the second picture; leave one of them out"
        )
    method = make_method(METHOD, given.pop(METHOD, {}))
    rounds = 1 if options.realign_rounds is None else options.realign_rounds
    from trueline.realign.stage import MAX_ROUNDS

    if not 1 <= rounds <= MAX_ROUNDS:
        raise ValueError(f"--realign-rounds: must be from 1 to {MAX_ROUNDS} (got {rounds})")
    models = _models(options, world=settings["model"] == "world")
    spec = options.reasoner or "rules"
    reasoner = _reasoner(spec, options.planner, of_planners)
    return Redrawing(models, spec, reasoner, method, rounds, bool(options.realign_check))


def _models(options: argparse.Namespace, world: bool) -> dict[str, str | None]:
    usual = WORLD if world else None
    tagger, detector = options.tagger or usual or NOUNS, options.detector or usual
    segmenter = options.segmenter or usual
    if detector is None:
        raise ValueError(
            "--detector: name what finds things in this model's pictures, such as "
            "--detector grounding-dino=IDEA-Research/grounding-dino-tiny"
        )
    if segmenter is None:
        raise ValueError(
            "--segmenter: name what draws masks, such as --segmenter sam2=facebook/sam2.1-hiera-tiny, or none"
        )
    return {"tagger": tagger, "detector": detector, "segmenter": None if segmenter == NONE else segmenter}


def _reasoner(spec: str, planner: str | None, of_planners: Given) -> Reasoner:
    """By name; settings --llm.NAME are its own, and also those of a planner that is a language model."""
    from trueline.chat import ChatSettings
    from trueline.perception.reason import LLMReasoner, RulesReasoner

    kind, _, model = spec.partition(":")
    if spec == "rules":
        return RulesReasoner()
    if kind != "llm":
        raise ValueError(f"--reasoner: there is no {spec!r}; there are rules and llm:MODEL")
    planning = (planner or "").partition(":")[0] == "llm"
    asked = dict(of_planners["llm"] if planning and "llm" in of_planners else of_planners.pop("llm", {}))
    refuse_secrets("llm", asked)
    if planning:
        asked = {name: asked[name] for name in asked if name in ChatSettings.model_fields}
    try:
        return LLMReasoner.of(model, **asked)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--reasoner: {error}") from None


def _write(
    folder: Target,
    picture: NamedLayout,
    done: Realignment,
    made_with: Mapping[str, Any],
    about: dict[str, Any],
) -> None:
    from trueline.realign.panel import panel

    for number, each in enumerate(done.rounds):
        name = f"round-{number}"
        record = each.record | {
            "made_with": made_with,
            "file": f"{name}.png",
            "sha256": pixel_hash(each.image),
        }
        folder.write_png(record["file"], each.image, record)
        folder.write_json(f"{name}.json", record)
        if number:
            _write_phrases(folder, number, done.rounds[number - 1], each)
    folder.write_json("looked.json", about | {"prompt": picture.layout.prompt})
    folder.write_png("panel.png", panel(done))


def _write_phrases(folder: Target, number: int, earlier: Round, later: Round) -> None:
    """Masks and maps of one round, numbered as the phrases of its layout; grey values, the brightest the most."""
    import numpy as np
    from PIL import Image

    from trueline.perception.colours import pixel_mask

    phrases = list(later.before)
    for place, phrase in enumerate(phrases):
        own = [
            thing.detection
            for thing in (earlier.observation.things if earlier.observation else ())
            if thing.phrase == phrase
        ]
        if own:
            mask = np.max([pixel_mask(earlier.image, each) for each in own], axis=0)
            folder.write_png(f"round-{number}-mask-{place}.png", Image.fromarray(mask))
        maps = {"before": later.before[phrase].numpy(), "after": later.after[phrase].numpy()}
        most = max(float(found.max()) for found in maps.values()) or 1.0
        for when, found in maps.items():
            grey = Image.fromarray((255 * np.clip(found / most, 0, 1)).round().astype(np.uint8))
            folder.write_png(f"round-{number}-{when}-{place}.png", _as_large(grey, later.image))
    if surplus := earlier.observation.surplus if earlier.observation and not later.restart else ():
        mask = np.max([pixel_mask(earlier.image, each) for each in surplus], axis=0)
        folder.write_png(f"round-{number}-surplus.png", Image.fromarray(mask))
    if phrases:
        arrays: dict[str, Any] = {
            when: np.stack([maps[phrase].numpy() for phrase in phrases])
            for when, maps in (("before", later.before), ("after", later.after))
        }
        folder.write(
            f"attention-{number}.npz", lambda file: np.savez(file, phrases=np.array(phrases), **arrays)
        )


def _as_large(grey: Image, like: Image) -> Image:
    return grey.resize(like.size, 0)  # 0: nearest; the cells stay cells
