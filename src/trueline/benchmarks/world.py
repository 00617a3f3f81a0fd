"""The world's own benchmark: held-out scenes in T2I-CompBench's categories, with known truth and the oracle as judge.

A scene's caption is one that the world's language can say; scenes are taken in order from the split "held-out",
on which nothing was trained and nothing is tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import count

from PIL import Image

from trueline.benchmarks import Example
from trueline.layout import Layout, Region
from trueline.world.captions import Caption, caption
from trueline.world.scenes import SIZE, Scene, make_scene, render

SPLIT = "held-out"
EACH = 100  #: prompts of a category
_VARIANTS = 6  #: captions of one scene


def _plain(scene: Scene) -> bool:
    return all(thing.texture == "plain" for thing in scene.things)


#: Category -> whether a scene with this caption belongs to it.
CATEGORIES: dict[str, Callable[[Scene, Caption], bool]] = {
    "color": lambda s, c: (
        len(c.groups) == 2 == len(s.things) and _coloured(c) and _plain(s) and not c.relation
    ),
    "object": lambda s, c: len(c.groups) >= 2 and not _coloured(c) and not c.relation,
    "texture": lambda s, c: (
        len(c.groups) == 2 == len(s.things) and _coloured(c) and not _plain(s) and not c.relation
    ),
    "spatial": lambda s, c: c.relation is not None,
    "counting": lambda s, c: any(len(g.things) > 1 for g in c.groups) and len(s.things) <= 3,
    "complex": lambda s, c: len(c.groups) >= 3 and _coloured(c),
}


def _coloured(said: Caption) -> bool:
    return all(group.colour for group in said.groups)


class World:
    """``EACH`` prompts of each category. An example's scene and caption are ``scene(example)``, ``said(example)``."""

    name = "world"
    source = f"embedded scenes, split {SPLIT}"

    @cached_property
    def examples(self) -> list[Example]:
        return [
            Example(f"{category}-{place:04d}", _layout(scene, variant), category, _truth(scene, variant))
            for category, found in _find().items()
            for place, (scene, variant) in enumerate(found)
        ]

    def scene(self, example: Example) -> Scene:
        return make_scene(SPLIT, example.truth["index"])

    def said(self, example: Example) -> Caption:
        return caption(self.scene(example), example.truth["variant"])

    def reference(self, example: Example) -> Image.Image:
        """The render of the scene."""
        return Image.fromarray(render(self.scene(example)))


def _find() -> dict[str, list[tuple[Scene, int]]]:
    """The first ``EACH`` scenes of each category with a caption of it; a scene stands in one category only."""
    found: dict[str, list[tuple[Scene, int]]] = {category: [] for category in CATEGORIES}
    for index in count():
        missing = [category for category in CATEGORIES if len(found[category]) < EACH]
        if not missing:
            return found
        scene = make_scene(SPLIT, index)
        captions = [caption(scene, variant) for variant in range(_VARIANTS)]
        fits = ((c, v) for c in missing for v, said in enumerate(captions) if CATEGORIES[c](scene, said))
        category, variant = next(fits, (None, 0))
        if category is not None:
            found[category].append((scene, variant))
    raise AssertionError("scenes never end")


def _layout(scene: Scene, variant: int) -> Layout:
    regions = [Region(thing.phrase, thing.box) for thing in scene.things]
    return Layout(caption(scene, variant).text, regions=regions, width=SIZE, height=SIZE)


def _truth(scene: Scene, variant: int) -> dict[str, int]:
    return {"index": scene.index, "variant": variant}
