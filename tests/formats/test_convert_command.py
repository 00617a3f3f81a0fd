"""``trueline convert`` from arguments to files."""

import json
import subprocess
import sys

import pytest

from trueline.cli import COMMANDS, main
from trueline.formats import FORMATS
from trueline.layout import Layout, Region, read_layouts, write_layouts

MADE = [
    Layout("a cat", [Region("a cat", (0.1, 0.1, 0.5, 0.5))], seed=1, id="a"),
    Layout("a dog and a car", [Region("a dog", (0, 0, 0.5, 0.5)), Region("a car", (0.5, 0.5, 1, 1))], id="b"),
]


@pytest.fixture
def convert(tmp_path, capsys):
    """Run ``trueline convert layouts.jsonl out ...``; gives exit code, stdout and stderr."""
    write_layouts(tmp_path / "layouts.jsonl", MADE)

    def call(*arguments: str, source="layouts.jsonl", target="out") -> tuple[int, str, str]:
        code = main(["convert", str(tmp_path / source), str(tmp_path / target), *arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_there_and_back(convert, tmp_path):
    code, out, err = convert("--from", "trueline", "--to", "gligen")
    assert (code, out) == (0, "2 layouts, 3 regions: trueline to gligen\n")
    assert err == "trueline: lost: seeds: 1 (the first: layout 1 (a))\n"
    assert convert("--from", "gligen", "--to", "trueline", source="out", target="back.jsonl")[0] == 0
    assert read_layouts(tmp_path / "back.jsonl") == [MADE[0].model_copy(update={"seed": None}), MADE[1]]


def test_sizes_are_those_of_each_side(convert, tmp_path):
    assert convert("--from", "trueline", "--to", "layoutgpt-css", "--size", "256x256")[0] == 0
    assert "a dog {height: 128px; width: 128px; top: 0px; left: 0px; }" in (tmp_path / "out").read_text()
    arguments = ("--from", "layoutgpt-css", "--from-size", "256x256", "--to", "coco", "--size", "640x320")
    assert convert(*arguments, source="out", target="coco")[0] == 0
    rows = json.loads((tmp_path / "coco/annotations/instances_layouts.json").read_text())
    assert rows["annotations"][1]["bbox"] == [0, 0, 320, 160]
    assert rows["images"][0] == {"id": 1, "file_name": "000000000001.png", "width": 640, "height": 320}


def test_strict(convert, tmp_path):
    code, out, err = convert("--from", "trueline", "--to", "gligen", "--strict")
    assert (code, out) == (2, "")
    assert (
        err
        == "trueline: --strict: this would be lost on the way to gligen: seeds: 1 (the first: layout 1 (a))\n"
    )
    assert not (tmp_path / "out").exists()
    assert convert("--from", "trueline", "--to", "labelme", "--strict")[0] == 0


def test_force(convert, tmp_path):
    assert convert("--from", "trueline", "--to", "lmd")[0] == 0
    code, _, err = convert("--from", "trueline", "--to", "lmd")
    assert code == 2 and "--force: " in err and "is there already; choose another name, or" in err
    assert convert("--from", "trueline", "--to", "lmd", "--force")[0] == 0


def test_text_that_cannot_be_held_leaves_nothing_behind(convert, tmp_path):
    write_layouts(tmp_path / "layouts.jsonl", [MADE[0], Layout("a cat", [Region("{a cat}", (0, 0, 1, 1))])])
    code, _, err = convert("--from", "trueline", "--to", "layoutgpt-css")
    assert code == 2
    assert (
        err == "trueline: layout 2, regions[0].phrase: holds '{', which LayoutGPT's CSS cannot; remove it\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "coco"], "the following arguments are required: --from"),
        (["--from", "csv", "--to", "coco"], "--from: there is no format 'csv'"),
        (["--from", "trueline", "--to", "COCO"], "--to: there is no format 'COCO'; there are trueline, coco"),
        (["--from", "trueline", "--to", "coco", "--size", "512"], "--size: write width and height in pixels"),
        (
            ["--from", "trueline", "--to", "coco", "--size", "0x512"],
            "--size: write width and height in pixels",
        ),
        (["--from", "trueline", "--to", "lmd", "--names", "x"], "--names: neither format has classes"),
        (
            ["--from", "trueline", "--to", "coco", "--captions", "x"],
            "--captions: trueline takes none, only coco",
        ),
        (
            ["--from", "trueline", "--to", "coco", "--from-size", "8x8"],
            "--from-size: boxes of trueline do not",
        ),
        (["--from", "lmd", "--to", "coco"], "layouts.jsonl: lmd is text of Caption:"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(convert, tmp_path, arguments, sentence):
    code, out, err = convert(*arguments)
    assert (code, out) == (2, "") and sentence in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_names_every_format_and_loads_nothing(capsys):
    assert "convert" in COMMANDS
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in FORMATS) and "cannot hold: " in shown
    code = "import sys\nfrom trueline.cli import main\ntry: main(['convert', '--help'])\nexcept SystemExit: pass\n"
    code += "print('\\n', *sorted({'torch', 'numpy', 'pydantic', 'yaml', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == []


def test_no_format_loads_torch(tmp_path):
    write_layouts(tmp_path / "in.jsonl", MADE)
    lines = [
        "import sys, warnings; warnings.simplefilter('ignore')",
        "from trueline.formats import FORMATS, read, write",
        f"made = read({str(tmp_path / 'in.jsonl')!r}, 'trueline')",
        f"for n in FORMATS: write(made, {str(tmp_path)!r} + '/' + n, n); read({str(tmp_path)!r} + '/' + n, n)",
        "print('torch' in sys.modules)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
