"""THE loop: layouts in, a stream of steps out, with four places where a method can act.

    for step in sample(backbone, [layout, other], methods=[HCMA()], seeds=[0, 1]):
        ...
    pictures = backbone.decode(step.z)

A method is frozen settings plus the hooks it needs; several methods are a list, and act in its order.
"""

from collections import Counter
from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded
from trueline.models.grounding import Grounding, alpha_schedule
from trueline.models.schedulers import Stepper, refuse_moves
from trueline.models.text import locate
from trueline.sampling.method import Context, Method, Part, Step, Where, add_note, overrides
from trueline.sampling.options import DEFAULTS, Sampling
from trueline.seeds import Seed, fresh_seed, noise_generators

_PARTS: dict[Part, str] = {"mask": "masks", "negative": "negative phrases"}


def _acting(methods: Sequence[Method]) -> tuple[Method, ...]:
    return tuple(method for method in methods if getattr(method, "strength", 1) != 0)


@torch.no_grad()  # the decorator, not a block: a block around a yield would leak into the consumer
def sample(
    backbone: Backbone,
    layouts: Sequence[Layout],
    methods: Sequence[Method] = (),
    sampling: Sampling = DEFAULTS,
    *,
    seeds: Sequence[Seed] | None = None,
    latents: Float[Tensor, "batch c h w"] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    record: Where | None = None,
    checked: bool = False,
) -> Generator[Step, Tensor | None, None]:
    """Denoise one batch of layouts of one size, step by step.

    A picture depends on its own layout and noise only, not on its batch mates. The consumer may ``send``
    other latents back for the next step.

    Args:
        seeds: per picture a seed, or (seed, index of the picture under that seed). Default: the layouts' own
            seeds, fresh ones where there are none.
        latents: unit noise instead of drawn noise. ``generators``: one per picture, instead of ``seeds``.
        record: choose attention sites; their maps come with every step.
        checked: the layouts are part of a longer list, which ``check_layouts`` has seen.

    Raises:
        ValueError: naming the argument; the first step is asked for when it is raised.
    """
    methods, layouts = _acting(methods), tuple(layouts)
    stepper = _stepper(backbone, layouts, methods, sampling)
    if not checked:
        check_layouts(backbone, layouts, methods, strict=sampling.strict)
    generators = generators or noise_generators(_seeds(layouts, seeds))
    z = stepped = stepper.start(_noise(backbone, layouts, generators, latents))
    text, values = _texts(backbone, layouts, methods)
    scale = backbone.guidance_scale if sampling.guidance_scale is None else sampling.guidance_scale
    negative = backbone.encode([layout.negative_prompt for layout in layouts]) if scale > 1 else None
    grounding, has_regions = _ground(backbone, layouts)
    start, stop = sampling.guidance_interval or backbone.guidance_interval
    stages = sampling.grounding_schedule or backbone.grounding_schedule
    alphas = alpha_schedule(len(stepper.timesteps), stages)

    notes, made = _first_notes(backbone, layouts, methods), dict[Hashable, Any]()
    for index, (t, alpha) in enumerate(zip(stepper.timesteps, alphas, strict=True)):
        guided = start <= index / len(alphas) < stop
        ctx = Context(
            index, len(alphas), t, layouts, backbone, methods, text, values,
            negative if guided else None, scale, grounding, alpha * has_regions, stepper, notes, made,
        )  # fmt: skip
        for method in methods:
            z = method.guide(z.clone(), ctx)
        cond, uncond, maps = ctx.predict_both(z, record)
        prediction = cond if uncond is None else uncond + scale * (cond - uncond)
        for method in methods:
            prediction = method.combine(prediction, cond, uncond, z, ctx)
        x0, moved = ctx.x0(prediction, z), _moved(z, stepped)
        stepped = stepper.step(prediction, z, moved, generators, sampling.eta)
        shown = alpha if grounding else 0.0
        sent = yield Step(index, len(alphas), float(t), stepped.clone(), x0, maps, shown, dict(notes))
        z = stepped if sent is None else sent


def _moved(z: Float[Tensor, "batch c h w"], stepped: Float[Tensor, "batch c h w"]) -> Bool[Tensor, " batch"]:
    """The rows that a method moved. NaN, which differs from itself, is no move: its row is lost, the others go on."""
    return ((z != stepped) & ~(z.isnan() & stepped.isnan())).flatten(1).any(dim=1)


def _first_notes(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method]
) -> Counter[tuple[int, str]]:
    notes = Counter[tuple[int, str]]()
    for row, sentence in _remarks(backbone, layouts, methods):
        add_note(notes, row, sentence)
    return notes


def _stepper(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method], sampling: Sampling
) -> Stepper:
    """The run's scheduler, once the batch is known to be one that it and the methods can draw."""
    if not layouts:
        raise ValueError("layouts: is empty; give at least one layout")
    if len({backbone.picture_size(layout.width, layout.height) for layout in layouts}) > 1:
        raise ValueError(
            "layouts: one batch has one picture size; sample each size by itself (Pipeline does)"
        )
    stepper = backbone.stepper(sampling.scheduler, sampling.steps)
    if any(overrides(method, "guide") for method in methods):
        refuse_moves(stepper.scheduler)
    for method in methods:
        if overrides(method, "taps") and not any(method.taps(site) for site in backbone.sites()):
            raise ValueError(f"methods: {type(method).__name__} matches no attention layer of this backbone")
    return stepper


def _texts(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method]
) -> tuple[Encoded, Encoded | None]:
    """The encoded prompts after the methods' hooks; and what cross-attention's values read, None for the same."""
    text = backbone.encode([layout.prompt for layout in layouts])
    for method in methods:
        text = method.text(text, layouts, backbone)
    values = text
    for method in methods:
        values = method.values(values, layouts, backbone)
    return text, None if values is text else values


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
        for found in locate(backbone, layout):
            if found.problem:
                raise ValueError(
                    f"regions: {found.problem} ({layout.prompt!r}); change one of them, or leave strict out"
                )


def _remarks(
    backbone: Backbone, layouts: Sequence[Layout], methods: Sequence[Method]
) -> Iterator[tuple[int, str]]:
    """(row, what its record says before the first step): methods that do not act, and parts of regions not used."""
    methods = [method for method in methods if not method.watches]
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
    return backbone.ground(layouts).to(backbone.device), has_regions
