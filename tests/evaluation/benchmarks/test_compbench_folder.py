"""T2I-CompBench's folder convention: what goes out comes back, whatever the prompts are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.t2i_compbench.folder import (
    MAX_BYTES,
    Exported,
    export_compbench,
    file_name,
    read_compbench,
)
from trueline.layout import MAX_PROMPT, Layout

PROMPTS = [
    "a red cat and a blue dog",
    "a cat/dog_hybrid",
    "a cat dog hybrid",  # the file name of the one before, but for the number
    "x" * 300,
    "x" * 300,  # equal prompts
    "x" * 299 + "y",  # equal when cut
    "é" * 150,  # 300 bytes
    "../../etc/passwd",
    "___",
    'what: "now"?\n<b>',
    "ends in dots...",
]


def picture(shade):
    return Image.new("RGB", (8, 8), (shade, 0, 0))


def example(place, prompt):
    return Example(f"e-{place:06d}", Layout(prompt))


def official_prompt(name):
    """How the official scorers read a file name."""
    return name.split("_")[0], int(name.split("_")[1].split(".")[0])


def test_round_trip(tmp_path):
    pictures = [(example(i, prompt), picture(i)) for i, prompt in enumerate(PROMPTS)]
    written = export_compbench(tmp_path / "out", pictures)
    read = read_compbench(tmp_path / "out")
    assert read == written
    assert [one.prompt for one in read] == PROMPTS
    assert [one.id for one in read] == [example.id for example, _ in pictures]
    assert len({one.file for one in read}) == len(PROMPTS)
    for place, one in enumerate(read):
        with Image.open(tmp_path / "out/samples" / one.file) as image:
            assert image.getpixel((0, 0)) == (place, 0, 0), "the picture of this prompt"
        assert official_prompt(one.file)[1] == place == one.number
        assert len(one.file.encode()) <= MAX_BYTES + len("_000000.png")
    assert official_prompt(read[0].file) == (PROMPTS[0], 0)
    assert official_prompt(read[1].file) == ("a cat dog hybrid", 1)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["manifest.json", "samples"]


def test_several_pictures_of_one_prompt_and_pictures_given_as_files(tmp_path):
    one = example(0, "a red cat")
    picture(7).save(tmp_path / "given.png")
    picture(8).save(tmp_path / "given.jpg")
    export_compbench(
        tmp_path / "out", [(one, picture(6)), (one, tmp_path / "given.png"), (one, f"{tmp_path}/given.jpg")]
    )
    assert [e.file for e in read_compbench(tmp_path / "out")] == [f"a red cat_00000{i}.png" for i in range(3)]
    with Image.open(tmp_path / "out/samples/a red cat_000001.png") as image:
        assert image.getpixel((0, 0)) == (7, 0, 0)
    with Image.open(tmp_path / "out/samples/a red cat_000002.png") as image:
        assert image.format == "PNG"


@given(st.text(min_size=1, max_size=MAX_PROMPT), st.integers(0, 999_999))
@settings(max_examples=300, deadline=None)
def test_every_prompt_makes_a_file_name_that_file_systems_and_scorers_take(prompt, number):
    prompt = prompt.encode("utf-8", "ignore").decode()
    name = file_name(prompt, number)
    words, found = official_prompt(name)
    assert found == number and name == f"{words}_{number:06d}.png"
    assert words and words == words.strip() and not words.endswith(".") and not words.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\0\n') and len(name.encode()) <= MAX_BYTES + 11


def test_a_folder_with_pictures_is_refused(tmp_path):
    export_compbench(tmp_path, [(example(0, "a cat"), picture(1))])
    with pytest.raises(ValueError, match="has pictures already; choose another folder"):
        export_compbench(tmp_path, [(example(1, "a dog"), picture(2))])
    assert len(read_compbench(tmp_path)) == 1


def test_a_broken_picture_is_named_and_leaves_no_manifest(tmp_path):
    picture(1).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    for name, problem in (("cut.png", "cannot be read"), ("missing.png", "no such file")):
        with pytest.raises(ValueError, match=f"{name}: {problem}"):
            export_compbench(tmp_path / name.removesuffix(".png"), [(example(0, "a cat"), tmp_path / name)])
        with pytest.raises(ValueError, match=r"manifest.json: cannot read it \(No such file"):
            read_compbench(tmp_path / name.removesuffix(".png"))


def test_a_folder_that_is_not_as_its_manifest_says(tmp_path):
    written = export_compbench(tmp_path, [(example(i, f"cat {i}"), picture(i)) for i in range(3)])
    (tmp_path / "samples" / "stray_000009.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"stray_000009.png: is not in the manifest \(1 such files\)"):
        read_compbench(tmp_path)
    (tmp_path / "samples" / "stray_000009.png").unlink()
    (tmp_path / "samples" / written[1].file).unlink()
    with pytest.raises(ValueError, match=r"cat 1_000001.png: is missing \(1 such files\)"):
        read_compbench(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update(schema=2), r"schema must be 1 \(got 2\)"),
        (lambda m: m.pop("pictures"), r"'pictures' is missing"),
        (lambda m: m["pictures"][0].pop("id"), r"missing 1 required positional argument: 'id'"),
        (lambda m: m["pictures"][0].update(file="../../x.png"), r"picture 0 has another number or file name"),
        (lambda m: m["pictures"].reverse(), r"picture 0 has another number or file name"),
        (lambda m: m["pictures"][0].update(prompt="a dog"), r"picture 0 has another number or file name"),
    ],
)
def test_a_broken_manifest(tmp_path, change, problem):
    export_compbench(tmp_path, [(example(i, f"cat {i}"), picture(i)) for i in range(2)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"manifest.json, the manifest: .*{problem}"):
        read_compbench(tmp_path)


def test_the_manifest_is_plain_json(tmp_path):
    export_compbench(tmp_path, [(example(4, "a cat"), picture(1))])
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "schema": 1,
        "pictures": [{"prompt": "a cat", "id": "e-000004", "number": 0, "file": "a cat_000000.png"}],
    }
    assert read_compbench(tmp_path) == [Exported("a cat", "e-000004", 0, "a cat_000000.png")]
