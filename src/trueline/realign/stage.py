"""The two stages, and further rounds of the second."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL.Image import Image
from torch import Tensor

from trueline.layout import MAX_REGIONS, MAX_SEED, Layout, Region
from trueline.methods import make
from trueline.methods.realign import LIKELIHOODS, SURPLUS, Reweighting, check_meta
from trueline.perception import Detection
from trueline.perception.reason import Reasoner, RulesReasoner
from trueline.realign.check import Check, checked
from trueline.realign.detect_and_segment import Eyes, look
from trueline.realign.maps import Watch, phrase_maps
from trueline.realign.observation import Looked
from trueline.sampling.loop import BOXES_IGNORED, check_layouts
from trueline.sampling.method import Method
from trueline.sampling.pipeline import DEFAULT_BATCH, Picture, Pipeline
from trueline.sampling.request import Request

MAX_ROUNDS = 10
OTHER_NOISE = 1_000_003  #: added to a picture's seed where a refinement starts again
UNGROUNDED = (0, 0, 1)  #: a grounding schedule in which boxes that were only seen do not act by themselves
#: Options that make no sense here: what they may be, and the cure.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "generator": ((None,), "the second picture needs the same noise; give seeds"),
    "latents": ((None,), "the second picture needs the same noise; give seeds"),
    "num_images_per_prompt": ((None, 1), "give the layout as often as it shall be drawn"),
    "output_type": ((None, "pil"), "pictures that are looked at are PIL's; leave it out"),
}


@dataclass(frozen=True)
class Round:
    """One picture of a refinement; round 0 is stage one. ``record`` makes it again, as ``Pipeline.remake`` does.

    ``looked`` and ``check``: what was seen in it, None where nobody looked (the last round, where nothing depends on
    it). ``before`` and ``after``: each phrase's attention map without and with the modulation, empty where there was
    none. ``restart``: not led by the picture before, but drawn from other noise, as stage one is.
    """

    image: Image
    record: dict[str, Any]
    layout: Layout
    looked: Looked | None = None
    check: Check | None = None
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    restart: bool = False


@dataclass(frozen=True)
class Realigned:
    """All rounds of one picture; ``kept`` is the place of the final one among them. ``notes``: what went wrong."""

    index: int
    layout: Layout
    rounds: tuple[Round, ...]
    kept: int
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Image:
        return self.rounds[self.kept].image

    @property
    def record(self) -> dict[str, Any]:
        """The record of the final picture, with what led to it under "realign"."""
        return self.rounds[self.kept].record | {"realign": self.about()}

    def about(self) -> dict[str, Any]:
        rounds = [
            {
                "looked": None if each.looked is None else each.looked.record(),
                "check": None if each.check is None else each.check.record(),
            }
            for each in self.rounds
        ]
        return {"round": self.kept, "rounds": rounds, "notes": list(self.notes)}


class Realign:
    """Draw, look, and draw again with the attention of each phrase led into the mask of what was seen.

    Args:
        pipe: any pipeline.
        eyes: the models that look.
        reasoner: what each thing should be; default: by rules, without a language model.
        method: the modulation, and how strong it is.
        rounds: 1 is the paper: the second picture is the result. More of them are a refinement: each picture is
            looked at and checked (``check.checked``), stage one too; the first that passes ends it, and the picture
            that shows most of the prompt's nouns is the result; of equals the one with less that is too much, then
            the earliest. Every second round starts again from other noise: a third picture from the same one is much
            like the second.
        check: of one round, too: a first picture that passes is the result, else the better one of the two.
        maps: keep attention maps of each phrase (``Round.before``, ``after``), at the cost of up to five passes of
            the net a picture.

    What was seen acts by the modulation only: on a GLIGEN checkpoint its boxes are not grounded, unless the layout
    brought boxes of its own. These stay as they are, and what was seen is added for the phrases that have none.

    Whatever fails, from the tagger to the last step of the second picture, leaves the picture of the round before,
    and a note and a warning say what happened.
    """

    def __init__(
        self,
        pipe: Pipeline,
        eyes: Eyes,
        reasoner: Reasoner | None = None,
        method: Reweighting | None = None,
        *,
        rounds: int = 1,
        check: bool = False,
        maps: bool = True,
    ):
        if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= MAX_ROUNDS:
            raise ValueError(f"rounds: must be a whole number from 1 to {MAX_ROUNDS} (got {rounds!r})")
        self.pipe, self.eyes, self.rounds, self.maps = pipe, eyes, rounds, maps
        self.refining = check or rounds > 1
        self.reasoner, self.method = reasoner or RulesReasoner(), method or make("realign", {})

    def __call__(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> list[Realigned]:
        """``stream`` as a list."""
        return list(self.stream(prompt, **options))

    def stream(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> Iterator[Realigned]:
        """The pictures in their order, a batch at a time.

        The options are those of ``Request.of`` but for the noise, which must be seeds to be drawn twice
        (``seeds``, or the layouts' own), and for ``output_type``. ``methods`` act in both stages, before the
        modulation.

        Raises:
            ValueError, TypeError: naming the argument, before anything is made.
        """
        for name, (allowed, cure) in _REFUSED.items():
            if options.get(name) not in allowed:
                raise ValueError(f"{name}: cannot be used here; {cure}")
        request = Request.of(prompt, options)
        if any(isinstance(method, Reweighting) for method in request.methods):
            raise ValueError("methods: the modulation is given as Realign(method=...); leave it out here")
        if not request.checked:
            check_layouts(
                self.pipe.backbone, request.layouts, request.methods, strict=request.sampling.strict
            )
        for layout in request.layouts:
            check_meta(layout)
        jobs = self._jobs(request)
        size = request.batch_size or DEFAULT_BATCH
        options = options | {"checked": True}
        for name in ("seeds", "strict", "negative_prompt", "width", "height"):
            options.pop(name, None)
        return (
            done
            for start in range(0, len(jobs), size)
            for done in self._realigned(jobs[start : start + size], options)
        )

    def _jobs(self, request: Request) -> list[_Job]:
        seeds = self.pipe._seeds(request)
        return [
            _Job(index, layout, (int(seed or 0), at))
            for index, (layout, (seed, at)) in enumerate(zip(request.layouts, seeds, strict=True))
        ]

    def _realigned(self, jobs: list[_Job], options: dict[str, Any]) -> list[Realigned]:
        for job, drawn in self._drawn(jobs, [job.layout for job in jobs], options, ()):
            job.rounds.append(drawn)
        for job in jobs:
            self._look(job)
        for turn in range(1, self.rounds + 1):
            going = [job for job in jobs if not job.over]
            if self.refining:
                going = [job for job in going if not (job.last.check and job.last.check.passed)]
            if turn % 2 == 0:
                self._restart(going, options)
            else:
                layouts = {job.index: self._redrawn(job) for job in going}
                for job in going:
                    if layouts[job.index] is None:  # other noise may show more
                        job.over = turn == self.rounds
                going = [job for job in going if layouts[job.index] is not None]
                self._redraw(going, layouts, options)
            for job in going:
                if not job.over and self.refining:
                    self._look(job)
        return [job.done(self.refining) for job in jobs]

    def _look(self, job: _Job) -> None:
        """What the job's last picture shows; a failure ends the job."""
        last = job.last
        try:
            looked = look(last.image, job.layout.prompt, self.eyes, self.reasoner)
        except Exception as error:  # of models that others wrote, with whatever errors
            job.stop(f"the picture of round {len(job.rounds) - 1} could not be looked at: {_line(error)}")
            return
        check = checked(job.layout.prompt, looked)
        job.rounds[-1] = replace(last, looked=looked, check=check)

    def _redrawn(self, job: _Job) -> Layout | None:
        """The layout of the next round, None where there is nothing to draw it by."""
        try:
            return self._layout(job)
        except Exception as error:  # a reasoner of the caller's may say anything
            job.stop(f"what was seen in round {len(job.rounds) - 1} cannot be used: {_line(error)}")
            return None

    def _layout(self, job: _Job) -> Layout | None:
        looked = job.last.looked or Looked()
        if not self.method.surplus:
            looked = replace(looked, surplus=())
        backbone = self.pipe.backbone
        most = min(MAX_REGIONS, backbone.max_regions) if backbone.grounded else MAX_REGIONS
        notes: list[str] = []
        layout = layout_of(job.layout, looked, most, notes)
        job.notes += notes
        if layout == job.layout:
            kept = "; its picture is kept" if self.rounds == 1 else ""
            job.stop(f"nothing that was seen in round {len(job.rounds) - 1} can be drawn again{kept}")
            return None
        if reason := self.method.idle(layout, backbone):
            kept = " is kept" if self.rounds == 1 else " is not drawn again"
            job.stop(f"{reason}; the picture of round {len(job.rounds) - 1}{kept}")
            return None
        return layout

    def _redraw(self, jobs: list[_Job], layouts: dict[int, Layout | None], options: dict[str, Any]) -> None:
        """One round of those jobs: those that brought boxes with their grounding, the others without."""
        for own in (True, False):
            group = [job for job in jobs if bool(job.layout.regions) == own]
            changed = options if own else options | {"grounding_schedule": UNGROUNDED}
            self._redraw_group(group, layouts, changed, (self.method,))

    def _restart(self, jobs: list[_Job], options: dict[str, Any]) -> None:
        """One picture of each job as in stage one, from noise that it has not had."""
        for job in jobs:
            job.seed = ((job.seed[0] + OTHER_NOISE) & MAX_SEED, job.seed[1])
        self._redraw_group(jobs, {job.index: job.layout for job in jobs}, options, ())

    def _redraw_group(
        self,
        group: list[_Job],
        layouts: Mapping[int, Layout | None],
        options: dict[str, Any],
        more: tuple[Method, ...],
    ) -> None:
        for job in group:
            job.fresh = False
        asked = [layout for job in group if (layout := layouts[job.index]) is not None]
        try:
            for job, drawn in self._drawn(group, asked, options, more):
                job.rounds.append(drawn)
                job.fresh = True
        except Exception as error:  # whatever a method of the caller raises, stage one is there
            left = [job for job in group if not job.fresh]
            if len(group) == 1:
                for job in left:
                    job.stop(f"round {len(job.rounds)} could not be drawn: {_line(error)}")
                return
            for job in left:  # it may be the fault of one of them
                self._redraw_group([job], layouts, options, more)

    def _drawn(
        self,
        jobs: Sequence[_Job],
        layouts: Sequence[Layout],
        options: dict[str, Any],
        more: tuple[Method, ...],
    ) -> Iterator[tuple[_Job, Round]]:
        """The jobs' pictures for these layouts, as they are made."""
        if not jobs:
            return
        methods = (*options.get("methods", ()), *more)
        watch = (Watch(until=max(self.method.duration, 1e-6)),) if self.maps else ()
        seeds = [job.seed for job in jobs]
        settings = options | {"methods": [*methods, *watch]}
        for picture in self.pipe.stream(list(layouts), seeds=seeds, **settings):
            job, layout = jobs[picture.index], layouts[picture.index]
            record = self._record(job, picture, methods, layout)
            drawn = Round(picture.image, record, layout, restart=bool(job.rounds) and not more)
            if watch and not more:
                job.seen.clear()
            if watch:
                seen = watch[0].of(picture.record["batch"]["row"])
                job.seen.append(seen)
                if more:
                    drawn = replace(
                        drawn,
                        before=phrase_maps(job.seen[0], layout, self.pipe.backbone),
                        after=phrase_maps(seen, layout, self.pipe.backbone),
                    )
            yield job, drawn

    def _record(
        self, job: _Job, picture: Picture, methods: Sequence[Method], layout: Layout
    ) -> dict[str, Any]:
        """The picture's record without the watching, which left no trace in it."""
        record = dict(picture.record)
        record["methods"] = record["methods"][: len(methods)]
        record["index"] = job.index
        backbone = self.pipe.backbone
        if self.maps and not methods and layout.regions and not backbone.grounded:
            record["notes"] = [BOXES_IGNORED, *record["notes"]]  # which the watching kept from being said
        return record


@dataclass
class _Job:
    """One picture on its way."""

    index: int
    layout: Layout
    seed: tuple[int, int]
    rounds: list[Round] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)  # attention, from the last picture on that nothing led
    notes: list[str] = field(default_factory=list)
    over: bool = False
    fresh: bool = False  # drawn in this round

    @property
    def last(self) -> Round:
        return self.rounds[-1]

    def stop(self, sentence: str) -> None:
        self.over = True
        self.notes.append(sentence)
        warnings.warn(f"picture {self.index}: {sentence}", stacklevel=2)

    def done(self, refining: bool) -> Realigned:
        kept = len(self.rounds) - 1
        if refining:  # max takes the first of equals
            points = [each.check.points if each.check else (-1, 0) for each in self.rounds]
            kept = points.index(max(points))
        return Realigned(self.index, self.layout, tuple(self.rounds), kept, tuple(self.notes))


def layout_of(
    layout: Layout, looked: Looked, most: int = MAX_REGIONS, notes: list[str] | None = None
) -> Layout:
    """``layout`` with a region for each thing whose phrase it has no region for, at most ``most`` in all; in its
    ``meta`` the things' scores, and the places of what is too much. What does not fit is noted."""
    notes = [] if notes is None else notes
    own = {region.phrase.casefold() for region in layout.regions}
    regions = list(layout.regions)
    scores: dict[str, float] = {}
    for thing in sorted(looked.things, key=lambda each: -each.score):
        if thing.phrase.casefold() in own:
            continue
        if len(regions) >= most:
            notes.append(f"more than {most} things were seen; the likeliest {most} are drawn again")
            break
        if region := _region(thing.phrase, thing.seen, notes):
            regions.append(region)
            scores[thing.phrase] = max(thing.score, scores.get(thing.phrase, 0.0))
    free = [region for seen in looked.surplus if (region := _region(seen.label, seen, notes))]
    given = layout.meta.get(SURPLUS, [])
    if len(given) + len(free) > MAX_REGIONS:
        notes.append(
            f"{len(free)} things are too many; the surest {MAX_REGIONS - len(given)} are pushed away"
        )
    meta = dict(layout.meta)
    if scores:
        meta[LIKELIHOODS] = meta.get(LIKELIHOODS, {}) | scores
    if free:
        meta[SURPLUS] = [*given, *(region.model_dump(mode="json") for region in free)][:MAX_REGIONS]
    return layout.model_copy(update={"regions": tuple(regions), "meta": meta})


def _region(phrase: str, seen: Detection, notes: list[str]) -> Region | None:
    try:
        return Region(phrase, seen.box, None if seen.mask is None else seen.mask > 0.5)
    except ValueError as error:
        notes.append(f"a {seen.label!r} that was seen is left out: {error}")
        return None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
