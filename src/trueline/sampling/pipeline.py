"""Layouts in, pictures and records out: batching, seeds, progress, and what to do when something gives way.

The contract is the one users of diffusers expect (``generator``, ``num_images_per_prompt``, ``latents``,
``output_type``, ``callback_on_step_end``, ``.images``), without its pipelines: the loop is ``sampling.loop``.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trueline.layout import Layout
from trueline.models.backbone import Backbone, DecodeError
from trueline.sampling.diffusers_names import OF_LOADING, refuse_unknown
from trueline.sampling.drawing import DEFAULT_BATCH, Drawing, Order, Picture
from trueline.sampling.heat_maps import HeatMaps
from trueline.sampling.loop import check_layouts, draw
from trueline.sampling.method import Method, Step
from trueline.sampling.options import Sampling
from trueline.sampling.records import unknown_words
from trueline.sampling.request import Request
from trueline.seeds import WIDE, rule_1

__all__ = ["DEFAULT_BATCH", "Picture", "PictureError", "Pipeline", "Result"]


class PictureError(DecodeError):
    """Pictures that could not be made. ``failed``: their places in the call's order, and why."""

    def __init__(self, failed: Mapping[int, str]):
        self.failed = dict(failed)
        first = min(self.failed)
        more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
        super().__init__(f"picture {first}{more} could not be made: {self.failed[first]}")


@dataclass(frozen=True)
class Result:
    """``images``: a list of PIL pictures, or one array or tensor (a list of them when sizes differ).

    ``records``: one dictionary per picture, JSON-ready, with everything needed to make it again. A picture that could
    not be made has None among the images, which are a list then, and in its record "failed", a sentence. ``maps``:
    where the phrases of each picture looked, None for one that could not be made; None without ``maps=True``.
    """

    images: Any
    records: list[dict[str, Any]]
    maps: list[HeatMaps | None] | None = None

    @property
    def failed(self) -> dict[int, str]:
        """Places of pictures that could not be made, and why."""
        return {place: record["failed"] for place, record in enumerate(self.records) if "failed" in record}

    def whole(self) -> "Result":
        """Itself, with all its pictures.

        Raises:
            PictureError: one could not be made.
        """
        if self.failed:
            raise PictureError(self.failed)
        return self


class Pipeline:
    """A backbone with batching and the conventions around it."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "world", **options: Any) -> "Pipeline":
        """The options are those of ``Backbone.from_pretrained`` (revision, dtype, device and so on).

        Raises:
            TypeError: an option that is none, with its name here where it is diffusers'.
        """
        known = [*signature(Backbone.from_pretrained).parameters][1:]
        refuse_unknown(options, known, OF_LOADING)
        return cls(Backbone.from_pretrained(name_or_path, **options))

    def save_pretrained(self, folder: str | Path) -> None:
        self.backbone.save_pretrained(folder)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Pipeline":
        self.backbone.to(device, dtype)
        return self

    def load_lora(self, path: str | Path, adapter_name: str = "default", weight: float = 1.0) -> None:
        """See ``Backbone.load_lora``: a file, or for the world a name."""
        self.backbone.load_lora(path, adapter_name, weight)

    def unload_lora(self) -> None:
        self.backbone.unload_lora()

    def __call__(
        self, prompt: str | Layout | Sequence[str | Layout], *, return_dict: bool = True, **options: Any
    ) -> Any:
        """Make all pictures: ``num_images_per_prompt`` for the first layout, then for the second, and so on.

        The options are those of ``Request.of``. Returns a ``Result``, or (images, records).

        Raises:
            ValueError, TypeError: naming the argument.
            PictureError: no picture could be made; where some could, the result says which could not.
        """
        request = Request.of(prompt, options)
        pictures = sorted(self._drawing(request).pictures(), key=lambda picture: picture.index)
        failed = {picture.index: picture.failed for picture in pictures if picture.failed}
        if len(failed) == len(pictures):
            raise PictureError(failed)
        images = _gathered([picture.image for picture in pictures], request.output_type)
        maps = [picture.maps for picture in pictures] if request.maps else None
        result = Result(images, [picture.record for picture in pictures], maps)
        return result if return_dict else (result.images, result.records)

    def stream(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> Iterator[Picture]:
        """The same pictures one by one, as their batches finish: those already given survive a later failure.

        Also those that could not be made: ``Picture.failed`` says why, and ``Picture.image`` is None.

        Raises:
            ValueError, TypeError: naming the argument, before anything is made.
        """
        return self._drawing(Request.of(prompt, options)).pictures()

    def remake(self, record: dict[str, Any], methods: Sequence[Method] = ()) -> Picture:
        """Make a recorded picture again, bit for bit on the same machine.

        Kernels round differently for another batch size or row, so the batch is filled up with copies.

        Args:
            methods: those that the record names, as objects.

        Raises:
            ValueError: the noise was the caller's own, or the methods are not those of the record.
            PictureError: it cannot be made, today or then.
        """
        if record["seed"] is None:
            raise ValueError("record: made from a generator or latents that it does not hold")
        if [method["name"] for method in record["methods"]] != [type(method).__name__ for method in methods]:
            raise ValueError(f"methods: give those of the record, in its order: {record['methods']}")
        size, row = record["batch"]["size"], record["batch"]["row"]
        layout, seed = Layout.from_record(record["layout"]), (record["seed"], record["seed_index"])
        own = {}
        if record["seed"] >= WIDE and "seed_rule" not in record:
            seed, own = rule_1(*seed), {name: record[name] for name in ("seed", "seed_index", "layout")}
        options = {
            "sampling": Sampling.of_record(record),
            "methods": methods,
            "seeds": [seed] * size,
            "batch_size": size,
            "checked": True,  # it may be the picture without regions of a list that had some
            "progress": False,
        }
        drawing = self._drawing(Request.of([layout] * size, options))
        drawing.tile = record.get("vae_tile", 0)
        if "redrawn_in" in record:
            picture = drawing.again(drawing.orders[row])
        else:
            picture = sorted(drawing.pictures(), key=lambda picture: picture.index)[row]
        if picture.failed:
            raise PictureError({0: picture.failed})
        again = picture.record | own
        if "seed_rule" not in record:
            again.pop("seed_rule", None)
        return Picture(0, picture.image, again)

    def _drawing(self, request: Request) -> Drawing:
        """What is wrong is found now; pictures are made as they are asked for."""
        return Drawing(
            self.backbone, request, self._orders(request), lambda step: self._called_back(step, request)
        )

    def _called_back(self, step: Step, request: Request) -> Float[Tensor, "batch c h w"] | None:
        if request.callback_on_step_end is None:
            return None
        values = {"latents": step.z, "x0": step.x0}
        wanted = {name: values[name] for name in request.tensor_inputs}
        returned = request.callback_on_step_end(self, step.index, step.t, wanted)
        if returned is not None and not isinstance(returned, dict):
            raise TypeError(f"callback_on_step_end: must return a dictionary (got {type(returned).__name__})")
        return (returned or {}).get("latents")

    # Orders: one for each picture

    def _orders(self, request: Request) -> list[Order]:
        """One order per picture, with seed and size settled; everything that can be wrong is found here."""
        layouts = [self._sized(layout) for layout in request.layouts]
        if not request.checked:
            check_layouts(self.backbone, layouts, request.methods, strict=request.sampling.strict)
        notes = {layout: self._notes(layout) for layout in layouts}
        orders: list[Order] = []
        for layout, (seed, first) in zip(layouts, request.layout_seeds(), strict=True):
            seeded = layout if seed is None else layout.model_copy(update={"seed": seed})
            for copy in range(request.num_images_per_prompt):
                orders.append(Order(len(orders), seeded, seed, first + copy, notes=list(notes[layout])))
        self._bring_noise(orders, request)
        return orders

    def _sized(self, layout: Layout) -> Layout:
        width, height = self.backbone.picture_size(layout.width, layout.height)
        self.backbone.latent_size(width, height)
        if self.backbone.grounded and len(layout.regions) > self.backbone.max_regions:
            limit = self.backbone.max_regions
            raise ValueError(
                f"regions: this backbone takes at most {limit} (got {len(layout.regions)}); drop some"
            )
        return layout.model_copy(update={"width": width, "height": height})

    def _bring_noise(self, orders: list[Order], request: Request) -> None:
        """The caller's latents or generators; drawn now, in order, so that batching cannot change them."""
        given, latents = request.generators, request.latents
        if given is not None:
            if len(given) not in (1, len(orders)):
                raise ValueError(f"generator: give one, or one per picture ({len(orders)}), got {len(given)}")
            for order, generator in zip(orders, given * len(orders), strict=False):
                order.generator = generator
        for order in orders:
            shape = self.backbone.latent_size(order.layout.width, order.layout.height)
            if latents is not None:
                if latents.shape != (len(orders), *shape):
                    raise ValueError(
                        f"latents: must have shape {(len(orders), *shape)}, got {tuple(latents.shape)}"
                    )
                order.noise = latents[order.index]
            elif order.generator is not None:
                order.noise = draw(order.generator, shape)

    def _notes(self, layout: Layout) -> list[str]:
        """What the record and the user should know about this layout before it is made."""
        notes = []
        if unknown := unknown_words(layout, self.backbone.vocabulary):
            known = ", ".join(sorted(self.backbone.vocabulary or ()))
            notes.append(f"words that this model does not know: {', '.join(unknown)}; it knows: {known}")
            warnings.warn(notes[-1], stacklevel=5)
        for name in ("prompt", "negative_prompt"):
            if cut := self.backbone.words_cut(getattr(layout, name)):
                # `encode` warns
                notes.append(f'{name} cut to {self.backbone.text_length} tokens; not read: "{cut}"')
        return notes


def _gathered(images: list[Any], output_type: str) -> Any:
    """One array or tensor where diffusers gives one; a list where sizes differ."""
    if output_type == "pil" or len({getattr(image, "shape", None) for image in images}) > 1:
        return images
    stacked = torch.stack([torch.as_tensor(image) for image in images])
    return stacked.numpy() if output_type == "np" else stacked
