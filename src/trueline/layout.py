"""What a picture should show: a prompt and regions. Validated once, then frozen; read and written as JSON
Lines.

Every failure is a ``ValueError`` with one sentence that names the field and the cure, from Python and from
JSON alike: ``regions[1].box: x0 must be smaller than x1 (got 0.8 and 0.2); give the box as x0,y0,x1,y1``.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)

from trueline.boxes import Box, decode_mask, encode_mask, mask_runs
from trueline.errors import FieldError, Frozen, short, unique_keys

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
MAX_REGIONS = 30  # GLIGEN's slots
MAX_PHRASE = 256  # characters
MAX_PROMPT = 2000
SIDE_STEP, MIN_SIDE, MAX_SIDE = 8, 64, 2048  # pixels
MAX_SEED = 2**63 - 1
MAX_LINE = 1_000_000  # characters of one JSON record
MAX_DEPTH = 100  # of lists and dictionaries in ``meta``; pydantic writes 255
_SAFE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def _whole(low: int, high: int, step: int = 1) -> BeforeValidator:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"must be a whole number (got {short(value)})")
        if not low <= int(value) <= high or int(value) % step:
            kind = f"a multiple of {step}" if step > 1 else "a whole number"
            raise ValueError(f"must be {kind} from {low} to {high} (got {short(value)})")
        return int(value)

    return BeforeValidator(lambda value: None if value is None else check(value))


def _text(low: int, high: int, *, optional: bool = False) -> BeforeValidator:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text (got {short(value)})")
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


Phrase = Annotated[str, _text(1, MAX_PHRASE)]
Side = Annotated[int | None, _whole(MIN_SIDE, MAX_SIDE, SIDE_STEP)]


class Region(Frozen):
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
            raise ValueError(f"must be four numbers x0,y0,x1,y1 (got {short(value)})")
        return Box(*value)

    @field_validator("mask", mode="before")
    @classmethod
    def _mask_as_runs(cls, value: Any) -> str | None:
        if value is None:
            return None
        if hasattr(value, "shape"):
            return encode_mask(value)
        if not isinstance(value, str):
            raise ValueError(f'must be a boolean H x W array or its "HxW:runs" text (got {short(value)})')
        mask_runs(value)
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
    def grounding_phrase(self) -> str:
        """What a layout-conditioned net is told of the box: the label, or the phrase."""
        return self.label or self.phrase

    def mask_array(self) -> "np.ndarray | None":
        """The mask as a boolean H x W array; None when the region has only its box."""
        return None if self.mask is None else decode_mask(self.mask)


class Layout(Frozen):
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
    meta: dict[str, Any] = Field(default_factory=dict)

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
            raise ValueError(f"must be a list of regions (got {short(value)})")
        if len(value) > MAX_REGIONS:
            raise ValueError(f"at most {MAX_REGIONS} regions fit in a picture (got {len(value)}); drop some")
        return tuple(value)

    @field_validator("id", mode="before")
    @classmethod
    def _file_name(cls, value: Any) -> str | None:
        safe = isinstance(value, str) and _SAFE_ID.fullmatch(value) and not _WINDOWS_DEVICE.fullmatch(value)
        if value is not None and not safe:
            rule = "use 1 to 100 letters, digits, '.', '_' or '-', with a letter or digit first"
            raise ValueError(f"must be safe as a file name (got {short(value)}); {rule}")
        return value

    @field_validator("meta", mode="before")
    @classmethod
    def _json_copy(cls, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"must be a dictionary (got {short(value)})")
        try:
            copy: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                "must hold only JSON values (text, finite numbers, lists, dictionaries)"
            ) from None
        level: list[Any] = [copy]
        for _ in range(MAX_DEPTH):
            inner = [each.values() if isinstance(each, dict) else each for each in level]
            level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if level:
            raise ValueError(f"must be nested at most {MAX_DEPTH} deep; make it flatter")
        return copy

    def __hash__(self) -> int:  # all but meta, which cannot be hashed; equal layouts still have equal hashes
        return hash(tuple(getattr(self, name) for name in type(self).model_fields if name != "meta"))

    def to_record(self) -> dict[str, Any]:
        """The JSON record: schema version, prompt, regions and whatever differs from its default."""
        return {"schema": SCHEMA, "prompt": self.prompt} | self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def from_record(cls, record: Any) -> "Layout":
        """The layout of a parsed JSON record. A record without "schema" is read as version 1; "image", the path of a
        picture to train on, is no part of a layout and is passed over.

        Raises:
            FieldError: naming the field.
        """
        if not isinstance(record, dict):
            raise FieldError("", f"a record must be a JSON object (got {short(record)})", "layout")
        if (schema := record.get("schema", SCHEMA)) != SCHEMA:
            raise FieldError(
                "schema", f"must be {SCHEMA} (got {short(schema)}); use a newer Trueline to read it"
            )
        return cls(**{key: value for key, value in record.items() if key not in ("schema", "image")})


def read_layouts(path: str | Path) -> list[Layout]:
    """All layouts of a JSON Lines file, one object a line; empty lines are skipped.

    Raises:
        ValueError: one sentence that begins with file and line.
        OSError: the file cannot be read.
    """
    return [_layout_of(line, f"{path}, line {number}") for number, line in lines_of(path) if line.strip()]


def lines_of(path: str | Path | int) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of a UTF-8 file, with or without a byte order mark; 0 is the standard
    input.

    No more than ``MAX_LINE`` + 1 characters of a line are read into memory; ``parse_record`` refuses one that has as
    many. Bytes that are no UTF-8 become surrogates, which no field takes.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", closefd=path != 0) as file:
        for number in count(1):
            if not (line := file.readline(MAX_LINE + 1)):
                return
            yield number, line.removesuffix("\n")
            while line and not line.endswith("\n"):  # what is left of it
                line = file.readline(MAX_LINE)


def parse_record(line: str) -> Any:
    """The JSON value of one line.

    Raises:
        FieldError: it is too long, no JSON, or an object has a key twice.
    """
    if len(line) > MAX_LINE:
        raise FieldError(
            "", f"a record has at most {MAX_LINE} characters, and this line has more; shorten it"
        )
    try:
        return json.loads(line, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        problem = f"not JSON ({error.msg} at column {error.colno}); write one object a line"
        raise FieldError("", problem) from None
    except RecursionError:
        raise FieldError("", "nested too deeply; a record is a flat object") from None
    except FieldError:
        raise
    except ValueError:
        raise FieldError("", "holds a number of too many digits; shorten it") from None


def _layout_of(line: str, where: str) -> Layout:
    try:
        return Layout.from_record(parse_record(line))
    except RecursionError:  # of the sentence on a value that is nested too deeply
        raise FieldError(where, "nested too deeply; a record is a flat object") from None
    except FieldError as error:
        raise FieldError(where, str(error)) from None


def write_layouts(path: str | Path, layouts: Iterable[Layout]) -> None:
    """Write JSON Lines that ``read_layouts`` gives back equal."""
    lines = [json.dumps(layout.to_record(), ensure_ascii=False) + "\n" for layout in layouts]
    Path(path).write_text("".join(lines), encoding="utf-8")
