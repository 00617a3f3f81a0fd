"""COCO's 80 categories, and which of them a noun of a prompt stands for.

For a planner that is to speak this vocabulary only: NSR-1K's truth is in it, and so are the exemplars that
language models are shown for it. The synonyms are our own list, of words that hardly ever mean anything else: a
glass may be a cup or a wine glass, a bat an animal.
"""

from __future__ import annotations

from trueline.english.words import PEOPLE

_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
"""
COCO = frozenset(" ".join(_NAMES.split()).split(", "))
_SYNONYMS = {
    "bicycle": "bike", "car": "taxi, cab, suv, minivan, sedan, convertible",
    "motorcycle": "motorbike, scooter, moped, motor cycle",
    "airplane": "plane, aeroplane, jet, airliner, biplane", "train": "locomotive, subway, tram",
    "truck": "pickup truck, fire truck, lorry", "boat": "ship, sailboat, canoe, kayak, yacht, ferry",
    "fire hydrant": "hydrant", "traffic light": "stoplight, stop light",
    "bird": "pigeon, seagull, gull, parrot, owl, eagle, duck, goose, swan, crow, sparrow",
    "cat": "kitten, kitty, tabby", "dog": "puppy, corgi, poodle, bulldog, labrador", "horse": "pony, foal",
    "sheep": "lamb, ram, ewe", "cow": "bull, calf, cattle, ox, steer",
    "bear": "polar bear, grizzly bear, panda bear", "backpack": "back pack, rucksack",
    "handbag": "purse, hand bag", "clock": "clock tower", "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "luggage, suit case, briefcase", "skis": "ski", "snowboard": "snow board",
    "sports ball": "soccer ball, tennis ball, basketball, football, baseball",
    "skateboard": "skate board", "surfboard": "surf board",
    "tennis racket": "racket, racquet, tennis racquet",  "wine glass": "wineglass",
    "cup": "mug, teacup", "donut": "doughnut", "hot dog": "hotdog", "cake": "cupcake",
    "chair": "armchair, rocking chair", "couch": "sofa, loveseat", "potted plant": "houseplant",
    "dining table": "table, kitchen table", "toilet": "commode",
    "tv": "television, television set, monitor", "laptop": "laptop computer", "mouse": "computer mouse",
    "remote": "remote control", "keyboard": "computer keyboard",
    "cell phone": "phone, cellphone, smartphone, mobile phone, iphone", "oven": "stove",
    "refrigerator": "fridge", "book": "notebook, magazine, cookbook", "teddy bear": "stuffed bear, teddy",
    "hair drier": "hair dryer, hairdryer, blow dryer", "toothbrush": "tooth brush",
    "sandwich": "burger, hamburger", "vase": "flower vase",
}  # fmt: skip
_CATEGORY = {name: name for name in COCO}
_CATEGORY |= {name.strip(): category for category, names in _SYNONYMS.items() for name in names.split(",")}


def coco_category(name: str) -> str | None:
    """The category of a bare noun in the singular: "tv" of "television", "person" of "woman", None where there is
    none. Compounds go by their last word ("water bottle")."""
    head = name.rpartition(" ")[2]
    if name in _CATEGORY:
        return _CATEGORY[name]
    if head in PEOPLE:
        return "person"
    return _CATEGORY.get(head) if name != head else None
