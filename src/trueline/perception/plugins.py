"""A user's own score as a ``Matcher``: ``imagereward=package.module:function``.

So Q-Align, ImageReward and others are used without being dependencies: their packages pin old versions of
transformers. The user's function gets ``(images, texts)`` (PIL pictures, strings, as many of each) and returns one
number for each pair. Nothing is imported but the module that was named.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ._pretrained import same_length

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)


class Plugin:
    """``match`` calls the user's function, and checks what it returns."""

    def __init__(self, name: str, target: str):
        self.name, self.protocol = name, f"plug-in {target}"
        self.function = find(target)

    def match(self, images: Sequence[Image], texts: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: not one finite number for each pair.
        """
        count = same_length(images, texts)
        if not count:
            return torch.zeros(0)
        returned = self.function(list(images), list(texts))
        try:
            scores = torch.as_tensor(returned).detach().float().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(self._problem(f"a {type(returned).__name__}")) from None
        if scores.shape != (count,):
            raise ValueError(self._problem(f"shape {tuple(scores.shape)}, not ({count},)"))
        if not scores.isfinite().all():
            raise ValueError(self._problem(f"{float(scores[~scores.isfinite()][0])}"))
        return scores

    def _problem(self, got: str) -> str:
        return f"the {self.protocol} must return one finite number for each picture (got {got})"


def find(target: str) -> Callable[..., Any]:
    """The function that "package.module:function" names.

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
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the plug-in {target} cannot be imported ({error}); check the name and the path"
        ) from error
    if not callable(found):
        raise ValueError(f"the plug-in {target} is a {type(found).__name__}, not a function")
    return found
