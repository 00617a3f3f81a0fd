"""English for the rules planner: plurals, tags, noun phrases, and what a prompt says is to be seen."""

import pytest

from trueline.english.noun_phrases import noun_phrase
from trueline.english.plurals import is_plural, singular
from trueline.english.tagging import best_tagger, tokens_of
from trueline.planner.reading import read


def phrases(text: str) -> list:
    tokens, at, found = tokens_of(text), 0, []
    while at < len(tokens):
        phrase = noun_phrase(text, tokens, at)
        found += [phrase] if phrase else []
        at = phrase.last + 1 if phrase else at + 1
    return found


def things(text: str) -> list[tuple[int, str]]:
    return [(mention.amount, mention.name) for mention in read(text).mentions]


def relations(text: str) -> list[tuple[str, list[str], list[str]]]:
    scene = read(text)
    name = [mention.name for mention in scene.mentions].__getitem__
    return [(r.kind, list(map(name, r.first)), list(map(name, r.second))) for r in scene.relations]


SINGULARS = """
cats cat, buses bus, busses bus, boxes box, glasses glasses, dishes dish, benches bench, knives knife, leaves leaf,
mice mouse, people person, women woman, firemen fireman, children child, sheep sheep, scissors scissors, pants pants,
tomatoes tomato, shoes shoe, canoes canoe, ties tie, cookies cookie, berries berry, ponies pony, toys toy, bus bus,
glass glass, grass grass, dress dress, cactus cactus, tennis tennis, lens lens, horses horse, houses house,
vases vase, octopuses octopus, taxis taxi, axes axe, zebras zebra, broccoli broccoli, giraffes giraffe,
rhinoceros rhinoceros
"""


@pytest.mark.parametrize("pair", SINGULARS.split(","))
def test_singular(pair):
    plural, one = pair.split()
    assert singular(plural) == one
    assert is_plural(plural) is (plural != one)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a purple bear", ["bear"]),  # textblob alone: a verb
        ("two teddy bears on the left", ["teddy bear", "left"]),
        ("a dog stands next to a watch", ["dog", "watch"]),
        ("two dogs stand near parked cars", ["dog", "car"]),
        ("a tv stand", ["stand"]),
        ("a man watches birds fly", ["man", "bird"]),
        ("an orange next to an orange cat", ["orange", "cat"]),
        ("a coat rack and a park bench", ["coat rack", "bench"]),
        ("a laptop computer, a hot dog", ["laptop", "hot dog"]),
        ("a toilet seat", ["toilet"]),
        ("three wine glasses", ["wine glass"]),
        ("a snow covered branch", ["branch"]),
    ],
)
def test_nouns(text, names):
    assert [phrase.name for phrase in phrases(text)] == names


def test_a_noun_phrase_knows_its_words():
    (phrase,) = phrases("There: two very large black and white cats.")
    assert (phrase.count, phrase.name, phrase.plural) == (2, "cat", True)
    assert phrase.core.endswith("large black and white cats")
    assert {"large", "black", "white"} <= set(phrase.attributes)
    (owned,) = phrases("a cat's tail")
    assert (owned.name, owned.owner, owned.kind) == ("tail", "cat", "part")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("three red apples, a blue cup and a spoon", [(3, "apple"), (1, "cup"), (1, "spoon")]),
        ("12 eggs", [(12, "egg")]),
        ("twenty-one balloons", [(21, "balloon")]),
        ("a dozen roses and two dozen eggs", [(12, "rose"), (24, "egg")]),
        ("a pair of dogs and a pair of scissors", [(2, "dog"), (1, "scissors")]),
        ("a couple of cats", [(2, "cat")]),
        ("several cows", [(4, "cow")]),
        ("a herd of elephants", [(5, "elephant")]),
        ("a group of people", [(4, "person")]),
        ("no dogs, but two cats", [(2, "cat")]),
        ("a dog and not a cat", [(1, "dog")]),
        ("a chair without a cushion", [(1, "chair")]),
        ("two slices of pizza", [(2, "pizza")]),
        ("a pile of books", [(1, "book")]),
        ("a bowl of three apples", [(1, "bowl"), (3, "apple")]),
        ("two of the dogs", [(2, "dog")]),
        ("both cats", [(2, "cat")]),
        ("sheep", [(1, "sheep")]),
        ("five sheep", [(5, "sheep")]),
        ("a horse and a banana, the horse is bigger than the banana", [(1, "horse"), (1, "banana")]),
        ("two men riding horses", [(2, "man"), (2, "horse")]),
        ("Albert Einstein riding a bicycle", [(1, "albert einstein"), (1, "bicycle")]),
    ],
)
def test_counts(text, expected):
    assert things(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("more cats than dogs", [(3, "cat"), (2, "dog")]),
        ("fewer cats than dogs", [(2, "cat"), (3, "dog")]),
        ("as many apples as oranges", [(2, "apple"), (2, "orange")]),
        ("twice as many dogs as cats", [(4, "dog"), (2, "cat")]),
        ("five cups and some bowls, as many cups as bowls", [(5, "cup"), (5, "bowl")]),
        ("four birds with some kites, the number of birds is less than that of kites", [(4, "bird"), (5, "kite")]),
        ("four birds with several kites, the number of birds is more than that of kites", [(4, "bird"), (3, "kite")]),
        ("an equal number of forks and spoons", [(2, "fork"), (2, "spoon")]),
    ],
)  # fmt: skip
def test_comparisons_set_the_numbers_that_are_not_said(text, expected):
    assert things(text) == expected


def test_a_comparison_that_cannot_be_is_said():
    scene = read("two cats and five dogs, more cats than dogs")
    assert [mention.amount for mention in scene.mentions] == [2, 5]
    assert any("cannot be more cat" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat to the left of a dog", [("left", ["cat"], ["dog"])]),
        ("a cat left of a dog", [("left", ["cat"], ["dog"])]),
        ("a cat on the right side of a dog", [("right", ["cat"], ["dog"])]),
        ("a cat is above a dog", [("above", ["cat"], ["dog"])]),
        ("a cat under a dog", [("below", ["cat"], ["dog"])]),
        ("a cat sits on top of a dog", [("on", ["cat"], ["dog"])]),
        ("a cat in front of a dog", [("front", ["cat"], ["dog"])]),
        ("a cat hidden by a dog", [("behind", ["cat"], ["dog"])]),
        ("a cat in a box", [("in", ["cat"], ["box"])]),
        ("a man holding a cup", [("hold", ["man"], ["cup"])]),
        ("a man in a hat", [("wear", ["man"], ["hat"])]),
        ("a dog between a cat and a bird", [("between", ["dog"], ["cat", "bird"])]),
        ("a dog between two cats", [("between", ["dog"], ["cat"])]),
        ("four cats surrounding a dog", [("between", ["dog"], ["cat"])]),
        ("a cat and a dog next to each other", [("beside", ["dog"], ["cat"])]),
        ("a dog left of a cat, which is above a chair", [("left", ["dog"], ["cat"]), ("above", ["cat"], ["chair"])]),
        ("a dog left of a cat and above a chair", [("left", ["dog"], ["cat"]), ("above", ["dog"], ["chair"])]),
        ("a cat by a bed and a cup left of a bird", [("beside", ["cat"], ["bed"]), ("left", ["cup"], ["bird"])]),
        ("a car and a banana over a chair", [("above", ["car", "banana"], ["chair"])]),
        ("a cat on a bed next to a dog", [("on", ["cat"], ["bed"]), ("beside", ["cat"], ["dog"])]),
        ("a car with a banana on top of it on a table", [("on", ["banana"], ["car"]), ("on", ["car"], ["table"])]),
        ("a vase with three roses on a table", [("in", ["rose"], ["vase"]), ("on", ["vase"], ["table"])]),
        ("a cake with a cherry on top", [("on", ["cherry"], ["cake"])]),
        ("on the table is a cup", [("on", ["cup"], ["table"])]),
        ("next to a bench sits a dog", [("beside", ["dog"], ["bench"])]),
        ("two cats. They are on a bed.", [("on", ["cat"], ["bed"])]),
        ("a dog smaller than a cat", [("smaller", ["dog"], ["cat"])]),
        ("a bird between two cats, above it a kite", [("between", ["bird"], ["cat"]), ("above", ["kite"], ["bird"])]),
        ("a bird above two cats, next to them a dog", [("above", ["bird"], ["cat"]), ("beside", ["dog"], ["cat"])]),
        ("two cats, a bird above them", [("above", ["bird"], ["cat"])]),
        ("a dog and a cat behind it", [("behind", ["cat"], ["dog"])]),
        ("a woman, behind her a dog", [("behind", ["dog"], ["woman"])]),
        ("a woman beside her car", [("beside", ["woman"], ["car"])]),
        ("a man on a horse, next to it a dog", [("on", ["man"], ["horse"]), ("beside", ["dog"], ["horse"])]),
        ("a man on a horse, next to him a dog", [("on", ["man"], ["horse"]), ("beside", ["dog"], ["man"])]),
        ("a boy holding a kite over him", [("hold", ["boy"], ["kite"]), ("above", ["kite"], ["boy"])]),
        ("a dog. Behind it there is a house", [("behind", ["house"], ["dog"])]),
        ("a table on top of which a cup stands", [("on", ["cup"], ["table"])]),
        ("a cat in a room in which a dog sits", []),
        ("a cat is resting on top of a suitcase", [("on", ["cat"], ["suitcase"])]),
        ("a cat rest comfortably on a chair", [("on", ["cat"], ["chair"])]),
        ("a woman in black stands near a clock", [("beside", ["woman"], ["clock"])]),
        ("a man in green shoes stands next to a motorcycle", [("beside", ["man"], ["motorcycle"])]),
        ("a man in black holds up a camera", [("hold", ["man"], ["camera"])]),
        ("a man blowing out candles on a cake", [("on", ["candle"], ["cake"])]),
        ("a woman eating a pizza on a bench", [("hold", ["woman"], ["pizza"]), ("on", ["woman"], ["bench"])]),
        ("a vase holding a flower", [("in", ["flower"], ["vase"])]),
        ("a bed with a painting hanging above it", [("above", ["painting"], ["bed"])]),
        ("a cup with milk in it next to a cake", [("beside", ["cup"], ["cake"])]),
        ("a plate with cake on it next to a cup with milk in it",
         [("on", ["cake"], ["plate"]), ("beside", ["plate"], ["cup"])]),
        ("a table with a cake on a plate", [("on", ["plate"], ["table"]), ("on", ["cake"], ["plate"])]),
        ("a cat next to a table with a cake on a plate",
         [("beside", ["cat"], ["table"]), ("on", ["plate"], ["table"]), ("on", ["cake"], ["plate"])]),
        ("a vase with a rose, set near a cup", [("in", ["rose"], ["vase"]), ("beside", ["vase"], ["cup"])]),
        ("a man in black pants and a tie is near a train",
         [("wear", ["man"], ["tie"]), ("beside", ["man"], ["train"])]),
        ("a man next to a child in a white shirt and a tie",
         [("beside", ["man"], ["child"]), ("wear", ["child"], ["tie"])]),
        ("a dog next to a white sink and cabinet", [("beside", ["dog"], ["sink", "cabinet"])]),
        ("a dog with grass on both sides and a cat", []),
        ("a cat next to black shoes", [("beside", ["cat"], ["shoe"])]),
        ("a blue sign beside a red one", [("beside", ["sign"], ["sign"])]),
        ("a frog shouting into a microphone while standing on a box", [("on", ["frog"], ["box"])]),
        ("a cat walking into a box", [("in", ["cat"], ["box"])]),
        ("a cup held by a man", [("hold", ["man"], ["cup"])]),
        ("a cup decorated by a man", []),
        ("a car parked by a bench", [("beside", ["car"], ["bench"])]),
        ("a teddy bear holding a heart", [("hold", ["teddy bear"], ["heart"])]),
        ("an owl on top of an elephant's back", [("on", ["owl"], ["elephant"])]),
        ("a black and a grey cat sit beside each other", [("beside", ["cat"], ["cat"])]),
    ],
)  # fmt: skip
def test_relations(text, expected):
    assert relations(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog with a ball in its mouth", [("hold", ["dog"], ["ball"])]),
        (
            "a dog next to a tree with a ball in its mouth",
            [("beside", ["dog"], ["tree"]), ("hold", ["dog"], ["ball"])],
        ),
        ("a man with a board under his arm", [("hold", ["man"], ["board"])]),
        ("a man with a skateboard under his feet", [("below", ["skateboard"], ["man"])]),
        ("a woman holding an umbrella over her head", [("above", ["umbrella"], ["woman"])]),
        ("a man with a bird on his shoulder", [("on", ["bird"], ["man"])]),
        ("an elephant with a man on its back", [("on", ["man"], ["elephant"])]),
        ("two men with phones in their hands", [("hold", ["man"], ["phone"])]),
        ("a cat with a hat on its head", [("wear", ["cat"], ["hat"])]),
        ("a book with a prism on its cover", [("on", ["prism"], ["book"])]),
        ("a truck with a horse in its bed", [("in", ["horse"], ["truck"])]),
        (
            "a pineapple with a cup to its left and a dog on its right",
            [("left", ["cup"], ["pineapple"]), ("right", ["dog"], ["pineapple"])],
        ),
        ("a bus next to a truck on its side", [("beside", ["bus"], ["truck"])]),
        ("a cat with its head in a bowl", [("in", ["cat"], ["bowl"])]),
        ("a dog laying on its back on a couch", [("on", ["dog"], ["couch"])]),
    ],
)
def test_parts_of_whoever_has_a_thing_tell_where_it_is(text, expected):
    assert relations(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two cats, a black one and a white one, on a bed", [(2, "cat"), (1, "bed")]),
        ("one red car and two green ones", [(1, "car"), (2, "car")]),
        ("a black and a white dog", [(1, "dog"), (1, "dog")]),
        ("an all terrain vehicle", [(1, "terrain vehicle")]),
        ("a two piece painting above a bed", [(1, "painting"), (1, "bed")]),
        ("orange and brown cat on a couch", [(1, "cat"), (1, "couch")]),
        ("an orange cutting knife", [(1, "knife")]),
        ("people, many wearing red shirts", [(2, "person")]),
        ("three apples on display", [(3, "apple")]),
        ("a toilet next to a bed frame", [(1, "toilet"), (1, "bed")]),
        ("a picture frame", [(1, "picture frame")]),
        ("a cake and fried banana's.", [(1, "cake"), (2, "banana")]),
        ("the dog's bowl", [(1, "bowl")]),
        ("a player and a baseball that's in the air", [(1, "player"), (1, "baseball")]),
        ("a family of four walking at the beach", [(4, "person")]),
        ("a map made out of sushi on a table", [(1, "map"), (1, "table")]),
        ("four people in a circle and a yellow circle", [(4, "person"), (1, "circle")]),
        ("a badger, oil painting", [(1, "badger")]),
        ("her grandson and granddaughter", [(1, "grandson"), (1, "granddaughter")]),
        ("three dogs, two black ones and a white one, on a couch", [(3, "dog"), (1, "couch")]),
        ("two dogs on a bed while the black dog sleeps", [(2, "dog"), (1, "bed")]),
        ("two brown dogs and the black dog", [(2, "dog"), (1, "dog")]),
        ("three men, two of the men hold cups", [(3, "man"), (3, "cup")]),
        ("some toothpaste and some sheep", [(1, "toothpaste"), (3, "sheep")]),
        ("a couple sitting on a bench", [(2, "person"), (1, "bench")]),
        ("two guys, one wearing a tie", [(2, "guy"), (1, "tie")]),
        ("four players, one in orange", [(4, "player")]),
        ("people cutting pieces of a cake", [(2, "person"), (1, "cake")]),
        ("two glasses of wine", [(2, "glass")]),
        ("a red watering can and a trash can", [(1, "watering can"), (1, "trash can")]),
        ("two wall mounted urinals", [(2, "urinal")]),
        ("some tables chairs and a clock", [(3, "table"), (2, "chair"), (1, "clock")]),
        ("a vegan cookbook", [(1, "cookbook")]),
    ],
)
def test_nouns_that_share_stand_for_or_count_others(text, expected):
    assert things(text) == expected


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a dog on the left and a cat on the right", [(-1, None), (1, None)]),
        ("On the left is a dog, on the right a cat", [(-1, None), (1, None)]),
        ("a dog in the top left corner of the picture", [(-1, -1)]),
        ("a cat in the middle of the picture", [(0, 0)]),
        ("a cat on the left of the image", [(-1, None)]),
        ("a cat on the left of a painting", [(None, None), (None, None)]),
    ],
)
def test_places_of_the_picture(text, places):
    assert [mention.place for mention in read(text).mentions] == places


@pytest.mark.parametrize(
    "text",
    [
        "a picture of a dog", "a close up view of a dog", "a dog in the background", "a dog in a room",
        "a dog in a grassy field under a blue sky", "a dog with its mouth open", "the front of a dog",
        "a dog taking a nap", "a dog looking at the camera",
    ],
)  # fmt: skip
def test_what_is_no_thing_has_no_box(text):
    assert things(text) == [(1, "dog")]


def test_surroundings_have_a_box_where_they_are_told_of():
    assert things("a mountain, a hamster and a bicycle") == [(1, "mountain"), (1, "hamster"), (1, "bicycle")]
    assert things("a road to the left of a lake") == [(1, "road"), (1, "lake")]
    assert "without a box" in " ".join(read("a dog on the grass").notes)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("several cows", "number is not said"),
        ("a cat \N{PARTY POPPER} \u732b", "not read: \N{PARTY POPPER} \u732b"),
        ("to the left of a cat", "'to the left of' was left out"),
        ("a cat is not on a bed", "'not on' was left out"),
        ("a field, above it a kite", "'above it' was left out"),
        ("a chair, behind him a dog", "'behind him' was left out"),
        ("a man with a dog beside himself", "'beside himself' was left out"),
        ("a room in which a dog sits", "'in which' was left out"),
        (
            "a map made out of sushi",
            "without a box of their own (surroundings, parts, clothes or no things): sushi",
        ),
        ("two dogs, one black and the other white", "'one black and the other' is not told apart"),
        ("two cats, one of them sleeps, the others play", "the others' is not told apart"),
    ],
)
def test_what_is_not_understood_is_said(text, note):
    assert note in " ".join(read(text).notes)


@pytest.mark.parametrize(
    "text",
    [
        "a dog and a cat next to one another",
        "one dog looks at another dog",
        "some dogs and another cat",
        "a cat on one side of a table and a dog on the other side",
        "one cat and the other cat",
    ],
)
def test_one_and_other_is_not_said_of_what_was_read(text):
    assert "told apart" not in " ".join(read(text).notes)


def test_the_tagger_is_textblob_where_spacy_is_not():
    pytest.importorskip("textblob")
    try:
        import spacy

        spacy.load("en_core_web_sm")
    except (ImportError, OSError):
        assert best_tagger() == "textblob"
        with pytest.raises(ValueError, match="en_core_web_sm"):
            tokens_of("a cat", "spacy")
    else:
        assert best_tagger() == "spacy"
        assert [token.kind for token in tokens_of("a cat", "spacy")] == ["D", "N"]


@pytest.mark.parametrize(
    ("prompt", "relations"),
    [
        ("a train next to the road with a truck", {("beside", "train", "truck")}),
        ("a stop sign next to a street with a red car driving over it", {("beside", "stop sign", "car")}),
        (
            "a bed with a laptop sitting on the stand next to it",
            {("on", "laptop", "stand"), ("beside", "bed", "stand")},
        ),
        ("a woman with a dog sitting on a bench", {("on", "woman", "bench")}),
        ("a man with a hat on a bench", {("wear", "man", "hat"), ("on", "man", "bench")}),
        ("a bowl with an apple on a table", {("in", "apple", "bowl"), ("on", "bowl", "table")}),
    ],
)
def test_what_with_adds_to_a_place_or_a_holder(prompt, relations):
    scene = read(prompt)
    names = [mention.name for mention in scene.mentions]
    found = {(r.kind, names[one], names[two]) for r in scene.relations for one in r.first for two in r.second}
    assert found == relations
