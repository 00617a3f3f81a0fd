"""THE loop: layouts in, a stream of steps out, with four places where a method can act.

    for step in sample(backbone, [layout, other], methods=[HCMA()], seeds=[0, 1]):
        ...
    pictures = backbone.decode(step.z)

A method is frozen settings plus the hooks it needs; several methods are a list, and act in its order.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.layout import Layout
from trueline.models.attention import sites
from trueline.models.backbone import Backbone
from trueline.models.grounding import Grounding, alpha_schedule, pack
from trueline.models.schedulers import MAX_STEPS, Stepper, check_interval, make_scheduler, refuse_moves
from trueline.models.text import locate
from trueline.sampling.method import Context, Method, Part, Step, Where, add_note, overrides
from trueline.seeds import Seed, fresh_seed, noise_generators

_PARTS: dict[Part, str] = {"mask": "masks", "negative": "negative phrases"}


def _acting(methods: Sequence[Method]) -> tuple[Method, ...]:
    return tuple(method for method in methods if getattr(method, "strength", 1) != 0)


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
        add_note(notes, row, sentence)
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
