"""What a caller of the pipeline may ask for, validated: every misuse is an error that names the argument."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from trueline.layout import MAX_SEED, Layout
from trueline.models.grounding import check_schedule
from trueline.models.schedulers import SCHEDULERS, check_interval
from trueline.sampling.loop import check_steps
from trueline.sampling.method import Method

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
TENSOR_INPUTS = ("latents", "x0")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of ``Pipeline.__call__`` and ``Pipeline.stream``.

    Attributes:
        methods: applied in order; none is plain sampling.
        negative_prompt, width, height: for layouts that do not say themselves. ``negative_prompt`` one or per
            layout.
        seeds: an int s gives the n-th picture the noise of (s, n); a list has one seed, or (seed, index), per
            layout, and the pictures of one layout count up the index. None: the layouts' own seeds, or fresh
            ones.
        generator: one, or one per picture, instead of ``seeds``. One generator for many pictures is drawn in
            order.
        latents: unit noise of all pictures, instead of drawn noise.
        steps (``num_inference_steps`` is its other name), guidance_scale, guidance_interval, grounding_schedule,
            eta: as in ``sample``.
        scheduler: a name of ``schedulers.SCHEDULERS``; None is the checkpoint's own.
        output_type: "pil", "np" (h w 3 in 0..1), "pt" (3 h w in 0..1) or "latent".
        callback_on_step_end: ``(pipeline, step, timestep, tensors) -> dict``; returned "latents" replace
            them.
        callback_on_step_end_tensor_inputs: which of "latents" and "x0" it is given.
        batch_size: pictures at once at most; they do not depend on it.
        strict, checked: as in ``sample``.
        progress: show a bar; None is only on a terminal.
    """

    layouts: tuple[Layout, ...]
    methods: Sequence[Method] = ()
    negative_prompt: str | Sequence[str] | None = None
    seeds: int | Sequence[int | tuple[int, int]] | None = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    num_images_per_prompt: int = 1
    steps: int = 50
    guidance_scale: float = 7.5
    guidance_interval: Sequence[float] | None = None
    grounding_schedule: Sequence[float] | None = None
    scheduler: str | None = "ddim"
    eta: float = 0.0
    width: int | None = None
    height: int | None = None
    latents: Tensor | None = None
    output_type: str = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    batch_size: int | None = None
    strict: bool = False
    checked: bool = False
    progress: bool | None = None

    @classmethod
    def of(cls, prompt: Any, options: dict[str, Any]) -> "Request":
        """The checked request."""
        options = _one_name_for_steps(options)
        known = {field.name for field in fields(cls)} - {"layouts"}
        if unknown := sorted(options.keys() - known):
            raise TypeError(f"{unknown[0]}: no such option; the options are {', '.join(sorted(known))}")
        request = cls(layouts=_layouts(prompt, options), **options)
        request._check()
        return request

    @property
    def generators(self) -> list[torch.Generator] | None:
        """The caller's generators as a list."""
        if self.generator is None:
            return None
        one = self.generator
        return list(one) if isinstance(one, Sequence) else [one]

    @property
    def tensor_inputs(self) -> tuple[str, ...]:
        """What the callback wants; diffusers' ``PipelineCallback`` objects say it themselves."""
        return tuple(
            getattr(self.callback_on_step_end, "tensor_inputs", self.callback_on_step_end_tensor_inputs)
        )

    def _check(self) -> None:
        check_steps(self.steps)
        _whole("num_images_per_prompt", self.num_images_per_prompt)
        if self.batch_size is not None:
            _whole("batch_size", self.batch_size)
        _number("guidance_scale", self.guidance_scale, 0, math.inf)
        _number("eta", self.eta, 0, 1)
        for name in ("strict", "checked"):
            _choice(name, getattr(self, name), (True, False))
        if self.guidance_interval is not None:
            check_interval(self.guidance_interval)
        if self.grounding_schedule is not None:
            check_schedule(self.grounding_schedule)
        _choice("output_type", self.output_type, OUTPUT_TYPES)
        if self.scheduler is not None:
            _choice("scheduler", self.scheduler, tuple(SCHEDULERS))
        for method in self.methods:
            if not isinstance(method, Method):
                raise TypeError(f"methods: must be Method objects such as HCMA() (got {method!r})")
        self._check_noise()
        self._check_callback()

    def _check_noise(self) -> None:
        given = [name for name in ("seeds", "generator") if getattr(self, name) is not None]
        if len(given) > 1 or (self.seeds is not None and self.latents is not None):
            raise ValueError("seeds: cannot be given together with generator or latents; give one of them")
        if self.latents is not None and not isinstance(self.latents, Tensor):
            raise TypeError(f"latents: must be a tensor (got {type(self.latents).__name__})")
        if not all(isinstance(generator, torch.Generator) for generator in self.generators or ()):
            raise TypeError("generator: must be a torch.Generator or a list of them")
        seeds = self.seeds
        if isinstance(seeds, Sequence) and not isinstance(seeds, str):
            if len(seeds) != len(self.layouts):
                raise ValueError(f"seeds: give one per layout ({len(self.layouts)}), got {len(seeds)}")
            flat = [part for seed in seeds for part in (seed if isinstance(seed, tuple) else (seed, 0))]
        else:
            flat = [] if seeds is None else [seeds]
        for seed in flat:
            _whole("seeds", seed, 0, MAX_SEED)

    def _check_callback(self) -> None:
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            raise TypeError(
                "callback_on_step_end: must be a function (pipeline, step, timestep, tensors) -> dict"
            )
        for name in self.tensor_inputs:
            _choice("callback_on_step_end_tensor_inputs", name, TENSOR_INPUTS)


def _one_name_for_steps(options: dict[str, Any]) -> dict[str, Any]:
    if "num_inference_steps" not in options:
        return options
    if "steps" in options:
        raise ValueError("num_inference_steps: is another name of steps; give one of them")
    return {("steps" if name == "num_inference_steps" else name): value for name, value in options.items()}


def _layouts(prompt: Any, options: dict[str, Any]) -> tuple[Layout, ...]:
    """Prompts as layouts, with the call's negative prompt and size where a layout has none."""
    items = [prompt] if isinstance(prompt, str | Layout) else prompt
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | Layout) for item in items):
        raise TypeError(
            f"prompt: must be a text, a Layout, or a list of either (got {type(prompt).__name__})"
        )
    if not items:
        raise ValueError("prompt: the list is empty; give at least one text or Layout")
    negatives = options.get("negative_prompt") or ""
    negatives = [negatives] * len(items) if isinstance(negatives, str) else negatives
    if not isinstance(negatives, list | tuple) or len(negatives) != len(items):
        raise ValueError(f"negative_prompt: give one text, or one per layout ({len(items)})")
    return tuple(_filled(item, negative, options) for item, negative in zip(items, negatives, strict=True))


def _filled(item: str | Layout, negative: str, options: dict[str, Any]) -> Layout:
    layout = Layout(item) if isinstance(item, str) else item
    defaults = {"negative_prompt": negative, "width": options.get("width"), "height": options.get("height")}
    missing = {name: value for name, value in defaults.items() if not getattr(layout, name) and value}
    return Layout.from_record(layout.to_record() | missing) if missing else layout


def _choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(map(str, choices))} (got {value!r})")


def _whole(name: str, value: Any, low: int = 1, high: int = MAX_SEED) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise ValueError(f"{name}: must be a whole number of at least {low} (got {value!r})")


def _number(name: str, value: Any, low: float, high: float) -> None:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name}: must be a number of at least {low:g}, at most {high:g} (got {value!r})")
