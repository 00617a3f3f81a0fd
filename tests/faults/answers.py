"""A server that gives hostile answers: each question ends in an answer, a stand-in that is said, or one sentence.

fuzz_answers(folder, count=200, seed=0)
"""

import base64
import gzip
import json
import logging
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_server import Act, ChatServer, break_off, close, completion, drip, fail, flood, hang, raw, say
from pydantic import BaseModel

from faults.layouts import BYTES, MUTATIONS, ODD
from trueline.chat import Chat, ChatError
from trueline.chat.answered import Answered
from trueline.layout import MAX_REGIONS, read_layouts, write_layouts
from trueline.perception.reason import LLMReasoner
from trueline.planner.llm import LLMPlanner

KEY = "sk-hostile-7f3a9c1e5bd2"
PROMPT = "a red apple to the left of two cats"
TAGS = ("apple", "cat", "dog")
TIMEOUT = 1.0  #: seconds for a question
SECONDS = TIMEOUT + 8  #: on a machine that does much else
MEMORY = 150_000_000  #: bytes that a question may add, while the server is in the same process
BOXES = (
    [0, 128, 128, 256], [300, 300, 200, 200], [-900, -900, 9000, 9000], [600, 600, 700, 700], [5, 5, 5, 5],
    [10**400, 0, 1, 1], [1e308, -1e308, 1e308, 1e308], ["NaN", "Infinity", "-inf", "nan"], [float("nan")] * 4,
    [0, 0, float("inf"), float("inf")], [None] * 4, [True] * 4, [0, 0, 1], [[0, 0, 9, 9]], "0 0 9 9", {"x0": 1},
)  # fmt: skip
PHRASES = (
    "a red apple",
    "two cats",
    "",
    "\ud800 cat",
    "a\0cat",
    "\u202ecat",
    "x" * 3000,
    KEY,
    f"a cat {KEY}",
)

Draw = random.Random


class Number(BaseModel):
    number: float


def _things(draw: Draw, count: int) -> dict[str, Any]:
    """An answer to all questions at once, with ``count`` entries that are right or wrong."""

    def odd(right: Any, wrong: Any) -> Any:
        return right if draw.random() < 0.6 else draw.choice(wrong)

    regions = [
        {"object": odd("cat", ODD), "phrase": odd("two cats", PHRASES), "box": odd([0, 128, 128, 256], BOXES)}
        for _ in range(count)
    ]
    objects = [
        {
            "tag": odd(draw.choice(TAGS), PHRASES),
            "likelihood": odd("certain", ODD),
            "phrase": odd("two cats", PHRASES),
        }
        for _ in range(count)
    ]
    return {"regions": regions, "objects": objects, "number": odd(4, ODD)}


def _css(draw: Draw) -> str:
    sides = ("9px", "-9px", "NaNpx", "1e999px", "9" * 400 + "px", "0", "300%", "", "\ud800")
    names = ("width", "height", "left", "top")
    rules = [
        f"{draw.choice(PHRASES)} {{{'; '.join(f'{name}: {draw.choice(sides)}' for name in names)}}}"
        for _ in range(draw.choice([1, 3, 10_000]))
    ]
    return "\n".join(rules)


def _text(draw: Draw) -> Any:
    """What the model wrote."""
    text = json.dumps(_things(draw, draw.choice([0, 1, 3, 70])))
    kind = draw.choice(["as it is", "as it is", *MUTATIONS, "css", "css", "many", "key twice", "deep", "key"])
    if kind in MUTATIONS and kind not in ("key twice", "deep meta"):
        return MUTATIONS[kind](draw, text)
    coded = [
        base64.b64encode(KEY.encode()).decode(),
        KEY.encode().hex(),
        KEY,
        "".join(f"\\u{ord(c):04x}" for c in KEY),
    ]
    ways: dict[str, Callable[[], Any]] = {
        "css": lambda: _css(draw),
        "many": lambda: json.dumps(_things(draw, 10_000)),
        "key twice": lambda: f'{{"regions": 1, "regions": [], "number": 1, {text[1:]}',
        "deep": lambda: draw.choice(["[", '{"regions":', "```", "'", "<think>"]) * draw.choice([900, 200_000]),
        "key": lambda: json.dumps({"regions": [{"phrase": f"cat {draw.choice(coded)}", "box": [0, 0, 99, 99]}],
                                   "number": 4, "note": draw.choice(coded)}),
    }  # fmt: skip
    return ways.get(kind, lambda: text)()


def _envelope(draw: Draw) -> bytes:
    """A body of a server that means well, or not at all."""
    whole = json.loads(completion(_text(draw)))
    choice = whole["choices"][0]
    spoil: list[Callable[[], Any]] = [
        lambda: whole.update(choices=draw.choice([None, [], {}, [None], [[]], "x", 1])),
        lambda: choice.update(message=draw.choice([None, [], "x", {}, {"content": None}])),
        lambda: choice["message"].update(content=draw.choice([*ODD, [{"text": 1}, 2], [{"text": "\ud800"}]])),
        lambda: choice.update(message={"content": None, "tool_calls": [{"function": {"name": "rm"}}]}),
        lambda: choice.update(finish_reason=draw.choice([*ODD, "length", "content_filter"])),
        lambda: whole.pop("choices"),
        lambda: whole.update(usage=draw.choice(ODD), error=draw.choice(ODD)),
        lambda: None,
        lambda: None,
    ]
    draw.choice(spoil)()
    body = json.dumps(whole, ensure_ascii=draw.random() < 0.8).encode("utf-8", "surrogatepass")
    for _ in range(draw.choice([0, 0, 1, 3])):
        at = draw.randrange(len(body))
        body = body[:at] + draw.choice([*BYTES, b"", KEY.encode()]) + body[at + draw.choice([0, 1, 5]) :]
    bodies = (
        body[: len(body) // 2],
        b"",
        b"<html>" + KEY.encode() + b"</html>",
        b"[" * 900_000,
        b"null",
        b"\xff\xfe",
    )
    return draw.choice(bodies) if draw.random() < 0.2 else body


def _written(*pieces: bytes, pause: bool = False) -> Act:
    """Bytes as they are, and the connection closes; ``pause``: only after the client is gone."""

    def act(handler: Any) -> None:
        for piece in pieces:
            handler.wfile.write(piece)
        if pause:
            handler.server.owner.stopped.wait(4 * TIMEOUT)
        handler.close_connection = True

    return act


def _without_end(start: bytes, piece: bytes) -> Act:
    def act(handler: Any) -> None:
        handler.wfile.write(start)
        while not handler.server.owner.stopped.is_set():
            handler.wfile.write(piece)

    return act


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(300_000_000), 9)
WIRE: dict[str, Act] = {
    "length too long": break_off,
    "length too short": _written(OK + b"Content-Length: 9\r\n\r\n" + completion("x")),
    "length negative": _written(OK + b"Content-Length: -9\r\n\r\n" + completion("x")),
    "length no number": _written(OK + b"Content-Length: \xff\r\n\r\n" + completion("x")),
    "lengths that differ": _written(OK + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n" + completion("x")),
    "length of a planet": _written(OK + b"Content-Length: 999999999999999999\r\n\r\nx", pause=True),
    "chunks that stop": _written(CHUNKED + b'5\r\n{"cho\r\n', pause=True),
    "chunks that break off": _written(CHUNKED + b"ffffffff\r\nx"),
    "chunks of no size": _written(CHUNKED + b"zz\r\nx\r\n"),
    "no HTTP": _written(b"ICY 200 OK\r\n\r\nx"),
    "a header without end": _without_end(OK + b"X: ", b"a" * 65536),
    "headers without end": _without_end(OK, b"X: aaaaaaaaaaaaaaaaaaaa\r\n" * 1000),
    "continue without end": _without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a bomb": _written(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB),
    "a fault's bomb": _written(
        b"HTTP/1.1 500 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
    ),
    "no gzip": _written(OK + b"Content-Encoding: gzip\r\n\r\nxxxx"),
    "nothing": _written(b""),
    "hangs": hang,
    "closes": close,
    "drips": drip("{}", 0.2),
    "floods": flood(),
    "floods a fault": flood(500),
    "huge": lambda handler: raw(completion("y" * 20_000_000))(handler),
}


def _act(draw: Draw) -> tuple[str, Act]:
    kind = draw.choices(["says", "envelope", "status", "wire"], [4, 4, 3, 3])[0]
    if kind == "says":
        text = _text(draw)
        return kind, say(text) if isinstance(text, str) else raw(completion(text))
    if kind == "envelope":
        return kind, raw(_envelope(draw))
    if kind == "wire":
        name = draw.choice([*WIRE])
        return name, WIRE[name]
    status = draw.choice([204, 301, 302, 308, 400, 401, 403, 404, 418, 422, 429, 500, 503, 599])
    said = draw.choice(
        [f"no: {KEY}", "no response_format, temperature, seed or max_completion_tokens", "\ud800\0"]
    )
    headers = {
        "Retry_After": draw.choice(["0", "-5", "1e300", "NaN", "inf", "99999999999", "soon", KEY, "9" * 500]),
        "Location": draw.choice(["/v1/chat/completions", f"http://x/{KEY}", "file:///etc/passwd", "\t"]),
    }
    return f"status {status}", fail(status, said, **headers)


GOOD = say(
    {
        "number": 4,
        "regions": [{"object": "cat", "phrase": "two cats", "box": [9, 9, 99, 99]}],
        "objects": [{"tag": tag, "likelihood": "possible"} for tag in TAGS],
    }
)


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def nobody_asks() -> None:
    """No thread goes on with a question that was given up; one within a read ends with that."""
    end = time.monotonic() + SECONDS
    while asking := [thread for thread in threading.enumerate() if thread.name == "trueline-chat"]:
        assert time.monotonic() < end, f"{len(asking)} threads still read what nobody waits for"
        time.sleep(0.05)


def _memory() -> int:
    """The most bytes that this process has held since the last call."""
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) * 1024


def fuzz_answers(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Ask ``count`` questions of a server that is hostile; returns how many ended how.

    Raises:
        AssertionError: an end that is none of those documented, a box that is none, a stand-in that is not said, too
            many seconds or bytes, or the key in what is written.
    """
    draw, ends, log, by = Draw(seed), Counter[str](), _Log(), list[str]()
    before = os.environ.get("OPENAI_API_KEY")
    os.environ["OPENAI_API_KEY"] = KEY
    logging.getLogger().addHandler(log)
    try:
        with ChatServer(say("")) as server:
            for number in range(count):
                acts = [_act(draw), _act(draw) if draw.random() < 0.7 else ("good", GOOD)]
                server.acts = [act for _, act in acts]
                what = f"question {number} of seed {seed} ({', '.join(name for name, _ in acts)})"
                settings = {
                    "base_url": server.url, "timeout": TIMEOUT, "retries": 1, "cache": folder / "cache"
                }  # fmt: skip
                _memory()
                held, began = _memory(), time.monotonic()
                end, said = _asked(draw.choice([*QUESTIONS]), f"m{number}", settings, folder, by, what)
                seconds, more = time.monotonic() - began, _memory() - held
                assert seconds < SECONDS, f"{what}: {seconds:.1f} s"
                assert more < MEMORY, f"{what}: {more / 1e6:.0f} MB"
                (folder / f"{number}.txt").write_text("\n".join([*said, *log.lines]), encoding="utf-8")
                _no_key(folder, what)
                ends[end] += 1
                log.lines.clear()
            nobody_asks()
    finally:
        logging.getLogger().removeHandler(log)
        os.environ.pop("OPENAI_API_KEY")
        os.environ.update({"OPENAI_API_KEY": before} if before else {})
    counted = Answered.of("llm", by)
    assert counted.total == len(by) and sum(counted.stand_ins.values()) == ends["plan: rules"]
    return ends


def _asked(
    question: str, model: str, settings: dict[str, Any], folder: Path, by: list[str], what: str
) -> tuple[str, list[str]]:
    """How it ended, and all that was said."""
    try:
        return QUESTIONS[question](model, settings, folder, by)
    except ChatError as error:
        sentence = str(error)
        assert question == "ask", f"{what}: nobody stands in: {sentence}"
        assert sentence and "\n" not in sentence and len(sentence) < 1500, f"{what}: {sentence!r}"
        return f"{question}: refused", [sentence]
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def _plan(
    style: str, model: str, settings: dict[str, Any], folder: Path, by: list[str]
) -> tuple[str, list[str]]:
    planned = LLMPlanner.of(model, style=style, **settings).plan(PROMPT)
    regions = planned.layout.regions
    assert 0 < len(regions) <= MAX_REGIONS and len(planned.names) == len(regions)
    assert all(math.isfinite(side) and 0 <= side <= 1 for each in regions for side in each.box.xyxy), regions
    write_layouts(folder / f"{model}.jsonl", [planned.layout])
    assert read_layouts(folder / f"{model}.jsonl") == [planned.layout]
    stood_in = planned.planner == "rules"
    assert stood_in == any("the rules planned instead" in note for note in planned.notes), planned
    by.append("rules" if stood_in else "")
    return f"plan: {'rules' if stood_in else 'model'}", [*planned.notes, *planned.names, planned.planner]


def _reason(model: str, settings: dict[str, Any], folder: Path, by: list[str]) -> tuple[str, list[str]]:
    made = LLMReasoner.of(model, **settings).reason(PROMPT, TAGS)
    assert list(dict.fromkeys(each.tag for each in made.objects)) == list(TAGS), made
    assert all(each.score in (0, 0.5, 2) for each in made.objects), made
    assert all(each.phrase is None or each.phrase in PROMPT for each in made.objects), made
    assert not made.by_rules or any("rules judge" in note or "not used" in note for note in made.notes), made
    whose = "rules" if made.reasoner == "rules" else "both" if made.by_rules else "model"
    return f"reason: {whose}", [*made.notes, repr(made)]


def _ask(model: str, settings: dict[str, Any], folder: Path, by: list[str]) -> tuple[str, list[str]]:
    notes: list[str] = []
    made = Chat.of(model, **settings).ask([{"role": "user", "content": "4?"}], Number, notes=notes)
    return "ask: model", [repr(made), *notes]


QUESTIONS: dict[str, Callable[..., tuple[str, list[str]]]] = {
    "plan": lambda *about: _plan("json", *about),
    "plan in css": lambda *about: _plan("css", *about),
    "reason": _reason,
    "ask": _ask,
}


def _no_key(folder: Path, what: str) -> None:
    """Looks through all files, which it then removes: each is looked at once."""
    for path in [each for each in folder.rglob("*") if each.is_file()]:
        content = path.read_text(encoding="utf-8").lower()
        content += content.encode().decode("unicode_escape", "replace").lower()
        for form in (KEY, base64.b64encode(KEY.encode()).decode()[:-4], KEY.encode().hex()):
            assert form.lower() not in content, f"{what}: the key is in {path.name}: {content[:500]}"
        path.unlink()
