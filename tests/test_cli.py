"""``trueline generate`` from arguments to files, on a tiny random GLIGEN checkpoint."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trueline import Layout, Pipeline, Region, read_layouts, write_layouts
from trueline.cli import COMMANDS, main
from trueline.commands import _pictures, dataset, generate, plan, train, world
from trueline.commands._methods import split_settings
from trueline.commands._planners import PLANNERS
from trueline.files import KEY, Folder, pixel_hash
from trueline.models.backbone import Backbone
from trueline.models.schedules import SCHEDULERS
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import DEFAULT_BATCH
from trueline.training.recipes.recipe import recipe

APPLE, CAR = "a red apple@.05,.35,.40,.70", "a blue car@.55,.35,.95,.70"
PROMPT = "a red apple to the left of a blue car"
BOXES = ["--box", APPLE, "--box", CAR]
FAST = ["--steps", "2"]
SOURCE = str(Path(generate.__file__).parent.parent)


@pytest.fixture
def trueline(gated_folder, tmp_path, capsys):
    """Run ``trueline generate ... --model TINY --out TMP``; gives exit code, stdout and stderr."""

    def call(*arguments: str, model: Path | None = gated_folder) -> tuple[int, str, str]:
        chosen = [] if model is None else ["--model", str(model)]
        code = main(["generate", *arguments, *chosen, "--out", str(tmp_path / "out")])
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def record_of(out: Path, name: str) -> dict:
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))


RUN = {"run.json", "state.json", "progress"}  #: of the folder as a whole


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_pictures_records_and_sheet(trueline, out):
    code, stdout, stderr = trueline(PROMPT, *BOXES, *FAST, "--n", "3", "--batch-size", "2")
    assert (code, stderr) == (0, ""), "quiet off a terminal"
    assert stdout.splitlines() == [
        f"3 pictures in {out}; {out / 'contact.png'} shows all of them, with the boxes that were asked for"
    ]
    pictures = {f"0000-{i}.{kind}" for i in range(3) for kind in ("png", "json")}
    assert names(out) == pictures | RUN | {"contact.png"}
    assert len({record_of(out, f"0000-{i}")["sha256"] for i in range(3)}) == 3
    assert json.loads((out / "state.json").read_text())["status"] == "complete"


def test_a_picture_is_what_python_makes(trueline, out, gated_folder):
    trueline(
        PROMPT, *BOXES, *FAST, "--seed", "5", "--n", "2", "--guidance-scale", "3", "--scheduler", "euler"
    )
    regions = [Region("a red apple", (0.05, 0.35, 0.4, 0.7)), Region("a blue car", (0.55, 0.35, 0.95, 0.7))]
    pipe = Pipeline.from_pretrained(gated_folder)
    made = pipe(
        [Layout(PROMPT, regions)] * 2, seeds=[5, 6], steps=2, guidance_scale=3.0, scheduler="euler"
    ).images
    for i, image in enumerate(made):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(out / f"0000-{i}.png")))


def test_every_flag_arrives(trueline, out):
    flags = {
        **{"--steps": "3", "--scheduler": "dpmsolver++", "--guidance-scale": "2.5", "--seed": "9"},
        **{"--grounding-schedule": ".5,.25,.25", "--negative": "a cat", "--dtype": "bf16", "--device": "cpu"},
        **{"--width": "128", "--height": "64", "--eta": ".5", "--guidance-interval": "0,.5"},
    }
    code, _, _ = trueline(PROMPT, *BOXES, *[part for pair in flags.items() for part in pair])
    record = record_of(out, "0000-0")
    assert code == 0
    assert (record["steps"], record["scheduler"], record["guidance_scale"]) == (3, "dpmsolver++", 2.5)
    assert (record["seed"], record["grounding_schedule"]) == (9, [0.5, 0.25, 0.25])
    assert (record["eta"], record["guidance_interval"]) == (0.5, [0.0, 0.5])
    assert (record["dtype"], record["device"]) == ("bfloat16", "cpu")
    assert record["layout"]["negative_prompt"] == "a cat"
    assert Image.open(out / "0000-0.png").size == (128, 64)


def test_what_spares_memory_is_a_flag_recorded_and_made_again(trueline, out, monkeypatch):
    """The CPU stands for the GPU here; the nets are moved to it and back all the same."""
    real, offloaded = Backbone.enable_model_cpu_offload, []
    monkeypatch.setattr(
        Backbone,
        "enable_model_cpu_offload",
        lambda self, device: (offloaded.append(device), real(self, device)),
    )
    wide = [PROMPT, *BOXES, *FAST, "--width", "128", "--device", "cpu"]
    trueline(*wide)
    usual = record_of(out, "0000-0")
    assert not {"offload", "vae_tiling"} & usual["made_with"].keys()
    code, _, _ = trueline(*wide, "--offload")
    assert code == 0 and record_of(out, "0000-0") == usual, "the same run: it changes no picture"
    trueline(*wide, "--offload", "--overwrite")
    moved = record_of(out, "0000-0")
    assert (
        moved["sha256"] == usual["sha256"] and moved["made_with"]["offload"] is True and len(offloaded) == 1
    )
    code, _, said = trueline(*wide, "--vae-tiling")
    assert code == 2 and "holds a run with another vae_tiling" in said
    code, _, _ = trueline(*wide, "--vae-tiling", "--offload", "--overwrite")
    tiled = record_of(out, "0000-0")
    assert code == 0 and tiled["vae_tile"] == 8 and tiled["sha256"] != usual["sha256"]
    assert tiled["made_with"]["offload"] is tiled["made_with"]["vae_tiling"] is True
    code, said, _ = trueline("--regenerate", str(out / "0000-0.json"), model=None)
    assert code == 0 and "the same picture, bit for bit" in said and len(offloaded) == 3


def test_an_evaluation_takes_them_too(gated_folder, tmp_path, capsys):
    asked = f"evaluate world --model {gated_folder} --n 1 --seeds 0 --judges none --methods plain".split()
    asked += [*FAST, "--device", "cpu", "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*asked, "--vae-tiling", "--offload"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["vae_tiling"] is True
    assert main(asked) == 2
    assert "holds a run with another vae_tiling" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["encode", "predict"])
def test_few_frames_from_the_command_line_to_the_net(trueline, gated, monkeypatch, call):
    """Who follows a prompt with a debugger passes nine functions of ours, and four of the run's loop."""
    real, frames = getattr(type(gated), call), []

    def seen(self, *arguments, **options):
        frames.append([frame.name for frame in traceback.extract_stack() if SOURCE in frame.filename])
        return real(self, *arguments, **options)

    monkeypatch.setattr(type(gated), call, seen)
    trueline(PROMPT, *BOXES, *FAST)
    assert frames[0][0] == "main" and len(frames[0]) + 1 <= 9 + 4, frames[0]


def test_the_record_is_in_the_picture_too(trueline, out):
    trueline("a red apple, naïve 猫", *FAST)
    image = Image.open(out / "0000-0.png")
    assert json.loads(image.text[KEY]) == record_of(out, "0000-0")
    assert record_of(out, "0000-0")["sha256"] == pixel_hash(image)
    assert record_of(out, "0000-0")["layout"]["prompt"] == "a red apple, naïve 猫"


def test_pixel_hash_sees_pixels_and_shape():
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    other = picture.copy()
    other.putpixel((3, 3), (0, 0, 0))
    hashes = {pixel_hash(p) for p in (picture, other, Image.fromarray(np.asarray(picture).reshape(2, 8, 3)))}
    assert len(hashes) == 3
    assert pixel_hash(picture.convert("RGBA")) == pixel_hash(picture)


def test_overlays(trueline, out):
    trueline(PROMPT, *BOXES, *FAST, "--overlay")
    assert Image.open(out / "0000-0-overlay.png").width == 192
    assert Image.open(out / "0000-0.png").width == 64


@pytest.fixture
def mixed_file(tmp_path, layouts) -> Path:
    """Pictures with and without regions, of two sizes, with and without ids and seeds."""
    changed = [
        layouts[3].model_copy(update={"id": "chair", "seed": 7}),
        layouts[5],
        layouts[1].model_copy(update={"width": 128}),
        layouts[2],
    ]
    path = tmp_path / "layouts.jsonl"
    write_layouts(path, changed)
    return path


def test_a_file_of_layouts(trueline, out, mixed_file):
    code, _, _ = trueline("--layout", str(mixed_file), *FAST, "--n", "2", "--seed", "1")
    assert code == 0
    stems = [f"{stem}-{copy}" for stem in ("chair", "0001", "0002", "0003") for copy in (0, 1)]
    pictures = {f"{s}.{kind}" for s in stems for kind in ("png", "json")}
    assert names(out) == pictures | RUN | {"contact.png"}
    assert [record_of(out, stem)["seed"] for stem in stems] == [7, 8, 1, 2, 1, 2, 1, 2]
    assert Image.open(out / "0002-0.png").size == (128, 64)
    assert [record_of(out, s)["layout"]["prompt"] for s in ("0001-0", "0002-0")] == ["a blue car"] * 2


@pytest.mark.parametrize("name", ["chair-0", "0001-0", "0002-0", "0003-0"])
def test_regenerate_gives_the_same_bits(trueline, out, mixed_file, name):
    trueline("--layout", str(mixed_file), *FAST, "--batch-size", "3")
    again = main(["generate", "--regenerate", str(out / f"{name}.json"), "--out", str(out)])
    assert again == 0
    assert record_of(out, f"{name}-again")["sha256"] == record_of(out, name)["sha256"]
    assert (out / f"{name}.png").read_bytes(), "the first picture is still there"


def test_regenerate_says_when_pixels_differ(trueline, out):
    trueline(PROMPT, *FAST)
    record = record_of(out, "0000-0") | {"sha256": "0" * 64}
    record["versions"]["torch"] = "1.0"
    (out / "0000-0.json").write_text(json.dumps(record))
    code, stdout, _ = trueline("--regenerate", str(out / "0000-0.json"), model=None)
    assert code == 1
    assert "NOT the same pixels (torch 1.0 then" in stdout


def test_regenerate_can_regenerate_itself(trueline, out):
    trueline(PROMPT, *BOXES, *FAST, "--n", "3")
    for name in ("0000-1", "0000-1-again"):
        assert trueline("--regenerate", str(out / f"{name}.json"), "--overlay", model=None)[0] == 0
    assert (out / "0000-1-again-again-overlay.png").exists()


def test_warnings_are_lines_and_stand_in_the_record(trueline, out):
    prompt = "a red apple and " + "a cat " * 40
    code, _, stderr = trueline(prompt, *FAST)
    assert code == 0
    lines = stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("trueline: warning: ")
    assert "cut to 24 tokens" in lines[0]
    assert any("cut to 24 tokens" in note for note in record_of(out, "0000-0")["notes"])


def test_boxes_on_a_plain_checkpoint_are_a_warning(trueline, out, plain_folder):
    code, _, stderr = trueline(PROMPT, *BOXES, *FAST, model=plain_folder)
    assert code == 0
    assert "ignores the boxes" in stderr
    assert "ignores the boxes" in " ".join(record_of(out, "0000-0")["notes"])


def test_names_come_from_ids_and_numbers_only(trueline, out):
    trueline("../../evil\\name: *?", *FAST)
    assert {"0000-0.png", "0000-0.json"} < names(out)
    assert sorted(path.name for path in out.parent.iterdir() if path.is_dir()) == ["out"]


def test_seeds_follow_each_other():
    wanted = _pictures.named([Layout("a", seed=40), Layout("b"), Layout("c", id="x")], n=2, seed=3)
    assert [(one.name, one.layout.seed) for one in wanted] == [
        *(("0000-0", 40), ("0000-1", 41), ("0001-0", 3)),
        *(("0001-1", 4), ("x-0", 3), ("x-1", 4)),
    ]


def test_a_file_is_whole_or_not_there(tmp_path):
    folder = Folder(tmp_path)
    folder.write_json("a.json", {"old": 1})
    with pytest.raises(TypeError):
        folder.write_json("a.json", object())
    broken = Image.new("F", (4, 4))  # PNG cannot hold it: fails while the file is being written
    with pytest.raises(OSError, match="cannot write mode F"):
        folder.write_png("a.png", broken)
    assert names(tmp_path) == {"a.json"}
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_the_sheet_of_many_pictures_shows_the_first(trueline, out, monkeypatch):
    monkeypatch.setattr(_pictures, "MAX_ON_SHEET", 2)
    _, stdout, _ = trueline(PROMPT, *FAST, "--n", "3")
    assert "shows the first 2 of them, with the boxes" in stdout
    assert Image.open(out / "contact.png").width < 3 * 192


def start(arguments: list[str], **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "trueline.cli", "generate", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_keeps_what_is_done(gated_folder, out):
    arguments = [PROMPT, "--model", str(gated_folder), "--n", "1000", "--batch-size", "1", "--steps", "2"]
    process = start([*arguments, "--out", str(out)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (out / "0000-1.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    state = json.loads((out / "state.json").read_text())
    assert state["status"] == "stopped"
    done = {f"0000-{number}" for number in range(1000)} - set(state["missing"])
    assert len(done) == state["done"] >= 1, (
        "the stop may fall between a picture's files and the line that says so"
    )
    assert len({path.stem for path in out.glob("0000-*.json")} - done) <= 1
    assert f"stopped: {len(done)} of 1000" in stderr
    for name in done:
        assert record_of(out, name)["sha256"] == pixel_hash(Image.open(out / f"{name}.png"))
    assert not [name for name in names(out) if name.endswith(".tmp")]


def test_a_failure_in_the_middle_keeps_what_is_done(trueline, out, monkeypatch):
    place = Folder.place

    def full_disk(self, name, fill):
        if name == "0000-2.png":
            raise OSError(28, "No space left on device")
        return place(self, name, fill)

    command = (PROMPT, *FAST, "--n", "4", "--batch-size", "1")
    monkeypatch.setattr(Folder, "place", full_disk)
    code, _, stderr = trueline(*command)
    assert code == 2
    assert "No space left on device" in stderr
    state = json.loads((out / "state.json").read_text())
    assert (state["status"], state["missing"]) == ("failed", ["0000-2", "0000-3"])
    monkeypatch.setattr(Folder, "place", place)
    before = {path: path.stat().st_mtime_ns for path in out.glob("0000-[01].*")}
    code, stdout, _ = trueline(*command)
    assert (code, stdout[:10]) == (0, "4 pictures"), "the same command goes on"
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what was done is not made again"


def test_other_settings_in_the_same_folder_are_refused(trueline, out):
    trueline(PROMPT, *FAST, "--n", "3")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    code, _, stderr = trueline(PROMPT, *FAST, "--n", "2", "--seed", "7")
    assert code == 2 and "another n (3, now 2)" in stderr and "--overwrite" in stderr
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (out / "mine.txt").write_text("not of the run")
    code, _, _ = trueline(PROMPT, *FAST, "--n", "2", "--seed", "7", "--overwrite")
    assert code == 0 and record_of(out, "0000-0")["seed"] == 7
    pictures = {f"0000-{i}.{kind}" for i in range(2) for kind in ("png", "json")}
    assert names(out) == pictures | RUN | {"contact.png", "mine.txt"}, "of three pictures one is gone"


def test_a_broken_picture_is_drawn_again_to_the_same_bytes(trueline, out):
    trueline(PROMPT, *FAST, "--n", "3", "--batch-size", "1")
    broken, gone = out / "0000-1.png", out / "0000-2.json"
    whole, record = broken.read_bytes(), gone.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    gone.unlink()
    other = (out / "0000-0.png").stat().st_mtime_ns
    assert trueline(PROMPT, *FAST, "--n", "3", "--batch-size", "1")[0] == 0
    assert (broken.read_bytes(), gone.read_bytes()) == (whole, record)
    assert (out / "0000-0.png").stat().st_mtime_ns == other


def help_of(*arguments: str) -> str:
    command = [sys.executable, "-m", "trueline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_names_every_command():
    text = help_of("--help")
    assert all(f"  {name} " in text for name in COMMANDS)
    assert {path.stem for path in Path(generate.__file__).parent.glob("[!_]*.py")} == set(COMMANDS)


def test_help_of_generate_tells_the_truth():
    text = help_of("generate", "--help")
    assert all(name in text for name in SCHEDULERS)
    assert generate.DEFAULTS["batch_size"] == DEFAULT_BATCH
    usual = generate.DEFAULTS | {name: value for name, value in Sampling() if value}
    for name, value in usual.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"(default {value})" in " ".join(text.split()), name


def test_version_and_no_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "trueline 0.1.0\n"
    assert main([]) == 2
    assert main(["world"]) == 2
    assert "usage: trueline world ACTION" in capsys.readouterr().out


@pytest.mark.parametrize("action", world.ACTIONS)
def test_actions_of_the_world_are_there(capsys, action):
    with pytest.raises(SystemExit) as stopped:
        main(["world", action, "--help"])
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_is_for_terminals(gated_folder, out, quiet):
    """On a pseudo-terminal there is a bar, unless --quiet."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    arguments = [PROMPT, "--model", str(gated_folder), *FAST, "--out", str(out)] + ["--quiet"] * quiet
    command = [sys.executable, "-m", "trueline.cli", "generate", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.set_blocking(ours, False)
    shown = b""
    with suppress(BlockingIOError):  # nothing to read: no bar
        shown = os.read(ours, 100_000)
    os.close(ours)
    os.close(theirs)
    assert (b"denoising" in shown) is not quiet
    assert result.stdout.count("\n") == 1


ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a Markdown page."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readme_runs_from_python(gated_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    exec(code.replace('"world"', repr(str(gated_folder))), {})
    assert Image.open("apple.png").size == (64, 64)


def command_lines() -> list[list[str]]:
    """Every ``trueline ...`` of README, guides, the world's page and ``make demo``, split as a shell splits it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(BIN)/", "")
    guides = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guides").glob("*.md"))
    pages = ["README.md", "docs/world.md", *guides]
    text = "\n".join([*(block for page in pages for block in blocks(page, "sh")), makefile]).replace(
        "\\\n", " "
    )
    lines = (line.strip() for line in text.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("trueline ")]


def test_the_commands_of_the_pages_can_be_parsed():
    lines = command_lines()
    assert {line[0] for line in lines} == set(COMMANDS)
    for line in lines:
        if line[0] == "world":
            assert line[1] in world.ACTIONS
        elif line[0] == "train":
            options = train.parser().parse_args(line[1:])
            recipe(options.recipe).settings(**train.gathered(options))
        elif line[0] == "dataset":
            {"build": dataset.build_parser, "finish": dataset.finish_parser}[line[1]]().parse_args(line[2:])
        elif line[0] == "plan":
            arguments, given = split_settings(line[1:], PLANNERS, ("planner",))
            assert set(given) <= {plan.parser().parse_args(arguments).planner.partition(":")[0]}
        elif line[0] in ("convert", "evaluate", "merge", "votes", "results", "methods"):
            import_module(f"trueline.commands.{line[0]}").parser().parse_args(line[1:])
        else:
            arguments, given = split_settings(line[1:])
            options = generate.parser().parse_args(arguments)
            assert set(given) <= {*(options.method or []), *(["realign"] if options.realign else [])}
            assert not options.prompt or generate.read_layouts(options)


def test_the_layout_lines_of_the_guide_are_some(tmp_path):
    path = tmp_path / "layouts.jsonl"
    path.write_text("".join(blocks("docs/guides/draw.md", "json")))
    assert [layout.id for layout in read_layouts(path)] == ["apple-car", "chair"]
