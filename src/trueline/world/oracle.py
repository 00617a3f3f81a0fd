"""The judge of the world: which objects a 128 x 128 picture shows, in which colour and texture, and where.

It works on renders, reconstructions and generated pictures alike, has no trained weights and is never a
training signal. Four steps, each a pure function:

1. ``foreground``: fit the smooth background robustly; what differs from it is foreground, a soft mask.
2. ``_candidates``: correlate the mask with every silhouette at every size (FFT, half resolution).
3. ``_explain``: move and stretch the best hypotheses at full resolution until their overlap with the mask is
   greatest; they are taken best first, and each foreground pixel is explained once.
4. ``_colour`` and ``_texture``: read the pixels inside the silhouette.

Pictures are (SIZE, SIZE, 3) uint8 sRGB, masks (SIZE, SIZE) float32 in 0..1, a ``Spot`` is in pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from trueline.perception import Detection
from trueline.world.scenes import SIZE, STRIPE, coverage, extent
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES

PLAIN, STRIPED, CHECKERED = TEXTURES

#: A detection with a lower score is a shape that no silhouette explains well; judges ignore it. Chosen on
#: damaged renders: up to here hardly any true object is lost. It is no guard against foreign shapes: of 20
#: other glyphs drawn crisply, 9 still score more (a heart is an apple at 0.89); at 0.6 all 20 would.
SURE = 0.76
#: Hypotheses with a lower overlap are not reported at all.
_LEAST = 0.35
#: Least distance from the background of a foreground pixel, sRGB units.
_FAINT = 14.0
#: Limits of the local contrast that decides where an edge lies, sRGB units. With a higher upper limit the
#: lighter ink of a black object would be lost next to the darker one.
_CONTRAST = 40.0, 110.0
#: Longer sides tried, pixels; scenes draw 36..72, generated pictures stray a little.
_LONGEST = np.round(32 * 1.075 ** np.arange(13)).astype(int)
#: Least covariance that is a pattern: plain renders stay below 0.004 when blurred or warped, checks blurred
#: by 1.5 px reach 0.009, crisp patterns 0.25.
_PATTERNED = 0.007
#: An outlier's distance from a colour counts at most so much, Lab units.
_FAR = 60
_HALF = SIZE // 2  #: side of the half-resolution picture in which silhouettes are searched
_RIM = 4  #: empty half-resolution pixels around it, so that a silhouette may be cut by the picture's edge
_SIDE = _HALF + 2 * _RIM


class Spot(NamedTuple):
    """A silhouette's box in pixels; it may stick out of the picture."""

    x: int
    y: int
    w: int
    h: int


def detect(picture: np.ndarray) -> list[Detection]:
    """The objects of ``picture`` (uint8, (SIZE, SIZE, 3)), surest first; low scores mark unclear shapes.

    ``score`` is the overlap of a silhouette with the foreground (Tanimoto, 0..1), ``mask`` the silhouette's coverage
    of the picture, float32 (SIZE, SIZE).
    """
    if picture.shape != (SIZE, SIZE, 3) or picture.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 ({SIZE}, {SIZE}, 3), not {picture.dtype} {picture.shape}")
    pixels, fore = _lab(picture), foreground(picture)
    found = [_describe(name, spot, score, pixels) for name, spot, score in _explain(fore)]
    return sorted(found, key=lambda d: -d.score)


# Foreground


@lru_cache(maxsize=2)
def _smooth_basis(side: int) -> np.ndarray:
    """Polynomials of degree two on a ``side`` x ``side`` grid: (side * side, 6)."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32).reshape(2, -1)
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], 1)


def background(picture: np.ndarray) -> np.ndarray:
    """The smooth surface behind the objects, float32 (SIZE, SIZE, 3).

    Least squares that starts from the border of the picture and, as the width of the weights shrinks, takes
    in every pixel that agrees.
    """
    small = picture.reshape(_HALF, 2, _HALF, 2, 3).mean((1, 3), dtype=np.float32)
    basis, values = _smooth_basis(_HALF), small.reshape(-1, 3)
    border = np.ones((_HALF, _HALF), np.float32)
    border[3:-3, 3:-3] = 0.05
    weights, width = border.ravel(), 60.0
    for _ in range(10):
        weighted = basis * weights[:, None]
        fit = np.linalg.solve(weighted.T @ basis + 1e-3 * np.eye(6), weighted.T @ values)
        off = ((values - basis @ fit) ** 2).sum(1)
        weights, width = 1 / (1 + off / width**2) ** 2, max(8.0, width * 0.7)
    return (_smooth_basis(SIZE) @ fit).reshape(SIZE, SIZE, 3).astype(np.float32)


def foreground(picture: np.ndarray) -> np.ndarray:
    """How surely each pixel is not background: float32 (SIZE, SIZE) in 0..1.

    An edge lies where the contrast falls to half of the object's own: an edge at a fixed distance would swell
    under blur and close the thin gaps by which silhouettes differ.
    """
    calm = ndimage.gaussian_filter(picture.astype(np.float32), (0.6, 0.6, 0))
    difference = calm - background(picture)
    off, dark = np.sqrt((difference**2).sum(-1)), difference.sum(-1) < 0
    # A white object's second ink is dark and fainter than its first: only dark neighbours are its measure.
    contrast = np.where(dark, ndimage.maximum_filter(off * dark, 5), ndimage.maximum_filter(off, 5))
    contrast = np.clip(contrast, *_CONTRAST)
    # Noise moves every pixel, objects only some: the lower quartile of the distances is the noise's.
    faint = max(_FAINT, 2.5 * float(np.quantile(off, 0.25)))
    fore = np.clip((off - np.maximum(faint, 0.35 * contrast)) / (0.5 * contrast), 0, 1)
    # Between a light and a dark ink the picture passes through the background's own grey: close that seam.
    light = fore * ~dark * (off > _CONTRAST[0])
    between = np.minimum(ndimage.grey_dilation(fore * dark, 5), ndimage.grey_dilation(light, 5))
    return np.maximum(fore, np.minimum(between, ndimage.grey_closing(fore, 3)))


# Silhouettes


@lru_cache(maxsize=1)
def _filters() -> tuple[np.ndarray, np.ndarray]:
    """Spectra of all filters, complex64 (names, sizes, _SIDE, _SIDE // 2 + 1), and the (w, h) of each.

    A filter is +1 on the silhouette, -1 in its holes and -0.5 around it, divided by its area: the response is
    the part of the silhouette that is there less the foreground that does not belong to it; 1 is perfect.
    """
    kernels = np.zeros((len(OBJECTS), len(_LONGEST), _SIDE, _SIDE), np.float32)
    extents = np.zeros((len(OBJECTS), len(_LONGEST), 2), int)
    for i, name in enumerate(OBJECTS):
        for j, longest in enumerate(_LONGEST):
            w, h = extents[i, j] = extent(name, longest // 2)
            mask = np.pad(coverage(name, w, h), 2)
            kernel = np.where(np.pad(np.ones((h, w), bool), 2), 2 * mask - 1, -0.5) / mask.sum()
            kernels[i, j, : h + 4, : w + 4] = kernel
            kernels[i, j] = np.roll(kernels[i, j], (-(h // 2) - 2, -(w // 2) - 2), (0, 1))
    return np.conj(fft.rfft2(kernels)).astype(np.complex64), extents


def _candidates(fore: np.ndarray) -> list[tuple[float, str, Spot]]:
    """(response, name, spot) of the places where a silhouette fits better than nearby, best first."""
    spectra, extents = _filters()
    small = np.pad(fore.reshape(_HALF, 2, _HALF, 2).mean((1, 3)), _RIM)
    responses = fft.irfft2(spectra * fft.rfft2(small), s=(_SIDE, _SIDE))  # (names, sizes, y, x)
    best = responses.max(1)
    peaks = (best == ndimage.maximum_filter(best, (1, 7, 7))) & (best > 0.15)
    found = []
    for i, y, x in np.argwhere(peaks):
        j = int(responses[i, :, y, x].argmax())
        w, h = (int(v) for v in extents[i, j])
        spot = Spot(2 * (x - w // 2 - _RIM), 2 * (y - h // 2 - _RIM), 2 * w, 2 * h)
        found.append((float(best[i, y, x]), OBJECTS[i], spot))
    return sorted(found, key=lambda c: -c[0])


def _window(spot: Spot, pad: int) -> tuple[slice, slice]:
    """Where ``spot``, enlarged by ``pad``, lies in an array that has a border of SIZE // 2 on each side."""
    x, y, edge = spot.x + _HALF - pad, spot.y + _HALF - pad, 2 * pad
    return slice(y, y + spot.h + edge), slice(x, x + spot.w + edge)


def _overlap(fore: np.ndarray, name: str, spot: Spot) -> float:
    """Tanimoto overlap, 0..1, of the bordered mask ``fore`` with a silhouette and 2 px around it."""
    mask = coverage(name, spot.w, spot.h)
    around = fore[_window(spot, 2)]
    both = float(np.vdot(mask, around[2:-2, 2:-2]))
    return both / (float(np.vdot(mask, mask)) + float(np.vdot(around, around)) - both)


#: Changes of (x, y, w, h) tried while refining: shifts, growth about the centre, and growth of one side.
_MOVES = np.array(
    [(1, 0, 0, 0), (0, 1, 0, 0), (-1, -1, 2, 2), (0, 0, 1, 0), (-1, 0, 1, 0), (0, 0, 0, 1), (0, -1, 0, 1)]
)


def _refined(fore: np.ndarray, name: str, spot: Spot, strides: tuple[int, ...]) -> tuple[float, Spot]:
    """The greatest overlap near ``spot``, found by coordinate ascent, and where it is."""
    score = _overlap(fore, name, spot)
    for stride in strides:
        better = True
        while better:
            better = False
            for move in np.concatenate([_MOVES, -_MOVES]) * stride:
                moved = Spot(*(int(v) for v in np.add(spot, move)))
                if not _allowed(name, moved):
                    continue
                if (trial := _overlap(fore, name, moved)) > score + 1e-4:
                    score, spot, better = trial, moved, True
    return score, spot


def _allowed(name: str, spot: Spot) -> bool:
    """Whether the box keeps the proportions to about a quarter and lies in the picture, except for 8 px at most."""
    w, h = extent(name, 100)
    stretch = (spot.w * h) / (spot.h * w)
    inside = min(spot.x, spot.y) >= -8 and max(spot.x + spot.w, spot.y + spot.h) <= SIZE + 8
    return inside and 0.78 < stretch < 1.28 and 28 <= max(spot.w, spot.h) <= 90


def _share(a: Spot, b: Spot) -> float:
    """Area common to two boxes, relative to the smaller."""
    w = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    h = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    return max(w, 0) * max(h, 0) / min(a.w * a.h, b.w * b.h)


def _explain(fore: np.ndarray) -> list[tuple[str, Spot, float]]:
    """(name, spot, overlap) of the silhouettes that explain the foreground: best first, each pixel once."""
    left = np.pad(fore, _HALF)
    todo, found = _candidates(fore), []
    while todo:
        top, _, where = todo[0]
        rivals = [c for c in todo if _share(c[2], where) > 0.6 and c[0] > top - 0.3][:6]
        tried = sorted(((*_refined(left, name, spot, (2,)), name) for _, name, spot in rivals), reverse=True)
        score, spot, name = max((*_refined(left, name, spot, (1,)), name) for _, spot, name in tried[:2])
        if score >= _LEAST:
            found.append((name, spot, score))
            mask = ndimage.grey_dilation(np.pad(coverage(name, spot.w, spot.h), 2), 5)
            left[_window(spot, 2)] *= 1 - mask
        todo = [c for c in todo if _share(c[2], spot) < 0.5 and c not in rivals]
    return found


# Inks


_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 (..., 3) as CIE Lab (D65), float32."""
    c = np.asarray(rgb, np.float32) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@lru_cache(maxsize=1)
def _inks() -> np.ndarray:
    """Lab of (first, second) ink of every colour: (colours, 2, 3)."""
    return _lab(np.array(list(COLOURS.values())))


def _along(pixels: np.ndarray, inks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where Lab pixels (..., 3) lie on the way from first ink (0) to second (1), and how far off it."""
    way = inks[1] - inks[0]
    at = np.clip((pixels - inks[0]) @ way / (way @ way), 0, 1)
    return at, np.linalg.norm(pixels - inks[0] - at[..., None] * way, axis=-1)


def _colour(pixels: np.ndarray, weights: np.ndarray) -> str:
    """The colour whose inks and their mixtures explain the pixels best."""
    costs = [np.vdot(np.minimum(_along(pixels, inks)[1], _FAR), weights) for inks in _inks()]
    return list(COLOURS)[int(np.argmin(costs))]


def _echo(second: np.ndarray, weights: np.ndarray, axis: int) -> float:
    """Covariance of the pattern with itself one stripe further along ``axis``: -0.25..0.25."""
    here, there = (np.s_[:-STRIPE], np.s_[STRIPE:]) if axis == 0 else (np.s_[:, :-STRIPE], np.s_[:, STRIPE:])
    off = second - np.vdot(second, weights) / weights.sum()
    both = weights[here] * weights[there]
    return float((both * off[here] * off[there]).sum() / (both.sum() + 1e-6))


def _texture(pixels: np.ndarray, weights: np.ndarray, colour: str) -> str:
    """Both patterns change ink one stripe further down, only checks also sideways, whatever the phase."""
    second, _ = _along(pixels, _inks()[list(COLOURS).index(colour)])
    if _echo(second, weights, 0) > -_PATTERNED:
        return PLAIN
    return STRIPED if _echo(second, weights, 1) > 0 else CHECKERED


def colour_error(picture: np.ndarray, detection: Detection, colour: str) -> float:
    """How far a detection is from a colour's inks and their mixtures: a mean distance in Lab, 0..60.

    Renders have 0.01, what the VAE gives back about 4; the nearest neighbours, purple and blue, are 24 to 30 apart.
    """
    off = _along(_lab(picture), _inks()[list(COLOURS).index(colour)])[1]
    return float(np.average(np.minimum(off, _FAR), weights=_inside(mask_of(detection))))


def mask_of(detection: Detection) -> np.ndarray:
    """The mask, which every detection of the world's own detectors has."""
    assert detection.mask is not None
    return detection.mask


def _inside(mask: np.ndarray) -> np.ndarray:
    """Weights of a silhouette's pixels. Those at its edge mix ink and background: the deeper inside, the more a
    pixel tells."""
    return 0.002 * mask + 0.05 * ndimage.minimum_filter(mask, 3) + ndimage.minimum_filter(mask, 5)


def _describe(name: str, spot: Spot, score: float, pixels: np.ndarray) -> Detection:
    """Colour, texture and picture-sized mask of a silhouette at ``spot``."""
    bordered = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
    bordered[_window(spot, 0)] = coverage(name, spot.w, spot.h)
    mask = bordered[_HALF:-_HALF, _HALF:-_HALF]
    x0, y0 = max(spot.x, 0), max(spot.y, 0)
    x1, y1 = min(spot.x + spot.w, SIZE), min(spot.y + spot.h, SIZE)
    surface, inside = pixels[y0:y1, x0:x1], _inside(mask)[y0:y1, x0:x1]
    colour = _colour(surface, inside)
    box = (x0 / SIZE, y0 / SIZE, x1 / SIZE, y1 / SIZE)
    return Detection(name, box, score, colour, _texture(surface, inside, colour), mask)
