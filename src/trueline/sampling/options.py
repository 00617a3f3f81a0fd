"""``Sampling``: every option of the loop, once.

Flags, the pipeline's keywords, records and the settings of evaluations derive from it. No torch, because
``trueline generate --help`` reads this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, GroupedMetadata, Le
from pydantic import BeforeValidator, Field

from trueline.errors import Frozen, short
from trueline.models.schedules import MAX_STEPS, SCHEDULERS, check_interval, check_schedule

if TYPE_CHECKING:
    from trueline.models.backbone import Backbone


@dataclass(frozen=True)
class Within(GroupedMetadata):
    """The range of a number, both ends included: a bound for schemas, and an error of one sentence."""

    low: float
    high: float = math.inf
    whole: bool = False

    def __iter__(self) -> Iterator[object]:
        yield Ge(self.low)
        if self.high < math.inf:
            yield Le(self.high)
        yield BeforeValidator(self.check)

    def check(self, value: Any) -> float:
        kind = Integral if self.whole else Real
        number = float(value) if isinstance(value, kind) and not isinstance(value, bool) else math.nan
        if not (math.isfinite(number) and self.low <= number <= self.high):
            noun = "a whole number" if self.whole else "a number"
            ends = f"of at least {self.low}" if self.high == math.inf else f"from {self.low} to {self.high}"
            raise ValueError(f"must be {noun} {ends} (got {short(value)})")
        return int(value) if self.whole else number


def one_of(*choices: Any) -> BeforeValidator:
    """One of these values, with an error of one sentence."""

    def check(value: Any) -> Any:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(map(str, choices))} (got {short(value)})")
        return value

    return BeforeValidator(check)


_INTERVAL = BeforeValidator(partial(check_interval, field=""))
_SCHEDULE = BeforeValidator(partial(check_schedule, field=""))


class Sampling(Frozen):
    """The options of a run of the loop, except what belongs to single pictures (layouts, seeds, noise).

    None is always the checkpoint's own. An option that changes no pixel is excluded from records
    (``Field(exclude=True)``).
    """

    steps: Annotated[int, Within(1, MAX_STEPS, whole=True)] = Field(default=50, description="denoising steps")
    scheduler: Annotated[str, one_of(*SCHEDULERS)] | None = Field(
        default="ddim", description=", ".join(SCHEDULERS), json_schema_extra={"enum": [*SCHEDULERS, None]}
    )
    guidance_scale: Annotated[float, Within(0)] | None = Field(
        default=None, description="weight of the prompt; at most 1 is no guidance, at half the cost"
    )
    #: Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval"; there noise levels, here steps.
    guidance_interval: Annotated[tuple[float, float], _INTERVAL] | None = Field(
        default=None, description="fractions of the steps between which the weight acts", examples=["0,.5"]
    )
    grounding_schedule: Annotated[tuple[float, float, float], _SCHEDULE] | None = Field(
        default=None,
        description="fractions of the steps with full, fading and no grounding",
        examples=[".3,0,.7"],
    )
    eta: Annotated[float, Within(0, 1)] = Field(
        default=0.0, description="DDIM's share of fresh noise, 0 to 1"
    )
    strict: Annotated[bool, one_of(True, False)] = Field(
        default=False,
        exclude=True,
        description="refuse a phrase that the prompt does not hold, or not all of it, instead of a warning",
    )

    def completed(self, backbone: Backbone) -> Sampling:
        """With the checkpoint's own scale, interval and schedule where they are None."""
        scale = self.guidance_scale
        return self.model_copy(
            update={
                "guidance_scale": backbone.guidance_scale if scale is None else scale,
                "guidance_interval": self.guidance_interval or backbone.guidance_interval,
                "grounding_schedule": self.grounding_schedule or backbone.grounding_schedule,
            }
        )

    def to_record(self) -> dict[str, Any]:
        """What decides the pixels, JSON-ready."""
        return self.model_dump(mode="json")

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Sampling:
        """From a picture's record, or another mapping with these keys among others; defaults where one is missing.

        Raises:
            FieldError: a value that is no option's.
        """
        return cls(**{name: record[name] for name in recorded() if name in record})


def recorded() -> list[str]:
    """The options that decide pixels."""
    return [name for name, field in Sampling.model_fields.items() if not field.exclude]


DEFAULTS = Sampling()
