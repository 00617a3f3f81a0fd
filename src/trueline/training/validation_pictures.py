"""The pictures that a run draws on the way: the same layouts from the same noise each time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from trueline.files import Folder
from trueline.layout import Layout, read_layouts
from trueline.models.backbone import Backbone
from trueline.pictures import contact_sheet
from trueline.sampling.pipeline import Pipeline
from trueline.training.data.examples import Examples, digest
from trueline.training.recipes.recipe import Task
from trueline.training.settings import Validation

ON_SHEET = 64  #: pictures


def validation_layouts(settings: Validation, examples: Examples) -> list[Layout]:
    """The layouts that pictures are drawn of: those of the file that is named, or the first of the data.

    Raises:
        ValueError: the file cannot be read, or there is no layout.
    """
    try:
        layouts = read_layouts(settings.layouts) if settings.layouts else examples.samples(settings.n)
    except OSError as error:
        raise ValueError(
            f"validation.layouts: cannot read {settings.layouts} ({error.strerror}); give a .jsonl of layouts"
        ) from None
    except ValueError as error:
        raise ValueError(f"validation.layouts: {error}") from None
    if not layouts:
        raise ValueError(f"validation.layouts: {settings.layouts or 'the data'} holds no layout to draw")
    return layouts[: settings.n]


@dataclass(frozen=True)
class ValidationPictures:
    """Draws ``settings.each`` pictures of each layout as a contact sheet in ``validation``, and lets the task score
    them."""

    task: Task
    backbone: Backbone
    layouts: Sequence[Layout]
    settings: Validation
    home: Folder

    def __call__(self, step: int, writer: Any) -> Mapping[str, float]:
        layouts = self._copies
        images = Pipeline(self.backbone)(layouts, **self._options()).whole().images
        self._write(step, writer, "validation", images, layouts)
        for name, views in self.task.sheets(images, layouts).items():
            self._write(step, writer, name, views, layouts)
        return self.task.scores(images, layouts)

    def check(self) -> None:
        """
        Raises:
            ValueError: a layout that the model, its methods or the task cannot take.
        """
        where = ""
        try:
            Pipeline(self.backbone).stream(self._copies, **self._options())  # draws nothing until it is asked
            for number, layout in enumerate(self.layouts, start=1):
                where = f"layout {number}: "
                self.task.check(layout)
        except ValueError as error:
            raise ValueError(
                f"validation.layouts: {where}{error}; give layouts that this run can draw"
            ) from None

    @property
    def fingerprint(self) -> str:
        """Of all that the pictures depend on besides the weights."""
        drawn = self.settings.model_dump(mode="json", exclude={"every", "patience", "least", "layouts"})
        drawn["layouts"] = [layout.to_record() for layout in self.layouts]
        return digest(json.dumps(drawn, sort_keys=True))

    @property
    def _copies(self) -> list[Layout]:
        return [layout for layout in self.layouts for _ in range(self.settings.each)]

    def _options(self) -> dict[str, Any]:
        settings, count = self.settings, len(self.layouts)
        return {
            "methods": self.task.methods(),
            "steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            # The first picture of a layout has the same noise whatever ``each`` is.
            "seeds": [
                settings.seed + place + copy * count
                for place in range(count)
                for copy in range(settings.each)
            ],
            "progress": False,
        }

    def _write(
        self, step: int, writer: Any, name: str, images: Sequence[Image], layouts: Sequence[Layout]
    ) -> None:
        """``name``: in TensorBoard, and in the files of other sheets than the pictures'."""
        sheet = contact_sheet(images[:ON_SHEET], layouts[:ON_SHEET])
        kind = "" if name == "validation" else f"-{name}"
        Folder(self.home.path / "validation").write_png(f"step-{step:08d}{kind}.png", sheet)
        if writer is not None:
            writer.add_image(name, np.asarray(sheet), step, dataformats="HWC")
