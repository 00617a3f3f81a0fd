"""What a method is: frozen settings and the hooks it needs; and what a hook may know of the step it acts in."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from trueline.errors import Frozen
from trueline.layout import Layout
from trueline.models.attention import Maps, Site, until_enough
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded
from trueline.models.grounding import Grounding
from trueline.models.schedulers import Stepper

Where = Callable[[Site], bool]
Part = Literal["mask", "negative"]
T = TypeVar("T")


class Method(Frozen):
    """Base of all methods: its fields are the settings, its hooks do nothing. Override what the method needs.

    All hooks see one row per picture (the conditional rows) and run without gradients; a hook that wants them
    says ``with torch.enable_grad():``. A setting ``strength`` of 0 switches a method off: the loop leaves it out.
    """

    #: A list of layouts of which none has a region is refused; in a mixed list, those without are drawn plain.
    needs_regions: ClassVar[bool] = False
    #: What it reads of a region besides phrase and box; of other parts the record says that they are not used.
    reads: ClassVar[frozenset[Part]] = frozenset()
    #: It only looks: the picture, its notes and its record are as if it were not there.
    watches: ClassVar[bool] = False

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        """Why the method would leave the layout's picture plain, for its record; None: it acts.

        Asked for every layout before the first picture is begun.

        Raises:
            ValueError: the method's settings and the layout contradict each other.
        """
        return "the layout has no regions" if self.needs_regions and not layout.regions else None

    def text(self, text: Encoded, layouts: Sequence[Layout], backbone: Backbone) -> Encoded:
        """Hook 1, once: the encoded prompts."""
        return text

    def values(self, text: Encoded, layouts: Sequence[Layout], backbone: Backbone) -> Encoded:
        """Besides hook 1, once, after all ``text``: what cross-attention's values read; its keys read the text.

        The same object back means that they read the text too, and nothing is tapped for it.
        """
        return text

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: "Context") -> Float[Tensor, "batch c h w"]:
        """Hook 2, before each prediction: move the latents, by a loss on ``ctx.maps`` for instance."""
        return z

    def taps(self, site: Site) -> bool:
        """Which attention layers ``edit`` wants, whatever the step."""
        return False

    def acts(self, ctx: "Context") -> bool:
        """Whether ``edit`` acts at this step. At others its layers stay closed and keep their fast attention."""
        return True

    def edit(
        self, site: Site, logits: Float[Tensor, "batch heads queries keys"], ctx: "Context"
    ) -> Float[Tensor, "batch heads queries keys"]:
        """Hook 3, in each forward pass of the conditional rows: attention logits before the softmax."""
        return logits

    def combine(
        self,
        prediction: Float[Tensor, "batch c h w"],
        cond: Float[Tensor, "batch c h w"],
        uncond: Float[Tensor, "batch c h w"] | None,
        z: Float[Tensor, "batch c h w"],
        ctx: "Context",
    ) -> Float[Tensor, "batch c h w"]:
        """Hook 4, after each prediction: the combined one, which is classifier-free guidance to begin with.

        ``uncond`` is None when guidance is off. ``ctx.predict`` gives predictions for other texts.
        """
        return prediction


@dataclass(frozen=True)
class Context:
    """What a hook may know at one step. One row per picture; ``z`` is in the scheduler's own scaling."""

    index: int
    steps: int  # timesteps of the run; PNDM has one more than was asked for
    t: Tensor
    layouts: tuple[Layout, ...]
    backbone: Backbone
    methods: tuple[Method, ...]
    text: Encoded
    values: Encoded | None  # of cross-attention; None where they read the text
    negative: Encoded | None  # None while guidance is off
    guidance_scale: float
    grounding: Grounding | None  # None when the U-Net is plain or no picture has regions
    grounding_scale: Float[Tensor, " batch"]  # 0 for pictures without regions
    stepper: Stepper
    notes: Counter[tuple[int, str]]  # of the whole run: (row, what happened) -> how often
    made: dict[Hashable, Any] = field(default_factory=dict)  # of the whole run: see ``once``

    @property
    def progress(self) -> float:
        """0 at the first step, towards 1 at the last."""
        return self.index / self.steps

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make()`` gives, made at the first call of a run and kept to its end: encoded phrases, masks, a net.

        ``key`` is any name; one that other methods would also use must mean the same to them. Methods are frozen and
        may be keys, or parts of them.
        """
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    @property
    def sites(self) -> list[Site]:
        """All attention layers of the backbone."""
        return self.once("sites", self.backbone.sites)

    def note(self, row: int, sentence: str) -> None:
        """Say something about a picture: a warning the first time, and counted in its record."""
        add_note(self.notes, row, sentence)

    def maps(self, z: Float[Tensor, "batch c h w"], where: Where) -> Maps:
        """The maps of ``where``'s sites on the conditional rows; the U-Net runs no further than to the last of them.

        With gradients where the caller has enabled them. The methods' edits act.
        """
        with self._open(where, stop=True) as maps, until_enough():
            self.predict(z, self.text, self.grounding)
        return maps

    def predict_cond(
        self, z: Float[Tensor, "batch c h w"], where: Where | None = None
    ) -> tuple[Float[Tensor, "batch c h w"], Maps]:
        """Predict on the conditional rows, with all methods' edits; and the maps of ``where``'s sites."""
        with self._open(where) as maps:
            prediction = self.predict(z, self.text, self.grounding)
        return prediction, maps

    def predict(
        self, z: Float[Tensor, "batch c h w"], text: Encoded, grounding: Grounding | None = None
    ) -> Float[Tensor, "batch c h w"]:
        """The raw prediction for any text; without grounding the gated layers do not run."""
        net_input = self.stepper.net_input(z)
        return self.backbone.predict(net_input, self.t, text, grounding, self.grounding_scale)

    def x0(
        self, prediction: Float[Tensor, "batch c h w"], z: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch c h w"]:
        """The clean latents that a raw prediction at ``z`` means."""
        return self.stepper.x0(prediction, z)

    def predict_both(
        self, z: Float[Tensor, "batch c h w"], where: Where | None = None
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c h w"] | None, Maps]:
        """Conditional and unconditional prediction in one pass, and the conditional rows' maps.

        The unconditional rows have null grounding and no edits.
        """
        if self.negative is None:
            cond, maps = self.predict_cond(z, where)
            return cond, None, maps
        text = Encoded.cat([self.negative, self.text])
        grounding = None if self.grounding is None else Grounding.cat([self.grounding.null(), self.grounding])
        net_input, scale = self.stepper.net_input(torch.cat([z, z])), self.grounding_scale.repeat(2)
        with self._open(where, skip=len(z)) as maps:
            uncond, cond = self.backbone.predict(net_input, self.t, text, grounding, scale).chunk(2)
        return cond, uncond, maps

    @contextmanager
    def _open(self, where: Where | None, skip: int = 0, stop: bool = False) -> Iterator[Maps]:
        """Tap what the methods edit at this step and what the caller wants to see; yields the maps of the latter."""
        own = self.values
        editing = [method for method in self.methods if overrides(method, "taps") and method.acts(self)]
        wanted = {site for site in self.sites if where is not None and where(site)}
        tapped = {site for site in self.sites if any(method.taps(site) for method in editing)}
        valued = {site for site in self.sites if own is not None and site.kind == "cross"}

        def edit(site: Site, logits: Tensor) -> Tensor:
            for method in editing:
                if method.taps(site):
                    logits = method.edit(site, logits, self)
            return logits

        def values(site: Site, context: Tensor) -> Tensor:
            return own.states if own is not None and site.kind == "cross" else context

        if where is None and not tapped and not valued:
            yield {}
            return
        with self.backbone.tapped(
            (wanted | tapped | valued).__contains__,
            [edit],
            values=None if own is None else values,
            record=wanted.__contains__,
            skip=skip,
            stop=stop,
        ) as maps:
            yield maps


@dataclass(frozen=True)
class Step:
    """One finished step. ``z``: the latents after it; ``x0``: the clean latents as the net saw them.

    ``t``: where it started; ``maps``: the conditional rows' attention at the sites that were asked for; ``notes``:
    what methods said of each picture so far.
    """

    index: int
    steps: int
    t: float
    z: Float[Tensor, "batch c h w"]
    x0: Float[Tensor, "batch c h w"]
    maps: Maps
    grounding_scale: float
    notes: Mapping[tuple[int, str], int]  # what methods said of (row) so far, and how often


def overrides(method: Method, hook: str) -> bool:
    """Whether the method has a hook of its own."""
    return getattr(type(method), hook) is not getattr(Method, hook)


def add_note(notes: Counter[tuple[int, str]], row: int, sentence: str) -> None:
    if (row, sentence) not in notes:
        warnings.warn(sentence, stacklevel=3)
    notes[row, sentence] += 1
