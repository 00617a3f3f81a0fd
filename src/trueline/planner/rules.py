"""The rules planner: a prompt becomes a layout by rules of English and geometry. No model, no network, milliseconds.

``RulesPlanner().plan("two cats to the left of a red chair")`` reads noun phrases with their counts and
attributes, relations, groups and comparisons (``reading``), gives each thing its typical size (``sizes``) and
sets boxes that keep the relations (``placing``). The same prompt gives the same layout; a seed gives another.
What was not understood, what has no box and which numbers were chosen, stands in the plan's notes.
"""

import re
from dataclasses import replace
from typing import Any, Literal, Self

from trueline.boxes import Corners
from trueline.english.lists import read_lists
from trueline.english.plurals import plurals, singular
from trueline.english.tagging import Tagger, best_tagger
from trueline.english.words import PEOPLE
from trueline.errors import Frozen
from trueline.layout import MAX_PHRASE, MAX_REGIONS, Layout, Region
from trueline.planner import Planned
from trueline.planner.clause import HOLDING
from trueline.planner.links import Link, ThingGroup
from trueline.planner.placing import place
from trueline.planner.reading import read
from trueline.planner.scene import ASIDE, Mention, PromptScene, Relation
from trueline.planner.sizes import extent, lair, ridden

Vocabulary = Literal["open", "coco"]
_SIZE_STEP = 1.3  # in side, from "a smaller than b"
#: COCO's 80 categories and our own list of words that hardly ever mean anything else: a glass may be a cup or a wine
#: glass, a bat an animal. NSR-1K's truth is in these categories, and so are the exemplars of language models for it.
_SYNONYMS = read_lists("coco")
COCO = frozenset(_SYNONYMS)
_CATEGORY = {name: category for category, synonyms in _SYNONYMS.items() for name in (category, *synonyms)}


class RulesPlanner(Frozen):
    """The planner and its two settings. ``name`` says which they were.

    Attributes:
        tagger: what tells nouns from verbs, "textblob" or "spacy" (with its model en_core_web_sm); None takes spaCy
            where it is installed.
        vocabulary: "open", or "coco" for boxes and names of COCO's 80 categories only.

    Raises:
        ValueError: no such tagger or vocabulary.
    """

    tagger: Tagger | None = None
    vocabulary: Vocabulary = "open"

    @classmethod
    def of(cls, what: str = "", **settings: Any) -> Self:
        """From what follows "rules:" on the command line: nothing, or the vocabulary ("rules:coco").

        Raises:
            ValueError: no such setting, vocabulary or tagger.
        """
        if what and "vocabulary" in settings:
            raise ValueError(f"vocabulary: is in rules:{what} already; give it once")
        return cls(**({"vocabulary": what} if what else {}) | settings)

    @property
    def name(self) -> str:
        spacy = (self.tagger or best_tagger()) == "spacy"
        differs = ["coco"] * (self.vocabulary == "coco") + ["spacy"] * spacy
        return f"rules[{','.join(differs)}]" if differs else "rules"

    def plan(
        self, prompt: str, *, width: int | None = None, height: int | None = None, seed: int | None = None
    ) -> Planned:
        """A layout of at most 30 regions. ``width``, ``height`` in pixels: for proportions, and in the layout.

        Raises:
            ValueError: the prompt is empty or too long, or a side is no size of a picture.
        """
        empty = Layout(prompt, width=width, height=height)  # says what is wrong before any work
        scene = read(prompt, self.tagger or best_tagger())
        notes = list(scene.notes)
        if self.vocabulary == "coco":
            _to_categories(scene, notes)
        if not scene.mentions:
            notes.insert(0, "no thing was found in the prompt, so there is no box")
            return Planned(empty, (), tuple(notes), self.name)
        _cut(scene, notes)
        _scale(scene)
        aside = {i for r in scene.relations if r.kind in ASIDE and not r.second for i in r.first}
        groups = [_group(mention, i in aside) for i, mention in enumerate(scene.mentions)]
        links, said = _links(scene)
        aspect = width / height if width and height else 1.0
        boxes, broken = place(groups, links, aspect, seed)
        for link in broken:
            notes.append(
                f"{said[link]!r} could not be kept for {groups[link.first].name} and {groups[link.second].name}"
            )
        regions, names = _regions(prompt, scene.mentions, boxes, notes)
        layout = Layout(prompt, regions=regions, width=width, height=height)
        return Planned(layout, tuple(names), tuple(dict.fromkeys(notes)), self.name)


def coco_category(name: str) -> str | None:
    """The category of a bare noun in the singular: "tv" of "television", "person" of "woman", None where there is
    none. Compounds go by their last word ("water bottle")."""
    head = name.rpartition(" ")[2]
    if name in _CATEGORY:
        return _CATEGORY[name]
    if head in PEOPLE:
        return "person"
    return _CATEGORY.get(head) if name != head else None


def _to_categories(scene: PromptScene, notes: list[str]) -> None:
    """Things of COCO's categories, under their names; the others go, with their relations."""
    kept: dict[int, int] = {}
    gone = []
    for number, mention in enumerate(scene.mentions):
        if (category := coco_category(mention.name)) is None:
            gone.append(mention.text)
        else:
            kept[number] = len(kept)
            mention.name = category
    scene.mentions = [scene.mentions[number] for number in kept]
    scene.relations = [
        replace(
            r,
            first=tuple(kept[i] for i in r.first if i in kept),
            second=tuple(kept[i] for i in r.second if i in kept),
        )
        for r in scene.relations
    ]
    if gone:
        notes.append(f"none of COCO's categories: {', '.join(dict.fromkeys(gone))}")


def _cut(scene: PromptScene, notes: list[str]) -> None:
    """As many things as a layout holds: the last kinds go, then the largest numbers shrink."""
    if len(scene.mentions) > MAX_REGIONS:
        gone = scene.mentions[MAX_REGIONS:]
        notes.append(f"a layout holds {MAX_REGIONS} regions; left out: {', '.join(m.text for m in gone)}")
        del scene.mentions[MAX_REGIONS:]
    wanted = [mention.amount for mention in scene.mentions]
    most = max(wanted, default=0)
    while sum(min(amount, most) for amount in wanted) > MAX_REGIONS:
        most = min(most - 1, MAX_REGIONS)
    spare = MAX_REGIONS - sum(min(amount, most) for amount in wanted)
    for mention in scene.mentions:
        extra = min(max(mention.amount - most, 0), spare)
        spare -= extra
        mention.amount = min(mention.amount, most) + extra
    for mention, before in zip(scene.mentions, wanted, strict=True):
        if mention.amount < before:
            notes.append(f"a layout holds {MAX_REGIONS} regions: {mention.amount} of {before} {mention.text}")


def _scale(scene: PromptScene) -> None:
    """Sizes that "larger than" and "smaller than" ask for."""
    compared = [relation for relation in scene.relations if relation.kind in ("larger", "smaller")]
    for _ in range(len(compared)):
        for relation in compared:
            for one in _kept(scene, relation.first):
                for two in _kept(scene, relation.second):
                    big, small = (one, two) if relation.kind == "larger" else (two, one)
                    a, b = _side(scene.mentions[big]), _side(scene.mentions[small])
                    if a < _SIZE_STEP * b:
                        change = (_SIZE_STEP * b / a) ** 0.5
                        scene.mentions[big].scale *= change
                        scene.mentions[small].scale /= change


def _side(mention: Mention) -> float:
    across, down = extent(mention.name)
    return mention.scale * (across * down) ** 0.5


def _kept(scene: PromptScene, ends: tuple[int, ...]) -> list[int]:
    return [i for i in ends if i < len(scene.mentions)]


def _group(mention: Mention, aside: bool) -> ThingGroup:
    across, down = extent(mention.name)
    size = across * mention.scale, down * mention.scale
    return ThingGroup(mention.name, mention.amount, *size, mention.place, aside)


def _links(scene: PromptScene) -> tuple[list[Link], dict[Link, str]]:
    """Relations between single groups, in the order of the words, and the words of each."""
    said: dict[Link, str] = {}
    for relation in scene.relations:
        if relation.kind in ("larger", "smaller", "with", "at"):
            continue
        for one in _kept(scene, relation.first):
            for two in _kept(scene, relation.second):
                kind = _posture(scene, relation, one, two)
                first, second = scene.mentions[one].amount, scene.mentions[two].amount
                each = kind in ("hold", "wear", "ride") and first == second > 1  # two men holding two cups
                said.setdefault(Link(kind, one, two, each), relation.words)
    return list(said), said


def _posture(scene: PromptScene, relation: Relation, one: int, two: int) -> str:
    """The relation's kind, for "on" more closely: "ride" in a saddle ("a man on a horse"), "lie" on a bed or a chair.
    "On top of" stays as it is said, but of a bed, whose top is where one lies."""
    rider, mount = scene.mentions[one].name, scene.mentions[two].name
    if relation.kind != "on":
        return relation.kind
    if relation.words in ("on", "upon", "sat on", "on the back of"):
        if rider.rpartition(" ")[2] in PEOPLE and ridden(mount) is not None:
            return "ride"
        if lair(mount) is not None:
            return "lie"
    bed = mount.rpartition(" ")[2] == "bed"
    if relation.words in HOLDING and lair(mount) is not None and not bed:
        return "lie"  # "a man on a couch with a laptop": side by side; a bed's pillow lies at its head
    if relation.words == "on top of" and bed:
        return "lie"
    return relation.kind


def _regions(
    prompt: str, mentions: list[Mention], boxes: list[list[Corners]], notes: list[str]
) -> tuple[list[Region], list[str]]:
    regions: list[Region] = []
    names: list[str] = []
    for mention, placed in zip(mentions, boxes, strict=True):
        phrase = _phrase(prompt, mention)
        for box in placed:
            try:
                regions.append(Region(phrase, box))
                names.append(mention.name)
            except ValueError:  # smaller than a layout allows
                notes.append(f"no room was left for all of {mention.text}")
    return regions, names


def _phrase(prompt: str, mention: Mention) -> str:
    """What a region is called: words of the prompt, so that its tokens can be found there. One thing keeps its
    article; one of several is in the singular where ``trueline.models.text`` finds that by its plural."""
    phrase, text = mention.phrase, mention.text
    if text == phrase.core and phrase.plural:
        *before, last = text.split()
        one = singular(last.lower())
        said = re.search(rf"(?<!\w){re.escape(one)}(?!\w)", prompt, re.IGNORECASE)  # of another thing
        if not said and last.lower() in plurals(one):
            text = " ".join([*before, one])
    elif text == phrase.core and phrase.count in (None, 1) and phrase.determiner != "'s":
        written = prompt[phrase.start : phrase.end]
        text = written if written.endswith(text) else text  # not "a white one", which is called by its noun
    return text[:MAX_PHRASE].strip() or mention.name
