"""What a caller of the pipeline asks for, validated: every misuse is an error that names the argument."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, ConfigDict
from torch import Tensor

from trueline.errors import FieldError, Frozen, short
from trueline.layout import MAX_SEED, Layout
from trueline.sampling.diffusers_names import OF_CALLS, refuse_unknown
from trueline.sampling.method import Method
from trueline.sampling.options import DEFAULTS, Sampling, Within, one_of
from trueline.seeds import fresh_seed

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
TENSOR_INPUTS = ("latents", "x0")
OF_LAYOUTS = ("negative_prompt", "width", "height")  #: options for layouts that do not say themselves
STEPS = "num_inference_steps"  #: diffusers' name of ``steps``
_SEED = Within(0, MAX_SEED, whole=True)


def _methods(value: Any) -> Any:
    for method in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(method, Method) or method is value:
            raise TypeError(f"methods: must be Method objects such as HCMA() (got {method!r})")
    return value


class Request(Frozen):
    """The options of ``Pipeline.__call__`` and ``Pipeline.stream``, besides those of ``sampling``.

    Attributes:
        methods: applied in order; none is plain sampling.
        seeds: an int s gives the n-th picture the noise of (s, n); a list has one seed, or (seed, index), per
            layout, and the pictures of one layout count up the index. None: the layouts' own seeds, or fresh
            ones.
        generator: one, or one per picture, instead of ``seeds``. One generator for many pictures is drawn in
            order.
        latents: unit noise of all pictures, instead of drawn noise.
        output_type: "pil", "np" (h w 3 in 0..1), "pt" (3 h w in 0..1) or "latent".
        callback_on_step_end: ``(pipeline, step, timestep, tensors) -> dict``; returned "latents" replace
            them.
        callback_on_step_end_tensor_inputs: which of "latents" and "x0" it is given.
        batch_size: pictures at once at most; they do not depend on it.
        maps: also give each picture's ``HeatMaps``; one more pass of the net in each step, the same pictures.
        checked: as in ``sample``.
        progress: show a bar; None is only on a terminal.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    layouts: tuple[Layout, ...]
    sampling: Sampling = DEFAULTS
    methods: Annotated[tuple[Method, ...], BeforeValidator(_methods)] = ()
    seeds: Any = None
    generator: Any = None
    latents: Any = None
    num_images_per_prompt: Annotated[int, Within(1, MAX_SEED, whole=True)] = 1
    output_type: Annotated[str, one_of(*OUTPUT_TYPES)] = "pil"
    callback_on_step_end: Any = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    batch_size: Annotated[int, Within(1, MAX_SEED, whole=True)] | None = None
    maps: Annotated[bool, one_of(True, False)] = False
    checked: Annotated[bool, one_of(True, False)] = False
    progress: bool | None = None

    @classmethod
    def of(cls, prompt: Any, options: dict[str, Any]) -> "Request":
        """The request of a call's keywords: fields of this class, of ``Sampling`` (over those of a ``sampling`` that
        is given too), and for layouts that do not say themselves ``negative_prompt`` (one, or one per layout),
        ``width`` and ``height``. ``num_inference_steps`` is another name of ``steps``.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        options = _one_name_for_steps(options)
        own = cls.model_fields.keys() - {"layouts"}
        known = {*own, *Sampling.model_fields, *OF_LAYOUTS}
        refuse_unknown(options, known, OF_CALLS)
        sampling = {name: options[name] for name in Sampling.model_fields if name in options}
        given: dict[str, Any] = {name: options[name] for name in own if name in options}
        if sampling:
            given["sampling"] = Sampling(**dict(options.get("sampling", DEFAULTS)) | sampling)
        return cls(layouts=_layouts(prompt, options), **given)

    def model_post_init(self, _context: Any) -> None:
        self._check_noise()
        self._check_callback()

    @property
    def generators(self) -> list[torch.Generator] | None:
        """The caller's generators as a list."""
        if self.generator is None:
            return None
        return list(self.generator) if isinstance(self.generator, Sequence) else [self.generator]

    @property
    def tensor_inputs(self) -> tuple[str, ...]:
        """What the callback wants; diffusers' ``PipelineCallback`` objects say it themselves."""
        own = self.callback_on_step_end_tensor_inputs
        return tuple(getattr(self.callback_on_step_end, "tensor_inputs", own))

    def layout_seeds(self) -> list[tuple[int | None, int]]:
        """Seed, and index of the first picture under it, for each layout; no seed where the noise is the caller's."""
        if self.generators is not None or self.latents is not None:
            return [(None, 0)] * len(self.layouts)
        if self.seeds is None:
            return [(fresh_seed() if layout.seed is None else layout.seed, 0) for layout in self.layouts]
        if isinstance(self.seeds, Sequence):
            return [seed if isinstance(seed, tuple) else (seed, 0) for seed in self.seeds]
        return [(int(self.seeds), place * self.num_images_per_prompt) for place in range(len(self.layouts))]

    def _check_noise(self) -> None:
        given = [name for name in ("seeds", "generator") if getattr(self, name) is not None]
        if len(given) > 1 or (self.seeds is not None and self.latents is not None):
            raise FieldError("seeds", "cannot be given together with generator or latents; give one of them")
        if self.latents is not None and not isinstance(self.latents, Tensor):
            raise TypeError(f"latents: must be a tensor (got {type(self.latents).__name__})")
        if not all(isinstance(generator, torch.Generator) for generator in self.generators or ()):
            raise TypeError("generator: must be a torch.Generator or a list of them")
        seeds = self.seeds
        if isinstance(seeds, Sequence) and not isinstance(seeds, str):
            if len(seeds) != len(self.layouts):
                raise FieldError("seeds", f"give one per layout ({len(self.layouts)}), got {len(seeds)}")
            flat = [part for seed in seeds for part in (seed if isinstance(seed, tuple) else (seed, 0))]
        else:
            flat = [] if seeds is None else [seeds]
        for seed in flat:
            try:
                _SEED.check(seed)
            except ValueError as error:
                raise FieldError("seeds", str(error)) from None

    def _check_callback(self) -> None:
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            raise TypeError(
                "callback_on_step_end: must be a function (pipeline, step, timestep, tensors) -> dict"
            )
        if wrong := [name for name in self.tensor_inputs if name not in TENSOR_INPUTS]:
            choices = ", ".join(TENSOR_INPUTS)
            raise FieldError(
                "callback_on_step_end_tensor_inputs", f"must be of {choices} (got {short(wrong[0])})"
            )


def _one_name_for_steps(options: dict[str, Any]) -> dict[str, Any]:
    if STEPS not in options:
        return options
    if "steps" in options:
        raise ValueError(f"{STEPS}: is another name of steps; give one of them")
    return {("steps" if name == STEPS else name): value for name, value in options.items()}


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
