"""Layouts that a language model is shown: those of the prompts most like its own (LayoutGPT's "k-similar")."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trueline.layout import Layout, read_layouts

if TYPE_CHECKING:
    from torch import Tensor

OWN = Path(__file__).with_name("exemplars.jsonl")
_WORD = re.compile(r"\w+")


class PromptEncoder(Protocol):
    """``perception.Embedder``, of which only the texts are needed: unit vectors (n, d)."""

    def texts(self, texts: Sequence[str]) -> Tensor: ...


class Exemplars:
    """Layouts with at least one region, and how like a prompt theirs are.

    Likeness is the overlap of words, rare ones counting more (the idf-weighted Jaccard index), or the cosine of
    ``encoder``'s vectors where one is given (LayoutGPT takes CLIP's).

    Raises:
        ValueError: the file cannot be read, or has no layout with a region.
    """

    def __init__(self, path: str | Path | None = None, encoder: PromptEncoder | None = None):
        self.path, self.encoder = Path(path or OWN), encoder
        try:
            layouts = read_layouts(self.path)
        except OSError as error:
            raise ValueError(f"exemplars: cannot read {self.path} ({error.strerror}); give layouts") from None
        self.layouts = [layout for layout in layouts if layout.regions]
        if not self.layouts:
            raise ValueError(f"exemplars: {self.path} has no layout with regions; give some")
        self.words = [_words(layout.prompt) for layout in self.layouts]
        self.held_by = Counter(word for words in self.words for word in words)

    def like(self, prompt: str, k: int) -> list[Layout]:
        """The ``k`` likest, the likest last: next to the question. Ties go by the file's order. One of the very
        prompt is left out: it would be copied, and a benchmark's own plans would leak."""
        same = _plain(prompt)
        others = [i for i, layout in enumerate(self.layouts) if _plain(layout.prompt) != same]
        if k <= 0 or not others:
            return []
        scores = self._cosines(prompt) if self.encoder is not None else self._overlaps(prompt)
        best = sorted(others, key=lambda i: (-round(scores[i], 6), i))[:k]
        return [self.layouts[i] for i in reversed(best)]

    def _overlaps(self, prompt: str) -> list[float]:
        asked = _words(prompt)
        scores = []
        for words in self.words:
            union = sum(map(self._weight, asked | words))
            scores.append(sum(map(self._weight, asked & words)) / union if union else 0.0)
        return scores

    def _weight(self, word: str) -> float:
        return log((1 + len(self.layouts)) / (1 + self.held_by[word])) + 1e-6

    def _cosines(self, prompt: str) -> list[float]:
        assert self.encoder is not None
        return (self._vectors @ self.encoder.texts([prompt])[0]).tolist()

    @cached_property
    def _vectors(self) -> Any:
        assert self.encoder is not None
        return self.encoder.texts([layout.prompt for layout in self.layouts])


def _words(prompt: str) -> frozenset[str]:
    return frozenset(_WORD.findall(prompt.lower()))


def _plain(prompt: str) -> str:
    return " ".join(_WORD.findall(prompt.lower()))
