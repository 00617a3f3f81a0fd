"""The words of template prompts: of the world, of everyday things, or of a file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

SIDES = ("left", "right", "above", "below")
RELATIONS = {
    "to the left of": "left", "on the left of": "left", "to the right of": "right", "on the right of": "right",
    "above": "above", "below": "below",
}  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True)
class TemplateWords:
    """What template prompts are made of. ``objects``: nouns in the singular.

    Args:
        shapes, textures: adjectives; without them there are no prompts of that category ("object", two or three bare
            nouns, stands for a missing "shape").
        coloured_textures: a texture comes with a colour before it, as the world says it ("a red striped apple").
        most: things of a picture.
    """

    name: str
    objects: tuple[str, ...]
    colours: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    textures: tuple[str, ...] = ()
    coloured_textures: bool = False
    most: int = 5

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that these words have prompts of, in the order of T2I-CompBench's tables."""
        has = {
            "color": self.colours,
            "shape": self.shapes,
            "object": not self.shapes,
            "texture": self.textures,
        }
        return (*(name for name, there in has.items() if there), "spatial", "numeracy")


#: Everyday things of COCO's 80 categories that stand alone in pictures, and T2I-CompBench's kinds of adjectives.
COMMON = TemplateWords(
    "common",
    (
        "apple", "backpack", "banana", "bear", "bench", "bicycle", "bird", "boat", "book", "bottle", "bowl", "bus",
        "cake", "car", "cat", "chair", "clock", "couch", "cow", "cup", "dog", "donut", "elephant", "giraffe",
        "handbag", "horse", "kite", "laptop", "motorcycle", "orange", "pizza", "sheep", "skateboard", "suitcase",
        "teddy bear", "train", "truck", "umbrella", "vase", "zebra",
    ),
    ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    ("round", "square", "rectangular", "oval", "triangular", "cubic", "spherical", "cylindrical"),
    ("wooden", "metallic", "plastic", "glass", "leather", "rubber", "fluffy", "fabric"),
)  # fmt: skip


def read_words(source: str) -> TemplateWords:
    """ "world", "common", or a YAML file with the fields of ``Words`` but for the name.

    Raises:
        ValueError: a file that cannot be read, an unknown field, or words that are none.
    """
    if source == "world":
        from trueline.evaluation.benchmarks.world import WORDS

        textures = tuple(texture for texture in WORDS.textures if texture != "plain")  # which is never said
        objects = tuple(dict.fromkeys(WORDS.names.values()))
        return TemplateWords(
            "world", objects, tuple(WORDS.colours), (), textures, True, max(WORDS.numbers.values())
        )
    if source == "common":
        return COMMON
    return _of_file(Path(source))


def _of_file(path: Path) -> TemplateWords:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"--words: {str(path)!r} is neither world nor common, nor a file that can be read ({error.strerror})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"--words: {path} is not YAML ({' '.join(str(error).split())})") from None
    known = [field.name for field in fields(TemplateWords) if field.name != "name"]
    if not isinstance(content, dict) or not content.get("objects"):
        raise ValueError(
            f"--words: {path} must hold objects, a list of nouns; it may hold {', '.join(known[1:])}"
        )
    if unknown := [key for key in content if key not in known]:
        raise ValueError(f"--words: {path} has {unknown[0]!r}; there are {', '.join(known)}")
    given: dict[str, Any] = {key: _checked(path, key, value) for key, value in content.items()}
    if len(given["objects"]) < 2:
        raise ValueError(f"--words: {path} needs at least two objects")
    return TemplateWords(str(path.name), **given)


def _checked(path: Path, key: str, value: Any) -> Any:
    if key == "most":
        if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value < len(NUMBERS):
            raise ValueError(
                f"--words: {path}: most must be a number from 2 to {len(NUMBERS) - 1} (got {value!r})"
            )
        return value
    if key == "coloured_textures":
        if not isinstance(value, bool):
            raise ValueError(f"--words: {path}: {key} must be true or false (got {value!r})")
        return value
    words: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(word, str) and word.strip() and word.isprintable() for word in words):
        raise ValueError(
            f"--words: {path}: {key} must be a list of words (YAML reads yes, no and numbers as none)"
        )
    return tuple(dict.fromkeys(" ".join(word.split()).lower() for word in words))


@lru_cache(maxsize=4096)  # inflect takes milliseconds
def plural(noun: str) -> str:
    """The plural of a noun, which may be several words."""
    return str(_engine().plural_noun(noun)) or noun


@lru_cache(maxsize=4096)
def article(words: str) -> str:
    """``words`` with its indefinite article in front."""
    return str(_engine().a(words))


@lru_cache(maxsize=1)
def _engine() -> Any:
    import inflect

    return inflect.engine()
