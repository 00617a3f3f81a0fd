"""The words of the rules planner by name: closed classes, numbers, relations, kinds of nouns, verbs.

The lists themselves, and what they are for, stand in ``lists/words.txt``.
"""

from trueline.english.lists import read_lists

_LISTS = read_lists("words")

# ------------------------------------------------------------------------------------------- closed classes

DETERMINERS = _LISTS["DETERMINERS"]
ARTICLES = _LISTS["ARTICLES"]
POSSESSIVES = _LISTS["POSSESSIVES"]
OWNERS = {"its": "it", "his": "he", "her": "she", "their": "they"}
PRONOUNS = _LISTS["PRONOUNS"]
OTHER_PRONOUNS = _LISTS["OTHER_PRONOUNS"]
SUBORDINATORS = _LISTS["SUBORDINATORS"]
WHICH = _LISTS["WHICH"]
AUXILIARIES = _LISTS["AUXILIARIES"]
PREPOSITIONS = _LISTS["PREPOSITIONS"]
ADVERBS = _LISTS["ADVERBS"]
NOT_ADVERBS = _LISTS["NOT_ADVERBS"]

# --------------------------------------------------------------------------------------------------- numbers

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: n for n, word in enumerate(_ONES.split())}
NUMBERS |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
NUMBERS |= {
    f"{ten}-{one}": NUMBERS[ten] + NUMBERS[one] for ten in _TENS.split() for one in _ONES.split()[1:10]
}
NUMBERS |= {"no": 0, "hundred": 100, "both": 2, "single": 1, "dozen": 12}
#: Words for a number that is not said, and how many are drawn.
VAGUE = {"few": 3, "some": 3, "several": 4, "various": 4, "multiple": 4, "many": 6, "numerous": 6, "all": 3}
BARE_PLURAL = 2
#: "a pair of dogs": exact numbers.
EXACT_GROUPS = {"couple": 2, "pair": 2, "duo": 2, "trio": 3, "quartet": 4, "dozen": 12}
#: "a herd of cows": numbers that are not said.
GROUPS = {word: number for number in range(3, 7) for word in _LISTS[f"GROUPS_OF_{number}"]}

# ------------------------------------------------------------------------------------------------ kinds of nouns

PORTIONS = _LISTS["PORTIONS"]
NAMED_BY_ITSELF = _LISTS["NAMED_BY_ITSELF"]
BUNCHED = _LISTS["BUNCHED"]
TRANSPARENT = _LISTS["TRANSPARENT"]
CONTAINERS = _LISTS["CONTAINERS"]
PLURAL_FORMS = _LISTS["PLURAL_FORMS"]
UNCHANGED = _LISTS["UNCHANGED"]
NO_PLURALS = _LISTS["NO_PLURALS"]
ON_IE = _LISTS["ON_IE"]
FRAMES = _LISTS["FRAMES"]
WHOLE_PICTURES = _LISTS["WHOLE_PICTURES"]
PICTURES = _LISTS["PICTURES"]
SURROUNDINGS = _LISTS["SURROUNDINGS"]
FURNISHINGS = _LISTS["FURNISHINGS"]
PARTS = _LISTS["PARTS"]
PARTS_OF_OTHERS = PARTS | _LISTS["PARTS_OF_OTHERS"]
HOLDING_PARTS = _LISTS["HOLDING_PARTS"]
#: The part above or below which a thing is above or below the whole: "an umbrella over her head".
OUTER_PARTS = {"above": frozenset(["head"]), "below": frozenset(["foot", "paw", "hoof", "belly"])}
COVERS_OF_THINGS = _LISTS["COVERS_OF_THINGS"]
CARRYING_PARTS = _LISTS["CARRYING_PARTS"]
FLOWERS = _LISTS["FLOWERS"]
SURFACES = _LISTS["SURFACES"]
COVERS = _LISTS["COVERS"]
PARTS_OF_COMPOUNDS = _LISTS["PARTS_OF_COMPOUNDS"]
ABSTRACT = _LISTS["ABSTRACT"]
COUNTED_PARTS = _LISTS["COUNTED_PARTS"]
BALL_GAMES = _LISTS["BALL_GAMES"]
IDIOMS = _LISTS["IDIOMS"]
#: What is worn on the body, and where.
WORN = {name: where for where, names in read_lists("worn").items() for name in names}
#: Covers its wearer: "a man in a suit" is one box.
CLOTHING = frozenset(name for name in WORN if WORN[name] in ("body", "legs", "feet") and name != "backpack")
PEOPLE = _LISTS["PEOPLE"]
ANIMALS = _LISTS["ANIMALS"]
FIGURES = _LISTS["FIGURES"]
THINGS = _LISTS["THINGS"]
COMPOUNDS = _LISTS["COMPOUNDS"]
#: Compounds whose name is shorter: what people call the thing by itself.
SHORT_NAMES = {long: short for short, longs in read_lists("short_names").items() for long in longs}
NOUNS = frozenset().union(
    *(THINGS, PEOPLE, ANIMALS, SURROUNDINGS, FURNISHINGS, PARTS, FRAMES, PICTURES, PORTIONS, CONTAINERS),
    *(GROUPS, EXACT_GROUPS, WORN, BUNCHED, ABSTRACT, PLURAL_FORMS),
    (compound.rpartition(" ")[2] for compound in COMPOUNDS),
)

# ------------------------------------------------------------------------------------------ adjectives and verbs

NOT_PARTICIPLES = _LISTS["NOT_PARTICIPLES"]
ADJECTIVES = _LISTS["ADJECTIVES"]
COVERED = _LISTS["COVERED"]
NOUN_TOO = _LISTS["NOUN_TOO"]
COLOURS = _LISTS["COLOURS"]
COLOURS_TOO = _LISTS["COLOURS_TOO"]
POSTURES = _LISTS["POSTURES"]
LARGE = _LISTS["LARGE"]
SMALL = _LISTS["SMALL"]
VERBS = _LISTS["VERBS"]
IRREGULAR_VERBS = _LISTS["IRREGULAR_VERBS"]
MOVES = _LISTS["MOVES"]
MOVED = _LISTS["MOVED"]
MADE = _LISTS["MADE"]
STAYING = _LISTS["STAYING"]
#: "a cup held by a man"
PASSIVES = {"held": "hold", "carried": "hold", "clutched": "hold", "worn": "wear", "ridden": "ride"}
HOLD = _LISTS["HOLD"]
WEAR = _LISTS["WEAR"]
RIDE = _LISTS["RIDE"]
EAT = _LISTS["EAT"]

# ------------------------------------------------------------------------------------------------- relations


def _sides(side: str) -> frozenset[str]:
    """ "to the left of", "on the left side of", "left of" ..."""
    before = ("to the ", "on the ", "at the ", "in the ", "to ", "on ", "at ", "the ", "")
    after = (" of", " side of", " hand side of", "-hand side of", " from")
    return frozenset(f"{b}{side}{a}" for b in before for a in after)


#: Phrase -> relation: "next to" -> "beside".
RELATIONS = {phrase: side for side in ("left", "right") for phrase in _sides(side)} | {
    phrase: kind for kind, phrases in read_lists("relations").items() for phrase in phrases
}
_SPOTS: dict[tuple[int | None, int | None], str] = {
    (-1, None): "left, far left, left side, left-hand side, left hand side",
    (1, None): "right, far right, right side, right-hand side, right hand side",
    (None, -1): "top, background, distance",
    (None, 1): "bottom, foreground",
    (0, 0): "middle, center, centre",
    (-1, -1): "top left, upper left, top-left",
    (1, -1): "top right, upper right, top-right",
    (-1, 1): "bottom left, lower left, bottom-left",
    (1, 1): "bottom right, lower right, bottom-right",
}
#: Places of the picture: (x, y), each -1, 0, 1, or None where the words leave it open.
PLACES = {
    f"{before} the {spot}{corner}": place
    for place, spots in _SPOTS.items()
    for spot in spots.split(", ")
    for before in ("on", "to", "at", "in")
    for corner in (("", " corner") if None not in place else ("",))
}
BACKGROUND, FOREGROUND = ("in the background", "in the distance"), ("in the foreground",)
