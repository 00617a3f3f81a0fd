"""Files of layouts with something wrong: each must be read, or refused with one sentence that names file and line.

fuzz_layouts(folder, count=10_000, seed=0)
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trueline.layout import Layout, read_layouts, write_layouts

Draw = random.Random
WORDS = ("a red apple", "two cats, sitting", "ein Äpfel \u2028 und", "x", "猫 on a mat")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 10**400, 1.5, 1e308, float("nan"), float("-inf"), "", " ", "x" * 3000, "\ud800",
    "a\0b", "0.5", [], {}, [[[]]], {"": {}}, [0, 0, 1, 1], "../a", "NUL", "\u202e",
)  # fmt: skip
BYTES = (
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"\r",
        b"\n",
        b"\r\n",
        b"\xff",
        b"\xc3",
        b"\\ud800",
        b"\\u0000",
        b"\t",
    ),
    *(
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 5000,
        b"-",
        b"//",
        b"'",
    ),
)


def record(draw: Draw) -> dict[str, Any]:
    """One that is right."""
    sides = [[sorted(draw.sample(range(101), 2)) for _ in range(2)] for _ in range(draw.randrange(4))]
    regions = [
        {"phrase": draw.choice(WORDS), "box": [x0 / 100, y0 / 100, x1 / 100, y1 / 100]}
        for (x0, x1), (y0, y1) in sides
    ]
    made: dict[str, Any] = {"schema": 1, "prompt": draw.choice(WORDS), "regions": regions}
    more = {
        "seed": 7,
        "id": "a-1",
        "width": 64,
        "height": 512,
        "negative_prompt": "blur",
        "meta": {"k": [1, {"v": 2}]},
    }
    return made | {key: value for key, value in more.items() if draw.random() < 0.3}


def _odd_value(draw: Draw, text: str) -> str:
    made = json.loads(text)
    at = made
    while True:
        key = draw.choice([*at]) if isinstance(at, dict) else draw.randrange(len(at))
        if not (isinstance(at[key], dict | list) and at[key]) or draw.random() < 0.3:
            break
        at = at[key]
    at[key] = draw.choice(ODD)
    return json.dumps(made)


def _another_key(draw: Draw, text: str) -> str:
    name = draw.choice(["image", "Prompt", "", "\n", "__class__", "prompt "])
    return json.dumps(json.loads(text) | {name: draw.choice(ODD)})


def _key_twice(draw: Draw, text: str) -> str:
    key = draw.choice(["prompt", "regions", "seed", "meta"])
    return f'{{"{key}": {json.dumps(draw.choice(ODD))}, "{key}": {json.dumps(draw.choice(ODD))}, {text[1:]}'


def _nested(draw: Draw, text: str) -> str:
    deep = draw.choice([90, 99, 100, 101, 300, 900, 5000, 100_000])
    inner = draw.choice(["[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "[" * deep])
    key = draw.choice(["meta", "regions", "prompt", "width"])
    return f'{text[:-1]}, "{key}x": {inner}}}' if draw.random() < 0.2 else f'{{"p": 1, "{key}": {inner}}}'


def _deep_meta(draw: Draw, text: str) -> str:
    deep = draw.choice([1, 98, 99, 100, 101, 250, 260, 900])
    return json.dumps({"prompt": "p"})[:-1] + ', "meta": ' + '{"a":' * deep + "1" + "}" * deep + "}"


def _long(draw: Draw, text: str) -> str:
    return json.dumps(json.loads(text) | {"meta": {"x": "y" * draw.choice([999_000, 1_000_000, 3_000_000])}})


MUTATIONS: dict[str, Callable[[Draw, str], str]] = {
    "nothing": lambda draw, text: text,
    "an odd value": _odd_value,
    "another key": _another_key,
    "a key twice": _key_twice,
    "nested": _nested,
    "deep meta": _deep_meta,
    "cut": lambda draw, text: text[: draw.randrange(len(text))],
    "no object": lambda draw, text: draw.choice(["[]", "1", "null", '"a"', f"[{text}]", text + text]),
    "long": _long,
}
WEIGHTS = (16, 6, 1, 2, 2, 2, 2, 1, 0.1)


def _spoilt(draw: Draw, content: bytes) -> bytes:
    """Some bytes put in, or taken out."""
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        at = draw.randrange(len(content) + 1)
        content = content[:at] + draw.choice([*BYTES, b""]) + content[at + draw.choice([0, 0, 1, 5]) :]
    return content


def fuzz_layouts(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Read ``count`` spoilt files; returns how many were read and how many refused.

    Raises:
        AssertionError: a refusal that is no sentence, or a layout that is not read again as it was.
    """
    draw, ends, path = Draw(seed), Counter[str](), folder / "layouts.jsonl"
    for number in range(count):
        lines = []
        for _ in range(draw.choice([1, 1, 2, 4])):
            (kind,) = draw.choices([*MUTATIONS], WEIGHTS)
            lines.append(MUTATIONS[kind](draw, json.dumps(record(draw))))
        end = draw.choice(["\n", "\n", "\r\n", "\n\n"])
        content = _spoilt(draw, end.join(lines).encode("utf-8", "surrogatepass"))
        path.write_bytes(draw.choice([b"", b"", b"\xef\xbb\xbf"]) + content)
        ends[_end(path, f"file {number} of seed {seed}: {content[:300]!r}")] += 1
    return ends


def _end(path: Path, what: str) -> str:
    try:
        layouts = read_layouts(path)
    except ValueError as error:
        said = str(error)
        start, mark, sentence = said.removeprefix(f"{path}, line ").partition(": ")
        assert said.startswith(f"{path}, line ") and mark and start.isdecimal(), f"{what}: {said}"
        assert sentence and "\n" not in said and len(said) < 600 + len(str(path)), f"{what}: {said}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    again = path.with_suffix(".again")
    write_layouts(again, layouts)
    assert read_layouts(again) == layouts, what
    assert all(isinstance(layout, Layout) for layout in layouts)
    return "read"
