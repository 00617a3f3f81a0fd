"""THE loop: layouts in, a stream of steps out, with four places where a method can act.

    for step in sample(backbone, [layout, other], methods=[HCMA()], seeds=[0, 1]):
        ...
    pictures = backbone.decode(step.z)

A method is frozen settings plus the hooks it needs; several methods are a list, and act in its order.
"""

import hashlib
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from trueline.layout import MAX_SEED, Layout
from trueline.models.attention import Maps, Site, sites, tapped, until_enough
from trueline.models.backbone import Backbone
from trueline.models.grounding import Grounding, alpha_schedule, pack
from trueline.models.schedulers import MAX_STEPS, Stepper, check_interval, make_scheduler, refuse_moves
from trueline.models.text import locate

Where = Callable[[Site], bool]
Seed = int | tuple[int, int]
Part = Literal["mask", "negative"]
_PARTS: dict[Part, str] = {"mask": "masks", "negative": "negative phrases"}


class Method(BaseModel):
    """Base of all methods: its fields are the settings, its hooks do nothing. Override what the method needs.

    All hooks see one row per picture (the conditional rows) and run without gradients; a hook that wants them
    says ``with torch.enable_grad():``. A setting ``strength`` of 0 switches a method off: the loop leaves it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A list of layouts of which none has a region is refused; in a mixed list, those without are drawn plain.
    needs_regions: ClassVar[bool] = False
    #: What it reads of a region beside phrase and box; of other parts the record says that they are not used.
    reads: ClassVar[frozenset[Part]] = frozenset()

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        """Why the method would leave the layout's picture plain, for its record; None: it acts.

        Asked for every layout before the first picture is begun.

        Raises:
            ValueError: the method's settings and the layout contradict each other.
        """
        return "the layout has no regions" if self.needs_regions and not layout.regions else None

    def text(
        self, text: Float[Tensor, "batch tokens width"], layouts: Sequence[Layout], backbone: Backbone
    ) -> Float[Tensor, "batch tokens width"]:
        """Hook 1, once: the encoded prompts."""
        return text

    def values(
        self, text: Float[Tensor, "batch tokens width"], layouts: Sequence[Layout], backbone: Backbone
    ) -> Float[Tensor, "batch tokens width"]:
        """Beside hook 1, once, after all ``text``: what cross-attention's values read; its keys read the text.

        The same tensor back means that they read the text too, and nothing is tapped for it.
        """
        return text

    def guide(self, z: Float[Tensor, "batch c h w"], ctx: "Context") -> Float[Tensor, "batch c h w"]:
        """Hook 2, before each prediction: move the latents, by what ``ctx.look`` shows for instance."""
        return z

    def taps(self, site: Site) -> bool:
        """Which attention layers ``edit`` wants."""
        return False

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
    text: Float[Tensor, "batch tokens width"]
    values: Float[Tensor, "batch tokens width"] | None  # of cross-attention; None where they read the text
    negative: Float[Tensor, "batch tokens width"] | None  # None while guidance is off
    guidance_scale: float
    grounding: Grounding | None  # None when the U-Net is plain or no picture has regions
    grounding_scale: Float[Tensor, " batch"]  # 0 for pictures without regions
    stepper: Stepper
    notes: Counter[tuple[int, str]]  # of the whole run: (row, what happened) -> how often

    @property
    def progress(self) -> float:
        """0 at the first step, towards 1 at the last."""
        return self.index / self.steps

    def note(self, row: int, sentence: str) -> None:
        """Say something about a picture: a warning the first time, and counted in its record."""
        _note(self.notes, row, sentence)

    def maps(self, z: Float[Tensor, "batch c h w"], where: Where) -> Maps:
        """The maps of ``where``'s sites on the conditional rows; the U-Net runs no further than to the last of them.

        With gradients where the caller has enabled them. Methods' edits act as in ``look``.
        """
        with self._open(where, stop=True) as maps, until_enough():
            self.predict(z, self.text, self.grounding)
        return maps

    def look(
        self, z: Float[Tensor, "batch c h w"], where: Where | None = None
    ) -> tuple[Float[Tensor, "batch c h w"], Maps]:
        """Predict on the conditional rows, with all methods' edits; and the maps of ``where``'s sites."""
        with self._open(where) as maps:
            prediction = self.predict(z, self.text, self.grounding)
        return prediction, maps

    def predict(
        self,
        z: Float[Tensor, "batch c h w"],
        text: Float[Tensor, "batch tokens width"],
        grounding: Grounding | None = None,
    ) -> Float[Tensor, "batch c h w"]:
        """The raw prediction for any text; without grounding the gated layers do not run."""
        net_input = self.stepper.net_input(z)
        return self.backbone.predict(net_input, self.t, text, grounding, self.grounding_scale)

    def x0(
        self, prediction: Float[Tensor, "batch c h w"], z: Float[Tensor, "batch c h w"]
    ) -> Float[Tensor, "batch c h w"]:
        """The clean latents that a raw prediction at ``z`` means."""
        return self.stepper.x0(prediction, z)

    def both(
        self, z: Float[Tensor, "batch c h w"], where: Where | None = None
    ) -> tuple[Float[Tensor, "batch c h w"], Float[Tensor, "batch c h w"] | None, Maps]:
        """Conditional and unconditional prediction in one pass, and the conditional rows' maps.

        The unconditional rows have null grounding and no edits.
        """
        if self.negative is None:
            cond, maps = self.look(z, where)
            return cond, None, maps
        text = torch.cat([self.negative, self.text])
        grounding = None if self.grounding is None else Grounding.cat([self.grounding.null(), self.grounding])
        net_input, scale = self.stepper.net_input(torch.cat([z, z])), self.grounding_scale.repeat(2)
        with self._open(where, skip=len(z)) as maps:
            uncond, cond = self.backbone.predict(net_input, self.t, text, grounding, scale).chunk(2)
        return cond, uncond, maps

    @contextmanager
    def _open(self, where: Where | None, skip: int = 0, stop: bool = False) -> Iterator[Maps]:
        """Tap what the methods edit and what the caller wants to see; yields the maps of the latter."""

        def wanted(site: Site) -> bool:
            return where is not None and where(site)

        def edit(site: Site, logits: Tensor) -> Tensor:
            for method in self.methods:
                if method.taps(site):
                    logits = method.edit(site, logits, self)
            return logits

        own = self.values

        def values(site: Site, context: Tensor) -> Tensor:
            return own if own is not None and site.kind == "cross" else context

        edited = any(overrides(method, "taps") for method in self.methods)
        if where is None and not edited and own is None:
            yield {}
            return
        with tapped(
            self.backbone.unet,
            lambda s: wanted(s) or self._tapping(s),
            [edit],
            values=None if own is None else values,
            record=wanted,
            skip=skip,
            stop=stop,
        ) as maps:
            yield maps

    def _tapping(self, site: Site) -> bool:
        valued = self.values is not None and site.kind == "cross"
        return valued or any(method.taps(site) for method in self.methods)


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


@torch.no_grad()  # the decorator, not a block: a block around a yield would leak into the consumer
def sample(
    backbone: Backbone,
    layouts: Sequence[Layout],
    methods: Sequence[Method] = (),
    steps: int = 50,
    guidance_scale: float = 7.5,
    seeds: Sequence[Seed] | None = None,
    *,
    guidance_interval: Sequence[float] | None = None,
    grounding_schedule: Sequence[float] | None = None,
    scheduler: str | None = "ddim",
    latents: Float[Tensor, "batch c h w"] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    eta: float = 0.0,
    record: Where | None = None,
    strict: bool = False,
    checked: bool = False,
) -> Generator[Step, Tensor | None, None]:
    """Denoise one batch of layouts of one size, step by step.

    A picture depends on its own layout and noise only, not on its batch mates. The consumer may ``send``
    other latents back for the next step. Guidance is off at ``guidance_scale <= 1``, as in diffusers, and outside
    ``guidance_interval``, where a step costs half.

    Args:
        seeds: per picture a seed, or (seed, index of the picture under that seed). Default: the layouts' own
            seeds, fresh ones where there are none.
        guidance_interval: (start, stop), fractions of the steps between which guidance acts (Kynkaanniemi et al.
            2024, "Applying Guidance in a Limited Interval"; there noise levels, here steps); None = the
            checkpoint's own, (0, 1) unless it says otherwise.
        grounding_schedule: three fractions (``grounding.alpha_schedule``); None = the checkpoint's own.
        scheduler: a name of ``schedulers.SCHEDULERS``; None = the checkpoint's own.
        latents: unit noise instead of drawn noise. ``generators``: one per picture, instead of ``seeds``.
        eta: DDIM's share of fresh noise, 0..1.
        record: choose attention sites; their maps come with every step.
        strict: refuse a region whose phrase its prompt does not hold, or not all of it; otherwise methods that look
            for it say so in their notes.
        checked: the layouts are part of a longer list, which ``check_layouts`` has seen.

    Raises:
        ValueError: naming the argument; the first step is asked for when it is raised.
    """
    methods, layouts = _acting(methods), tuple(layouts)
    stepper = Stepper(make_scheduler(scheduler, backbone.scheduler), check_steps(steps), backbone.device)
    _check(backbone, layouts, methods, stepper)
    if not checked:
        check_layouts(backbone, layouts, methods, strict=strict)
    generators = generators or noise_generators(_seeds(layouts, seeds))
    z = stepper.start(_noise(backbone, layouts, generators, latents))
    text = backbone.encode([layout.prompt for layout in layouts])
    for method in methods:
        text = method.text(text, layouts, backbone)
    values = text
    for method in methods:
        values = method.values(values, layouts, backbone)
    negative = backbone.encode([layout.negative_prompt for layout in layouts]) if guidance_scale > 1 else None
    grounding, has_regions = _ground(backbone, layouts)
    start, stop = check_interval(guidance_interval or backbone.guidance_interval)
    alphas = alpha_schedule(len(stepper.timesteps), grounding_schedule or backbone.grounding_schedule)

    stepped, notes = z, Counter[tuple[int, str]]()
    for row, sentence in _remarks(backbone, layouts, methods):
        _note(notes, row, sentence)
    for index, (t, alpha) in enumerate(zip(stepper.timesteps, alphas, strict=True)):
        guided = start <= index / len(alphas) < stop
        ctx = Context(
            index, len(alphas), t, layouts, backbone, methods, text, None if values is text else values,
            negative if guided else None, guidance_scale, grounding, alpha * has_regions, stepper, notes,
        )  # fmt: skip
        for method in methods:
            z = method.guide(z.clone(), ctx)
        cond, uncond, maps = ctx.both(z, record)
        prediction = cond if uncond is None else uncond + guidance_scale * (cond - uncond)
        for method in methods:
            prediction = method.combine(prediction, cond, uncond, z, ctx)
        x0 = ctx.x0(prediction, z)
        stepped = stepper.step(prediction, z, _differ(z, stepped), generators, eta)
        sent = yield Step(
            index, len(alphas), float(t), stepped.clone(), x0, maps, alpha if grounding else 0.0, dict(notes)
        )
        z = stepped if sent is None else sent


def noise_generators(seeds: Sequence[Seed]) -> list[torch.Generator]:
    """One CPU generator per picture: its numbers depend on (seed, index) only, not on batch or device.

    Index 0 is ``torch.Generator().manual_seed(seed)``, as diffusers' users write it; others hash seed and
    index.
    """
    return [
        torch.Generator().manual_seed(_mixed(*seed) if isinstance(seed, tuple) else seed) for seed in seeds
    ]


def _mixed(seed: int, index: int) -> int:
    if index == 0:
        return seed
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


def fresh_seed() -> int:
    """A seed nobody chose, small enough to type."""
    return secrets.randbelow(2**32)


def check_steps(steps: int) -> int:
    """``steps``, or a ValueError."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps: must be a whole number from 1 to {MAX_STEPS} (got {steps!r})")
    return steps


def _check(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method], stepper: Stepper
) -> None:
    if not layouts:
        raise ValueError("layouts: is empty; give at least one layout")
    if len({backbone.picture_size(layout.width, layout.height) for layout in layouts}) > 1:
        raise ValueError(
            "layouts: one batch has one picture size; sample each size by itself (Pipeline does)"
        )
    if any(overrides(method, "guide") for method in methods):
        refuse_moves(stepper.scheduler)
    for method in methods:
        if overrides(method, "taps") and not any(method.taps(site) for site in sites(backbone.unet)):
            raise ValueError(f"methods: {type(method).__name__} matches no attention layer of this backbone")


def check_layouts(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method] = (), *, strict: bool = False
) -> None:
    """Refuse what the methods cannot do with a list of layouts, before any of them is drawn.

    Raises:
        ValueError: a method that needs regions, and no layout has one; what ``Method.idle`` refuses; with ``strict``
            a region's phrase that its prompt does not hold, or not all of it.
    """
    for method in _acting(methods):
        if method.needs_regions and not any(layout.regions for layout in layouts):
            raise ValueError(
                f"regions: {type(method).__name__} needs at least one region with its box; give a layout one, or "
                "leave the method out"
            )
        for layout in layouts:
            method.idle(layout, backbone)
    for layout in layouts if strict else ():
        for found in locate(backbone.tokenizer, layout):
            if found.problem:
                raise ValueError(
                    f"regions: {found.problem} ({layout.prompt!r}); change one of them, or leave strict out"
                )


def _remarks(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method]
) -> Iterator[tuple[int, str]]:
    """(row, what its record says before the first step): methods that do not act, and parts of regions not used."""
    for row, layout in enumerate(layouts):
        given = [part for part in _PARTS if any(getattr(region, part) for region in layout.regions)]
        if not methods:
            if layout.regions and not backbone.grounded:
                yield row, BOXES_IGNORED
            yield from ((row, f"no method uses the {_PARTS[part]} of the regions") for part in given)
        elif any(region.label for region in layout.regions) and not backbone.grounded:
            yield row, LABELS_IGNORED
        for method in methods:
            name = type(method).__name__
            if reason := method.idle(layout, backbone):
                yield row, f"{reason}; {name} leaves it plain"
                continue
            for part in given:
                if part not in method.reads:
                    yield row, f"{name} does not use the {_PARTS[part]} of the regions"


BOXES_IGNORED = (
    "this backbone has no grounding layers, so it ignores the boxes; use a GLIGEN checkpoint or a method"
)

LABELS_IGNORED = "this backbone has no grounding layers, which alone read the labels of the regions"


def _note(notes: Counter[tuple[int, str]], row: int, sentence: str) -> None:
    if (row, sentence) not in notes:
        warnings.warn(sentence, stacklevel=3)
    notes[row, sentence] += 1


def _acting(methods: Sequence[Method]) -> tuple[Method, ...]:
    return tuple(method for method in methods if getattr(method, "strength", 1) != 0)


def overrides(method: Method, hook: str) -> bool:
    """Whether the method has a hook of its own."""
    return getattr(type(method), hook) is not getattr(Method, hook)


def _seeds(layouts: Sequence[Layout], seeds: Sequence[Seed] | None) -> list[Seed]:
    if seeds is None:
        return [fresh_seed() if layout.seed is None else layout.seed for layout in layouts]
    if len(seeds) != len(layouts):
        raise ValueError(f"seeds: give one per picture ({len(layouts)}), got {len(seeds)}")
    return list(seeds)


def _noise(
    backbone: Backbone,
    layouts: Sequence[Layout],
    generators: Sequence[torch.Generator],
    latents: Float[Tensor, "batch c h w"] | None,
) -> Float[Tensor, "batch c h w"]:
    """Unit noise in float32 on the backbone's device, drawn row by row where the generators live."""
    shape = backbone.latent_size(layouts[0].width, layouts[0].height)
    if len(generators) != len(layouts):
        raise ValueError(f"generators: give one per picture ({len(layouts)}), got {len(generators)}")
    if latents is None:
        latents = torch.stack([draw(generator, shape) for generator in generators])
    if latents.shape != (len(layouts), *shape):
        raise ValueError(f"latents: must have shape {(len(layouts), *shape)}, got {tuple(latents.shape)}")
    return latents.to(backbone.device, torch.float32)


def draw(generator: torch.Generator, shape: Sequence[int]) -> Float[Tensor, "c h w"]:
    """The first noise of one picture, on the CPU."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).cpu()


def _ground(
    backbone: Backbone, layouts: Sequence[Layout]
) -> tuple[Grounding | None, Float[Tensor, " batch"]]:
    """Packed regions, and 1 for each picture that has some: the others run as on a plain U-Net."""
    has_regions = torch.tensor([float(bool(layout.regions)) for layout in layouts])
    if not backbone.grounded or not has_regions.any():
        return None, torch.zeros_like(has_regions)
    width = backbone.unet.config.cross_attention_dim
    grounding = pack(layouts, backbone.encode_phrases, backbone.max_regions, width)
    return grounding.to(backbone.device), has_regions


def _differ(z: Float[Tensor, "batch c h w"], before: Float[Tensor, "batch c h w"]) -> Bool[Tensor, " batch"]:
    return (z != before).flatten(1).any(dim=1)
