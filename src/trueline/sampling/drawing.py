"""Pictures of one request, batch by batch, and what is done when something gives way.

Memory that runs out costs the batch its size, numbers that are not finite cost the picture a second try, alone and in
float32. What was done is in the picture's record, and so is what could not be done.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from trueline.errors import first_line
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.devices import out_of_memory, widened
from trueline.models.vae import Report, tile_of, tiled
from trueline.sampling.heat_maps import AttentionRecorder, HeatMaps
from trueline.sampling.loop import sample
from trueline.sampling.method import Step
from trueline.sampling.records import make_record
from trueline.sampling.request import Request
from trueline.seeds import RULE, WIDE, Seed, noise_generators

DEFAULT_BATCH = 16  # pictures denoised at once when the caller does not say
#: What is done, in turn, where memory is too small to decode a single picture. Slices are tiles of a quarter: one
#: picture at a time, which diffusers calls slicing, is what halved batches end in.
CUTS = (
    "out of memory while one picture was decoded; VAE tiling was switched on",
    "out of memory with VAE tiling, too; VAE slicing was switched on: tiles of a quarter of the side",
)
LEAST_TILE = 4  #: latents; a smaller one has no inside that its edges do not reach
NOT_FINITE = (
    "its numbers are not finite, alone in float32 too; its noise, the weights or the settings are broken"
)
NO_ROOM = (
    "its numbers are not finite, and the memory is too small to draw it again in float32; load the nets so"
)
#: What a callback may do with a finished step: look, and give other latents.
CallBack = Callable[[Step], Float[Tensor, "batch c h w"] | None]


@dataclass(frozen=True)
class Picture:
    """One picture of a call.

    Attributes:
        index: its place in the call's order.
        image: as ``output_type`` says; None where it could not be made.
        record: how it was made; "failed" says why it could not be made.
        maps: where its phrases looked, if that was asked for and there is an image.
    """

    index: int
    image: Any
    record: dict[str, Any]
    maps: HeatMaps | None = None

    @property
    def failed(self) -> str:
        """Why there is no image; "" where there is one."""
        return self.record.get("failed", "")


@dataclass
class Order:
    """One picture to make."""

    index: int
    layout: Layout
    seed: int | None  # None when the caller brought a generator
    seed_index: int = 0
    generator: torch.Generator | None = None
    noise: Float[Tensor, "c h w"] | None = None
    notes: list[str] = field(default_factory=list)
    maps: HeatMaps | None = None  # of the last time it was drawn


class Drawing:
    """The pictures of ``orders``, which ``request`` asks for. ``callback`` sees each step.

    Where memory runs out the batch is halved; of one picture the VAE decodes tiles, then slices; what is too much
    still is an error. ``tile``: as ``vae.tiled``.
    """

    def __init__(
        self,
        backbone: Backbone,
        request: Request,
        orders: Sequence[Order],
        callback: CallBack,
        tile: int | None = None,
    ):
        self.backbone, self.request, self.orders, self.callback = backbone, request, orders, callback
        self.tile = tile
        self.cuts: list[str] = []  #: how much smaller decoding had to become

    def pictures(self) -> Iterator[Picture]:
        """As their batches finish; of a batch first those that came out well at once."""
        batches = self._batches(self.request.batch_size or DEFAULT_BATCH)
        total = len(self.orders) * self.request.sampling.steps
        progress = self.request.progress
        hidden = None if progress is None else not progress  # None: shown on a terminal only
        with tqdm(total=total, disable=hidden, unit="step", desc="denoising") as bar:
            while batches:
                batch = batches.pop(0)
                before = _States(order.generator for order in batch)
                done, notes = bar.n, [list(order.notes) for order in batch]
                images = None
                try:
                    images = self._draw(batch, bar)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    if len(batch) == 1:
                        raise self._too_large(batch[0], error) from error
                # Outside the except block: the error's traceback would keep the batch's tensors alive.
                if images is None:
                    torch.cuda.empty_cache()
                    before.restore()
                    halved = f"out of memory with {len(batch)} pictures at once; the batch was halved"
                    for order, own in zip(batch, notes, strict=True):
                        order.notes = [*own, halved]
                    bar.n = done
                    # what was too much once will be too much again
                    most = len(batch) // 2
                    batches = [part for each in (batch, *batches) for part in _chunks(each, most)]
                    continue
                for row, (order, image) in enumerate(zip(batch, images, strict=True)):
                    if image is not None:
                        record = self._record(order, len(batch), row)
                        yield Picture(order.index, image, record, order.maps)
                for order, image, own in zip(batch, images, notes, strict=True):
                    if image is None:
                        order.notes = own
                        yield self.again(order, before)

    def again(self, order: Order, before: "_States | None" = None) -> Picture:
        """One picture alone and in float32, after it came out with numbers that are not finite. The callback sees
        its steps once more.

        ``before``: how the caller's generators were before it. They end as they are now.
        """
        dtype = str(self.backbone.dtype).removeprefix("torch.")
        order.notes.append(f"the picture was not finite in {dtype}; drawn again alone in float32")
        now = before and before.now()
        if before:
            before.restore()
        image, why = None, NOT_FINITE
        try:
            with widened(*self.backbone.nets().values()):
                (image,) = self._draw([order])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            why = NO_ROOM
        if now:
            now.restore()
        record = self._record(order, 1, 0) | {"redrawn_in": "float32"}
        if image is None:
            record["failed"] = why
            warnings.warn(f"picture {order.index}: {why}", stacklevel=2)
            return Picture(order.index, None, record)
        return Picture(order.index, image, record, order.maps)

    def _batches(self, size: int) -> list[list[Order]]:
        """Pictures of one size together, at most ``size`` of them."""
        groups: dict[tuple[int | None, int | None], list[Order]] = {}
        for order in self.orders:
            groups.setdefault((order.layout.width, order.layout.height), []).append(order)
        return [part for group in groups.values() for part in _chunks(group, size)]

    def _draw(self, batch: list[Order], bar: tqdm | None = None) -> list[Any]:
        """The images of a batch, as ``output_type`` says; None for one whose numbers are not finite."""
        step = self._denoise(batch, bar)
        for (row, sentence), times in step.notes.items():
            batch[row].notes.append(f"{sentence} ({times} times)" if times > 1 else sentence)

        def note(row: int, sentence: str) -> None:
            batch[row].notes.append(sentence)
            warnings.warn(f"picture {batch[row].index}: {sentence}", stacklevel=2)

        kind = self.request.output_type
        pictures = step.z if kind == "latent" else self._decode(step.z, batch, note)
        return [_as_output(each, kind) if each.isfinite().all() else None for each in pictures.cpu()]

    @torch.no_grad()
    def _decode(self, z: Float[Tensor, "batch c h w"], batch: list[Order], note: Report) -> Tensor:
        """The pixels; of a single picture in tiles, and then in slices, where memory is too small for the whole."""
        while True:
            try:
                with tiled(self.backbone, self.tile):
                    return self.backbone.decode(z, report=note, partial=True)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or len(batch) > 1 or len(self.cuts) == len(CUTS):
                    raise
            # Outside the except block: the error's traceback would keep its tensors alive.
            torch.cuda.empty_cache()
            with tiled(self.backbone, self.tile):
                side = tile_of(self.backbone, *z.shape[-2:]) or max(z.shape[-2:])
            self.tile = max(LEAST_TILE, -(-side // 2))
            self.cuts.append(CUTS[len(self.cuts)])
            batch[0].notes.append(self.cuts[-1])

    def _too_large(self, order: Order, error: BaseException) -> BaseException:
        """The same kind of error, which says what of."""
        size = f"one picture of {order.layout.width} x {order.layout.height} pixels is too large"
        how = "; ".join([size, *self.cuts])
        return type(error)(f"{how}: {first_line(error)}; offload the nets, or load them in half precision")

    def _denoise(self, batch: list[Order], bar: tqdm | None) -> Step:
        """Run the loop to its last step; the callback may replace the latents on the way."""
        seeds: list[Seed] = [(order.seed or 0, order.seed_index) for order in batch]
        generators = [
            order.generator or made for order, made in zip(batch, noise_generators(seeds), strict=True)
        ]
        given = [order.noise for order in batch if order.noise is not None]
        request = self.request
        recorders = [AttentionRecorder()] if request.maps else []
        steps = sample(
            self.backbone,
            [order.layout for order in batch],
            [*request.methods, *recorders],
            request.sampling,
            latents=torch.stack(given) if given else None,
            generators=generators,
            checked=True,
        )
        latents = None
        try:
            while True:
                step = steps.send(latents)
                if bar is not None and step.index < request.sampling.steps:  # PNDM takes one more
                    bar.update(len(batch))
                latents = self.callback(step)
        except StopIteration:
            for recorder in recorders:
                for row, order in enumerate(batch):
                    order.maps = HeatMaps.of(recorder.of(row), order.layout, self.backbone)
            return step

    def _record(self, order: Order, size: int, row: int) -> dict[str, Any]:
        noise = {"index": order.index, "seed": order.seed, "seed_index": order.seed_index}
        if (order.seed or 0) >= WIDE:
            noise["seed_rule"] = RULE
        place = {"size": size, "row": row}
        record = make_record(self.backbone, self.request, order.layout, noise, place, order.notes)
        height, width = self.backbone.latent_size(order.layout.width, order.layout.height)[1:]
        with tiled(self.backbone, self.tile):
            tile = tile_of(self.backbone, height, width)
        return record | ({"vae_tile": tile} if tile and self.request.output_type != "latent" else {})


class _States:
    """How the generators are that the caller brought."""

    def __init__(self, generators: Iterable[torch.Generator | None]):
        self.states = [(each, each.get_state()) for each in generators if each is not None]

    def now(self) -> "_States":
        return _States(generator for generator, _ in self.states)

    def restore(self) -> None:
        for generator, state in self.states:
            generator.set_state(state)


def _chunks(orders: list[Order], size: int) -> list[list[Order]]:
    return [orders[start : start + size] for start in range(0, len(orders), size)]


def _as_output(picture: Float[Tensor, "c h w"], output_type: str) -> Any:
    if output_type in ("pt", "latent"):
        return picture
    pixels = picture.permute(1, 2, 0).numpy()
    return pixels if output_type == "np" else Image.fromarray((pixels * 255).round().astype("uint8"))
