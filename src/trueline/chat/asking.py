"""Questions to a language model, with retries, a deadline and a cache; answers are checked by pydantic."""

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler

from trueline.chat.answers import MAX_ANSWER, MAX_TRIES, json_values
from trueline.chat.cache import AnswerCache, default_folder
from trueline.chat.model import LOCAL, ChatError, Message, Messages, Model
from trueline.chat.settings import ChatSettings
from trueline.errors import first_problem
from trueline.files import json_digest
from trueline.models.shipped import check_place

MAX_ENTRIES = 1000  #: of a list in an answer; the rest is left out
MAX_PROBLEM = 1000  #: characters of what is wrong with an answer
MAX_SHOWN = 2000  #: characters of a wrong answer that its model is shown again
PAUSE = 0.5  #: seconds before the first retry of a server that failed; doubled for each more
#: After so many questions in a row that no server answered, none is asked for ``REST`` seconds.
MAX_UNANSWERED = 3
REST = 60.0
MODEL_VARIABLE = "TRUELINE_LLM_MODEL"

S = TypeVar("S", bound=BaseModel)


class _Unfit(Exception):
    """An answer that cannot be used, and why."""


@dataclass(frozen=True)
class _Question:
    messages: Messages
    schema: type[BaseModel]
    shape: dict[str, Any] | None
    read: Callable[[str], Iterable[Any]]
    check: Callable[[Any], str]

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
                problem = problem or _sentence(error)
                continue
            notes.extend(left_out)
            return fitting
        none = "it holds no whole JSON object of the schema" if self.shape else "nothing in it can be read"
        raise _Unfit(problem or none)

    def flaw(self, text: str) -> str:
        """What is wrong with an answer that fits: entries that had to be left out, and what ``check`` finds."""
        notes: list[str] = []
        value = self.value(text, notes)
        return "; ".join(filter(None, [*notes, self.check(value)]))[:MAX_PROBLEM]


class Chat:
    """A model that is asked, with retries, deadline and cache. ``name`` is the model's."""

    def __init__(self, model: Model, settings: ChatSettings | None = None):
        self.model, self.settings, self.name = model, settings or ChatSettings(), model.name
        folder = self.settings.cache
        self.cache = None if folder is False else AnswerCache(default_folder() if folder is True else folder)
        self._unanswered, self._since = 0, 0.0

    @classmethod
    def of(cls, model: str = "", **settings: Any) -> Self:
        """``model``: a name that the server knows; ``transformers=FOLDER`` or ``transformers=OWNER/NAME``, or a
        folder with a config.json, for one on this machine; "" is ``TRUELINE_LLM_MODEL``. ``settings``: of
        ``ChatSettings``.

        Raises:
            ValueError: no model, no address, an unknown setting, or a checkpoint that cannot be read.
        """
        chosen = ChatSettings(**settings)
        model = model or os.environ.get(MODEL_VARIABLE, "")
        if not model:
            raise ValueError(f"which language model? Give its name (llm:MODEL), or set {MODEL_VARIABLE}")
        if model.startswith(LOCAL) or (Path(model) / "config.json").is_file():
            check_place(model.removeprefix(LOCAL), LOCAL.removesuffix("="))
            from trueline.chat.local import Local

            return cls(Local(model.removeprefix(LOCAL), chosen), chosen)
        from trueline.chat.endpoint import Endpoint

        return cls(Endpoint(model, chosen), chosen)

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
                the model (in words) and its server get the schema.
            check: what else is wrong with an answer, in words for the model, or "". After the last attempt an
                answer that fits the schema is given back all the same: the caller leaves out what it cannot use.
            seed: another answer for each; None is the likeliest.
            notes: sentences on what was refused, left out or broken are added to it.

        Raises:
            ChatError: no answer that fits.
        """
        notes = [] if notes is None else notes
        shape = schema.model_json_schema() if read is None else None
        messages = _with_schema(messages, shape) if shape else messages
        question = _Question(messages, schema, shape, read or json_values, check or (lambda _: ""))
        about = {"model": self.model.identity, "messages": list(messages), "seed": seed}
        key = json_digest(about | {"schema": shape or schema.__name__})
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
        if self._unanswered >= MAX_UNANSWERED and now - self._since < REST:
            raise ChatError(f"no answer to the last {self._unanswered} questions; it is left alone for now")
        end, conversation, usable, problem, asked = now + self.settings.timeout, question.messages, "", "", 0
        for attempt in range(self.settings.retries + 1):
            left = end - time.monotonic()
            if attempt and left <= 0.05:
                break
            asked += 1
            try:
                completion = self.model.complete(conversation, question.shape, left, seed, notes)
            except ChatError as error:
                problem, lasting, unreached = str(error), False, error.again
                last = attempt == self.settings.retries
                if last or not error.again or not _pause(error.wait, attempt, end):
                    break
                continue
            self._unanswered, lasting, unreached = 0, True, False
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
            self._unanswered, self._since = self._unanswered + 1, time.monotonic()
        raise ChatError(f"no answer that can be used (attempts: {asked}): {problem}")


def keep_usable(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Wrap validator of a list (``Annotated[list[X], WrapValidator(keep_usable)]``): one bad entry does not spoil the
    others. Within ``ask`` entries that do not validate are left out and said, and so are those past ``MAX_ENTRIES``;
    elsewhere they are errors."""
    left_out = (info.context or {}).get("left_out")
    if left_out is None or not isinstance(value, list):
        return handler(value)
    entries = value[:MAX_ENTRIES]
    if len(value) > MAX_ENTRIES:
        left_out.append(f"{len(value)} entries are too many; those past the first {MAX_ENTRIES} are left out")
    try:
        return handler(entries)
    except ValidationError as error:
        bad = {each["loc"][0] for each in error.errors(include_url=False, include_input=False) if each["loc"]}
        left_out.append(
            f"{len(bad)} of {len(entries)} entries cannot be used and are left out ({_sentence(error)})"
        )
        return handler([entry for place, entry in enumerate(entries) if place not in bad])


def _sentence(error: ValidationError) -> str:
    return str(first_problem(error, BaseModel))[:200]


def _with_schema(messages: Messages, shape: dict[str, Any]) -> list[Message]:
    """With the schema in words: there are servers that take ``response_format`` and do not heed it."""
    *before, last = messages
    schema = json.dumps(shape, ensure_ascii=False)
    text = f"{last['content']}\n\nAnswer with one JSON object of this JSON schema and nothing else:\n{schema}"
    return [*before, {**last, "content": text}]


def _objection(answer: str, problem: str) -> list[Message]:
    again = f"That answer cannot be used: {problem}. Answer again, in the format that was asked for and nothing else."
    return [
        {"role": "assistant", "content": answer[:MAX_SHOWN] or "(nothing)"},
        {"role": "user", "content": again},
    ]


def _pause(asked: float | None, attempt: int, end: float) -> bool:
    """Waits before another attempt, as long as the server asks; whether there is time for one."""
    wait = PAUSE * 2**attempt if asked is None else asked
    if time.monotonic() + wait >= end:
        return False
    time.sleep(wait)
    return True
