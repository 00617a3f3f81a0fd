"""``trueline generate --realign``: two stages for each picture, and all that came between as files.

Besides NAME.png and NAME.json, a folder NAME-realign: round-K.png and .json (round 0 is stage one); for each phrase
that led round K its mask and its attention before and after (round-K-mask-I.png and so on; attention-K.npz has the
numbers and the phrases), and what was too much (round-K-surplus.png); looked.json (tags, scores, phrases, boxes,
notes) and panel.png, which shows it all.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trueline.chat.answered import Answered
from trueline.commands._methods import Given
from trueline.commands._planners import refuse_secrets
from trueline.errors import one_line
from trueline.methods import make as make_method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from trueline.commands._pictures import NamedLayout, PictureFolder
    from trueline.perception.reason import Reasoner
    from trueline.realign import Realignment, Round

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
    reasoners: list[str] = field(
        default_factory=list
    )  #: of each tag of each picture; "" is the one that was asked
    stages: list[str] = field(default_factory=list)  #: what each picture is of, "" where nothing failed

    @property
    def answered(self) -> dict[str, Answered]:
        """By what was answered."""
        return {
            "tags": Answered.of(self.reasoner.name, self.reasoners),
            "pictures": Answered.of(METHOD, self.stages),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """For run.json."""
        about = {"rounds": self.rounds, "check": self.check, "reasoner": self.spec}
        return about | {"method": self.method.model_dump(mode="json")} | self.models

    def draw(self, state: PictureFolder, progress: bool | None) -> None:
        """Fill the folder."""
        from trueline.commands._model import find_device, load_pipeline, silence_libraries
        from trueline.commands._pictures import loading_settings
        from trueline.realign import Realign, VisionModels

        silence_libraries()
        device = str(find_device(state.settings["device"]))
        models = VisionModels.load(**self.models, device=device)  # type: ignore[arg-type]
        pipe = load_pipeline(state.settings)
        made_with = loading_settings(state.settings) | {"device": str(pipe.backbone.device)}
        again = 0
        stages = Realign(pipe, models, self.reasoner, self.method, rounds=self.rounds, check=self.check)
        layouts = [picture.layout for picture in state.wanted]
        for done in _survivors(
            stages.stream(layouts, methods=state.methods, progress=progress, **state.how), state
        ):
            picture = state.wanted[done.index]
            about = done.about() | {"models": models.names, "folder": f"{picture.name}-realign"}
            final = done.rounds[done.kept]
            state.keep(
                replace(picture, layout=final.layout),
                final.image,
                final.record | {"made_with": made_with, "realign": about},
            )
            try:
                _write(state, picture, done, made_with, about)
            except OSError:
                raise  # a full disk is for the user
            except Exception as error:  # of a picture that is kept, what led to it
                problem = f"{picture.name}-realign is not complete: {one_line(error)}"
                print(f"trueline: warning: {problem}", file=sys.stderr)
            again += done.kept > 0
            for at in (each.observation for each in done.rounds if each.observation):
                tags = dict.fromkeys(one.tag for one in at.objects)
                self.reasoners.extend("rules" if tag in at.by_rules else "" for tag in tags)
            self.stages.append((f"round {done.kept}" if done.kept else "stage one") if done.failed else "")
            state.answered |= {what: dict(each.by) for what, each in self.answered.items()}
        print(f"trueline: {again} of {len(layouts)} pictures were drawn again", file=sys.stderr)


def _survivors(stream: Iterator[Realignment], state: PictureFolder) -> Iterator[Realignment]:
    """The pictures; those of which there is not even a first one are counted."""
    from trueline.sampling.pipeline import PictureError

    try:
        yield from stream
    except PictureError as error:
        for index, why in error.failed.items():
            state.lose(state.wanted[index], why)


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
    state: PictureFolder,
    picture: NamedLayout,
    done: Realignment,
    made_with: dict[str, Any],
    about: dict[str, Any],
) -> None:
    from trueline.files import Folder, pixel_hash
    from trueline.realign.panel import panel

    folder = Folder(state.folder.path / f"{picture.name}-realign")
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


def _write_phrases(folder: Any, number: int, earlier: Round, later: Round) -> None:
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
