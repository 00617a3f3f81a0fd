"""Asking a language model: ``Chat.of("llama3.2", base_url="http://localhost:11434/v1").ask(messages, Schema)``.

The answer is an object of a pydantic schema, or a ``ChatError`` in one sentence. An answer that does not fit is asked
for again with what is wrong with it, at most ``MAX_RETRIES`` times; answers are kept on disk. What a model writes is
data: parsed, checked, cut to size, never run. Models: an OpenAI-style address (``endpoint``, extra ``llm``) or a chat
model of transformers on this machine (``local``).

Nothing here imports torch or openai.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler

from trueline.chat.answers import MAX_ANSWER, MAX_TRIES, json_values
from trueline.chat.cache import Cache, default_folder, key_of

MAX_RETRIES = 3
MAX_ENTRIES = 1000  #: of a list in an answer; the rest is left out
WARM = 0.7  #: temperature of an answer that has a seed; without one it is 0
PAUSE = 0.5  #: seconds before the first retry of a server that failed; doubled for each more
PATIENCE, REST = (
    3,
    60.0,
)  #: after so many questions in a row that no server answered, none is asked for so many seconds
MODEL_VARIABLE = "TRUELINE_LLM_MODEL"
LOCAL = "transformers="
_SHOWN = 2000  #: characters of a wrong answer that its model is shown again

Message = dict[str, str]
Messages = Sequence[Message]
S = TypeVar("S", bound=BaseModel)


class ChatError(RuntimeError):
    """No answer, in one sentence. ``again``: another attempt may help; ``wait``: seconds that the server asks for."""

    def __init__(self, problem: str, *, again: bool = False, wait: float | None = None):
        super().__init__(problem)
        self.again, self.wait = again, wait


@dataclass(frozen=True)
class Completion:
    """What a model wrote. ``cut``: it had not finished."""

    text: str
    cut: bool = False


class Model(Protocol):
    """``name`` is what stands in records; ``identity`` all that its answers depend on (no secrets)."""

    name: str
    identity: str

    def complete(
        self,
        messages: Messages,
        schema: dict[str, Any] | None,
        seconds: float,
        seed: int | None,
        notes: list[str],
    ) -> Completion: ...


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """Which model, and how it is asked.

    Attributes:
        base_url, api_key: of an OpenAI-style server; None takes OPENAI_BASE_URL and OPENAI_API_KEY.
        timeout: seconds that a question may take with all its retries.
        retries: attempts after the first, 0..3.
        max_tokens: of an answer.
        cache: folder of answers; True is the user's (``TRUELINE_CACHE`` moves it), False keeps none.
        device, dtype, revision, local_files_only: of a model of transformers.
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    retries: int = MAX_RETRIES
    max_tokens: int = 2048
    cache: str | Path | bool = True
    device: str = "cpu"
    dtype: str = "float32"
    revision: str | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        for name in ("base_url", "api_key", "device", "dtype", "revision"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name}: must be text")
        _number("timeout", self.timeout, 0.1, 3600)
        _number("retries", self.retries, 0, MAX_RETRIES, whole=True)
        _number("max_tokens", self.max_tokens, 1, 100_000, whole=True)


class Chat:
    """A model that is asked, with retries, deadline and cache. ``name`` is the model's."""

    def __init__(self, model: Model, settings: ChatSettings | None = None):
        self.model, self.settings, self.name = model, settings or ChatSettings(), model.name
        kept = self.settings.cache
        self.cache = None if kept is False else Cache(default_folder() if kept is True else Path(str(kept)))
        self._silent, self._since = 0, 0.0

    @classmethod
    def of(cls, model: str = "", **settings: Any) -> Chat:
        """``model``: a name that the server knows; ``transformers=FOLDER`` or ``transformers=OWNER/NAME``, or a
        folder with a config.json, for one on this machine; "" is ``TRUELINE_LLM_MODEL``. ``settings``: of
        ``ChatSettings``.

        Raises:
            ValueError: no model, no address, an unknown setting, or a checkpoint that cannot be read.
        """
        known = [each.name for each in fields(ChatSettings)]
        if unknown := sorted(settings.keys() - set(known)):
            raise ValueError(
                f"{unknown[0]}: no such setting of a language model; there are {', '.join(known)}"
            )
        chosen = ChatSettings(**settings)
        model = model or os.environ.get(MODEL_VARIABLE, "")
        if not model:
            raise ValueError(f"which language model? Give its name (llm:MODEL), or set {MODEL_VARIABLE}")
        if model.startswith(LOCAL) or (Path(model) / "config.json").is_file():
            from trueline.chat.local import Local

            files = {"revision": chosen.revision, "local_files_only": chosen.local_files_only}
            checkpoint = model.removeprefix(LOCAL)
            return cls(Local(checkpoint, chosen.device, chosen.dtype, chosen.max_tokens, **files), chosen)
        from trueline.chat.endpoint import Endpoint

        return cls(Endpoint(model, chosen.base_url, chosen.api_key, chosen.max_tokens), chosen)

    def ask(
        self,
        messages: Messages,
        schema: type[S],
        *,
        read: Callable[[str], Iterable[Any]] | None = None,
        check: Callable[[S], str] | None = None,
        seed: int | None = None,
        notes: list[str] | None = None,
    ) -> S:
        """The model's answer to ``messages`` ({"role", "content"}), as an object of ``schema``.

        Args:
            read: makes values for ``schema`` of the answer's text, likeliest first; None: the JSON in it, and both
                the model (in words) and its server are told the schema.
            check: what else is wrong with an answer, in words for the model, or "". After the last attempt an
                answer that fits the schema is given back all the same: the caller leaves out what it cannot use.
            seed: another answer for each; None is the likeliest.
            notes: sentences on what was refused, left out or broken are added to it.

        Raises:
            ChatError: no answer that fits.
        """
        notes = [] if notes is None else notes
        shape = schema.model_json_schema() if read is None else None
        messages = _told(messages, shape) if shape else messages
        question = _Question(messages, schema, shape, read or json_values, check or (lambda _: ""))
        key = key_of({
            "model": self.model.identity, "messages": list(messages), "schema": shape or schema.__name__, "seed": seed
        })  # fmt: skip
        if self.cache and (kept := self.cache.get(key, notes)) is not None:
            try:
                return question.value(kept, notes)
            except _Unfit as unfit:
                notes.append(f"a cached answer is ignored ({unfit}); the question is asked again")
        text, lasting = self._answer(question, seed, notes)
        if self.cache and lasting:
            self.cache.put(key, text, notes)
        return question.value(text, notes)

    def _answer(self, question: _Question, seed: int | None, notes: list[str]) -> tuple[str, bool]:
        """A text that fits the schema, and whether asking again would change nothing."""
        now = time.monotonic()
        if self._silent >= PATIENCE and now - self._since < REST:
            raise ChatError(
                f"no answer to the last {self._silent} questions; the model is left alone for now"
            )
        end, conversation, usable, problem, asked = now + self.settings.timeout, question.messages, "", "", 0
        for attempt in range(self.settings.retries + 1):
            if attempt and end - time.monotonic() <= 0.05:
                break
            asked += 1
            left = end - time.monotonic()
            try:
                completion = self.model.complete(conversation, question.shape, left, seed, notes)
            except ChatError as error:
                problem, lasting, unreached = str(error), False, error.again
                if not error.again or not _rest(error.wait, attempt, end):
                    break
                continue
            self._silent, lasting, unreached = 0, True, False
            try:
                usable, problem = completion.text, question.flaw(completion.text)
            except _Unfit as unfit:
                problem = str(unfit) + ("; it was cut off, so write less" if completion.cut else "")
            if not problem:
                return usable, True
            conversation = [*question.messages, *_objection(completion.text, problem)]
        if usable:
            return usable, lasting
        if unreached:
            self._silent, self._since = self._silent + 1, time.monotonic()
        raise ChatError(f"no answer that can be used (attempts: {asked}): {problem}")


class _Unfit(Exception):
    """An answer that cannot be used, and why."""


class _Question:
    def __init__(
        self,
        messages: Messages,
        schema: type[BaseModel],
        shape: dict[str, Any] | None,
        read: Callable[[str], Iterable[Any]],
        check: Callable[[Any], str],
    ):
        self.messages, self.schema, self.shape, self.read, self.check = messages, schema, shape, read, check

    def value(self, text: str, notes: list[str]) -> Any:
        """The first value in ``text`` that fits; ``_Unfit`` without one."""
        if len(text) > MAX_ANSWER:
            raise _Unfit(f"it is longer than {MAX_ANSWER} characters")
        keys = self.schema.model_fields.keys()
        problem = ""
        for value in islice(self.read(text), MAX_TRIES):
            if isinstance(value, list) and len(keys) == 1:
                value = {next(iter(keys)): value}  # a bare list in place of its object
            if not isinstance(value, dict) or not value.keys() & keys:
                continue  # a part of an object that is broken, or JSON about something else
            left_out: list[str] = []
            try:
                fitting = self.schema.model_validate(value, context={"left_out": left_out})
            except ValidationError as error:
                problem = problem or first_problem(error)
                continue
            notes.extend(left_out)
            return fitting
        none = "it holds no whole JSON object of the schema" if self.shape else "nothing in it can be read"
        raise _Unfit(problem or none)

    def flaw(self, text: str) -> str:
        """What is wrong with an answer that fits: entries that had to be left out, and what ``check`` finds."""
        notes: list[str] = []
        value = self.value(text, notes)
        return "; ".join(filter(None, [*notes, self.check(value)]))[:1000]


def keep_usable(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Wrap validator of a list (``Annotated[list[X], WrapValidator(keep_usable)]``): one bad entry does not spoil the
    others. Within ``ask`` entries that do not validate are left out and said, and so are those past ``MAX_ENTRIES``;
    elsewhere they are errors."""
    left_out = (info.context or {}).get("left_out")
    if left_out is None or not isinstance(value, list):
        return handler(value)
    entries = value[:MAX_ENTRIES]
    if len(value) > MAX_ENTRIES:
        left_out.append(
            f"{len(value)} entries are too many; those after the first {MAX_ENTRIES} are left out"
        )
    try:
        return handler(entries)
    except ValidationError as error:
        bad = {each["loc"][0] for each in error.errors(include_url=False, include_input=False) if each["loc"]}
        left_out.append(
            f"{len(bad)} of {len(entries)} entries cannot be used and are left out ({first_problem(error)})"
        )
        return handler([entry for place, entry in enumerate(entries) if place not in bad])


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, short: "regions.0.box: Field required"."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step)[:40] for step in first["loc"][:6])
    return f"{where}: {first['msg']}"[:200] if where else str(first["msg"])[:200]


def _told(messages: Messages, shape: dict[str, Any]) -> list[Message]:
    """With the schema in words: there are servers that take ``response_format`` and do not heed it."""
    *before, last = messages
    schema = json.dumps(shape, ensure_ascii=False)
    said = f"{last['content']}\n\nAnswer with one JSON object of this JSON schema and nothing else:\n{schema}"
    return [*before, {**last, "content": said}]


def _objection(answer: str, problem: str) -> list[Message]:
    again = f"That answer cannot be used: {problem}. Answer again, in the format that was asked for and nothing else."
    return [
        {"role": "assistant", "content": answer[:_SHOWN] or "(nothing)"},
        {"role": "user", "content": again},
    ]


def _rest(asked: float | None, attempt: int, end: float) -> bool:
    """Wait before another attempt, as long as the server asks; whether there is time for one."""
    wait = PAUSE * 2**attempt if asked is None else asked
    if time.monotonic() + wait >= end:
        return False
    time.sleep(wait)
    return True


def _number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise ValueError(
            f"{name}: must be a {'whole ' * whole}number from {low:g} to {high:g} (got {value!r})"
        )
