"""A real HTTP server of the shape of OpenAI's ``/v1/chat/completions``, which answers as a test says."""

import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Act = Callable[["_Handler"], None]


def isolate(monkeypatch: Any) -> None:
    """Neither the user's own settings nor a proxy, and next to no waiting between attempts."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "TRUELINE_LLM", "TRUELINE_CACHE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("trueline.chat.asking.PAUSE", 0.01)


class ChatServer:
    """``with ChatServer(say("..."), fail(500)) as server``: one act a request, the last one for all that follow.

    An act may be a function of the request's body that returns the act. ``requests`` are the bodies that came,
    ``headers`` what came with them, by names in lower case, ``paths`` what was asked for, with its query.
    """

    def __init__(self, *acts: Any):
        self.acts, self.requests, self.headers, self.paths = list(acts), [], [], []
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.server.owner = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    def next(self, body: dict[str, Any], headers: dict[str, str]) -> Act:
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            return self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.partition("?")[0] != "/v1/chat/completions":
            return fail(404, f"no {self.path}")(self)
        self.server.owner.paths.append(self.path)
        act = self.server.owner.next(body, {name.lower(): value for name, value in self.headers.items()})
        try:
            while (after := act(body if getattr(act, "of_body", False) else self)) is not None:
                act = after
        except OSError:  # the client is gone
            pass

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def completion(content: Any, finish: str = "stop") -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "test", "choices": [choice]}
    return json.dumps(whole).encode()


def say(content: Any, finish: str = "stop") -> Act:
    text = content if isinstance(content, str | None) else json.dumps(content)
    return lambda handler: handler.reply(200, completion(text, finish))


def raw(content: bytes) -> Act:
    return lambda handler: handler.reply(200, content)


def fail(status: int, message: str = "out of order", **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(status, json.dumps({"error": {"message": message}}).encode(), named)


def by(choose: Callable[[dict[str, Any]], Act]) -> Act:
    """The act that ``choose`` makes of the request's body."""
    choose.of_body = True  # type: ignore[attr-defined]
    return choose  # type: ignore[return-value]


def hang(handler: _Handler) -> None:
    handler.server.owner.stopped.wait(60)


def close(handler: _Handler) -> None:
    handler.connection.close()


def break_off(handler: _Handler) -> None:
    """Half of what was promised, then the connection closes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("half")[:40])
    handler.close_connection = True


def drip(content: str, seconds: float) -> Act:
    """A byte every ``seconds``: no single read is slow."""

    def act(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(completion(content))))
        handler.end_headers()
        for byte in completion(content):
            handler.wfile.write(bytes([byte]))
            if handler.server.owner.stopped.wait(seconds):
                return

    return act


def flood(status: int = 200) -> Act:
    """An answer without an end."""

    def act(handler: _Handler) -> None:
        handler.send_response(status)
        handler.end_headers()
        while not handler.server.owner.stopped.is_set():
            handler.wfile.write(b'{"a": "' + b"a" * 65536)

    return act
