"""NSR-1K's files as examples."""

import json
from collections import Counter

import pytest
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.benchmark import Benchmark
from trueline.evaluation.benchmarks.nsr_1k import COUNTING, NSR1K, SPATIAL

DATA = SHARED
needs_data = needs("nsr_1k")

COUNT_ROW = {
    "id": 38699,
    "image_id": 7,
    "num_object": [["vase", 1], ["potted plant", 2]],
    "object_list": [
        ["vase", [0.5, 0.25, 0.25, 0.5]],
        ["potted plant", [0.75, 0.0, 0.5, 0.5]],  # sticks out
        ["potted plant", [0.0, 0.0, 0.0, 0.0]],
    ],
    "prompt": "one vase and two potted plants",
    "sub-type": "two-categories",
    "type": "template",
}
SPATIAL_ROW = {
    "id": 739,
    "image_id": 8,
    "obj1": ["toilet", [0.0, 0.25, 0.25, 0.25]],
    "obj2": ["dog", [0.5, 0.5, 0.25, 0.25]],
    "prompt": "a toilet to the left of a dog",
    "relation": "left",
    "type": "template",
}


def write(folder, counting=(COUNT_ROW,), spatial=(SPATIAL_ROW,)):
    for file, rows in ((COUNTING, counting), (SPATIAL, spatial)):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows if isinstance(rows, str) else json.dumps(list(rows)), encoding="utf-8")
    return folder


def test_examples(tmp_path):
    with pytest.warns(
        UserWarning, match=r"nsr-1k: 1 boxes clipped to the picture, 1 boxes without area dropped"
    ):
        bench = NSR1K(write(tmp_path))
    counting, spatial = bench.examples
    assert (counting.id, counting.category) == ("counting-038699", "two-categories")
    assert counting.prompt == "one vase and two potted plants" and counting.layout.id == counting.id
    assert [(r.phrase, r.box.xyxy) for r in counting.layout.regions] == [
        ("vase", (0.5, 0.25, 0.75, 0.75)),
        ("potted plant", (0.75, 0.0, 1.0, 0.5)),
    ]
    assert counting.truth == {
        "query": 38699,
        "counts": [["vase", 1], ["potted plant", 2]],
        "sub_type": "two-categories",
    }
    assert (spatial.id, spatial.category) == ("spatial-000739", "spatial")
    assert spatial.truth == {"query": 739, "first": "toilet", "second": "dog", "relation": "left"}
    assert [r.box.xyxy for r in spatial.layout.regions] == [(0, 0.25, 0.25, 0.5), (0.5, 0.5, 0.75, 0.75)]
    json.dumps([example.truth for example in bench.examples])
    assert bench.reference(spatial) is None
    bench_as_protocol: Benchmark = bench
    assert "LayoutGPT" in bench_as_protocol.source and "MIT" in bench_as_protocol.source


def test_more_boxes_than_a_layout_holds(tmp_path):
    row = COUNT_ROW | {"object_list": [["vase", [0.0, 0.0, 0.5, 0.5]]] * 33}
    with pytest.warns(UserWarning, match="3 boxes after the 30th dropped"):
        bench = NSR1K(write(tmp_path, [row]))
    assert len(bench.examples[0].layout.regions) == 30


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "x"}, "id: must be a whole number"),
        ({"sub-type": "triple"}, "sub-type: must be one of"),
        ({"num_object": []}, "num_object: must name some categories"),
        ({"num_object": [["vase", 1]], "sub-type": "comparison"}, "num_object: must name two categories"),
        ({"num_object": [["vase", -1]]}, "num_object: must be a whole number"),
        ({"num_object": [[None, 1]]}, "a category must be text"),
        ({"object_list": [["vase", [0.1, 0.2]]]}, "not enough values"),
    ],
)
def test_a_wrong_counting_row_is_named(tmp_path, change, problem):
    with pytest.raises(ValueError, match=rf"counting\.val\.json, row 1: {problem}") as caught:
        NSR1K(write(tmp_path, [COUNT_ROW | change]))
    assert "weixi-feng/LayoutGPT" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"relation": "beside"}, "relation: must be one of"), ({"obj1": None}, ""), ({"obj2": ["dog"]}, "")],
)
def test_a_wrong_spatial_row_is_named(tmp_path, change, problem):
    with pytest.raises(ValueError, match=rf"spatial\.val\.json, row 1: {problem}"):
        NSR1K(write(tmp_path, [], [SPATIAL_ROW | change]))


def test_a_missing_key_and_a_repeated_id_are_named(tmp_path):
    row = {key: value for key, value in SPATIAL_ROW.items() if key != "relation"}
    with pytest.raises(ValueError, match=r"row 1: 'relation' is missing"):
        NSR1K(write(tmp_path, [], [row]))
    with pytest.raises(ValueError, match=r"row 2: .*spatial-000739.* twice"):
        NSR1K(write(tmp_path, [], [SPATIAL_ROW, SPATIAL_ROW]))


def test_missing_file_names_source_licence_and_cure(tmp_path, monkeypatch):
    with pytest.raises(ValueError) as caught:
        NSR1K(tmp_path)
    for part in ("counting.val.json", "weixi-feng/LayoutGPT", "MIT", "; data, or"):
        assert part in str(caught.value)
    monkeypatch.delenv("TRUELINE_DATA", raising=False)
    with pytest.raises(ValueError, match=r"^data: .*weixi-feng/LayoutGPT.*TRUELINE_DATA"):
        NSR1K()


def test_broken_json_and_wrong_encoding(tmp_path):
    folder = write(tmp_path, '[\n{"id": 1,\n')
    with pytest.raises(ValueError, match=r"counting\.val\.json: not whole JSON \(line 3"):
        NSR1K(folder)
    (folder / COUNTING).write_bytes(b'[\n{"prompt": "caf\xe9"}]')
    with pytest.raises(ValueError, match=r"counting\.val\.json: not UTF-8 \(line 2"):
        NSR1K(folder)


@needs_data
def test_all_prompts_are_there():
    with pytest.warns(UserWarning, match="38 boxes without area dropped"):
        bench = NSR1K(DATA)
    assert len(bench.examples) == 762 + 283 == 1045
    assert Counter(example.category for example in bench.examples) == {
        "real": 351,
        "two-categories": 197,
        "single-category": 114,
        "comparison": 100,
        "spatial": 283,
    }
    assert sum(len(example.truth.get("counts", ())) for example in bench.examples) == 1196
    relations = Counter(e.truth["relation"] for e in bench.examples if e.category == "spatial")
    assert relations == {"top": 68, "right": 66, "left": 65, "bottom": 54, "next to": 30}
    assert len({example.id for example in bench.examples}) == 1045
    assert sum(not example.layout.regions for example in bench.examples) == 19, (
        "spatial prompts without boxes"
    )
    assert bench.left_out == {"boxes without area dropped": 38}
