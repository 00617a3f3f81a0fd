"""The two stages, and further rounds of the second."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from trueline.errors import one_line
from trueline.layout import MAX_REGIONS, MAX_SEED, Layout, Region
from trueline.methods import make
from trueline.methods.realign import LIKELIHOODS, SURPLUS, Reweighting, check_meta
from trueline.perception import Detection
from trueline.perception.reason import Reasoner, RulesReasoner
from trueline.realign.check import check_picture
from trueline.realign.detect_and_segment import VisionModels, observe
from trueline.realign.observation import Observation
from trueline.realign.rounds import Realignment, Round
from trueline.sampling.heat_maps import AttentionRecorder, phrase_maps
from trueline.sampling.loop import check_layouts
from trueline.sampling.method import Method
from trueline.sampling.pipeline import DEFAULT_BATCH, PictureError, Pipeline
from trueline.sampling.request import Request

MAX_ROUNDS = 10
OTHER_NOISE = 1_000_003  #: added to a picture's seed where a refinement starts again
#: A grounding schedule in which boxes that were only detected do not act by themselves.
UNGROUNDED = (0, 0, 1)
#: Options that make no sense here: what they may be, and the cure.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "generator": ((None,), "the second picture needs the same noise; give seeds"),
    "latents": ((None,), "the second picture needs the same noise; give seeds"),
    "num_images_per_prompt": ((None, 1), "give the layout once for each picture"),
    "maps": ((None, False), "the rounds keep their own; see the argument maps of Realign"),
    "output_type": ((None, "pil"), "the models see PIL's pictures; leave it out"),
}


@dataclass
class _PictureState:
    """One picture of a batch: its rounds so far."""

    index: int
    layout: Layout
    seed: tuple[int, int]
    rounds: list[Round] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # attention, from the last picture on that nothing led
    notes: list[str] = field(default_factory=list)
    over: bool = False
    failed: bool = False
    fresh: bool = False  # drawn in this round

    @property
    def last(self) -> Round:
        return self.rounds[-1]

    @property
    def number(self) -> int:
        """Of the last round."""
        return len(self.rounds) - 1

    def stop(self, sentence: str) -> None:
        self.over = True
        self.notes.append(sentence)
        warnings.warn(f"picture {self.index}: {sentence}", stacklevel=2)

    def fail(self, sentence: str) -> None:
        """Stop, by an error of a model or of the drawing."""
        self.failed = True
        self.stop(sentence)

    def done(self, refining: bool) -> Realignment:
        kept = len(self.rounds) - 1
        if refining:  # max takes the first of equals
            points = [each.check.points if each.check else (-1, 0) for each in self.rounds]
            kept = points.index(max(points))
        return Realignment(self.index, self.layout, tuple(self.rounds), kept, tuple(self.notes), self.failed)


class Realign:
    """Draw, detect, and draw again with the attention of each phrase led into the mask of what was found.

    Args:
        pipe: any pipeline.
        models: tagger, detector and segmenter.
        reasoner: what each thing should be; default: by rules, without a language model.
        method: the modulation, and how strong it is.
        rounds: 1 is the paper: the second picture is the result. More of them are a refinement: each picture is
            observed and checked (``check_picture``), stage one too; the first that passes ends it, and the picture
            that shows most of the prompt's nouns is the result; of equals the one with less that is too much, then
            the earliest. Every second round starts again from other noise: a third picture from the same noise is
            much like the second.
        check: check the only round too: a first picture that passes is the result, else the better one of the two.
        maps: keep attention maps of each phrase (``Round.before``, ``after``), at the cost of up to five passes of
            the net for each picture.

    Detections act by the modulation only: on a GLIGEN checkpoint their boxes are not grounded, unless the layout
    brought boxes of its own. These stay as they are, and detections are added for the phrases that have none.

    Whatever fails, from the tagger to the last step of the second picture, leaves the picture of the round before,
    and a note and a warning say what happened.
    """

    def __init__(
        self,
        pipe: Pipeline,
        models: VisionModels,
        reasoner: Reasoner | None = None,
        method: Reweighting | None = None,
        *,
        rounds: int = 1,
        check: bool = False,
        maps: bool = True,
    ):
        if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= MAX_ROUNDS:
            raise ValueError(f"rounds: must be a whole number from 1 to {MAX_ROUNDS} (got {rounds!r})")
        self.pipe, self.models, self.rounds, self.maps = pipe, models, rounds, maps
        self.refining = check or rounds > 1
        self.reasoner, self.method = reasoner or RulesReasoner(), method or make("realign", {})

    def __call__(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> list[Realignment]:
        """``stream`` as a list."""
        return list(self.stream(prompt, **options))

    def stream(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> Iterator[Realignment]:
        """The pictures in their order, a batch at a time.

        The options are those of ``Request.of``, except ``output_type`` and noise other than seeds (``seeds``, or the
        layouts' own), which cannot be drawn twice. ``methods`` act in both stages, before the modulation.

        Raises:
            ValueError, TypeError: naming the argument, before anything is made.
            PictureError: at the end, of pictures that could not be drawn even once.
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
        states = self._states(request)
        size = request.batch_size or DEFAULT_BATCH
        options = options | {"checked": True}
        for name in ("seeds", "strict", "negative_prompt", "width", "height"):
            options.pop(name, None)
        return self._batches([states[start : start + size] for start in range(0, len(states), size)], options)

    def _batches(
        self, batches: Sequence[list[_PictureState]], options: dict[str, Any]
    ) -> Iterator[Realignment]:
        lost: dict[int, str] = {}
        for batch in batches:
            yield from self._realign(batch, options)
            lost |= {state.index: state.notes[-1] for state in batch if not state.rounds}
        if lost:
            raise PictureError(lost)

    def _states(self, request: Request) -> list[_PictureState]:
        seeds = request.layout_seeds()
        return [
            _PictureState(index, layout, (int(seed or 0), at))
            for index, (layout, (seed, at)) in enumerate(zip(request.layouts, seeds, strict=True))
        ]

    def _realign(self, states: list[_PictureState], options: dict[str, Any]) -> list[Realignment]:
        for state, drawn in self._drawn(states, [state.layout for state in states], options, ()):
            state.rounds.append(drawn)
        states = [state for state in states if state.rounds]
        for state in states:
            self._observe(state)
        for turn in range(1, self.rounds + 1):
            going = [state for state in states if not state.over]
            if self.refining:
                going = [state for state in going if not (state.last.check and state.last.check.passed)]
            if turn % 2 == 0:
                self._restart(going, options)
            else:
                layouts = {state.index: self._next_layout(state) for state in going}
                for state in going:
                    if layouts[state.index] is None:  # other noise may show more
                        state.over = turn == self.rounds
                going = [state for state in going if layouts[state.index] is not None]
                self._redraw(going, layouts, options)
            for state in going:
                if not state.over and self.refining:
                    self._observe(state)
        return [state.done(self.refining) for state in states]

    def _observe(self, state: _PictureState) -> None:
        """What the last picture shows; a failure ends its refinement."""
        last, prompt = state.last, state.layout.prompt
        try:
            observation = observe(last.image, prompt, self.models, self.reasoner)
        except Exception as error:  # of models that others wrote, with whatever errors
            state.fail(f"the picture of round {state.number} could not be looked at: {one_line(error)}")
            return
        check = check_picture(prompt, observation)
        state.rounds[-1] = replace(last, observation=observation, check=check)

    def _next_layout(self, state: _PictureState) -> Layout | None:
        """The layout of the next round, None where there is nothing to draw it by."""
        try:
            layout, reason = self._layout(state)
        except Exception as error:  # a reasoner of the caller's may say anything
            state.fail(f"what was seen in round {state.number} cannot be used: {one_line(error)}")
            return None
        if reason:
            state.stop(reason)
        return layout

    def _layout(self, state: _PictureState) -> tuple[Layout | None, str]:
        """The layout of the next round, or None and the reason."""
        observation = state.last.observation or Observation()
        if not self.method.surplus:
            observation = replace(observation, surplus=())
        backbone = self.pipe.backbone
        most = min(MAX_REGIONS, backbone.max_regions) if backbone.grounded else MAX_REGIONS
        layout = layout_of(state.layout, observation, most, state.notes)
        if layout == state.layout:
            kept = "; its picture is kept" if self.rounds == 1 else ""
            return None, f"nothing that was seen in round {state.number} can be drawn again{kept}"
        if reason := self.method.idle(layout, backbone):
            kept = " is kept" if self.rounds == 1 else " is not drawn again"
            return None, f"{reason}; the picture of round {state.number}{kept}"
        return layout, ""

    def _redraw(
        self, states: list[_PictureState], layouts: dict[int, Layout | None], options: dict[str, Any]
    ) -> None:
        """One round of these pictures: those that brought boxes with their grounding, the others without."""
        for own in (True, False):
            group = [state for state in states if bool(state.layout.regions) == own]
            changed = options if own else options | {"grounding_schedule": UNGROUNDED}
            self._redraw_group(group, layouts, changed, (self.method,))

    def _restart(self, states: list[_PictureState], options: dict[str, Any]) -> None:
        """Each picture as in stage one, from noise that it has not had."""
        for state in states:
            state.seed = ((state.seed[0] + OTHER_NOISE) & MAX_SEED, state.seed[1])
        self._redraw_group(states, {state.index: state.layout for state in states}, options, ())

    def _redraw_group(
        self,
        group: list[_PictureState],
        layouts: Mapping[int, Layout | None],
        options: dict[str, Any],
        more: tuple[Method, ...],
    ) -> None:
        for state in group:
            state.fresh = False
        asked = [layout for state in group if (layout := layouts[state.index]) is not None]
        try:
            for state, drawn in self._drawn(group, asked, options, more):
                state.rounds.append(drawn)
                state.fresh = True
        except Exception as error:  # whatever a method of the caller raises, stage one is there
            left = [state for state in group if not (state.fresh or state.over)]
            if len(group) == 1:
                for state in left:
                    state.fail(f"round {len(state.rounds)} could not be drawn: {one_line(error)}")
                return
            for state in left:  # it may be the fault of one of them
                self._redraw_group([state], layouts, options, more)

    def _drawn(
        self,
        states: Sequence[_PictureState],
        layouts: Sequence[Layout],
        options: dict[str, Any],
        more: tuple[Method, ...],
    ) -> Iterator[tuple[_PictureState, Round]]:
        """The next pictures, for these layouts, as they are made."""
        if not states:
            return
        methods = (*options.get("methods", ()), *more)
        recorder = (
            (AttentionRecorder(until=max(self.method.duration, 1e-6), times=5, cells=16),)
            if self.maps
            else ()
        )
        seeds = [state.seed for state in states]
        settings = options | {"methods": [*methods, *recorder]}
        for picture in self.pipe.stream(list(layouts), seeds=seeds, **settings):
            state, layout = states[picture.index], layouts[picture.index]
            if picture.failed:
                round_ = f"round {len(state.rounds)} could not be drawn: " if state.rounds else ""
                state.fail(f"{round_}{picture.failed}")
                continue
            record = picture.record | {"index": state.index}
            drawn = Round(picture.image, record, layout, restart=bool(state.rounds) and not more)
            if recorder and not more:
                state.maps.clear()
            if recorder:
                maps = recorder[0].of(picture.record["batch"]["row"])
                state.maps.append(maps)
                if more:
                    before, after = (
                        phrase_maps(each, layout, self.pipe.backbone) for each in (state.maps[0], maps)
                    )
                    drawn = replace(drawn, before=before, after=after)
            yield state, drawn


def layout_of(
    layout: Layout, observation: Observation, most: int = MAX_REGIONS, notes: list[str] | None = None
) -> Layout:
    """``layout`` with a region for each thing whose phrase it has no region for, at most ``most`` in all; in its
    ``meta`` the things' scores, and the places of what is too much. What does not fit is noted."""
    notes = [] if notes is None else notes
    own = {region.phrase.casefold() for region in layout.regions}
    regions = list(layout.regions)
    scores: dict[str, float] = {}
    for thing in sorted(observation.things, key=lambda each: -each.score):
        if thing.phrase.casefold() in own:
            continue
        if len(regions) >= most:
            notes.append(f"more than {most} things were seen; the likeliest {most} are drawn again")
            break
        if region := _region(thing.phrase, thing.detection, notes):
            regions.append(region)
            scores[thing.phrase] = max(thing.score, scores.get(thing.phrase, 0.0))
    free = [region for each in observation.surplus if (region := _region(each.label, each, notes))]
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


def _region(phrase: str, detection: Detection, notes: list[str]) -> Region | None:
    try:
        return Region(phrase, detection.box, None if detection.mask is None else detection.mask > 0.5)
    except ValueError as error:
        notes.append(f"a {detection.label!r} that was seen is left out: {error}")
        return None
