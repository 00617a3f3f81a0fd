"""The world's own benchmark: held-out scenes in T2I-CompBench's categories, with known truth and the oracle as judge.

A scene's caption is one that the world's language can say; scenes are taken in order from the split "held-out",
on which nothing was trained and nothing is tuned (settings are tuned on the split "tune"). With the files of CC-500,
T2I-CompBench and NSR-1K, those of their prompts that the world knows every word of are categories of their own.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

from PIL import Image

from trueline.evaluation.benchmarks import load
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs
from trueline.evaluation.benchmarks.worded import Meaning, Vocabulary, drawable
from trueline.layout import Layout, Region
from trueline.world.captions import Caption, CaptionGroup, caption
from trueline.world.scenes import SIZE, Scene, Thing, make_scene, render
from trueline.world.vocabulary import COLOURS, NEARNESS, NOUNS, NUMBERS, RELATIONS, TEXTURES

SPLITS = ("held-out", "tune")
LABELS = ("phrase", "name")
EACH = 100  #: prompts of a category
_VARIANTS = 6  #: captions of one scene


def _plain(scene: Scene) -> bool:
    return all(thing.texture == "plain" for thing in scene.things)


#: Category -> whether a scene with this caption belongs to it.
CATEGORIES: dict[str, Callable[[Scene, Caption], bool]] = {
    "color": lambda s, c: _is_pair(s, c) and _plain(s),
    "object": lambda s, c: len(c.groups) >= 2 and not _coloured(c) and not c.relation,
    "texture": lambda s, c: _is_pair(s, c) and not _plain(s),
    "spatial": lambda s, c: c.relation is not None,
    "counting": lambda s, c: any(len(g.things) > 1 for g in c.groups) and len(s.things) <= 3,
    "complex": lambda s, c: len(c.groups) >= 3 and _coloured(c),
}


def _coloured(said: Caption) -> bool:
    return all(group.colour for group in said.groups)


def _is_pair(scene: Scene, said: Caption) -> bool:
    return len(said.groups) == 2 == len(scene.things) and _coloured(said) and not said.relation


#: Category -> benchmark, its options, and which of its examples.
OFFICIAL: dict[str, tuple[str, dict[str, str], Callable[[Example], bool]]] = {
    "cc-500": ("cc-500", {}, lambda _: True),  # of ABC-6K, captions of photographs, the world can draw none
    "compbench-color": ("t2i-compbench", {"categories": "color"}, lambda _: True),
    "compbench-spatial": ("t2i-compbench", {"categories": "spatial"}, lambda _: True),
    "compbench-numeracy": ("t2i-compbench", {"categories": "numeracy"}, lambda _: True),
    "nsr-counting": ("nsr-1k", {}, lambda e: e.category != "spatial"),
    "nsr-spatial": ("nsr-1k", {}, lambda e: e.category == "spatial"),
}
#: The world's words as official prompts use them. "On top of" is above, as T2I-CompBench and NSR-1K mean it.
WORDS = Vocabulary(
    names=NOUNS,
    colours=tuple(COLOURS),
    textures=TEXTURES,
    numbers={word: number for number, word in enumerate(NUMBERS) if number},
    relations={phrase: name for name, phrases in RELATIONS.items() for phrase in phrases}
    | dict.fromkeys(NEARNESS, "near")
    | {"on top of": "above"},
)


class World(Benchmark):
    """``EACH`` prompts of each category. An example's things and what its caption says are ``things(example)`` and
    ``said(example)``.

    ``data``: with the user's folder of benchmark files, also the prompts of ``OFFICIAL`` that the world can draw, as
    categories of those names. They have no reference picture, and boxes only where their benchmark has them;
    ``covered`` says how many of how many they are.

    ``labels``: what a layout model is told of the boxes: "phrase", all that is known of the thing, or "name", without
    its colour and texture, as a list of classes has it; then they are for the caption alone to say.
    """

    name = "world"
    needs: ClassVar[Needs] = {}

    def __init__(self, data: str | Path | None = None, split: str = SPLITS[0], labels: str = LABELS[0]):
        for name, given, known in (("split", split, SPLITS), ("labels", labels, LABELS)):
            if given not in known:
                raise ValueError(f"{name}: must be one of {', '.join(known)} (got {given!r})")
        self.covered: dict[str, tuple[int, int]] = {}
        official = _official(data, self.covered) if data is not None else []
        self.examples = [*_own(split, labels == "name"), *official]
        counts = ", ".join(f"{name} {known} of {of}" for name, (known, of) in self.covered.items())
        self.source = f"embedded scenes, split {split}"
        self.source += ", boxes called by name" if labels == "name" else ""
        self.source += f"; official prompts: {counts}" if counts else ""

    def things(self, example: Example) -> tuple[Thing, ...]:
        """What the true picture shows, with its boxes; nothing for official prompts, which have none."""
        return _scene(example).things if self.has_reference(example) else ()

    def said(self, example: Example) -> Caption:
        if self.has_reference(example):
            return caption(_scene(example), example.truth["variant"])
        groups = tuple(
            CaptionGroup(name, colour, texture, tuple(range(number)), (0, 0))
            for name, colour, texture, number in example.truth["groups"]
        )
        return Caption(example.prompt, groups, example.truth["relation"])

    def has_reference(self, example: Example) -> bool:
        return "index" in example.truth

    def reference(self, example: Example) -> Image.Image | None:
        """The render of the scene."""
        return Image.fromarray(render(_scene(example))) if self.has_reference(example) else None


def _scene(example: Example) -> Scene:
    return make_scene(example.truth["split"], example.truth["index"])


def _own(split: str, bare: bool) -> list[Example]:
    examples = []
    for category, found in _find(split).items():
        for place, (scene, variant) in enumerate(found):
            regions = [Region(t.phrase, t.box, label=t.label if bare else None) for t in scene.things]
            layout = Layout(caption(scene, variant).text, regions=regions, width=SIZE, height=SIZE)
            truth = {"split": scene.split, "index": scene.index, "variant": variant}
            examples.append(Example(f"{category}-{place:04d}", layout, category, truth))
    return examples


def _official(data: str | Path, covered: dict[str, tuple[int, int]]) -> list[Example]:
    """The drawable examples of every part of ``OFFICIAL``, and in ``covered`` how many of how many they are."""
    found = []
    for category, (benchmark, options, belongs) in OFFICIAL.items():
        examples = [example for example in load(benchmark, data, **options).examples if belongs(example)]
        known = [(e, m) for e, m in drawable(examples, WORDS) if all(o.count for o in m.objects)]
        covered[category] = len(known), len(examples)
        found += [_adopted(category, example, meant) for example, meant in known]
    return found


def _adopted(category: str, example: Example, meant: Meaning) -> Example:
    record = example.layout.to_record() | {"width": SIZE, "height": SIZE, "id": f"{category}-{example.id}"}
    # Nearness cannot be missed in a small picture.
    stated = meant.relation if meant.relation in RELATIONS else None
    truth = {"groups": [[o.name, o.colour, o.texture, o.count] for o in meant.objects], "relation": stated}
    return Example(f"{category}-{example.id}", Layout.from_record(record), category, truth)


def _find(split: str) -> dict[str, list[tuple[Scene, int]]]:
    """The first ``EACH`` scenes of each category with a caption of it; a scene stands in one category only."""
    found: dict[str, list[tuple[Scene, int]]] = {category: [] for category in CATEGORIES}
    for index in count():
        missing = [category for category in CATEGORIES if len(found[category]) < EACH]
        if not missing:
            return found
        scene = make_scene(split, index)
        captions = [caption(scene, variant) for variant in range(_VARIANTS)]
        fits = ((c, v) for c in missing for v, said in enumerate(captions) if CATEGORIES[c](scene, said))
        category, variant = next(fits, (None, 0))
        if category is not None:
            found[category].append((scene, variant))
    raise AssertionError("scenes never end")
