"""COCO's 80 categories, and which of them a noun of a prompt stands for.

For a planner that is to speak this vocabulary only: NSR-1K's truth is in it, and so are the exemplars that
language models are shown for it. The synonyms are our own list, of words that hardly ever mean anything else: a
glass may be a cup or a wine glass, a bat an animal.
"""

from trueline.english.lists import read_lists
from trueline.english.words import PEOPLE

_SYNONYMS = read_lists("coco")
COCO = frozenset(_SYNONYMS)
_CATEGORY = {name: category for category, synonyms in _SYNONYMS.items() for name in (category, *synonyms)}


def coco_category(name: str) -> str | None:
    """The category of a bare noun in the singular: "tv" of "television", "person" of "woman", None where there is
    none. Compounds go by their last word ("water bottle")."""
    head = name.rpartition(" ")[2]
    if name in _CATEGORY:
        return _CATEGORY[name]
    if head in PEOPLE:
        return "person"
    return _CATEGORY.get(head) if name != head else None
