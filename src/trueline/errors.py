"""One-sentence errors, and the frozen pydantic model that gives them. No torch."""

from collections.abc import Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class FieldError(ValueError):
    """One sentence: the field, what is wrong with it, and the cure.

    ``field`` is a path such as ``regions[1].box`` or ``objective.alpha``; "" means the whole object, which the
    sentence then calls ``owner``.
    """

    def __init__(self, field: str, problem: str, owner: str = ""):
        name = field or owner
        super().__init__(f"{name}: {problem}" if name else problem)
        self.field, self.problem = field, problem


class Frozen(BaseModel):
    """A frozen pydantic model: unknown fields are refused, values may be positional, errors are one sentence.

    Raises:
        FieldError: (or ``error``, which a subclass may narrow) naming the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: ClassVar[type[FieldError]] = FieldError

    def __init__(self, *values: Any, **fields: Any):
        kind = type(self)
        names = tuple(kind.model_fields)
        if len(values) > len(names):
            raise kind.error(
                "", f"takes at most {len(names)} values ({', '.join(names)})", kind.__name__.lower()
            )
        given = dict(zip(names, values, strict=False))
        if twice := given.keys() & fields.keys():
            raise kind.error(min(twice), "given twice; give it once")
        try:
            super().__init__(**given, **fields)
        except ValidationError as error:
            raise first_problem(error, kind) from None


def first_problem(error: ValidationError, model: type[BaseModel]) -> FieldError:
    """The first problem that pydantic found in a ``model``: a path such as ``regions[1].box``, and a sentence."""
    kind: type[FieldError] = getattr(model, "error", FieldError)
    first = error.errors(include_url=False)[0]
    path, inner = _path(first["loc"]), first.get("ctx", {}).get("error")
    if isinstance(inner, FieldError):
        return kind(".".join(filter(None, (path, inner.field))), inner.problem) if path else inner
    if inner is not None:
        return kind(path, str(inner))
    if first["type"] == "extra_forbidden":
        group = _group(model, first["loc"][:-1])
        return kind(path, f"unknown key; {group.__name__} has {', '.join(group.model_fields)}")
    if first["type"] == "missing":
        return kind(path, "is missing; give a value")
    return kind(path, f"{first['msg'][:1].lower()}{first['msg'][1:]} (got {short(first['input'])})")


def _group(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel]:
    """The model that the path leads to: ``Region`` for ("regions", 1) of a ``Layout``."""
    for step in loc:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _path(loc: Sequence[str | int]) -> str:
    def shown(key: str) -> str:
        return key if key.isidentifier() else short(key)

    steps = (f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in loc)
    return "".join(steps).removeprefix(".")


def short(value: Any) -> str:
    """A value in at most 60 characters of ASCII, for a sentence."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    """An error's text on one line of at most 300 characters; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text: the libraries' messages run over pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
