"""The words of the world: what can be drawn, in which colours and textures, and how captions name it."""

from trueline.english.plurals import plural

#: Object name -> name of the Font Awesome Free glyph (solid style) that draws it.
GLYPHS: dict[str, str] = {
    "airplane": "plane",
    "apple": "apple-whole",
    "bell": "bell",
    "bird": "dove",
    "boat": "sailboat",
    "book": "book",
    "camera": "camera",
    "car": "car-side",
    "cat": "cat",
    "chair": "chair",
    "clock": "clock",
    "couch": "couch",
    "cup": "mug-saucer",
    "dog": "dog",
    "fish": "fish",
    "frog": "frog",
    "guitar": "guitar",
    "hat": "hat-cowboy",
    "house": "house",
    "key": "key",
    "suitcase": "suitcase",
    "train": "train",
    "tree": "tree",
    "umbrella": "umbrella",
}
OBJECTS: tuple[str, ...] = tuple(GLYPHS)

RGB = tuple[int, int, int]

#: Colour name -> (ink, second ink of the stripes and checks), sRGB 0..255. The second ink is a clearly
#: darker shade; for black, which has none, it is a lighter one.
COLOURS: dict[str, tuple[RGB, RGB]] = {
    "red": ((214, 36, 42), (120, 12, 20)),
    "orange": ((245, 130, 20), (150, 72, 8)),
    "yellow": ((252, 214, 30), (150, 122, 8)),
    "green": ((38, 150, 62), (12, 78, 30)),
    "blue": ((42, 84, 214), (16, 36, 116)),
    "purple": ((136, 48, 178), (72, 18, 100)),
    "white": ((250, 250, 250), (104, 104, 112)),
    "black": ((22, 22, 26), (96, 96, 100)),
}

#: Textures; "plain" is the one that captions leave unsaid.
TEXTURES: tuple[str, ...] = ("plain", "striped", "checkered")

#: Backgrounds as (top, bottom) tints: middle lightness and low saturation, so that every colour stands out.
BACKGROUNDS: tuple[tuple[RGB, RGB], ...] = (
    ((168, 190, 214), (190, 180, 150)),
    ((196, 178, 204), (160, 176, 188)),
    ((160, 196, 186), (198, 186, 164)),
    ((206, 186, 172), (158, 178, 158)),
    ((178, 182, 208), (202, 178, 184)),
    ((190, 198, 166), (164, 168, 192)),
)

NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")

#: Relation of the first object to the second -> the phrasings of NSR-1K and T2I-CompBench.
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "on the left of"),
    "right": ("to the right of", "on the right of"),
    "above": ("above", "on the top of"),
    "below": ("below", "on the bottom of"),
}
NEARNESS: tuple[str, ...] = ("next to", "near", "on side of")

#: Place of a lone object -> its phrasing.
PLACES: dict[str, str] = {
    "left": "on the left",
    "right": "on the right",
    "above": "at the top",
    "below": "at the bottom",
    "middle": "in the middle",
}

#: Singular and plural of every object -> its name.
NOUNS: dict[str, str] = {noun: name for name in OBJECTS for noun in (name, plural(name))}


def words() -> tuple[str, ...]:
    """Every word that the world's captions can hold, sorted; what the unknown-word warning checks against."""
    text = " ".join(
        [*NOUNS, *COLOURS, *TEXTURES, *NUMBERS[1:], *NEARNESS, *PLACES.values()]
        + [phrase for phrases in RELATIONS.values() for phrase in phrases]
        + ["a an and the there is are of photo picture in"]
    )
    return tuple(sorted(set(text.split())))
