"""Folders of pictures as the benchmarks' own scorers take them: read, written, and what is wrong with them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from trueline.cli import main
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.hrs import HRS
from trueline.evaluation.benchmarks.imagereward import ImageRewardPrompts
from trueline.evaluation.picture_folders import (
    PicturePattern,
    export_pictures,
    index_of,
    pattern_of,
    pictures_by_example,
)
from trueline.layout import Layout

GENEVAL = PicturePattern("{index:05d}/samples/{k:05d}.png")
COMPBENCH = PicturePattern("samples/{prompt}_{number:06d}.png")


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(path)
    return path


def example(id, prompt="a cat", **truth):
    return Example(id, Layout(prompt), "", truth)


def found_in(folder, pattern, *examples):
    found, strays = pictures_by_example(folder, pattern, examples)
    relative = {
        name: [path.relative_to(folder).as_posix() for path in paths] for name, paths in found.items()
    }
    return relative, [path.relative_to(folder).as_posix() for path in strays]


# What a pattern says


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{index",
            "{index}.gif",
            "../{index}.png",
            "/{index}.png",
            "{k}.png",
            "{index}{index}.png",
            "{0}.png",
        ),
        *("{index!r}.png", "{index:>9}.png", "{index.real}.png", "pictures.png", "{number:04d}.png"),
    ],
)
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match=r"^pattern: "):
        PicturePattern(text)


def test_the_number_of_a_prompt_is_in_its_id():
    assert index_of(example("colors-000017"), 3) == 17 and index_of(example("apple"), 3) == 3


@pytest.mark.parametrize("digits", ["{:04d}", "{:05d}", "{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_have_any_number_of_digits_and_begin_at_0_or_1(tmp_path, digits, first):
    for index in (0, 12):
        for k in range(3):
            picture(tmp_path / f"{index:05d}" / "samples" / f"{digits.format(k + first)}.png")
    found, strays = found_in(tmp_path, GENEVAL, example("colors-000000"), example("position-000012"))
    assert found["position-000012-2"] == [f"00012/samples/{digits.format(2 + first)}.png"]
    assert len(found) == 6 and not strays


def test_a_missing_first_picture_does_not_move_the_others(tmp_path):
    for k in (1, 3):
        picture(tmp_path / f"00000/samples/{k:04d}.png")
    picture(tmp_path / "00001/samples/0000.png")
    found, _ = found_in(tmp_path, GENEVAL, example("a-0"), example("b-1"))
    assert sorted(found) == ["a-0-1", "a-0-3", "b-1-0"]


def test_prompts_are_told_by_their_words(tmp_path):
    """Also those that a file name cannot hold, whatever the case; of equal ones each has its part of the pictures."""
    names = ["a red cat_000000", "a red cat_000001", "A dog hybrid_000002", "a bird_000003"]
    names += [f"a red cat_00000{number}" for number in (4, 5)]
    for name in names:
        picture(tmp_path / "samples" / f"{name}.png")
    prompts = [("x-0", "a red cat"), ("x-1", "a dog/hybrid"), ("x-2", "a red cat.")]
    found, strays = found_in(tmp_path, COMPBENCH, *(example(*each) for each in prompts))
    assert found["x-0-1"] == ["samples/a red cat_000001.png"] and found["x-2-0"] == [
        "samples/a red cat_000004.png"
    ]
    assert found["x-1-0"] == ["samples/A dog hybrid_000002.png"] and len(found) == 5
    assert strays == ["samples/a bird_000003.png"]


def test_imagereward_and_hrs_have_their_own(tmp_path):
    picture(tmp_path / "ir" / "001234-56_1.png")
    picture(tmp_path / "ir" / "001234-56_0.png")
    found, _ = found_in(
        tmp_path / "ir", pattern_of(ImageRewardPrompts), example("imagereward-7", prompt_id="001234-56")
    )
    assert found == {"imagereward-7-0": ["001234-56_0.png"], "imagereward-7-1": ["001234-56_1.png"]}
    picture(tmp_path / "hrs" / "00131_02.png")
    picture(tmp_path / "hrs" / "00131_00.webp")
    found, _ = found_in(tmp_path / "hrs", pattern_of(HRS), example("color-000131"))
    assert found == {"color-000131-0": ["00131_00.webp"], "color-000131-2": ["00131_02.png"]}


def test_numbers_that_two_categories_have_are_refused(tmp_path):
    picture(tmp_path / "00001_00.png")
    with pytest.raises(
        ValueError, match=r"color-000001 and size-000001 have one number .* choose one category"
    ):
        found_in(tmp_path, pattern_of(HRS), example("color-000001"), example("size-000001"))


def test_a_folder_of_other_prompts_says_whose(tmp_path):
    picture(tmp_path / "00000/samples/0000.png")
    (tmp_path / "00000/metadata.jsonl").write_text('{"prompt": "a dog"}\n')
    with pytest.raises(
        ValueError, match=r"metadata.jsonl is of the prompt 'a dog', but that of a-0 is 'a cat'"
    ):
        found_in(tmp_path, GENEVAL, example("a-0"))


# Out and back


def as_geneval_reads(folder):
    """The official scorer's way (djghosh13/geneval, evaluation/evaluate_images.py), in our words."""
    found = {}
    for sub in sorted(folder.iterdir()):
        if sub.is_dir() and sub.name.isdigit():
            about = json.loads((sub / "metadata.jsonl").read_text())
            for file in sorted((sub / "samples").iterdir()):
                if re.match(r"\d+\.png", file.name):
                    found[int(sub.name), file.name] = about["prompt"]
    return found


def test_an_export_is_read_back_by_the_official_rule_and_by_ours(tmp_path):
    examples = [example(f"colors-{n:06d}", f"a cat {n}", tag="colors", include=[]) for n in (3, 5)]
    files = [
        (one, place, k, picture(tmp_path / "mine" / f"{place}{k}.png", 10 * place + k))
        for place, one in enumerate(examples)
        for k in range(2)
    ]
    out = tmp_path / "out"
    assert export_pictures(out, GENEVAL, files, 2)
    names = {(n, f"0000{k}.png"): f"a cat {n}" for n in (3, 5) for k in range(2)}
    assert as_geneval_reads(out) == names
    assert json.loads((out / "00003/metadata.jsonl").read_text())["tag"] == "colors"
    found, _ = found_in(out, GENEVAL, *examples)
    assert found["colors-000005-1"] == ["00005/samples/00001.png"] and len(found) == 4
    with Image.open(out / "00005/samples/00001.png") as image:
        assert image.getpixel((0, 0)) == (11, 0, 0)
    assert not export_pictures(out, GENEVAL, files, 2), "it is there"
    with pytest.raises(ValueError, match="has pictures already; choose another folder"):
        export_pictures(out, GENEVAL, files[:2], 2)
    picture(files[0][3], 99)
    with pytest.raises(ValueError, match="has pictures already"):
        export_pictures(out, GENEVAL, files, 2)


def test_a_pattern_that_calls_two_pictures_alike(tmp_path):
    files = [(example("a-0"), 0, k, picture(tmp_path / f"{k}.png")) for k in range(2)]
    with pytest.raises(ValueError, match=r"calls several pictures 00000.png; name their k"):
        export_pictures(tmp_path / "out", PicturePattern("{index:05d}.png"), files, 2)
    with pytest.raises(ValueError, match="has a field 'prompt_id' that a-0 lacks"):
        export_pictures(tmp_path / "out", PicturePattern("{prompt_id}_{k}.png"), files, 2)


# The command


PROMPTS = ["a photo of a red apple", "a photo of two cars", "a photo of a chair"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    rows = [
        {"tag": "single_object", "include": [{"class": "apple", "count": 1}], "prompt": p} for p in PROMPTS
    ]
    (folder / "geneval").mkdir()
    (folder / "geneval/evaluation_metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "t2i_compbench").mkdir()
    return folder


@pytest.fixture
def official(tmp_path):
    """As GenEval's generation script leaves it, with a grid and one picture lost."""
    folder = tmp_path / "mine"
    for index, prompt in enumerate(PROMPTS):
        for k in range(2):
            picture(folder / f"{index:05d}/samples/{k:04d}.png", 80 * index)
        picture(folder / f"{index:05d}/grid.png")
        (folder / f"{index:05d}/metadata.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n")
    (folder / "00001/samples/0001.png").unlink()
    return folder


def judged(data, out, folder, *more):
    asked = [
        "evaluate",
        "geneval",
        "--data",
        str(data),
        "--images",
        f"mine={folder}",
        "--images-per-prompt",
        "2",
    ]
    return main([*asked, "--judges", "world-clip", "--device", "cpu", "--quiet", "--out", str(out), *more])


def test_an_official_folder_is_scored_and_what_is_missing_is_counted(data, official, tmp_path, capsys):
    assert judged(data, tmp_path / "out", official) == 0
    said = capsys.readouterr()
    assert (
        "images mine: 1 of 6 pictures are missing in" in said.err
        and "first single_object-000001-1;" in said.err
    )
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert {row["n"] for row in rows if row["metric"].startswith("clip_score")} == {5}
    assert "1 of 6 pictures are missing" in (tmp_path / "out/report.html").read_text()


def test_a_pattern_finds_them_too(data, official, tmp_path):
    moved = tmp_path / "flat"
    for path in official.rglob("samples/*.png"):
        index, k = int(path.parent.parent.name), int(path.stem)
        (moved / f"p{index}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / f"p{index}" / f"img-{k}.png")
    assert judged(data, tmp_path / "one", official) == 0
    assert judged(data, tmp_path / "two", moved, "--images-pattern", "p{index}/img-{k}.png") == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert [(r["metric"], r["value"]) for r in one] == [(r["metric"], r["value"]) for r in two] and one


@pytest.mark.parametrize(
    ("damage", "more", "said"),
    [
        (lambda f: shutil.rmtree(f / "00000"), [], ""),
        (
            lambda f: [shutil.rmtree(p) for p in f.iterdir()],
            [],
            "lacks all 6 pictures, first single_object-000000-0",
        ),
        (lambda f: picture(f / "00000/samples/00000.png"), [], "are both picture single_object-000000-0"),
        (lambda f: picture(f / "00000/samples/0000.jpg"), [], "are both picture single_object-000000-0"),
        (lambda f: picture(f / "00044/samples/0000.png"), [], "1 pictures in"),
        (
            lambda f: (f / "00002/metadata.jsonl").write_text('{"prompt": "a dog"}'),
            [],
            "is of the prompt 'a dog'",
        ),
        (lambda f: None, ["--images-pattern", "{k}.png"], "--images-pattern: '{k}.png' must name its prompt"),
        (lambda f: None, ["--export-pattern", "{id}.png"], "--export-pattern: belongs to --export"),
    ],
)
def test_what_is_wrong_is_said(data, official, tmp_path, capsys, damage, more, said):
    damage(official)
    code, error = judged(data, tmp_path / "out", official, *more), capsys.readouterr().err
    assert code == (0 if said in ("", "1 pictures in") else 2) and said in error


def test_what_is_exported_is_official(data, official, tmp_path):
    for pattern, name in (
        ([], "00002/samples/00001.png"),
        (["--export-pattern", "{id}/{k}.png"], "single_object-000002/1.png"),
    ):
        out = tmp_path / f"export{len(pattern)}"
        assert judged(data, tmp_path / "out", official, "--export", str(out), *pattern) == 0
        assert (out / "mine" / name).is_file() and len(list((out / "mine").rglob("*.png"))) == 5
