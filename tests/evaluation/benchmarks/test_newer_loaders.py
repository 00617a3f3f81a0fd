"""COCO-MIG's, GenEval 2's and OverLayBench's files: what is read of them, and what is said of broken ones."""

import json

import pytest
from benchmark_forms import ANNOTATION, FORMS, examples, write

from trueline.evaluation import benchmarks


def test_coco_mig_in_both_forms(tmp_path):
    write(tmp_path / "json", FORMS["coco-mig"])
    text = (
        "a photo of a red cat and a blue stop sign:\n  a red cat:\n  - [0, 0, 0.5, 0.5]\n"
        "  a blue stop sign:\n  - [0.5, 0.5, 1, 1]\n  coco_id: '769'\n"
    )
    write(tmp_path / "yaml", {"coco_mig/mig_bench_anno.yaml": text})
    (one,), (other,) = (examples(tmp_path / form, "coco-mig") for form in ("json", "yaml"))
    assert one == other and one.truth == other.truth
    assert (one.id, one.category) == ("L2-000000000769", "L2")
    assert one.truth["instances"] == [
        ["cat", "red", [0, 0, 0.5, 0.5]],
        ["stop sign", "blue", [0.5, 0.5, 1, 1]],
    ]
    assert [(r.phrase, r.box.xyxy) for r in one.layout.regions] == [
        ("a red cat", (0, 0, 0.5, 0.5)),
        ("a blue stop sign", (0.5, 0.5, 1, 1)),
    ]


def test_coco_mig_whose_keys_are_cocos_ids(tmp_path):
    row = json.loads(FORMS["coco-mig"]["coco_mig/mig_bench.json"])["0"]
    del row["image_id"]
    write(tmp_path, {"coco_mig/mig_bench.json": json.dumps({"769": row})})
    assert examples(tmp_path, "coco-mig")[0].id == "L2-000000000769"


def test_geneval_2(tmp_path):
    write(tmp_path, FORMS["geneval-2"])
    (cats,) = examples(tmp_path, "geneval-2")
    assert (cats.id, cats.category, cats.prompt) == ("geneval-2-000000", "3-atoms", "two red cats")
    assert cats.truth["skills"] == ["count", "attribute", "object"]
    assert cats.truth["questions"][0] == ["How many cats are there?", "two"]


def test_overlaybench(tmp_path):
    write(tmp_path, FORMS["overlaybench"])
    found = examples(tmp_path, "overlaybench")
    assert [e.id for e in found] == ["simple-00000007", "medium-00000007", "hard-00000007"]
    (hard,) = examples(tmp_path, "overlaybench", splits="hard")
    assert (hard.category, hard.prompt) == ("hard", "A dog's bowl before a brown dog")
    boxes = [[0.25, 0, 0.75, 1], [0, 0.5, 0.5, 1]]
    assert hard.truth == {"labels": ["dog", "bowl"], "boxes": boxes, "overlaps": [[0, 1]]}
    assert [(r.phrase, r.label, list(r.box.xyxy)) for r in hard.layout.regions] == [
        ("a brown dog", "dog", boxes[0]),
        ("a steel bowl", "bowl", boxes[1]),
    ]
    line = json.dumps({"image_id": 7, "annotation": ANNOTATION})
    write(tmp_path, {"overlaybench/hard.jsonl": line})
    assert examples(tmp_path, "overlaybench", splits="hard")[0].truth == hard.truth, "an object, not its text"


def test_overlaybench_says_what_no_layout_can_hold(tmp_path):
    changed = json.loads(json.dumps(ANNOTATION))
    changed["annotations"]["dog"]["bbox"] = [-10, 0, 768, 1030]
    changed["annotations"]["bowl"]["local_prompts"] = "long " * 60
    line = json.dumps({"image_id": "7", "annotation": changed})
    write(tmp_path, {"overlaybench/hard.jsonl": line})
    with pytest.warns(UserWarning) as said:
        (hard,) = examples(tmp_path, "overlaybench", splits="hard")
    for part in ("1 descriptions of more than 256 characters cut", "1 boxes clipped to the picture"):
        assert part in str(said[0].message)
    assert hard.layout.regions[1].phrase == "bowl" and hard.layout.regions[0].box.xyxy == (0, 0, 0.75, 1)
    assert hard.truth["boxes"][0] == [-10 / 1024, 0, 0.75, 1030 / 1024], "the scorers see it"


@pytest.mark.parametrize(
    ("name", "path", "empty"),
    [
        ("coco-mig", "coco_mig/mig_bench.json", "{}"),
        ("coco-mig", "coco_mig/mig_bench_anno.yaml", ""),
        ("geneval-2", "geneval2/geneval2_data.jsonl", "\n"),
        ("overlaybench", "overlaybench/simple.jsonl", ""),
    ],
)
def test_an_empty_file_is_refused(tmp_path, name, path, empty):
    write(tmp_path, {path: empty})
    with pytest.raises(ValueError, match=f"{path}: is empty; take the file of"):
        benchmarks.load(name, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", r", line \d: not YAML"),
        ("- a\n- b", ": must be prompts with their boxes"),
        ("a red cat:\n- [0, 0, 1, 1]", r", entry 'a red cat': must have coco_id, and a list of boxes"),
        ("a photo:\n  a red cat:\n  - [0, 0, 1, 1]", r", entry 'a photo': 'coco_id' is missing"),
        ("&a [*a]", ": must be prompts"),
    ],
)
def test_a_broken_yaml_is_one_sentence(tmp_path, text, problem):
    path = "coco_mig/mig_bench_anno.yaml"
    write(tmp_path, {path: text})
    with pytest.raises(ValueError, match=f"{path}{problem}.*; take the file of") as error:
        benchmarks.load("coco-mig", tmp_path)
    assert "\n" not in str(error.value)


def changed(name, path, **of_row):
    """The first row of a form, with other values at the names; "segment.0.label" is a place within."""
    row = json.loads(FORMS[name][path])
    for place, value in of_row.items():
        *outer, last = place.split(".")
        inner = row
        for part in outer:
            inner = inner[int(part) if part.isdecimal() and isinstance(inner, list) else part]
        inner[int(last) if last.isdecimal() and isinstance(inner, list) else last] = value
    return json.dumps(row)


MIG, G2, OVER = "coco_mig/mig_bench.json", "geneval2/geneval2_data.jsonl", "overlaybench/hard.jsonl"
YES_ONLY = [["Is it?", "No"]]


def annotated(**of_row):
    annotation = json.loads(json.dumps(ANNOTATION))
    for place, value in of_row.items():
        inner = annotation
        *outer, last = place.split(".")
        for part in outer:
            inner = inner[part]
        inner[last] = value
    return json.dumps({"image_id": "7", "annotation": annotation})


BROKEN_NEW_ROWS = [
    ("coco-mig", MIG, '{"0": {"caption": "x"}}', "entry 0: 'segment' is missing"),
    ("coco-mig", MIG, '{"0": 3}', "entry 0: must be an object"),
    (
        "coco-mig",
        MIG,
        changed("coco-mig", MIG, **{"0.segment.0.label": "a pink cat"}),
        "entry 0: a label is .*red",
    ),
    ("coco-mig", MIG, changed("coco-mig", MIG, **{"0.segment.0.label": "a red"}), "entry 0: a label is"),
    ("coco-mig", MIG, changed("coco-mig", MIG, **{"0.segment.0.label": 3}), "entry 0: a label is"),
    (
        "coco-mig",
        MIG,
        changed("coco-mig", MIG, **{"0.segment.0.bbox": [100, 0, 200, 90]}),
        "entry 0: a box is x0",
    ),
    (
        "coco-mig",
        MIG,
        changed("coco-mig", MIG, **{"0.segment.0.bbox": [0, 0, 1]}),
        "entry 0: a box has four num",
    ),
    (
        "coco-mig",
        MIG,
        changed("coco-mig", MIG, **{"0.segment.0.bbox": [0.5, 0, 0.2, 1]}),
        "entry 0: a box is x0",
    ),
    (
        "coco-mig",
        MIG,
        changed("coco-mig", MIG, **{"0.segment": []}),
        r"entry 0: must have 2 to 6 inst.*\(got 0\)",
    ),
    ("coco-mig", MIG, changed("coco-mig", MIG, **{"0.image_id": "x"}), "entry 0: invalid literal for int"),
    (
        "geneval-2",
        G2,
        changed("geneval-2", G2, skills=["count"]),
        "line 1: skills must be a list of one .*the 3 q",
    ),
    (
        "geneval-2",
        G2,
        changed("geneval-2", G2, **{"skills.0": "size"}),
        r"line 1: skills must be of .*got 'size'",
    ),
    ("geneval-2", G2, changed("geneval-2", G2, atom_count="3"), "line 1: atom_count must be a whole number"),
    ("geneval-2", G2, changed("geneval-2", G2, vqa_list=[]), "line 1: vqa_list must be a list of pairs"),
    ("geneval-2", G2, changed("geneval-2", G2, vqa_list=[["Is it?"]]), "line 1: vqa_list has pairs"),
    (
        "geneval-2",
        G2,
        changed("geneval-2", G2, vqa_list=YES_ONLY),
        "line 1: the answer to 'Is it.' must be Yes",
    ),
    ("geneval-2", G2, changed("geneval-2", G2, **{"vqa_list.0.1": " "}), "line 1: the answer to .* is empty"),
    ("geneval-2", G2, '{"tag": "colors", "include": [], "prompt": "x"}', "line 1: 'vqa_list' is missing"),
    ("overlaybench", OVER, '{"image_id": "7"}', "line 1: 'annotation' is missing"),
    (
        "overlaybench",
        OVER,
        '{"image_id": "7", "annotation": "__import__(\'os\')"}',
        "line 1: annotation is not the t",
    ),
    (
        "overlaybench",
        OVER,
        json.dumps({"image_id": "7", "annotation": "[" * 9999}),
        "line 1: annotation is not the",
    ),
    ("overlaybench", OVER, '{"image_id": "7", "annotation": "{}"}', "line 1: 'annotations' is missing"),
    ("overlaybench", OVER, annotated(annotations={}), "line 1: annotations is empty"),
    (
        "overlaybench",
        OVER,
        annotated(**{"annotations.dog.bbox": [2000, 0, 3000, 9]}),
        "line 1: a box is .*0..1024",
    ),
    (
        "overlaybench",
        OVER,
        annotated(**{"annotations.dog.category": ""}),
        "line 1: category and local_prompts of 'd",
    ),
    (
        "overlaybench",
        OVER,
        annotated(valid_overlap=[{"overlap_box": [0, 2]}]),
        "line 1: overlap_box must name two",
    ),
    (
        "overlaybench",
        OVER,
        annotated(valid_overlap=[{"overlap_box": [0]}]),
        "line 1: overlap_box must name two",
    ),
]


@pytest.mark.parametrize(("name", "path", "content", "problem"), BROKEN_NEW_ROWS)
def test_a_broken_row_of_a_new_one_is_named(tmp_path, name, path, content, problem):
    write(tmp_path, FORMS[name] | {path: content})
    with pytest.raises(ValueError, match=f"{path}, {problem}.*; take the file of") as error:
        benchmarks.load(name, tmp_path)
    assert "\n" not in str(error.value)
