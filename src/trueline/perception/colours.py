"""Which colour a detected thing has: three published rules.

* ``clip_colours``: CLIP zero-shot on the masked crop (GenEval, djghosh13/geneval@af4902f).
* ``hue_colours``: the mean hue of the mask (HRS-Bench, as in Attention-Refocusing@2780770).
* ``colour_share``: the share of the mask in a colour's HSV range (COCO-MIG, ``eval_mig.py``).

No torch here; pictures are PIL, arrays are numpy.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageColor

from trueline.boxes import pixels
from trueline.perception import Detection, Embedder

GENEVAL_COLOURS = tuple(
    ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
)
BACKGROUND = "#999"  #: GenEval's grey around a mask
_TEMPLATES = (
    "a photo of a {colour} {label}",
    "a photo of a {colour}-colored {label}",
    "a photo of a {colour} object",
)

#: COCO-MIG's inclusive (lowest, highest) hue 0..180, saturation and value 0..255. Red goes around the end of the
#: scale; brown and yellow overlap at hue 25.
MIG_RANGES = {
    "red": (((0, 50, 70), (9, 255, 255)), ((159, 50, 70), (180, 255, 255))),
    "blue": (((90, 50, 70), (128, 255, 255)),),
    "yellow": (((25, 50, 70), (35, 255, 255)),),
    "green": (((36, 50, 70), (89, 255, 255)),),
    "black": (((0, 0, 0), (180, 255, 30)),),
    "white": (((0, 0, 221), (180, 43, 255)),),
    "brown": (((6, 43, 35), (25, 255, 255)),),
}
MIG_SHARE = 0.2  #: a thing has a colour when at least this share of its mask is in the range


def clip_colours(
    embedder: Embedder,
    image: Image.Image,
    detections: Sequence[Detection],
    colours: Sequence[str] = GENEVAL_COLOURS,
) -> list[Detection]:
    """The detections with the colour that ``embedder`` finds most like each one's crop, asked with its label.

    A colour's direction is the mean of three sentences' unit vectors. GenEval: OpenAI's CLIP ViT-L/14.
    """
    if not detections:
        return []
    crops = embedder.images([masked_crop(image, detection) for detection in detections])
    named = []
    for detection, crop in zip(detections, crops, strict=True):
        sentences = [t.format(colour=c, label=detection.label) for c in colours for t in _TEMPLATES]
        texts = embedder.texts(sentences).reshape(len(colours), len(_TEMPLATES), -1).mean(1)
        directions = texts / texts.norm(dim=1, keepdim=True)
        named.append(replace(detection, colour=colours[int((directions @ crop).argmax())]))
    return named


def masked_crop(image: Image.Image, detection: Detection) -> Image.Image:
    """The picture inside the box, grey outside the mask; the whole box where there is no mask."""
    picture = image.convert("RGB")
    if detection.mask is not None:
        blank = Image.new("RGB", image.size, ImageColor.getrgb(BACKGROUND))
        picture = Image.composite(picture, blank, Image.fromarray(pixel_mask(image, detection)))
    return picture.crop(pixels(detection.box, image.size))


def hue_colours(image: Image.Image, detections: Sequence[Detection]) -> list[Detection]:
    """The detections with HRS-Bench's colour: the bin of the mean hue inside the mask, else inside the box."""
    hue = hsv(np.asarray(image.convert("RGB")))[..., 0]
    return [
        replace(detection, colour=hue_colour(hue[pixel_mask(image, detection) > 0]))
        for detection in detections
    ]


def hue_colour(hues: np.ndarray) -> str:
    """HRS-Bench's colour of hues on OpenCV's scale 0..180.

    As published: hues of exactly 0 (pure red, but also every grey) are left out of the mean, a thing with no
    other hue is red, and so is everything from violet on, since a mean knows nothing of the circle.
    """
    counted = hues[hues > 0]
    mean = float(counted.mean()) if counted.size else 0.0
    bins = ((15, "red"), (22, "orange"), (39, "yellow"), (78, "green"), (131, "blue"))
    return next((colour for limit, colour in bins if mean < limit), "red")


def colour_share(image: Image.Image, detection: Detection, colour: str) -> float:
    """Share 0..1 of the mask (else of the box) that lies in COCO-MIG's range of ``colour``.

    Raises:
        ValueError: COCO-MIG has no such colour.
    """
    if colour not in MIG_RANGES:
        raise ValueError(f"COCO-MIG has no range for {colour!r}; its colours are {', '.join(MIG_RANGES)}")
    inside = hsv(np.asarray(image.convert("RGB")))[pixel_mask(image, detection) > 0].astype(int)
    fits = [((inside >= low) & (inside <= high)).all(1) for low, high in MIG_RANGES[colour]]
    return float(np.any(fits, axis=0).mean()) if len(inside) else 0.0


def pixel_mask(image: Image.Image, detection: Detection) -> np.ndarray:
    """uint8 (height, width) of the picture, 255 where the thing is: where its mask is above a half, else in its box.

    Raises:
        ValueError: the mask is not of the picture's size.
    """
    width, height = image.size
    if detection.mask is not None:
        if detection.mask.shape != (height, width):
            raise ValueError(
                f"the mask of {detection.label!r} is {detection.mask.shape}, but the picture is {(height, width)} "
                "(height, width); a mask covers the whole picture"
            )
        return np.where(detection.mask > 0.5, 255, 0).astype(np.uint8)
    x0, y0, x1, y1 = pixels(detection.box, image.size)
    inside = np.zeros((height, width), np.uint8)
    inside[y0:y1, x0:x1] = 255
    return inside


def hsv(rgb: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) RGB as OpenCV's 8-bit HSV: hue 0..179 (half degrees), saturation and value 0..255.

    The same integers as ``cv2.cvtColor``, which divides by fixed-point tables of 12 bits.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    steps = np.arange(256)
    steps[0] = 1  # 0 spread has numerators of 0
    by_value = np.rint((255 << 12) / steps).astype(int)
    by_spread = np.rint((180 << 12) / (6 * steps)).astype(int)
    other = np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    around = np.where(value == red, green - blue, other)
    hue = (around * by_spread[spread] + (1 << 11)) >> 12
    saturation = (spread * by_value[value] + (1 << 11)) >> 12
    return np.stack([np.where(hue < 0, hue + 180, hue), saturation, value], axis=-1).astype(np.uint8)
