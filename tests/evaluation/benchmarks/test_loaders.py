"""The parsers on small files written here: what they read, and what they say of broken ones."""

import hashlib
import json

import pytest
from benchmark_forms import FORMS, examples, write

from trueline.evaluation import benchmarks
from trueline.evaluation.benchmarks import abc6k_cc500


@pytest.fixture(autouse=True)
def hashes_of_the_fixtures(monkeypatch):
    """The files of this test count as the official ones."""
    monkeypatch.delenv("TRUELINE_DATA", raising=False)
    for name in ("abc-6k", "cc-500"):
        for path, text in FORMS[name].items():
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            monkeypatch.setitem(abc6k_cc500.SHA256, path.rpartition("/")[2], sha256)


def test_7bench_reads_pixels_and_clips_regions_but_not_the_truth(tmp_path):
    write(tmp_path, FORMS["7bench"])
    with pytest.warns(UserWarning, match="7bench: 1 boxes clipped to the picture"):
        rose, pair = examples(tmp_path, "7bench")
    assert (rose.id, rose.category, rose.prompt) == ("object_binding-000000", "object_binding", "A rose")
    assert rose.layout.regions[0].box.xyxy == (0.25, 0, 0.5, 1)
    assert pair.truth["labels"] == ["cat", "dog"] and pair.truth["boxes"][1] == [
        400 / 512,
        400 / 512,
        600 / 512,
        500 / 512,
    ]
    assert pair.layout.regions[1].box.x1 == 1


def test_abc_6k_and_cc_500(tmp_path):
    write(tmp_path, FORMS["abc-6k"] | FORMS["cc-500"])
    first, second = examples(tmp_path, "abc-6k")
    assert (first.category, second.category) == ("original", "swapped")
    assert first.truth == {"pair": 0, "partner": second.id}
    book, cat = examples(tmp_path, "cc-500")
    assert book.prompt == "a red book and a yellow vase", "stripped"
    assert book.truth["objects"] == [["book", "red"], ["vase", "yellow"]]
    assert cat.truth["objects"] == [["cat", "orange"], ["cell phone", "black"]]


def test_cc_500_ends_at_line_446(tmp_path):
    write(tmp_path, {"abc6k_cc500/CC-500.txt": "a red cat and a blue dog\n" * 602})
    with pytest.warns(
        UserWarning, match=r"1 file differs from the official one \(CC-500.txt: sha256 .*, not "
    ):
        assert len(examples(tmp_path, "cc-500")) == 446


def test_drawbench_with_boxes(tmp_path):
    write(tmp_path, FORMS["drawbench"])
    boxes = {"Two dogs on the street.": [["dog", "street"], [[0, 0, 256, 256], [7, 7, 7, 90]]]}
    write(
        tmp_path,
        {
            "drawbench/gpt4_boxes_counting.json": json.dumps(boxes),
            "drawbench/gpt4_boxes_positional.json": "{}",
        },
    )
    with pytest.warns(UserWarning, match="drawbench: 1 boxes without area dropped"):
        dogs, cat, train = examples(tmp_path, "drawbench", gpt4_boxes=True)
    assert dogs.truth == {"counts": [["dog", 2]]}
    assert [(r.phrase, r.box.xyxy) for r in dogs.layout.regions] == [("dog", (0, 0, 0.5, 0.5))]
    assert cat.prompt == "A cat, red." and cat.category == "Gary Marcus et al." and cat.truth == {}
    assert train.truth == {"objects": ["train", "surfboard"], "relations": ["above"]}
    assert [e.id for e in examples(tmp_path, "drawbench", subset="goal")] == [dogs.id, train.id]


def test_geneval(tmp_path):
    write(tmp_path, FORMS["geneval"])
    (clocks,) = examples(tmp_path, "geneval")
    assert clocks.truth == {
        "tag": "counting",
        "include": [{"class": "clock", "count": 2}],
        "exclude": [{"class": "clock", "count": 3}],
    }


def test_hrs(tmp_path):
    write(tmp_path, FORMS["hrs"])
    counting, twin, last, spatial, size, color = examples(tmp_path, "hrs")
    assert counting.prompt == twin.prompt and counting.id != twin.id
    assert [e.truth["level"] for e in (counting, twin, last)] == [0, 1, 2]
    assert last.truth["counts"] == [["cat", 3], ["dog", 1]]
    assert spatial.truth["objects"] == ["dog", "cat"] and spatial.truth["relations"] == ["on"]
    assert size.truth["relations"] == ["larger"]
    assert color.truth["objects"] == [["dog", "red"], ["cat", "blue"]]
    assert [e.id for e in examples(tmp_path, "hrs", categories="size, color")] == [size.id, color.id]


def test_hrs_boxes_that_no_layout_can_hold_are_counted(tmp_path):
    box = [0, 0, 512, 512]
    things = [*[box] * 31, [100, 256], [0, 0, float("nan"), 9], [600, 600, 700, 700], [-5, 0, 9, 512], None]
    boxes = {"two cups": [["cup"] * len(things), things]}
    files = {
        f"hrs_bench/gpt4_boxes/{name}.json": "{}" for name in ("counting_500_1499", "counting_1500_2499")
    }
    files |= {
        "hrs_bench/gpt4_boxes/counting.json": json.dumps(boxes),
        "hrs_bench/gpt4_boxes/counting_5.json": "{}",
    }
    write(tmp_path, FORMS["hrs"] | files)
    with pytest.warns(UserWarning) as said:
        first = examples(tmp_path, "hrs", categories="counting")[0]
    assert len(first.layout.regions) == 30 and len(said) == 1
    for part in (  # of both rows with this prompt
        "6 boxes without four numbers dropped",
        "2 boxes without area dropped",
        "2 boxes clipped to the picture",
        "4 boxes after the 30th dropped",
    ):
        assert part in str(said[0].message)


def test_the_simple_ones(tmp_path):
    write(tmp_path, FORMS["imagereward"] | FORMS["multigen"] | FORMS["partiprompts"])
    assert examples(tmp_path, "imagereward")[0].truth == {"prompt_id": "005695-0057"}
    coco, ade = examples(tmp_path, "multigen")
    assert (coco.id, ade.id) == ("coco-000007", "ade20k-000007")
    assert coco.truth == {"objects": ["wine glass", "cup"]}
    (sign,) = examples(tmp_path, "partiprompts")
    assert sign.prompt == 'a sign that says "Hello' and sign.truth["challenge"] == "Basic"


def test_t2i_compbench(tmp_path):
    write(tmp_path, FORMS["t2i-compbench"])
    read = {e.id: e for e in examples(tmp_path, "t2i-compbench")}
    assert read["spatial-000000"].truth == {"first": "cat", "relation": "on the left of", "second": "dog"}
    kinds = [e.truth["kind"] for e in read.values() if e.category == "complex"]
    assert kinds == ["spatial", "action", "spatialaction"]
    assert "relation" not in read["complex-000001"].truth
    assert read["complex-000002"].truth["second"] == "dog"


# ------------------------------------------------------------------------------------------- files as they come


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.filterwarnings("ignore:.*sha256")
@pytest.mark.filterwarnings("ignore:7bench")
@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.rstrip(b"\n"),
    ],
    ids=["byte order mark", "CRLF", "no newline at the end"],
)
def test_files_as_editors_save_them_read_the_same(tmp_path, name, change):
    write(tmp_path / "plain", FORMS[name])
    write(tmp_path / "changed", {path: change(text.encode()) for path, text in FORMS[name].items()})
    plain, changed = examples(tmp_path / "plain", name), examples(tmp_path / "changed", name)
    assert plain == changed
    assert [dict(e.truth) for e in plain] == [dict(e.truth) for e in changed]


@pytest.mark.parametrize("name", FORMS)
def test_a_missing_file_is_named_with_its_source_licence_and_option(tmp_path, name):
    with pytest.raises(ValueError) as error:
        benchmarks.load(name, tmp_path)
    message = str(error.value)
    for part in (
        next(iter(FORMS[name])).partition("/")[0],
        "@",
        "; data, or",
        "TRUELINE_DATA",
        "No such file",
    ):
        assert part in message
    licences = "MIT", "Apache-2.0", "non-commercial research only", "CC BY-NC 4.0"
    assert any(licence in message for licence in licences)
    assert "\n" not in message


@pytest.mark.parametrize("name", FORMS)
def test_no_folder_given(tmp_path, name, monkeypatch):
    with pytest.raises(
        ValueError, match=r"data: say where the files of .*@.* are; give their folder, or set TRUE"
    ):
        benchmarks.load(name)
    with pytest.raises(ValueError, match=r"nowhere is not a folder; it must hold the files of .*@"):
        benchmarks.load(name, tmp_path / "nowhere")
    write(tmp_path, FORMS[name])
    monkeypatch.setenv("TRUELINE_DATA", str(tmp_path))
    if name != "7bench":  # it warns
        assert benchmarks.load(name).examples


@pytest.mark.parametrize("name", FORMS)
def test_a_file_in_latin_1(tmp_path, name):
    path, text = next(iter(FORMS[name].items()))
    write(tmp_path, FORMS[name] | {path: text.encode() + "é".encode("latin-1") + b"\n"})
    line = text.count("\n") + 1
    with pytest.raises(
        ValueError, match=rf"{path}: not UTF-8 \(line {line}, byte {len(text)}\); convert it, or"
    ):
        benchmarks.load(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "path"), [(n, p) for n in FORMS for p in FORMS[n] if p.endswith((".json", ".jsonl"))]
)
def test_truncated_and_wrong_json(tmp_path, name, path):
    write(tmp_path, FORMS[name] | {path: FORMS[name][path][:-4]})
    with pytest.raises(ValueError, match=rf"{path}.*not whole JSON \(line 1, column \d+\)"):
        benchmarks.load(name, tmp_path)
    for wrong in ("3", "[" * 100_000, "9" * 5000):
        write(tmp_path, {path: wrong})
        with pytest.raises(ValueError, match=f"{path}.*take the file of"):
            benchmarks.load(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "path"), [(n, p) for n in FORMS for p in FORMS[n] if p.endswith((".csv", ".tsv"))]
)
def test_tables_with_a_column_or_a_cell_missing(tmp_path, name, path):
    text = FORMS[name][path]
    first = "Prompts" if name == "drawbench" else "Prompt" if name == "partiprompts" else "obj1"
    write(tmp_path, FORMS[name] | {path: text.replace(first, "something", 1)})
    with pytest.raises(ValueError, match=f"{path}: has no column {first}; take the file of"):
        benchmarks.load(name, tmp_path)
    write(tmp_path, FORMS[name] | {path: text + "cut off\n"})
    lines = text.count("\n") + 1
    with pytest.raises(ValueError, match=rf"{path}, line {lines}: must have \d+ columns, as the header"):
        benchmarks.load(name, tmp_path)


def test_a_table_that_ends_in_a_quote(tmp_path):
    path = "drawbench/drawbench.csv"
    write(tmp_path, FORMS["drawbench"] | {path: 'Prompts,Category\n"A cat, red'})
    with pytest.raises(ValueError, match=f"{path}, line 2: not CSV .unexpected end of data"):
        benchmarks.load("drawbench", tmp_path)


BROKEN_ROWS = [
    ("geneval", "geneval/evaluation_metadata.jsonl", '{"tag": "colors"}', r"line 1: 'include' is missing"),
    ("geneval", "geneval/evaluation_metadata.jsonl", "\n[1]", r"line 2: must be an object"),
    (
        "geneval",
        "geneval/evaluation_metadata.jsonl",
        '{"tag": "colors", "include": [{"class": "cat", "count": "two"}], "prompt": "cats"}',
        r"line 1: a clause has a class.*and a count",
    ),
    ("imagereward", "imagereward/benchmark-prompts.json", '[{"id": 1}]', r"row 1: 'prompt' is missing"),
    (
        "imagereward",
        "imagereward/benchmark-prompts.json",
        '[{"id": 1, "prompt": 2}]',
        r"row 1: the prompt must be",
    ),
    ("multigen", "multigen/coco_obj_comp_5_1k.json", "[{}]", r"row 1: 'num_objects' is missing"),
    (
        "7bench",
        "7bench/7bench.csv",
        FORMS["7bench"]["7bench/7bench.csv"].replace("128,0,256,512", "128,0,x,512"),
        r"line 2: could not convert string to float",
    ),
    (
        "7bench",
        "7bench/7bench.csv",
        FORMS["7bench"]["7bench/7bench.csv"] + '000,object_binding,A rose,rose,"128,0,256,512",,,,,,\n',
        r"line 4: the id object_binding-000000 is there twice",
    ),
    (
        "hrs",
        "hrs_bench/counting_prompts.csv",
        "synthetic_prompt,n1,obj1,n2,obj2\ntwo cups,two,cup,0,\n",
        r"line 2: invalid literal for int",
    ),
]


@pytest.mark.parametrize(("name", "path", "content", "problem"), BROKEN_ROWS)
def test_a_broken_row_is_named(tmp_path, name, path, content, problem):
    write(tmp_path, FORMS[name] | {path: content})
    with pytest.raises(ValueError, match=f"{path}, {problem}.*take the file of"):
        benchmarks.load(name, tmp_path)


def test_empty_and_overlong_prompts_are_skipped_counted_and_said_and_keep_the_other_ids(tmp_path):
    lines = ["a red cat", "", "x" * 2001, "  ", "a blue dog"]
    write(tmp_path, {"t2i_compbench/color_val.txt": "\n".join(lines)})
    with pytest.warns(UserWarning) as said:
        benchmark = benchmarks.load("t2i-compbench", tmp_path, categories=["color"])
    assert [e.id for e in benchmark.examples] == ["color-000000", "color-000004"]
    assert [str(one.message) for one in said] == [
        "t2i-compbench: 2 empty prompts skipped, 1 prompts of more than 2000 characters skipped"
    ]
    assert benchmark.left_out == {
        "empty prompts skipped": 2,
        "prompts of more than 2000 characters skipped": 1,
    }


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("nothing", {}, r"benchmark: there is no 'nothing'; choose one of 7bench, .*world"),
        ("geneval", {"split": "val"}, r"geneval: no option 'split'; it has none"),
        ("hrs", {"splits": "val"}, r"hrs: no option 'splits'; it has categories, gpt4_boxes"),
        ("hrs", {"categories": "colour"}, r"categories: must be of counting, .*color \(got 'colour'\)"),
        ("hrs", {"categories": []}, r"categories: must be of .* \(got none\)"),
        ("t2i-compbench", {"split": "test"}, r"split: must be of val, .* \(got 'test'\)"),
        (
            "t2i-compbench",
            {"split": "val_seen", "categories": "spatial"},
            r"categories: must be of color, shape",
        ),
        ("drawbench", {"subset": "94"}, r"subset: must be of all, goal \(got '94'\)"),
    ],
)
def test_unknown_names_and_options(tmp_path, name, options, problem):
    with pytest.raises(ValueError, match=problem):
        benchmarks.load(name, tmp_path, **options)
