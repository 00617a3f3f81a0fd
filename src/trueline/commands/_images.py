"""--images and --export: folders of pictures, and the patterns of their names."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueline.commands._rows import BASIC
from trueline.methods import METHODS

if TYPE_CHECKING:
    from trueline.evaluation.benchmarks.benchmark import Benchmark
    from trueline.evaluation.drawing_list import Wanted


def read_pattern(options: argparse.Namespace, what: str) -> Any:
    """Of "images" or "export", if it is given."""
    from trueline.evaluation.picture_folders import PicturePattern

    text = getattr(options, f"{what}_pattern")
    if text is None:
        return None
    if not getattr(options, what):
        raise ValueError(f"--{what}-pattern: belongs to --{what}, which is not given")
    try:
        return PicturePattern(text)
    except ValueError as error:
        raise ValueError(f"--{what}-{error}") from None


def read_images(
    options: argparse.Namespace, pictures: "Sequence[Wanted]", benchmark: "Benchmark"
) -> list[Any]:
    from trueline.evaluation.elsewhere import Elsewhere
    from trueline.evaluation.run import REFERENCE, ROUND_TRIP

    pattern = read_pattern(options, "images")
    found = [Elsewhere.parse(text, pictures, benchmark, pattern) for text in options.images]
    taken = [*BASIC, *METHODS, REFERENCE, ROUND_TRIP]
    for each in found:
        if each.method in taken:
            raise ValueError(
                f"--images: the name {each.method} is taken; give another, as NAME={each.folder}"
            )
        taken.append(each.method)
    return found
