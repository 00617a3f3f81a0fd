"""Pictures as a net reads them, made as tensors, so that gradients reach the pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch 3 height width"]  # in 0..1
FILTERS = {2: "bilinear", 3: "bicubic"}  #: PIL's numbers


class Fitting(nn.Module):
    """Pictures in 0..1 as a net wants them: resized and normalised by the numbers of transformers' ``processor``.

    What differs from the processor: a picture that is not square is squeezed into its size, not cropped in its
    middle, for what stands at a picture's edge must not be cut off.

    Raises:
        ValueError: the processor resizes with a filter other than bilinear and bicubic.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, processor: Any):
        super().__init__()
        self.side = _side(processor)  #: (height, width)
        if int(processor.resample) not in FILTERS:
            raise ValueError(
                f"its processor resizes with filter {processor.resample}, not bilinear or bicubic"
            )
        self.filter = FILTERS[int(processor.resample)]
        for name in ("mean", "std"):
            figures = torch.tensor(getattr(processor, f"image_{name}"), dtype=torch.float32)
            self.register_buffer(name, figures.view(3, 1, 1), persistent=False)

    def resized(self, pictures: Images) -> Float[Tensor, "batch 3 side side"]:
        """Still in 0..1, except for what a bicubic filter overshoots."""
        if tuple(pictures.shape[-2:]) == self.side:
            return pictures
        return F.interpolate(pictures, size=self.side, mode=self.filter, antialias=True)

    def normalised(self, resized: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch 3 side side"]:
        return (resized - self.mean) / self.std

    def forward(self, pictures: Images) -> Float[Tensor, "batch 3 side side"]:
        return self.normalised(self.resized(pictures))


def _side(processor: Any) -> tuple[int, int]:
    """(height, width) of what the processor makes."""
    crops = getattr(processor, "do_center_crop", False)
    given: dict[str, Any] = dict(processor.crop_size if crops else processor.size)
    if given.get("height") and given.get("width"):
        return int(given["height"]), int(given["width"])
    return int(given["shortest_edge"]), int(given["shortest_edge"])
