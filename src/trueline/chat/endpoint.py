"""A chat model behind an OpenAI-style address (vLLM, Ollama, llama.cpp, OpenAI), through the ``openai`` package.

A call ends after the seconds it is given, whatever the server does, and reads no more than ``MAX_BODY`` bytes of an
answer. An option that the server refuses is left out from then on: the JSON schema first becomes "any JSON object",
then nothing; ``max_tokens`` becomes ``max_completion_tokens``; ``temperature`` and ``seed`` go.

Secrets (the key, user info and query of the address) go to the server and nowhere else: what it writes of them, in an
answer or an error, is masked before anybody reads or keeps it.
"""

import importlib.util
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from trueline.chat.answers import MAX_ANSWER
from trueline.chat.masking import Mask, secrets_of
from trueline.chat.model import WARM, ChatError, Completion, Messages
from trueline.chat.settings import ChatSettings
from trueline.errors import redacted

MAX_BODY = 2 * MAX_ANSWER  #: bytes of an answer with its envelope; more is an error
MAX_FAULT = 65_536  #: bytes of an error's text that are read
CONNECT = 10.0  #: seconds
FORMATS = ("json_schema", "json_object", "")
LOGGERS = (
    "httpx",
    "httpx2",
    "openai._base_client",
)  #: that may be told of addresses; openai has either httpx
_OPENAI = "https://api.openai.com/v1"

T = TypeVar("T")


@dataclass(frozen=True)
class _Manner:
    """How a server wants to be asked; found out by asking."""

    format: str = FORMATS[0]
    limit: str = "max_tokens"
    without: frozenset[str] = frozenset()


class _FaultyStatus(Exception):
    """A status of 300 or above, with what the server said."""

    def __init__(self, status: int, text: str, wait: float | None):
        super().__init__(text)
        self.status, self.text, self.wait = status, text, wait


class Endpoint:
    """``complete`` asks ``POST {base_url}/chat/completions``.

    Without an address in the settings it is ``OPENAI_BASE_URL``, else OpenAI's own; without a key it is
    ``OPENAI_API_KEY``, which a server that is not OpenAI's may do without. User info of the address is sent as basic
    authentication, in the key's place.

    Raises:
        ValueError: the package is missing, or the address or key.
    """

    def __init__(self, model: str, settings: ChatSettings):
        if importlib.util.find_spec("openai") is None:
            raise ValueError("a language model needs the openai package; pip install 'trueline[llm]'")
        address = settings.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        key = settings.api_key or os.environ.get("OPENAI_API_KEY") or ""
        self.host = _host(address)
        if not key and address == _OPENAI:
            raise ValueError(
                "a language model needs an address or a key; give base_url (or OPENAI_BASE_URL) of your own server, "
                "such as http://localhost:11434/v1, or set OPENAI_API_KEY"
            )
        place = f"{self.host}{urlsplit(address).path.rstrip('/')}"
        self.name, self._asked = redacted(model), model
        self.max_tokens, self._manner = settings.max_tokens, _Manner()
        self.identity = f"{place} {model} {self.max_tokens}"
        self._mask = Mask(secrets_of(address, key))
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_without_secrets)
        self._connect = partial(_client, place, address, key)
        self._client = self._connect()

    def complete(
        self,
        messages: Messages,
        schema: dict[str, Any] | None,
        seconds: float,
        seed: int | None,
        notes: list[str],
    ) -> Completion:
        """As ``Model.complete``; ``again`` of a ChatError says whether another attempt may help."""
        end = time.monotonic() + seconds
        manner = self._manner
        while True:
            left = end - time.monotonic()
            body = self._body(messages, schema, seed, manner)
            try:
                raw = _within(left, partial(self._post, body, left), self._hang_up)
            except _FaultyStatus as fault:
                other = _learn(manner, fault, body)
                if other is None or time.monotonic() >= end:
                    raise self._error(fault) from None
                manner = other
                continue
            if manner != self._manner:
                notes.extend(_changes(self.host, self._manner, manner))
                self._manner = manner
            completion = _completion(raw, self.host)
            if (masked := self._mask(completion.text)) != completion.text:
                notes.append(
                    f"{self.host} wrote the key or the password that it was asked with; it is masked"
                )
            return replace(completion, text=masked)

    def _body(
        self, messages: Messages, schema: dict[str, Any] | None, seed: int | None, manner: _Manner
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._asked,
            "messages": list(messages),
            manner.limit: self.max_tokens,
        }
        body["temperature"] = 0.0 if seed is None else WARM
        if seed is not None:
            body["seed"] = seed
        if schema is not None and manner.format:
            body["response_format"] = {"type": manner.format}
            if manner.format == "json_schema":
                shape = {"name": "answer", "schema": _closed(schema), "strict": True}
                body["response_format"]["json_schema"] = shape
        return {name: value for name, value in body.items() if name not in manner.without}

    def _post(self, body: dict[str, Any], seconds: float) -> bytes:
        import openai

        end = time.monotonic() + seconds
        wait = openai.Timeout(seconds, connect=min(CONNECT, seconds))
        ask = self._client.chat.completions.with_streaming_response.create
        try:
            with ask(**body, timeout=wait) as response:
                return _bounded(response.iter_bytes(), end)
        except openai.APITimeoutError:
            raise ChatError(f"{self.host} did not answer in {seconds:.0f} s", again=True) from None
        except ChatError:
            raise
        except Exception as error:
            # of the SDK, of the HTTP library below it (which one differs), of a broken stream
            for cause in (error, error.__cause__):
                if isinstance(cause, _FaultyStatus):
                    raise cause from None
            reason = self._line(str(error.__cause__ or error) or type(error).__name__)
            raise ChatError(f"{self.host} cannot be reached, or broke off ({reason})", again=True) from None

    def _hang_up(self) -> None:
        """Close the connections, which ends what still reads from them."""
        old, self._client = self._client, self._connect()
        old.close()

    def _error(self, fault: _FaultyStatus) -> ChatError:
        reason = f"status {fault.status}: {self._line(fault.text)}"
        if fault.status in (401, 403):
            return ChatError(f"{self.host} refuses the key ({reason}); set OPENAI_API_KEY")
        if fault.status < 400:
            return ChatError(
                f"{self.host} is elsewhere (status {fault.status}); give the address it leads to"
            )
        again = fault.status in (408, 409, 425, 429) or fault.status >= 500
        return ChatError(f"{self.host} answered with {reason}", again=again, wait=fault.wait)

    def _line(self, text: str) -> str:
        """What a server wrote, as a short line without secrets."""
        try:
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        text = redacted(self._mask(text))
        text = "".join(letter if letter.isprintable() else " " for letter in text[:1000])
        return " ".join(text.split())[:200].rstrip(".") or "nothing"


def _client(place: str, address: str, key: str) -> Any:
    """The SDK's, for ``place``, which is ``address`` without its secrets."""
    import openai

    return openai.OpenAI(
        base_url=place,
        api_key=key or "none",
        max_retries=0,  # ``Chat`` counts and waits
        default_query=dict(parse_qsl(urlsplit(address).query, keep_blank_values=True)),
        http_client=openai.DefaultHttpxClient(
            auth=_user_info(address),
            follow_redirects=False,  # the prompts go where the user says, and nowhere else
            verify=address.lower().startswith("https"),  # a store of certificates takes 0.3 s to load
            event_hooks={"response": [_stop_at_faults]},
        ),
    )


def _host(address: str) -> str:
    """Scheme, host and port: what may stand in messages, without a password or a query."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url: must be an http or https address such as http://localhost:11434/v1")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}{port}"


def _user_info(address: str) -> tuple[str, str] | None:
    parts = urlsplit(address)
    return (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None


def _without_secrets(record: logging.LogRecord) -> bool:
    """Filter of a logger: the HTTP library logs the address of every request."""
    record.msg, record.args = redacted(record.getMessage()), ()
    return True


def _within(seconds: float, call: Callable[[], T], stop: Callable[[], None]) -> T:
    """``call()``, given up after ``seconds``, when ``stop()`` makes it end. Timeouts of HTTP are per read, and a slow
    server has many; one that says "continue" for ever has none."""
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=run, daemon=True, name="trueline-chat").start()
    try:
        value, error = ended.get(timeout=max(seconds, 0) + 0.5)
    except queue.Empty:
        stop()
        raise ChatError(f"no answer in {seconds:.0f} s", again=True) from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # call() returned it


def _stop_at_faults(response: Any) -> None:
    """Hook of the HTTP client: the SDK would read an error's text however long it is."""
    if response.status_code < 300:
        return
    text, length = b"", 0
    for chunk in response.iter_bytes():
        text, length = text + chunk[: MAX_FAULT - length], length + len(chunk)
        if length >= MAX_FAULT:
            break
    wait = response.headers.get("retry-after")
    raise _FaultyStatus(response.status_code, text.decode("utf-8", "replace"), _seconds(wait))


def _seconds(header: str | None) -> float | None:
    """``Retry-After`` in seconds; a date (its other form) and nonsense are None."""
    try:
        wait = float(header or "")
    except ValueError:
        return None
    return max(wait, 0.0) if math.isfinite(wait) else None


def _bounded(chunks: Iterable[bytes], end: float) -> bytes:
    read = bytearray()
    for chunk in chunks:
        read += chunk
        if len(read) > MAX_BODY:
            raise ChatError(f"the answer is longer than {MAX_BODY} bytes", again=True)
        if time.monotonic() > end:
            raise ChatError("the answer did not end in time", again=True)
    return bytes(read)


def _learn(manner: _Manner, fault: _FaultyStatus, body: dict[str, Any]) -> _Manner | None:
    """Another way to ask, by what the server refused; None when there is nothing left to change."""
    text = fault.text.lower()
    if fault.status < 500 and fault.status not in (400, 415, 422):
        return None
    if manner.limit == "max_tokens" and "max_completion_tokens" in text:
        return replace(manner, limit="max_completion_tokens")
    for name in ("temperature", "seed"):
        if name in body and name in text and fault.status < 500:
            return replace(manner, without=manner.without | {name})
    named = ("response_format", "json_schema", "json schema", "grammar", "guided")
    if "response_format" in body and (
        fault.status in (400, 415, 422, 501) or any(word in text for word in named)
    ):
        return replace(manner, format=FORMATS[FORMATS.index(manner.format) + 1])
    return None


def _changes(host: str, before: _Manner, after: _Manner) -> list[str]:
    notes = []
    if after.format != before.format:
        how = "any JSON object" if after.format else "free text"
        notes.append(f"{host} refuses response_format {before.format}; asked for {how} and checked here")
    if gone := after.without - before.without:
        notes.append(f"{host} refuses {' and '.join(sorted(gone))}; asked without")
    return notes


def _closed(schema: Any) -> Any:
    """The schema as strict servers want it: no other keys, and every key required."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key not in ("default", "properties")}
    if isinstance(fields := schema.get("properties"), dict):
        closed["properties"] = {name: _closed(field) for name, field in fields.items()}
        closed |= {"additionalProperties": False, "required": list(fields)}
    return closed


def _completion(raw: bytes, host: str) -> Completion:
    try:
        choice = json.loads(raw)["choices"][0]
        content, cut = choice["message"].get("content"), choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ChatError(f"{host} answered with something that is no chat completion", again=True) from None
    if isinstance(content, list):  # parts, as some servers write them
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    text = content if isinstance(content, str) else ""
    # Half a character, which JSON can hold and UTF-8 cannot: the answer may have to be shown to its model again.
    return Completion(text.encode("utf-8", "replace").decode(), cut)
