"""Layouts in, pictures and records out: batching, seeds, progress, and what to do when something gives way.

The contract is the one users of diffusers expect (``generator``, ``num_images_per_prompt``, ``latents``,
``output_type``, ``callback_on_step_end``, ``.images``), without its pipelines: the loop is ``sampling.loop``.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.sampling.loop import check_layouts, draw, sample
from trueline.sampling.method import Method, Step
from trueline.sampling.options import Sampling
from trueline.sampling.records import make_record, unknown_words
from trueline.sampling.request import Request
from trueline.seeds import RULE, WIDE, Seed, noise_generators, rule_1

DEFAULT_BATCH = 16  # pictures denoised at once when the caller does not say


@dataclass(frozen=True)
class Picture:
    """One finished picture. ``index``: its place in the call's order; ``image``: as ``output_type`` says."""

    index: int
    image: Any
    record: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """``images``: a list of PIL pictures, or one array or tensor (a list of them when sizes differ).

    ``records``: one dictionary per picture, JSON-ready, with everything needed to make it again.
    """

    images: Any
    records: list[dict[str, Any]]


@dataclass
class _Order:
    """One picture to make."""

    index: int
    layout: Layout
    seed: int | None  # None when the caller brought a generator
    seed_index: int = 0
    generator: torch.Generator | None = None
    noise: Float[Tensor, "c h w"] | None = None
    notes: list[str] = field(default_factory=list)


class Pipeline:
    """A backbone with batching and the conventions around it."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "world", **options: Any) -> "Pipeline":
        """The options are those of ``Backbone.from_pretrained`` (revision, dtype, device and so on)."""
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
        """
        request = Request.of(prompt, options)
        pictures = sorted(self._stream(request), key=lambda picture: picture.index)
        images = _gathered([picture.image for picture in pictures], request.output_type)
        records = [picture.record for picture in pictures]
        return Result(images, records) if return_dict else (images, records)

    def stream(self, prompt: str | Layout | Sequence[str | Layout], **options: Any) -> Iterator[Picture]:
        """The same pictures one by one, as their batches finish: those already given survive a later failure.

        Raises:
            ValueError, TypeError: naming the argument, before anything is made.
        """
        return self._stream(Request.of(prompt, options))

    def remake(self, record: dict[str, Any], methods: Sequence[Method] = ()) -> Picture:
        """Make a recorded picture again, bit for bit on the same machine.

        Kernels round differently for another batch size or row, so the batch is filled up with copies.

        Args:
            methods: those that the record names, as objects.

        Raises:
            ValueError: the noise was the caller's own, or the methods are not those of the record.
        """
        if record["seed"] is None:
            raise ValueError("record: made from a generator or latents that it does not hold")
        if [method["name"] for method in record["methods"]] != [type(method).__name__ for method in methods]:
            raise ValueError(f"methods: give those of the record, in its order: {record['methods']}")
        size, row = record["batch"]["size"], record["batch"]["row"]
        layout, seed = Layout.from_record(record["layout"]), (record["seed"], record["seed_index"])
        old = record["seed"] >= WIDE and "seed_rule" not in record
        stream = self.stream(
            [layout] * size,
            sampling=Sampling.of_record(record),
            methods=methods,
            seeds=[rule_1(*seed) if old else seed] * size,
            batch_size=size,
            checked=True,  # it may be the picture without regions of a list that had some
            progress=False,
        )
        copies = sorted(stream, key=lambda picture: picture.index)
        again = copies[row].record
        if old:
            own = {name: record[name] for name in ("seed", "seed_index", "layout")}
            again = {name: value for name, value in (again | own).items() if name != "seed_rule"}
        return replace(copies[row], index=0, record=again)

    # Drawing the batches

    def _stream(self, request: Request) -> Iterator[Picture]:
        """What is wrong is found now; pictures are made as they are asked for."""
        return self._finished(self._orders(request), request)

    def _finished(self, orders: list[_Order], request: Request) -> Iterator[Picture]:
        """The pictures, batch by batch. A batch for which memory runs out is made in halves, and so are all later."""
        batches = self._batches(orders, request.batch_size or DEFAULT_BATCH)
        total = len(orders) * request.sampling.steps
        hidden = None if request.progress is None else not request.progress  # None: shown on a terminal only
        with tqdm(total=total, disable=hidden, unit="step", desc="denoising") as bar:
            while batches:
                batch = batches.pop(0)
                states = [
                    (order.generator, order.generator.get_state()) for order in batch if order.generator
                ]
                done, pictures = bar.n, None
                try:
                    pictures = self._make(batch, request, bar)
                except RuntimeError as error:
                    cpu = "can't allocate memory" in str(error)
                    if not (cpu or isinstance(error, torch.OutOfMemoryError)) or len(batch) == 1:
                        raise
                # Outside the except block: the error's traceback would keep the batch's tensors alive.
                if pictures is None:
                    for generator, state in states:
                        generator.set_state(state)
                    for order in batch:
                        order.notes.append(
                            f"out of memory with {len(batch)} pictures at once; the batch was halved"
                        )
                    bar.n = done
                    torch.cuda.empty_cache()
                    # what was too much once will be too much again
                    most = len(batch) // 2
                    batches = [part for each in (batch, *batches) for part in _chunks(each, most)]
                    continue
                yield from pictures

    def _make(self, batch: list[_Order], request: Request, bar: tqdm) -> list[Picture]:
        step = self._denoise(batch, request, bar)
        for (row, sentence), times in step.notes.items():
            batch[row].notes.append(f"{sentence} ({times} times)" if times > 1 else sentence)

        def note(row: int, sentence: str) -> None:
            batch[row].notes.append(sentence)
            warnings.warn(f"picture {batch[row].index}: {sentence}", stacklevel=2)

        latent = request.output_type == "latent"
        with torch.no_grad():
            pictures = step.z if latent else self.backbone.decode(step.z, report=note)
        images = [_as_output(picture, request.output_type) for picture in pictures.cpu()]
        made = []
        for row, (order, image) in enumerate(zip(batch, images, strict=True)):
            noise = {"index": order.index, "seed": order.seed, "seed_index": order.seed_index}
            if (order.seed or 0) >= WIDE:
                noise["seed_rule"] = RULE
            place = {"size": len(batch), "row": row}
            record = make_record(self.backbone, request, order.layout, noise, place, order.notes)
            made.append(Picture(order.index, image, record))
        return made

    def _denoise(self, batch: list[_Order], request: Request, bar: tqdm) -> Step:
        """Run the loop to its last step; the callback may replace the latents on the way."""
        seeds: list[Seed] = [(order.seed or 0, order.seed_index) for order in batch]
        generators = [
            order.generator or made for order, made in zip(batch, noise_generators(seeds), strict=True)
        ]
        given = [order.noise for order in batch if order.noise is not None]
        steps = sample(
            self.backbone,
            [order.layout for order in batch],
            request.methods,
            request.sampling,
            latents=torch.stack(given) if given else None,
            generators=generators,
            checked=True,
        )
        latents = None
        try:
            while True:
                step = steps.send(latents)
                bar.update(len(batch) if step.index < request.sampling.steps else 0)  # PNDM takes one more
                latents = self._called_back(step, request)
        except StopIteration:
            return step

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

    def _orders(self, request: Request) -> list[_Order]:
        """One order per picture, with seed and size settled; everything that can be wrong is found here."""
        layouts = [self._sized(layout) for layout in request.layouts]
        if not request.checked:
            check_layouts(self.backbone, layouts, request.methods, strict=request.sampling.strict)
        notes = {layout: self._notes(layout) for layout in layouts}
        orders: list[_Order] = []
        for layout, (seed, first) in zip(layouts, request.layout_seeds(), strict=True):
            seeded = layout if seed is None else layout.model_copy(update={"seed": seed})
            for copy in range(request.num_images_per_prompt):
                orders.append(_Order(len(orders), seeded, seed, first + copy, notes=list(notes[layout])))
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

    def _bring_noise(self, orders: list[_Order], request: Request) -> None:
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

    def _batches(self, orders: list[_Order], size: int) -> list[list[_Order]]:
        """Pictures of one size together, at most ``size`` of them."""
        groups: dict[tuple[int | None, int | None], list[_Order]] = {}
        for order in orders:
            groups.setdefault((order.layout.width, order.layout.height), []).append(order)
        return [part for group in groups.values() for part in _chunks(group, size)]


def _chunks(orders: list[_Order], size: int) -> list[list[_Order]]:
    return [orders[start : start + size] for start in range(0, len(orders), size)]


def _as_output(picture: Float[Tensor, "c h w"], output_type: str) -> Any:
    if output_type in ("pt", "latent"):
        return picture
    pixels = picture.permute(1, 2, 0).numpy()
    return pixels if output_type == "np" else Image.fromarray((pixels * 255).round().astype("uint8"))


def _gathered(images: list[Any], output_type: str) -> Any:
    """One array or tensor where diffusers gives one; a list where sizes differ."""
    if output_type == "pil" or len({image.shape for image in images}) > 1:
        return images
    stacked = torch.stack([torch.as_tensor(image) for image in images])
    return stacked.numpy() if output_type == "np" else stacked
