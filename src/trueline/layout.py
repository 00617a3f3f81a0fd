"""What a picture should show: a prompt and regions. Validated once, then frozen; read and written as JSON
Lines.

Every failure is a ``ValueError`` with one sentence that names the field and the cure, from Python and from
JSON alike: ``regions[1].box: x0 must be smaller than x1 (got 0.8 and 0.2); give the box as x0,y0,x1,y1``.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
)

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
MIN_AREA = 1e-4  # of the picture: about five pixels square at 512
MAX_REGIONS = 30  # GLIGEN's slots
MAX_PHRASE = 256  # characters
MAX_PROMPT = 2000
SIDE_STEP, MIN_SIDE, MAX_SIDE = 8, 64, 2048  # pixels
MAX_SEED = 2**63 - 1
MAX_MASK_SIDE = 2048
MAX_LINE = 1_000_000  # characters of one JSON record
_SAFE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


class LayoutError(ValueError):
    """One sentence: the field, what is wrong with it, and the cure."""

    def __init__(self, field: str, problem: str, owner: str = "layout"):
        super().__init__(f"{field or owner}: {problem}")
        self.field, self.problem = field, problem


class _Frozen(BaseModel):
    """pydantic's model with positional arguments and one-sentence errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, *values: Any, **fields: Any):
        names = tuple(type(self).model_fields)
        if len(values) > len(names):
            owner = type(self).__name__.lower()
            raise LayoutError("", f"takes at most {len(names)} values ({', '.join(names)})", owner)
        given = dict(zip(names, values, strict=False))
        if twice := given.keys() & fields.keys():
            raise LayoutError(min(twice), "given twice; give it once")
        try:
            super().__init__(**given, **fields)
        except ValidationError as error:
            raise _one_sentence(error, type(self)) from None


def _one_sentence(error: ValidationError, model: type[BaseModel]) -> LayoutError:
    """The first problem pydantic found, as a path such as ``regions[1].box`` and a sentence."""
    first = error.errors(include_url=False)[0]
    path = _path(first["loc"])
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, LayoutError):
        return LayoutError(".".join(filter(None, (path, inner.field))), inner.problem) if path else inner
    if inner is not None:
        return LayoutError(path, str(inner))
    if first["type"] == "extra_forbidden":
        return LayoutError(path, f"unknown key; {model.__name__} has {', '.join(model.model_fields)}")
    if first["type"] == "missing":
        return LayoutError(path, "is missing; give a value")
    return LayoutError(path, f"{first['msg'][:1].lower()}{first['msg'][1:]} (got {_short(first['input'])})")


def _path(loc: Sequence[str | int]) -> str:
    def shown(key: str) -> str:
        return key if key.isidentifier() else _short(key)

    steps = (f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in loc)
    return "".join(steps).removeprefix(".")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"must be a number (got {_short(value)})")
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    if not 0 <= number <= 1:  # false for NaN too
        raise ValueError(
            f"must be between 0 and 1 (got {number:g}); divide pixels by the picture's width and height"
        )
    return number


def _whole(low: int, high: int, step: int = 1) -> BeforeValidator:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"must be a whole number (got {_short(value)})")
        if not low <= int(value) <= high or int(value) % step:
            kind = f"a multiple of {step}" if step > 1 else "a whole number"
            raise ValueError(f"must be {kind} from {low} to {high} (got {_short(value)})")
        return int(value)

    return BeforeValidator(lambda value: None if value is None else check(value))


def _text(low: int, high: int, *, optional: bool = False) -> BeforeValidator:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text (got {_short(value)})")
        if low and not value.strip():
            raise ValueError("is empty; write at least one word")
        if len(value) > high:
            raise ValueError(f"must have at most {high} characters (got {len(value)}); shorten it")
        if not value.isprintable() and any(
            0xD800 <= ord(letter) <= 0xDFFF or letter == "\0" for letter in value
        ):
            raise ValueError("must be text that UTF-8 can hold, without NUL; remove the broken character")
        return value

    return BeforeValidator(lambda value: None if optional and value is None else check(value))


Fraction = Annotated[float, BeforeValidator(_number)]
Phrase = Annotated[str, _text(1, MAX_PHRASE)]
Side = Annotated[int | None, _whole(MIN_SIDE, MAX_SIDE, SIDE_STEP)]


class Box(_Frozen):
    """Corners in fractions of the picture, x right and y down: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1."""

    x0: Fraction
    y0: Fraction
    x1: Fraction
    y1: Fraction

    if TYPE_CHECKING:  # pydantic's signature for type checkers has no positional arguments

        def __init__(self, x0: float, y0: float, x1: float, y1: float) -> None: ...

    def model_post_init(self, _context: Any) -> None:
        for low, high in (("x0", "x1"), ("y0", "y1")):
            first, second = getattr(self, low), getattr(self, high)
            if not first < second:
                problem = f"{low} must be smaller than {high} (got {first:g} and {second:g})"
                raise LayoutError("", f"{problem}; give the box as x0,y0,x1,y1", owner="box")
        if self.area < MIN_AREA:
            problem = f"its area {self.area:.2g} is below {MIN_AREA:g} of the picture; make it larger"
            raise LayoutError("", problem, owner="box")

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x0, self.y0, self.x1, self.y1

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return self.width * self.height

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Corners in whole pixels of a picture of that size; at least one pixel wide and high."""
        x0, y0 = min(round(self.x0 * width), width - 1), min(round(self.y0 * height), height - 1)
        return x0, y0, max(round(self.x1 * width), x0 + 1), max(round(self.y1 * height), y0 + 1)

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0..1."""
        across = max(0.0, min(self.x1, other.x1) - max(self.x0, other.x0))
        down = max(0.0, min(self.y1, other.y1) - max(self.y0, other.y0))
        shared = across * down
        return shared / (self.area + other.area - shared)


class Region(_Frozen):
    """One thing of the picture: what and where.

    ``phrase`` is how the prompt names it, the words that attention is steered by and pictures are judged by.
    ``label`` is what a layout-conditioned net is told of the box, where that is something else: "dog", as
    detectors and class lists name it, for "a small brown dog". None = the phrase.

    ``mask`` is a run-length string (``encode_mask``) so that a region stays hashable and goes through JSON
    unchanged; a boolean H x W array is accepted and encoded, ``mask_array()`` gives it back.
    """

    phrase: Phrase
    box: Box
    mask: str | None = None
    negative: Annotated[str | None, _text(1, MAX_PHRASE, optional=True)] = None
    label: Annotated[str | None, _text(1, MAX_PHRASE, optional=True)] = None

    if TYPE_CHECKING:

        def __init__(
            self,
            phrase: str,
            box: Any,
            mask: Any = None,
            negative: str | None = None,
            label: str | None = None,
        ) -> None: ...

    @field_validator("box", mode="before")
    @classmethod
    def _box_from_corners(cls, value: Any) -> Any:
        if isinstance(value, Box | dict):
            return value
        if hasattr(value, "tolist"):  # numpy and torch
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) != 4:
            raise ValueError(f"must be four numbers x0,y0,x1,y1 (got {_short(value)})")
        return Box(*value)

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_as_runs(cls, value: Any) -> str | None:
        if value is None:
            return None
        if hasattr(value, "shape"):
            return encode_mask(value)
        if not isinstance(value, str):
            raise ValueError(f'must be a boolean H x W array or its "HxW:runs" text (got {_short(value)})')
        _runs(value)
        return value

    @field_serializer("box")
    def _corners(self, box: Box) -> list[float]:
        return list(box.xyxy)

    @model_serializer(mode="wrap")
    def _without_an_absent_label(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Labels came later: without them, what is written, and what is compared by it, stays as it was."""
        record: dict[str, Any] = dump(self)
        return {key: value for key, value in record.items() if key != "label" or value is not None}

    @property
    def told(self) -> str:
        """What a layout-conditioned net is told of the box: the label, or the phrase."""
        return self.label or self.phrase

    def mask_array(self) -> "np.ndarray | None":
        """The mask as a boolean H x W array; None when the region has only its box."""
        return None if self.mask is None else decode_mask(self.mask)


class Layout(_Frozen):
    """What one picture should show. ``width``, ``height``: pixels, None = the model's own size.

    ``seed`` None = drawn when sampling (and recorded). ``id`` names output files. ``meta`` is JSON of the
    caller's own.
    """

    prompt: Annotated[str, _text(1, MAX_PROMPT)]
    regions: tuple[Region, ...] = ()
    negative_prompt: Annotated[str, _text(0, MAX_PROMPT)] = ""
    width: Side = None
    height: Side = None
    seed: Annotated[int | None, _whole(0, MAX_SEED)] = None
    id: str | None = None
    meta: dict[str, Any] = {}  # pydantic copies the default

    if TYPE_CHECKING:

        def __init__(
            self,
            prompt: str,
            regions: Sequence[Region | dict[str, Any]] = (),
            negative_prompt: str = "",
            width: int | None = None,
            height: int | None = None,
            seed: int | None = None,
            id: str | None = None,
            meta: dict[str, Any] = ...,
        ) -> None: ...

    @field_validator("regions", mode="before")
    @classmethod
    def _some_regions(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list of regions (got {_short(value)})")
        if len(value) > MAX_REGIONS:
            raise ValueError(f"at most {MAX_REGIONS} regions fit in a picture (got {len(value)}); drop some")
        return tuple(value)

    @field_validator("id", mode="before")
    @classmethod
    def _file_name(cls, value: Any) -> str | None:
        safe = isinstance(value, str) and _SAFE_ID.fullmatch(value) and not _WINDOWS_DEVICE.fullmatch(value)
        if value is not None and not safe:
            rule = "use 1 to 100 letters, digits, '.', '_' or '-', with a letter or digit first"
            raise ValueError(f"must be safe as a file name (got {_short(value)}); {rule}")
        return value

    @field_validator("meta", mode="before")
    @classmethod
    def _json_copy(cls, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"must be a dictionary (got {_short(value)})")
        try:
            return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                "must hold only JSON values (text, finite numbers, lists, dictionaries)"
            ) from None

    def __hash__(self) -> int:  # all but meta, which cannot be hashed; equal layouts still have equal hashes
        return hash(tuple(getattr(self, name) for name in type(self).model_fields if name != "meta"))

    def to_record(self) -> dict[str, Any]:
        """The JSON record: schema version, prompt, regions and whatever differs from its default."""
        return {"schema": SCHEMA, "prompt": self.prompt} | self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_record(cls, record: Any) -> "Layout":
        """The layout of a parsed JSON record. A record without "schema" is read as version 1.

        Raises:
            LayoutError: naming the field.
        """
        if not isinstance(record, dict):
            raise LayoutError("", f"a record must be a JSON object (got {_short(record)})")
        if (schema := record.get("schema", SCHEMA)) != SCHEMA:
            raise LayoutError(
                "schema", f"must be {SCHEMA} (got {_short(schema)}); use a newer Trueline to read it"
            )
        return cls(**{key: value for key, value in record.items() if key != "schema"})


def encode_mask(mask: "np.ndarray") -> str:
    """A boolean H x W array as ``"HxW:runs"``: lengths of alternating runs in row order, the first of them
    False.

    (COCO's run lengths go down the columns; these do not.)
    """
    import numpy as np

    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"must be a boolean H x W array (got {array.dtype} of shape {array.shape})")
    flat = array.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    text = f"{array.shape[0]}x{array.shape[1]}:" + ",".join(map(str, [0, *runs] if flat[:1].any() else runs))
    _runs(text)
    return text


def decode_mask(text: str) -> "np.ndarray":
    """The boolean H x W array of ``encode_mask``'s text."""
    import numpy as np

    height, width, runs = _runs(text)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def _runs(text: str) -> tuple[int, int, list[int]]:
    """Height, width and run lengths; a ValueError when they do not make a mask."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4}):([0-9]{1,7}(?:,[0-9]{1,7})*)", text, re.ASCII)
    if match is None:
        raise ValueError(f'must be "HxW:runs" such as "2x2:1,3" (got {_short(text)})')
    height, width = int(match[1]), int(match[2])
    runs = [int(run) for run in match[3].split(",")]
    if not (0 < height <= MAX_MASK_SIDE and 0 < width <= MAX_MASK_SIDE):
        raise ValueError(f"its sides must be 1 to {MAX_MASK_SIDE} pixels (got {height}x{width})")
    if sum(runs) != height * width:
        raise ValueError(f"its runs must add up to {height * width} pixels (got {sum(runs)})")
    if not sum(runs[1::2]):
        raise ValueError("is empty; set at least one pixel or leave the mask out")
    return height, width, runs


def read_layouts(path: str | Path) -> list[Layout]:
    """All layouts of a JSON Lines file, one object a line; empty lines are skipped.

    Raises:
        ValueError: one sentence that begins with file and line.
        OSError: the file cannot be read.
    """
    layouts = []
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                layouts.append(_read_line(line, f"{path}, line {number}"))
    return layouts


def _read_line(line: str, where: str) -> Layout:
    if len(line) > MAX_LINE:
        raise LayoutError(where, f"a record has at most {MAX_LINE} characters (got {len(line)})")
    try:
        return Layout.from_record(json.loads(line))
    except json.JSONDecodeError as error:
        raise LayoutError(
            where, f"not JSON ({error.msg} at column {error.colno}); write one object a line"
        ) from None
    except RecursionError:
        raise LayoutError(where, "nested too deeply; a record is a flat object") from None
    except LayoutError as error:
        raise LayoutError(where, str(error)) from None


def write_layouts(path: str | Path, layouts: Iterable[Layout]) -> None:
    """Write JSON Lines that ``read_layouts`` gives back equal."""
    lines = [json.dumps(layout.to_record(), ensure_ascii=False) + "\n" for layout in layouts]
    Path(path).write_text("".join(lines), encoding="utf-8")
