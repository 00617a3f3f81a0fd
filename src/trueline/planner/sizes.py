"""Typical sizes of things relative to each other, and the shapes of their boxes.

``MEASURED`` comes from the 738 pairs of boxes of NSR-1K's spatial training file (weixi-
feng/LayoutGPT@fc3195496255, ``dataset/NSR-1K/spatial/spatial.train.json``; boxes of COCO, CC BY 4.0). A box is
large because its thing is large or because the camera is near; both boxes of a picture have the same camera. So
the sizes are the least-squares solution of "log side of the first less log side of the second" over the pairs,
side = sqrt(width x height), with a pull of one box towards the mean side of all boxes (0.379). The ratio is the
median width over height. Pictures are taken as square: the median ratio of stop signs is 0.98 and of clocks
0.95. Things with fewer than four boxes, and all others, are ``JUDGED``: our own estimates on the same scale.
"""

from __future__ import annotations

from trueline.english import words as w

#: name -> (side of a box of the same area, in sides of a square picture; width over height)
MEASURED: dict[str, tuple[float, float]] = {
    "mouse": (0.15, 0.82), "apple": (0.19, 1.03), "bottle": (0.21, 0.49), "broccoli": (0.26, 1.28),
    "knife": (0.26, 2.25), "carrot": (0.27, 1.13), "cup": (0.28, 0.92), "bowl": (0.28, 1.33),
    "keyboard": (0.28, 1.73), "book": (0.28, 1.48), "donut": (0.30, 1.43), "spoon": (0.30, 1.02),
    "banana": (0.30, 1.60), "sheep": (0.30, 0.81), "hot dog": (0.30, 1.59), "fork": (0.31, 1.34),
    "clock": (0.31, 0.95), "teddy bear": (0.31, 0.91), "vase": (0.32, 0.78), "remote": (0.32, 1.26),
    "cell phone": (0.33, 0.84), "bird": (0.36, 1.03), "tv": (0.36, 1.16), "cake": (0.37, 1.01),
    "pizza": (0.37, 1.48), "sandwich": (0.38, 1.32), "microwave": (0.39, 1.53), "cat": (0.39, 1.13),
    "potted plant": (0.40, 0.88), "dog": (0.41, 1.04), "toilet": (0.41, 0.77),
    "parking meter": (0.42, 0.62), "bus": (0.42, 1.01), "laptop": (0.42, 0.97),
    "traffic light": (0.43, 0.52), "fire hydrant": (0.43, 0.52), "stop sign": (0.43, 0.98),
    "dining table": (0.43, 2.79), "cow": (0.44, 1.32), "horse": (0.44, 0.81), "car": (0.45, 1.68),
    "giraffe": (0.45, 0.37), "backpack": (0.45, 1.09), "chair": (0.46, 0.87), "suitcase": (0.47, 1.37),
    "truck": (0.50, 1.42), "motorcycle": (0.51, 0.86), "oven": (0.51, 0.98), "umbrella": (0.52, 1.66),
    "zebra": (0.55, 1.30), "bench": (0.56, 1.51), "bicycle": (0.56, 1.34), "couch": (0.56, 1.30),
    "boat": (0.61, 0.91), "bed": (0.67, 1.53), "refrigerator": (0.68, 0.62), "train": (0.73, 2.51),
}  # fmt: skip
JUDGED: dict[str, tuple[float, float]] = {
    "person": (0.50, 0.42), "elephant": (0.65, 1.30), "bear": (0.47, 1.00), "airplane": (0.75, 2.20),
    "helicopter": (0.60, 1.80), "kite": (0.30, 1.04), "sports ball": (0.19, 1.00), "ball": (0.19, 1.00),
    "frisbee": (0.18, 1.80), "skateboard": (0.30, 3.00), "surfboard": (0.45, 3.00),
    "snowboard": (0.42, 3.00), "skis": (0.42, 3.00), "tennis racket": (0.30, 0.60),
    "baseball bat": (0.28, 0.30), "baseball glove": (0.20, 1.00), "wine glass": (0.22, 0.41),
    "glass": (0.22, 0.55), "toothbrush": (0.18, 0.25), "scissors": (0.24, 0.60), "hair drier": (0.28, 1.00),
    "toaster": (0.32, 1.30), "sink": (0.42, 1.40), "handbag": (0.36, 1.08), "tie": (0.18, 0.30),
    "orange": (0.19, 1.00), "tomato": (0.17, 1.05), "egg": (0.13, 0.80), "lemon": (0.16, 1.15),
    "strawberry": (0.12, 0.90), "candle": (0.20, 0.35), "lamp": (0.40, 0.55), "key": (0.12, 0.50),
    "pen": (0.15, 4.00), "ring": (0.08, 1.00), "coin": (0.08, 1.00), "watch": (0.16, 0.90),
    "wallet": (0.18, 1.30), "plate": (0.32, 1.70), "table": (0.52, 1.60), "desk": (0.56, 1.60),
    "stool": (0.36, 0.75), "wardrobe": (0.68, 0.65), "shelf": (0.55, 1.00), "cabinet": (0.55, 0.90),
    "counter": (0.65, 2.20), "door": (0.60, 0.45), "window": (0.50, 0.90), "mirror": (0.45, 0.80),
    "painting": (0.42, 1.20), "pillow": (0.30, 1.40), "blanket": (0.45, 1.60), "rug": (0.55, 2.40),
    "towel": (0.32, 0.80), "curtain": (0.60, 0.55), "balloon": (0.24, 0.80), "flag": (0.34, 1.40),
    "book shelf": (0.62, 0.80), "television": (0.36, 1.16), "computer": (0.42, 1.05), "phone": (0.30, 0.60),
    "camera": (0.24, 1.20), "guitar": (0.42, 0.45), "piano": (0.65, 1.30), "drum": (0.36, 1.00),
    "microphone": (0.20, 0.35), "flower": (0.22, 0.80), "rose": (0.20, 0.75), "tree": (0.72, 0.75),
    "mushroom": (0.22, 0.95), "cactus": (0.36, 0.60), "house": (0.80, 1.20), "building": (0.85, 0.90),
    "castle": (0.85, 1.10), "tower": (0.75, 0.35), "tent": (0.55, 1.30), "bridge": (0.80, 2.60),
    "mountain": (0.90, 1.90), "cloud": (0.45, 1.80), "sun": (0.25, 1.00), "moon": (0.25, 1.00),
    "road": (0.75, 1.80), "rocket": (0.55, 0.40), "ship": (0.70, 1.60), "van": (0.50, 1.40),
    "tractor": (0.52, 1.25), "rabbit": (0.26, 0.90), "squirrel": (0.24, 1.00), "frog": (0.20, 1.25),
    "turtle": (0.28, 1.50), "fish": (0.26, 1.80), "bee": (0.10, 1.20), "butterfly": (0.16, 1.25),
    "spider": (0.12, 1.20), "ant": (0.08, 1.40), "beetle": (0.10, 1.30), "snail": (0.12, 1.40),
    "snake": (0.36, 2.00), "duck": (0.28, 1.10), "swan": (0.40, 1.10), "chicken": (0.32, 0.90),
    "owl": (0.32, 0.70), "penguin": (0.38, 0.50), "pig": (0.42, 1.50), "goat": (0.42, 1.10),
    "deer": (0.48, 0.95), "lion": (0.52, 1.40), "tiger": (0.52, 1.60), "monkey": (0.38, 0.85),
    "kangaroo": (0.48, 0.70), "panda": (0.47, 1.00), "whale": (0.85, 2.40), "shark": (0.65, 2.40),
    "dolphin": (0.55, 2.00), "dinosaur": (0.75, 1.20), "crab": (0.24, 1.50), "hamster": (0.16, 1.15),
    "rat": (0.18, 1.50), "baby": (0.36, 0.80), "robot": (0.48, 0.60), "hat": (0.22, 1.40),
    "shoe": (0.22, 1.60), "shirt": (0.36, 0.90), "glasses": (0.20, 2.60), "bathtub": (0.58, 1.80),
    "ladder": (0.50, 0.40), "box": (0.32, 1.15), "basket": (0.34, 1.15), "bag": (0.34, 0.90),
    "bucket": (0.28, 0.95), "statue": (0.48, 0.50), "circle": (0.32, 1.00), "square": (0.32, 1.00),
    "triangle": (0.32, 1.10), "cube": (0.32, 1.00), "sphere": (0.32, 1.00), "star": (0.28, 1.00),
    "heart": (0.28, 1.05), "hamburger": (0.30, 1.20), "bread": (0.30, 1.50), "ice cream": (0.26, 0.60),
    "washing machine": (0.50, 0.85), "trash can": (0.38, 0.70), "street sign": (0.30, 1.80),
    "boy": (0.44, 0.42), "girl": (0.44, 0.42), "child": (0.40, 0.45),
}  # fmt: skip
SAME_AS = {
    "bike": "bicycle", "motorbike": "motorcycle", "sofa": "couch", "fridge": "refrigerator",
    "plane": "airplane", "jet": "airplane", "mug": "cup", "kitten": "hamster", "puppy": "rabbit",
    "phone booth": "wardrobe", "kid": "child", "cellphone": "phone", "mobile phone": "phone",
    "smartphone": "phone", "telephone": "phone", "purse": "handbag", "stove": "oven", "doughnut": "donut",
    "racket": "tennis racket", "racquet": "tennis racket", "bat": "baseball bat", "couple": "person",
    "plant": "potted plant", "hydrant": "fire hydrant", "monitor": "tv", "toddler": "child",
    "infant": "baby", "pony": "horse", "donkey": "horse", "bull": "cow", "calf": "sheep", "lamb": "sheep",
    "wolf": "dog", "fox": "dog", "taxi": "car", "cab": "car", "suv": "car", "canoe": "boat",
    "kayak": "boat", "armchair": "chair", "bookcase": "wardrobe", "bookshelf": "wardrobe",
    "dresser": "cabinet", "pear": "apple", "peach": "apple", "burger": "hamburger", "magazine": "book",
    "notebook": "book", "goldfish": "frog", "rocking chair": "chair", "baseball": "apple",
    "tennis ball": "apple", "soccer ball": "ball", "cap": "hat", "helmet": "hat", "boot": "shoe",
    "sunglasses": "glasses", "tabby": "cat", "polar bear": "bear", "wineglass": "wine glass",
    "leopard": "tiger", "computer mouse": "mouse",
}  # fmt: skip
#: What is ridden, seen from its side with a grown rider: its width, its height, the rider's height in the saddle, how
#: far the rider reaches down below its top; in metres, by our own estimate. A horse of 1.6 m at the withers is 2.1 m
#: at the ears; ``MEASURED`` has it higher than wide, for COCO's horses often stand towards the camera or are cut off.
RIDDEN: dict[str, tuple[float, float, float, float]] = {
    "horse": (2.4, 2.1, 1.35, 0.9), "pony": (1.7, 1.5, 1.3, 0.8), "donkey": (1.7, 1.5, 1.3, 0.8),
    "mule": (2.1, 1.9, 1.35, 0.9), "camel": (2.9, 2.5, 1.3, 0.9), "elephant": (4.5, 3.1, 1.2, 0.6),
    "cow": (2.3, 1.5, 1.35, 0.75), "bull": (2.4, 1.6, 1.35, 0.75), "zebra": (2.3, 1.8, 1.35, 0.85),
    "bicycle": (1.75, 1.1, 1.6, 0.85), "bike": (1.75, 1.1, 1.6, 0.85), "motorcycle": (2.1, 1.2, 1.35, 0.85),
    "motorbike": (2.1, 1.2, 1.35, 0.85), "scooter": (1.8, 1.15, 1.4, 0.85),
    "skateboard": (0.8, 0.15, 1.6, 0.05), "surfboard": (2.2, 0.3, 1.5, 0.1), "snowboard": (1.5, 0.2, 1.5, 0.08),
}  # fmt: skip
DEFAULT = (0.36, 1.0)
_ANIMAL = (0.38, 1.1)
#: How far a thing reaches below the top of furniture with a back or a depth, of its height: medians in NSR-1K's
#: spatial training boxes, captions with "on" (31 beds, 8 couches, 9 benches, 6 chairs, 9 toilets), at most 0.9.
LAIR = {
    "bed": 0.9, "couch": 0.9, "sofa": 0.9, "loveseat": 0.9, "bench": 0.9, "chair": 0.9, "armchair": 0.9,
    "recliner": 0.9, "toilet": 0.5,
}  # fmt: skip
_CLOTHES = (0.36, 0.9)


def size_of(name: str) -> tuple[float, float]:
    """Side (of a box of the same area, in sides of a square picture) and width over height of a thing's box.

    By its name, what is the same as it, its last word, its class; else ``DEFAULT``.
    """
    head = name.rpartition(" ")[2]
    for form in (name, SAME_AS.get(name, ""), head, SAME_AS.get(head, "")):
        if found := MEASURED.get(form) or JUDGED.get(form):
            return found
    if head in w.PEOPLE:
        return JUDGED["person"]
    if head in w.ANIMALS:
        return _ANIMAL
    return _CLOTHES if head in w.CLOTHING else DEFAULT


def extent(name: str) -> tuple[float, float]:
    """Width and height of a thing's box, in sides of a square picture."""
    side, ratio = size_of(name)
    return side * ratio**0.5, side / ratio**0.5


def ridden(name: str) -> tuple[float, float, float, float] | None:
    """Of a thing with a rider: its width over its height; the rider's height and how far the rider reaches down below
    its top, in heights of it; its typical height. None where that is not known."""
    found = RIDDEN.get(name) or RIDDEN.get(name.rpartition(" ")[2])
    if found is None:
        return None
    width, height, rider, below = found
    return width / height, rider / height, below / height, size_of(name)[0] * (height / width) ** 0.5


def lair(name: str) -> float | None:
    """How deep things lie or sit in it, of their height; None for what has a top to stand on."""
    return LAIR.get(name.rpartition(" ")[2])
