"""What decides the steps of a run: the names of the schedulers, and fractions of the steps. No torch."""

import sys
from collections.abc import Sequence
from typing import Any

from trueline.errors import FieldError, short

MAX_STEPS = 1000
RELEASED_SCALE = 7.5  #: guidance scale of the released models, as diffusers has it
#: Name -> class of diffusers.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


def check_scale(scale: Any, field: str = "guidance_scale") -> float:
    """A finite number of at least 0, as a float.

    Raises:
        FieldError: naming ``field``.
    """
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (number and 0 <= scale <= sys.float_info.max):
        raise FieldError(field, f"must be a number of at least 0 (got {short(scale)})")
    return float(scale)


def check_interval(interval: Sequence[float], field: str = "guidance_interval") -> tuple[float, float]:
    """Start and stop, in 0..1, as floats.

    Raises:
        FieldError: naming ``field``.
    """
    try:
        start, stop = (float(fraction) for fraction in interval)
    except (TypeError, ValueError):
        raise FieldError(field, f"give two fractions such as (0, 0.5), got {short(interval)}") from None
    if not 0 <= start < stop <= 1:
        raise FieldError(field, f"must be start < stop in 0..1, got {short(interval)}")
    return start, stop


def check_schedule(stages: Sequence[float], field: str = "grounding_schedule") -> tuple[float, float, float]:
    """The fractions of the steps with full, fading and no grounding, as floats.

    Raises:
        FieldError: naming ``field``.
    """
    try:
        full, decay, off = (float(fraction) for fraction in stages)
    except (TypeError, ValueError):
        raise FieldError(field, f"give three fractions such as (0.3, 0, 0.7), got {short(stages)}") from None
    if not (min(full, decay, off) >= 0 and abs(full + decay + off - 1) < 1e-6):
        raise FieldError(field, f"the three fractions must be in 0..1 and sum to 1, got {short(stages)}")
    return full, decay, off
