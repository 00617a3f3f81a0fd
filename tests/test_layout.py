"""Layouts: one clear sentence for everything that is wrong, and a round trip for everything that is right."""

import json
import math
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from faults import often
from faults.layouts import fuzz_layouts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trueline.boxes import Box, decode_mask, encode_mask, iou
from trueline.errors import FieldError
from trueline.layout import (
    MAX_DEPTH,
    MAX_LINE,
    MAX_REGIONS,
    Layout,
    Region,
    lines_of,
    read_layouts,
    write_layouts,
)

APPLE = Region("a red apple", (0.05, 0.35, 0.40, 0.70))


def test_positional_construction_and_defaults():
    layout = Layout("a red apple", regions=[APPLE])
    assert layout.regions == (APPLE,)
    assert (layout.negative_prompt, layout.width, layout.seed, layout.id, layout.meta) == (
        "",
        None,
        None,
        None,
        {},
    )
    assert Region("a red apple", [0.05, 0.35, 0.40, 0.70]) == APPLE
    assert Region("a red apple", np.float32([0.25, 0.25, 0.5, 0.75])).box == Box(0.25, 0.25, 0.5, 0.75)


def test_box_geometry():
    box = Box(0.25, 0.5, 0.75, 1.0)
    assert (box.width, box.height, box.area) == (0.5, 0.5, 0.25)
    assert box.pixels(128, 64) == (32, 32, 96, 64)
    assert Box(0.995, 0, 1, 1).pixels(64, 64) == (63, 0, 64, 64), "never empty"
    assert iou(box.xyxy, box.xyxy) == 1
    assert iou(box.xyxy, (0.0, 0.0, 0.2, 0.2)) == 0
    assert iou(box.xyxy, (0.5, 0.5, 1.0, 1.0)) == pytest.approx(1 / 3)


def test_frozen_and_hashable():
    layout = Layout("p", regions=[APPLE], meta={"note": [1]})
    twin = Layout("p", regions=[APPLE], meta={"note": [1]})
    assert layout == twin and hash(layout) == hash(twin) and len({APPLE, layout, twin}) == 2
    with pytest.raises(ValueError):
        layout.prompt = "other"
    with pytest.raises(ValueError):
        APPLE.box.x0 = 0.1


def test_meta_is_a_copy_and_no_default_is_shared():
    mine = {"a": [1]}
    layout = Layout("p", meta=mine)
    mine["a"].append(2)
    assert layout.meta == {"a": [1]}
    Layout("p").meta["x"] = 1
    assert Layout("p").meta == {}


INVERTED = "x0 must be smaller than x1 (got 0.8 and 0.2); give the box as x0,y0,x1,y1"
BAD = [
    (lambda: Box(0.8, 0, 0.2, 1), f"box: {INVERTED}"),
    (lambda: Region("a", (0.8, 0, 0.2, 1)), f"box: {INVERTED}"),
    (lambda: Layout("p", [APPLE, {"phrase": "a", "box": [0.8, 0, 0.2, 1]}]), f"regions[1].box: {INVERTED}"),
    (lambda: Box(0, 0.5, 1, 0.5), "box: y0 must be smaller than y1"),
    (lambda: Region("a", (0, 0, 1.5, 1)), "box.x1: must be between 0 and 1 (got 1.5); divide pixels by"),
    (lambda: Region("a", (0, 0, math.nan, 1)), "box.x1: must be between 0 and 1 (got nan)"),
    (lambda: Region("a", (-math.inf, 0, 1, 1)), "box.x0: must be between 0 and 1 (got -inf)"),
    (lambda: Region("a", (0, 0, 10**400, 1)), "box.x1: must be between 0 and 1 (got inf)"),
    (lambda: Region("a", (True, 0, 1, 1)), "box.x0: must be a number (got True)"),
    (lambda: Region("a", (0, 0, "1", 1)), "box.x1: must be a number (got '1')"),
    (lambda: Region("a", (0, 0, 1)), "box: must be four numbers"),
    (lambda: Box(0, 0, 0.005, 0.005), "box: its area 2.5e-05 is below 0.0001"),
    (lambda: Box(0, 0, 1, 1, 1), "box: takes at most 4 values"),
    (lambda: Layout("p", prompt="q"), "prompt: given twice"),
    (
        lambda: Layout("p", [APPLE] * (MAX_REGIONS + 1)),
        "regions: at most 30 regions fit in a picture (got 31)",
    ),
    (lambda: Layout("p", "apple"), "regions: must be a list of regions"),
    (lambda: Layout("p", [3]), "regions[0]: "),
    (lambda: Layout(), "prompt: is missing"),
    (lambda: Layout(""), "prompt: is empty"),
    (lambda: Layout(" \n"), "prompt: is empty"),
    (lambda: Layout(7), "prompt: must be text (got 7)"),
    (lambda: Layout("x" * 2001), "prompt: must have at most 2000 characters (got 2001)"),
    (lambda: Layout("\ud800"), "prompt: must be text that UTF-8 can hold"),
    (lambda: Layout("a\0b"), "prompt: must be text that UTF-8 can hold"),
    (lambda: Layout("p", negative_prompt="x" * 2001), "negative_prompt: must have at most 2000"),
    (lambda: Region("x" * 300, (0, 0, 1, 1)), "phrase: must have at most 256 characters (got 300)"),
    (lambda: Region("", (0, 0, 1, 1)), "phrase: is empty"),
    (lambda: Region("a", (0, 0, 1, 1), negative="x" * 257), "negative: must have at most 256"),
    (lambda: Region("a", (0, 0, 1, 1), label=" "), "label: is empty; write at least one word"),
    (lambda: Layout("p", width=100), "width: must be a multiple of 8 from 64 to 2048 (got 100)"),
    (lambda: Layout("p", height=4096), "height: must be a multiple of 8"),
    (lambda: Layout("p", width=64.0), "width: must be a whole number (got 64.0)"),
    (lambda: Layout("p", seed=-1), "seed: must be a whole number from 0"),
    (lambda: Layout("p", seed=True), "seed: must be a whole number (got True)"),
    (lambda: Layout("p", id="../etc"), "id: must be safe as a file name (got '../etc')"),
    (lambda: Layout("p", id="a."), "id: must be safe as a file name"),
    (lambda: Layout("p", id="NUL.png"), "id: must be safe as a file name"),
    (lambda: Layout("p", meta={"a": math.nan}), "meta: must hold only JSON values"),
    (lambda: Layout("p", meta={"a": {1, 2}}), "meta: must hold only JSON values"),
    (lambda: Layout("p", bogus=1), "bogus: unknown key; Layout has prompt, regions"),
    (lambda: Layout.from_record({"prompt": "p", "schema": 2}), "schema: must be 1 (got 2)"),
    (lambda: Layout.from_record([1]), "layout: a record must be a JSON object"),
    (lambda: Region("a", (0, 0, 1, 1), "2x2:1,2"), "mask: its runs must add up to 4 pixels (got 3)"),
    (lambda: Region("a", (0, 0, 1, 1), "2x2:4"), "mask: is empty"),
    (lambda: Region("a", (0, 0, 1, 1), "junk"), 'mask: must be "HxW:runs"'),
    (lambda: Region("a", (0, 0, 1, 1), np.zeros((2, 2))), "mask: must be a boolean H x W array"),
]


@pytest.mark.parametrize(("make", "sentence"), BAD, ids=[sentence[:40] for _, sentence in BAD])
def test_one_sentence_for_each_mistake(make, sentence):
    with pytest.raises(FieldError) as caught:
        make()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_mask_round_trip():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (64, 64)):
        mask = rng.random(shape) < 0.5
        mask[0, 0] = True
        region = Region("a", (0, 0, 1, 1), mask)
        np.testing.assert_array_equal(region.mask_array(), mask)
        assert Region(**json.loads(region.model_dump_json())) == region
    assert encode_mask(np.array([[False, True], [True, False]])) == "2x2:1,2,1"
    assert decode_mask("1x3:0,1,1,1").tolist() == [[True, False, True]]
    assert APPLE.mask_array() is None


def test_a_region_without_a_label_is_written_as_before_there_were_labels():
    bare, told = Region("a", (0, 0, 1, 1)), Region("a", (0, 0, 1, 1), label="b")
    assert list(bare.model_dump(mode="json")) == ["phrase", "box", "mask", "negative"]
    assert told.model_dump(mode="json", exclude_defaults=True) == {
        "phrase": "a",
        "box": [0, 0, 1, 1],
        "label": "b",
    }


def test_files(tmp_path):
    path = tmp_path / "layouts.jsonl"
    layouts = [
        Layout(
            "ein Äpfel \u2028 und",
            regions=[APPLE, Region("b", (0, 0, 1, 1), negative="c", label="d")],
            seed=3,
            id="a-1",
        ),
        Layout("q", negative_prompt="n", width=64, height=128, meta={"k": {"v": [None, 1.5]}}),
    ]
    write_layouts(path, layouts)
    assert read_layouts(path) == layouts
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [record["schema"] for record in records] == [1, 1]
    assert records[0]["regions"][0] == {"phrase": "a red apple", "box": [0.05, 0.35, 0.4, 0.7]}
    assert "width" not in records[0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            '{"prompt": "p", "regions": [{"phrase": "a", "box": [0.8, 0, 0.2, 1]}]}',
            f"regions[0].box: {INVERTED}",
        ),
        ("{nope", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": "\\ud800"}', "prompt: must be text"),
        ('{"prompt": "' + "x" * 1_000_001 + '"}', "a record has at most 1000000 characters"),
        ('{"prompt": "p", "seed": NaN}', "seed: must be a whole number (got nan)"),
        ('{"prompt": "p", "' + "x" * 5000 + '": 1}', "'" + "x" * 56 + "...: unknown key; Layout has"),
        ('{"prompt": "p", "\\ud800": 1}', r"layout: holds text that UTF-8 cannot (got '\ud800'); remove it"),
        ('{"prompt": "p", "prompt": "q"}', "the key 'prompt' stands twice in one object; keep one"),
        ('{"prompt": "p", "meta": {"a": {"b": 1, "c": 2, "b": 1}}}', "the key 'b' stands twice"),
        ('{"prompt": "p", "seed": ' + "9" * 5000 + "}", "holds a number of too many digits"),
        (
            '{"prompt": "p", "meta": ' + '{"a":' * 101 + "1" + "}" * 102,
            "meta: must be nested at most 100 deep",
        ),
    ],
)
def test_file_errors_name_file_and_line(tmp_path, line, sentence):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(ValueError) as caught:
        read_layouts(path)
    assert str(caught.value).startswith(f"{path}, line 3: {sentence}")


def test_a_value_may_be_nested_as_deep_as_it_can_be_read(tmp_path):
    """Where the sentence on it is what the stack has no room for, too."""
    path, said = tmp_path / "deep.jsonl", set()
    for deep in range(1, 1100, 3):
        path.write_text('{"prompt": "p", "width": ' + "[" * deep + "]" * deep + "}")
        with pytest.raises(ValueError, match="line 1: ") as caught:
            read_layouts(path)
        said.add(str(caught.value).partition(": ")[2][:22])
    assert said == {"width: must be a whole", "nested too deeply; a r"}


def test_a_byte_order_mark_and_ends_of_lines_of_windows(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [layout.prompt for layout in read_layouts(path)] == ["a", "b"]
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n\xef\xbb\xbf{"prompt": "b"}')
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_layouts(path)


def test_meta_as_deep_as_it_may_be_is_written_and_read(tmp_path):
    meta = 1
    for _ in range(MAX_DEPTH):
        meta = {"a": meta}
    layout = Layout("p", meta=meta)
    write_layouts(tmp_path / "deep.jsonl", [layout])
    assert read_layouts(tmp_path / "deep.jsonl") == [layout]
    with pytest.raises(FieldError, match=r"^meta: must be nested at most 100 deep"):
        Layout("p", meta={"a": meta})


def test_a_line_of_any_length_is_not_read_into_memory(tmp_path):
    """A file of 4 GB, sparse, with one line; and what comes after a long line is still found."""
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "fine"}\n')
        file.truncate(4 << 30)
    tracemalloc.start()
    with pytest.raises(ValueError, match="line 2: a record has at most 1000000 characters"):
        read_layouts(path)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    path.write_bytes(b"x" * 3_000_001 + b"\nb\n" + b"c" * MAX_LINE + b"\n\nd")
    assert [(number, len(line)) for number, line in lines_of(path)] == [
        (1, MAX_LINE + 1), (2, 1), (3, MAX_LINE), (4, 0), (5, 1)
    ]  # fmt: skip


@pytest.mark.faults
def test_spoilt_files_are_read_or_refused_with_one_sentence(tmp_path):
    ends = fuzz_layouts(tmp_path, count=often(300, 10_000))
    print(ends)
    assert min(ends["read"], ends["refused"]) > 30


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1: prompt: must be text that UTF-8 can hold"):
        read_layouts(path)


def test_the_module_imports_neither_torch_nor_numpy():
    code = "import sys, trueline, trueline.layout; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


number = st.one_of(st.floats(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 0, 1, -1, True, None, "1"]))
text = st.one_of(st.text(max_size=4), st.sampled_from(["a cat", "x" * 300, "y" * 2001, 3, None]))
box = st.one_of(
    st.sampled_from([[0.1, 0.1, 0.9, 0.9], [0.9, 0, 0.1, 1], [0, 0, 1], {"x0": 0.5}, "box"]),
    st.tuples(number, number, number, number),
)
REGION = {"phrase": text, "box": box, "mask": text, "negative": text, "label": text, "extra": text}
RECORD = {
    "regions": st.one_of(text, st.just([{"phrase": "a", "box": [0, 0, 1, 1]}] * 31)),
    "negative_prompt": text,
    "width": st.one_of(st.integers(), st.sampled_from([64, 512, 64.0, None, "64"])),
    "height": st.sampled_from([64, 512, 65, -8, True]),
    "seed": st.one_of(st.integers(), number),
    "id": text,
    "meta": st.one_of(text, st.dictionaries(text, number, max_size=1)),
    "schema": st.sampled_from([1, 2, None]),
    "other": number,
}


@st.composite
def records(draw):
    """A record with up to three regions and with two, one or none of its fields drawn wild."""
    record = {"prompt": draw(text)}
    count = draw(st.integers(0, 3))
    record["regions"] = [
        {
            key: draw(REGION[key])
            for key in (
                "phrase",
                "box",
                *draw(st.sampled_from([(), ("mask",), ("negative",), ("label",), ("extra",)])),
            )
        }
        for _ in range(count)
    ]
    for key in draw(
        st.sampled_from([(), *((a,) for a in RECORD), *((a, b) for a in RECORD for b in RECORD)])
    ):
        record[key] = draw(RECORD[key])
    return record


FIELD = r"(schema|other|prompt|negative_prompt|width|height|seed|id|meta|regions(\[\d+\](\.\w+)*)?): \S"


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(records())
def test_fuzz_gives_a_layout_or_a_value_error_that_names_a_field(data):
    try:
        layout = Layout.from_record(data)
    except ValueError as error:
        assert re.match(FIELD, str(error)) and "\n" not in str(error)
    else:
        assert Layout.from_record(json.loads(json.dumps(layout.to_record()))) == layout
