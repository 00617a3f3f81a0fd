"""What decides a data set: the settings of its build."""

from typing import Annotated, Any, Literal

from trueline.errors import Frozen, redacted
from trueline.sampling.options import Sampling, Within

Count = Annotated[int, Within(0, whole=True)]
Positive = Annotated[int, Within(1, whole=True)]
DRAWING = ("steps", "guidance_scale", "scheduler")  #: the options of ``Sampling`` that a build can set


class DatasetSettings(Frozen):
    """All that decides what comes out; a folder belongs to one of these, except that ``tries`` may become more or
    fewer: what was detected stays what it is. None: not used, or the model's own.

    ``sampling``: of the model; None where pictures are given. ``ask``: what a detector is asked for, "phrases" ("red
    car") or "nouns"; ``min_score``, ``min_clip``: below it a box (an item) does not count. ``images``: the folder of
    pictures that are there, instead of a model's. ``vae_tiling``: pictures are decoded in tiles.
    """

    words: str
    templates: Count
    captions: Count
    captions_from: str | None
    seed: Count
    model: str | None
    images: str | None
    sampling: Sampling | None
    dtype: str | None
    batch_size: Positive
    tries: Positive
    detector: str
    clip: str | None
    ask: Literal["phrases", "nouns"]
    min_score: Annotated[float, Within(0, 1)] | None
    min_clip: Annotated[float, Within(-1, 1)] | None
    vae_tiling: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """As a manifest holds them: the options of ``sampling`` besides the others, and no secrets."""
        options = self.sampling.to_record() if self.sampling else {}
        own = redacted(self.model_dump(mode="json", exclude={"sampling"}))
        return own | {n: options.get(n) for n in DRAWING}
