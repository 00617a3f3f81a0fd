"""Plurals of English nouns, as many as telling a phrase in the plural from its singular takes. No other imports."""

IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "wolf": "wolves",
}  # fmt: skip


def plurals(words: str) -> list[str]:
    """The words with the last one in the plural; both ways of writing it for one in -o (tomatoes, photos)."""
    *before, last = words.split() or [""]
    lower = last.lower()
    if lower in IRREGULAR:
        endings = [IRREGULAR[lower]]
    elif lower.endswith("y") and lower[-2:-1] not in ("a", "e", "i", "o", "u"):
        endings = [f"{last[:-1]}ies"]
    elif lower.endswith("o"):
        endings = [f"{last}es", f"{last}s"]
    else:
        endings = [last + ("es" if lower.endswith(("s", "x", "z", "ch", "sh")) else "s")]
    return [" ".join([*before, plural]) for plural in endings]
