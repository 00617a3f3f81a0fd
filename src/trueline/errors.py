"""One-sentence errors, the frozen pydantic model that gives them, and what may stand in no sentence and no file.

Secrets are the user info, query and fragment of every address, and the value of every setting whose name says so
(``is_secret``). ``redacted`` takes them out of a text, a mapping or a list, ``redacted_arguments`` out of a command.
No torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
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

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, redacted(value, name or "")) for name, value in super().__repr_args__()]


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
    if first["type"] == "string_unicode":  # a name, too
        problem = f"holds text that UTF-8 cannot (got {short(first['input'])}); remove it"
        return kind(path, problem, model.__name__.lower())
    if first["type"] == "missing":
        return kind(path, "is missing; give a value")
    given = redacted(first["input"], path.rpartition(".")[2])
    return kind(path, f"{first['msg'][:1].lower()}{first['msg'][1:]} (got {short(given)})")


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
        return key if key.isidentifier() and len(key) <= 60 else short(key)

    steps = (f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in loc)
    return "".join(steps).removeprefix(".")


def short(value: Any) -> str:
    """A value in at most 60 characters of ASCII, for a sentence, without secrets."""
    text = ascii(redacted(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    """An error's text on one line of at most 300 characters, without secrets; its type where it says nothing."""
    return " ".join(redacted(str(error)).split())[:300] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without secrets: the libraries' messages run over pages."""
    lines = redacted(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads(..., object_pairs_hook=unique_keys)``: a key that stands twice is refused, not overwritten.

    Raises:
        FieldError: which key.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise FieldError("", f"the key {short(twice)} stands twice in one object; keep one")
    return found


# Secrets

HIDDEN = "***"  #: stands where a secret was

_WORD_ENDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
#: "tokens" is no secret: they are counted (max_tokens).
_SECRET_WORD = re.compile(
    r"(api|access|account|auth|client|hub|hf|private|secret)?(keys?|token|secrets?)"
    r"|\w*(password|passwd|passphrase)s?|pwd|credentials?"
)
#: Where a path was made of it, "http://" has become "http:/".
_SCHEME = r"(?:\b[a-z][a-z0-9+.-]{1,20}://|\b(?:https?|s3|gs|az|abfss?|ftp|sftp|hf|ssh|ray):/)"
#: An address in a sentence ends at white space or a quote: what leads to it, user info, host and path, query.
_ADDRESS = re.compile(
    rf"({_SCHEME})([^\s\"<>`/?#]*@)?([^\s\"<>`?#]*?)([?#][^\s\"<>`]*?)?(?=[')\],.;:]{{0,4}}(?:[\s\"<>`]|$))",
    re.IGNORECASE,
)
#: One that is a whole argument ends where that does.
_WHOLE_ADDRESS = re.compile(rf"({_SCHEME})([^/?#]*@)?([^?#]*)([?#].*)?", re.IGNORECASE | re.DOTALL)
_ASSIGNED = re.compile(r"""(?<![\w.-])([A-Za-z][\w.-]{0,80})(=)("[^"]*"|'[^']*'|[^\s"',;&)]+)""")
_QUOTED = re.compile(r"""(["'])([\w.-]{1,80})\1(\s*:\s*)("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)""")
_FLAGGED = re.compile(r"(?<!\S)(--?[A-Za-z][\w.-]{0,80})(\s+)(?!-)(\S+?)(?=;?(?:\s|$))")
_BEARER = re.compile(r"\b(bearer|authorization:\s*\w+)(\s+)(\S{4,})", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether the name of a setting says that its value is a secret: api_key, hub-token, clientSecret, PASSWORD."""
    return any(_SECRET_WORD.fullmatch(word.lower()) for word in _WORD_ENDS.split(name))


def redacted(value: Any, name: str = "") -> Any:
    """``value`` without secrets; where there are none, it is as it was.

    Args:
        value: a text (also a sentence, or JSON), a mapping of settings, a list; other things come back as they are.
        name: of the setting that it is the value of.
    """
    counts = isinstance(value, int | float) and not is_secret(
        _WORD_ENDS.split(name)[-1]
    )  # token_mlp, a width
    if is_secret(name) and value not in (None, "") and not counts:
        return HIDDEN
    if isinstance(value, str):
        return _redacted_text(value)
    if isinstance(value, PurePath):
        text = str(value)
        return value if (safe := _redacted_text(text)) == text else safe
    if isinstance(value, Mapping):
        return {key: redacted(each, key if isinstance(key, str) else "") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redacted, value)) if type(value) in (list, tuple) else value
    return value


def redacted_arguments(arguments: Iterable[str], shown: Collection[str] = ()) -> list[str]:
    """A command line as it may be recorded. ``shown``: flags that sound secret and are not."""
    found: list[str] = []
    waiting = False  # for the value of a secret
    for argument in arguments:
        name, mark, _value = argument.partition("=")
        flag = argument.startswith("-")
        if waiting and not argument.startswith("--"):
            found.append(HIDDEN)
        elif mark and name not in shown and re.fullmatch(r"-{0,2}[\w.-]+", name) and is_secret(name):
            found.append(f"{name}={HIDDEN}")
        else:
            found.append(_redacted_text(_WHOLE_ADDRESS.sub(_bare, argument)))
        waiting = flag and not mark and argument not in shown and is_secret(argument)
    return found


def _redacted_text(text: str) -> str:
    if ":/" in text:
        text = _ADDRESS.sub(_bare, text)
    text = _ASSIGNED.sub(_without_value, text)
    text = _QUOTED.sub(lambda m: f'{m[1]}{m[2]}{m[1]}{m[3]}"{HIDDEN}"' if is_secret(m[2]) else m[0], text)
    text = _FLAGGED.sub(
        lambda m: m[0] if m[1].strip("-") == "key" else _without_value(m), text
    )  # that of votes
    return _BEARER.sub(rf"\1\2{HIDDEN}", text)


def _bare(address: re.Match[str]) -> str:
    scheme, user, rest, query = address.groups()
    return f"{scheme}{f'{HIDDEN}@' if user else ''}{rest}{f'{query[0]}{HIDDEN}' if query else ''}"


def _without_value(match: re.Match[str]) -> str:
    name, mark, value = match.groups()
    told = value == "VALUE" or not is_secret(name)  # "write KEY=VALUE"
    return match[0] if told else f"{name}{mark}{HIDDEN}"
