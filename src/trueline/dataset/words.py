"""The words of template prompts: of the world, of everyday things, or of a file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from trueline.errors import FieldError, Frozen
from trueline.sampling.options import Within, one_of

SIDES = ("left", "right", "above", "below")
RELATIONS = {
    "to the left of": "left",
    "on the left of": "left",
    "to the right of": "right",
    "on the right of": "right",
    "above": "above",
    "below": "below",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")


def _words(value: Any) -> tuple[str, ...]:
    words: list[Any] = list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(word, str) and word.strip() and word.isprintable() for word in words):
        raise ValueError("must be a list of words (YAML reads yes, no and numbers as none)")
    return tuple(dict.fromkeys(" ".join(word.split()).lower() for word in words))


Adjectives = Annotated[tuple[str, ...], BeforeValidator(_words)]


class TemplateWords(Frozen):
    """What template prompts are made of. ``objects``: nouns in the singular, at least two.

    Args:
        shapes, textures: adjectives; without them there are no prompts of that category ("object", two or three bare
            nouns, stands for a missing "shape").
        coloured_textures: a texture comes with a colour before it, as the world says it ("a red striped apple").
        most: things of a picture.
    """

    name: str
    objects: Annotated[tuple[str, ...], Field(min_length=2), BeforeValidator(_words)]
    colours: Adjectives = ()
    shapes: Adjectives = ()
    textures: Adjectives = ()
    coloured_textures: Annotated[bool, one_of(True, False)] = False
    most: Annotated[int, Within(2, len(NUMBERS) - 1, whole=True)] = 5

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
    name="common",
    objects=(
        "apple", "backpack", "banana", "bear", "bench", "bicycle", "bird", "boat", "book", "bottle", "bowl", "bus",
        "cake", "car", "cat", "chair", "clock", "couch", "cow", "cup", "dog", "donut", "elephant", "giraffe",
        "handbag", "horse", "kite", "laptop", "motorcycle", "orange", "pizza", "sheep", "skateboard", "suitcase",
        "teddy bear", "train", "truck", "umbrella", "vase", "zebra",
    ),
    colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
    shapes=("round", "square", "rectangular", "oval", "triangular", "cubic", "spherical", "cylindrical"),
    textures=("wooden", "metallic", "plastic", "glass", "leather", "rubber", "fluffy", "fabric"),
)  # fmt: skip


def read_words(source: str) -> TemplateWords:
    """ "world", "common", or a YAML file with the fields of ``TemplateWords`` except the name.

    Raises:
        ValueError: a file that cannot be read, an unknown field, or words that are none.
    """
    if source == "world":
        from trueline.evaluation.benchmarks.world import WORDS

        textures = tuple(texture for texture in WORDS.textures if texture != "plain")  # which is never said
        objects = tuple(dict.fromkeys(WORDS.names.values()))
        return TemplateWords(
            name="world",
            objects=objects,
            colours=tuple(WORDS.colours),
            textures=textures,
            coloured_textures=True,
            most=max(WORDS.numbers.values()),
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
            f"words: {str(path)!r} is neither world nor common, nor a file that can be read ({error.strerror})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"words: {path} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or "name" in content:
        raise ValueError(f"words: {path} must hold objects, a list of nouns, and perhaps adjectives")
    try:
        return TemplateWords(name=path.name, **{str(key): value for key, value in content.items()})
    except FieldError as error:
        raise ValueError(f"words: {path}: {error}") from None
