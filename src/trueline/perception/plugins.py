"""A user's own function as a model that looks: ``imagereward=package.module:function``.

So Q-Align, ImageReward, RAM++ and others are used without being dependencies: their packages pin old versions of
transformers. Nothing is imported but the module that was named. What the function gets and must return depends on
what the model is used as; pictures are PIL, boxes are xyxy in 0..1, and there is one result for each picture.

========  ==========================  ==========================================================================
used as   called as                   returns
========  ==========================  ==========================================================================
matcher   function(images, texts)     a number each
tagger    function(images, prompts)   a list of names each
captioner function(images)            a sentence each
segmenter function(images, boxes)     a list of masks each, one a box: (height, width) of the picture, in 0..1
========  ==========================  ==========================================================================
"""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from trueline.boxes import Corners
from trueline.errors import one_line
from trueline.exits import unusable
from trueline.models.pretrained import same_length

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)


class Plugin:
    """A ``Matcher``, ``Tagger``, ``Captioner`` and ``Segmenter``, whichever the function is.

    Each method calls it, and checks what it returns. Nothing is called for no pictures.
    """

    def __init__(self, name: str, target: str):
        self.name, self.protocol = name, f"plug-in {target}"
        self.function = find(target)

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: not one finite number for each pair.
        """
        wanted = "one finite number for each picture"
        count = same_length(images, texts)
        if not count:
            return torch.zeros(0)
        returned = self.function(list(images), list(texts))
        try:
            scores = torch.as_tensor(returned).detach().float().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(self._problem(wanted, f"a {type(returned).__name__}")) from None
        if scores.shape != (count,):
            raise ValueError(self._problem(wanted, f"shape {tuple(scores.shape)}, not ({count},)"))
        if not scores.isfinite().all():
            raise ValueError(self._problem(wanted, f"{float(scores[~scores.isfinite()][0])}"))
        return scores

    def tag(self, images: Sequence[Image], prompts: Sequence[str]) -> list[list[str]]:
        """Names without the space around them, each once; empty ones are left out.

        Raises:
            ValueError: not one list of names for each picture.
        """
        same_length(images, prompts)
        wanted = "one list of names for each picture"
        rows = self._rows(wanted, images, list(prompts))
        for row in rows:
            if not isinstance(row, list | tuple) or not all(isinstance(name, str) for name in row):
                raise ValueError(self._problem(wanted, f"{row!r:.60}"))
        return [list(dict.fromkeys(name.strip() for name in row if name.strip())) for row in rows]

    def caption(self, images: Sequence[Image]) -> list[str]:
        """
        Raises:
            ValueError: not one text for each picture.
        """
        wanted = "one text for each picture"
        rows = self._rows(wanted, images)
        if wrong := [row for row in rows if not isinstance(row, str)]:
            raise ValueError(self._problem(wanted, f"a {type(wrong[0]).__name__}"))
        return [row.strip() for row in rows]

    def segment(self, images: Sequence[Image], boxes: Sequence[Sequence[Corners]]) -> list[list[np.ndarray]]:
        """
        Raises:
            ValueError: not one mask for each box, or one of another size or with values outside 0..1.
        """
        same_length(images, boxes)
        wanted = "for each picture one list of masks in 0..1, of its size, one a box"
        rows = self._rows(wanted, images, [list(row) for row in boxes])
        found = []
        for image, asked, row in zip(images, boxes, rows, strict=True):
            if not hasattr(row, "__len__") or len(row) != len(asked):
                got = f"{len(row)} masks" if hasattr(row, "__len__") else f"a {type(row).__name__}"
                raise ValueError(self._problem(wanted, f"{got} for {len(asked)} boxes"))
            found.append([self._mask(wanted, mask, image) for mask in row])
        return found

    def _mask(self, wanted: str, mask: Any, image: Image) -> np.ndarray:
        try:
            array = torch.as_tensor(mask).detach().float().cpu().numpy()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(self._problem(wanted, f"a {type(mask).__name__}")) from None
        if array.shape != image.size[::-1]:
            raise ValueError(self._problem(wanted, f"shape {array.shape}, not {image.size[::-1]}"))
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(self._problem(wanted, f"values {array.min():g} to {array.max():g}"))
        return array

    def _rows(self, wanted: str, images: Sequence[Image], *more: Any) -> list[Any]:
        """What the function returns, one entry a picture."""
        if not len(images):
            return []
        returned = self.function(list(images), *more)
        if isinstance(returned, str | dict) or not hasattr(returned, "__len__"):
            raise ValueError(self._problem(wanted, f"a {type(returned).__name__}"))
        if len(returned) != len(images):
            raise ValueError(self._problem(wanted, f"{len(returned)} for {len(images)}"))
        return list(returned)

    def _problem(self, wanted: str, got: str) -> str:
        return f"the {self.protocol} must return {wanted} (got {got})"


def find(target: str) -> Callable[..., Any]:
    """The function that "package.module:function" names. Where it fails, that is a ValueError that names it.

    Raises:
        ValueError: no such module or attribute, or it cannot be called.
    """
    if not TARGET.fullmatch(target):
        raise ValueError(f"a plug-in is named package.module:function (got {target!r})")
    module, attribute = target.split(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # what a module does when it is imported is its own
        raise ValueError(f"the plug-in {target} cannot be imported ({error}); check its name") from error
    if not callable(found):
        raise ValueError(f"the plug-in {target} is a {type(found).__name__}, not a function")

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return found(*arguments, **options)
        except Exception as error:
            if unusable(error) is not None:  # a sentence of its own, or the machine's
                raise
            said = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"the plug-in {target} failed ({said}); mend it, or leave it out") from error

    return call
