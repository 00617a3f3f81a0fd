"""What a user can get wrong: one sentence that names the field and the cure, exit code 2, nothing written."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from trueline.cli import TRACEBACK, main

CAR = "a blue car@.55,.35,.95,.70"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def refused(tmp_path, out, capsys, monkeypatch):
    """Run a command line that must be refused; gives its one sentence."""
    monkeypatch.delenv(TRACEBACK, raising=False)

    def call(*arguments: str, command: str = "generate") -> str:
        place = () if "--out" in arguments or command != "generate" else ("--out", str(out))
        code = main([command, *map(str, arguments), *place])
        written = capsys.readouterr()
        assert code == 2
        assert written.out == ""
        assert written.err.count("\n") == 1, written.err
        assert written.err.startswith("trueline: ")
        assert len(written.err) < 600
        assert not list(out.glob("*.*")), "nothing was written"
        return written.err.removeprefix("trueline: ").rstrip("\n")

    return call


NO_MODEL = [
    "--model",
    "/nowhere/to/be/found",
]  # whatever is refused below is refused before a model is looked for

BOXES = {
    "a cat@.4,.3,.1,.7": "x0 must be smaller than x1",
    "a cat@.1,.7,.4,.3": "y0 must be smaller than y1",
    "a cat@.1,.1,1.2,.4": "must be between 0 and 1",
    "a cat@-.1,.1,.2,.4": "must be between 0 and 1",
    "a cat@10,20,300,400": "divide pixels",
    "a cat@nan,.1,.2,.4": "must be between 0 and 1",
    "a cat@.1,.1,inf,.4": "must be between 0 and 1",
    "a cat@.1,.1,.1,.4": "x0 must be smaller than x1",
    "a cat@.1,.1,.101,.101": "area",
    "a cat": "write it as PHRASE@X0,Y0,X1,Y1",
    "a cat@": "write it as",
    "a cat@.1,.2,.3": "write it as",
    "a cat@.1,.2,.3,.4,.5": "write it as",
    "a cat@.1;.2;.3;.4": "write it as",
    "a cat@a,b,c,d": "write it as",
    "a cat@0x1,.2,.3,.4": "write it as",
    "": "write it as",
    "@.1,.1,.4,.4": "phrase: is empty",
    "  @.1,.1,.4,.4": "phrase: is empty",
    f"{'x' * 300}@.1,.1,.4,.4": "at most 256 characters",
}


@pytest.mark.parametrize(("box", "cure"), BOXES.items())
def test_a_bad_box(refused, box, cure):
    sentence = refused("a cat", "--box", CAR, "--box", box, *NO_MODEL)
    assert sentence.startswith("--box 2")
    assert cure in sentence


FLAGS = {
    ("",): "prompt: is empty",
    ("   ",): "prompt: is empty",
    ("x" * 2001,): "prompt: must have at most 2000 characters",
    (): "PROMPT: give either",
    ("a cat", "--layout", "x.jsonl"): "PROMPT: give either",
    ("a cat", "--n", "0"): "--n: must be from 1 to 1000 (got 0)",
    ("a cat", "--n", "two"): "--n: invalid int value",
    ("a cat", "--seed", "-1"): "--seed: must be from 0",
    ("a cat", "--steps", "0"): "--steps: must be",
    ("a cat", "--steps", "1001"): "--steps: must be",
    ("a cat", "--scheduler", "magic"): "--scheduler: must be one of ddim, dpmsolver++, euler, lms, pndm",
    ("a cat", "--guidance-scale", "nan"): "--guidance-scale: must be a number",
    ("a cat", "--grounding-schedule", ".3,.7"): "--grounding-schedule: write 3 fractions",
    ("a cat", "--grounding-schedule", ".5,.5,.5"): "sum to 1",
    ("a cat", "--guidance-interval", ".5"): "--guidance-interval: write 2 fractions",
    ("a cat", "--guidance-interval", ".5,.2"): "--guidance-interval: must be start < stop",
    ("a cat", "--grounding-schedule", "nan,0,1"): "--grounding-schedule: ",
    ("a cat", "--width", "100"): "--width: must be a multiple of 8",
    ("a cat", "--height", "4096"): "--height: must be a multiple of 8 from 64 to 2048",
    ("a cat", "--dtype", "int8"): "--dtype: invalid choice: 'int8'",
    ("a cat", "--batch-size", "0"): "--batch-size: must be from 1",
    ("a cat", "--sead", "1"): "unrecognized arguments: --sead 1",
    ("a cat", "--box"): "--box: expected one argument",
}


@pytest.mark.parametrize(("arguments", "cure"), FLAGS.items())
def test_a_bad_flag(refused, arguments, cure):
    assert cure in refused(*arguments, *NO_MODEL)


def test_thirty_one_boxes(refused):
    assert "regions: at most 30 regions" in refused("cars", *["--box", CAR] * 31, *NO_MODEL)


LINES = {
    "not json": "not JSON",
    "[1, 2]": "a record must be a JSON object",
    '{"regions": []}': "prompt: is missing",
    '{"prompt": ""}': "prompt: is empty",
    '{"prompt": "a cat", "sed": 1}': "sed: unknown key",
    '{"prompt": "a cat", "schema": 99}': "schema: must be 1",
    '{"prompt": "a cat", "id": "../../etc/passwd"}': "id: must be safe as a file name",
    '{"prompt": "a", "regions": [{"phrase": "a", "box": [0.5, 0, 0.2, 1]}]}': "regions[0].box: x0 must",
    '{"prompt": "a", "regions": [{"phrase": "a", "box": [NaN, 0, 0.2, 1]}]}': "regions[0].box.x0: must",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize(("line", "cure"), LINES.items())
def test_a_bad_line_of_a_layout_file(refused, tmp_path, line, cure):
    path = tmp_path / "layouts.jsonl"
    path.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    sentence = refused("--layout", path, *NO_MODEL)
    assert sentence.startswith(f"--layout: {path}, line 3: ")
    assert cure in sentence


def test_layout_files_that_hold_none(refused, tmp_path):
    path = tmp_path / "layouts.jsonl"
    assert "cannot read" in refused("--layout", path, *NO_MODEL)
    assert "cannot read" in refused("--layout", tmp_path, *NO_MODEL)
    path.write_text("\n\n")
    assert "holds no layout" in refused("--layout", path, *NO_MODEL)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert "line 1: not JSON" in refused("--layout", path, *NO_MODEL)


def test_boxes_beside_a_layout_file(refused, tmp_path):
    path = tmp_path / "layouts.jsonl"
    path.write_text('{"prompt": "fine"}\n')
    assert refused("--layout", path, "--box", CAR, *NO_MODEL).startswith("--box: belongs to a PROMPT")


@pytest.mark.parametrize("ids", [("a", "a"), ("a", "A"), ("0001", None)])
def test_two_pictures_of_one_name(refused, tmp_path, ids):
    path = tmp_path / "layouts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "x"} | ({"id": i} if i else {})) + "\n" for i in ids))
    assert "give each layout its own id" in refused("--layout", path, *NO_MODEL)


def test_an_out_folder_that_cannot_be_written(refused, tmp_path, out):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere", "nul\0byte"):
        sentence = refused("a cat", "--out", folder, *NO_MODEL)
        assert sentence.startswith("--out: cannot write to ")
        assert "choose another folder" in sentence


def test_a_model_that_is_nowhere(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "neither a folder nor a Hub id" in refused("a cat", *NO_MODEL)
    assert "no checkpoint: it has no model_index.json" in refused("a cat", "--model", tmp_path)


@pytest.fixture
def broken(gated_folder, tmp_path) -> Path:
    return Path(shutil.copytree(gated_folder, tmp_path / "broken"))


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_a_pickled_checkpoint_is_refused_and_never_opened(refused, broken, tmp_path):
    trace = tmp_path / "it-ran"
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (broken / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap(trace)))
    sentence = refused("a cat", "--model", broken)
    assert "only pickled weights" in sentence
    assert "safe_serialization=True" in sentence
    assert not trace.exists()


def test_a_single_pickled_file_in_a_folder(refused, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({}, folder / "v1-5-pruned.ckpt")
    assert "only a pickled checkpoint (v1-5-pruned.ckpt)" in refused("a cat", "--model", folder)


@pytest.mark.parametrize("keep", [0, 7, 1000])
def test_a_corrupt_safetensors(refused, broken, keep):
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"the weights in {broken / 'vae'} cannot be read" in refused("a cat", "--model", broken)


def test_a_device_that_is_not_there(refused, gated_folder):
    for device in ("warp", "cuda:77"):
        sentence = refused("a cat", "--model", gated_folder, "--device", device)
        assert sentence.startswith(f"--device: {device!r} is not a device of this machine")


def test_a_lora_that_is_none(refused, gated_folder, tmp_path):
    path = tmp_path / "lora.pt"
    torch.save({}, path)
    assert "not a .safetensors file" in refused("a cat", "--model", gated_folder, "--lora", path)
    missing = tmp_path / "lora.safetensors"
    assert "lora.safetensors cannot be read" in refused("a cat", "--model", gated_folder, "--lora", missing)


@pytest.mark.parametrize("flag", [("a cat",), ("--seed", "0"), ("--guidance-scale", "7.5"), ("--box", CAR)])
def test_flags_beside_a_record(refused, tmp_path, flag):
    sentence = refused("--regenerate", tmp_path / "x.json", *flag)
    name = flag[0] if flag[0].startswith("--") else "PROMPT"
    assert sentence == f"--regenerate: the record says everything; leave {name} out"


RECORD = {
    **{"schema": 1, "seed": 0, "sha256": "0", "model": {"revision": None}, "batch": {"size": 1, "row": 0}},
    **{"layout": {"prompt": "a cat"}, "made_with": {"model": "world", "dtype": "fp32", "threads": 1}},
}
RECORDS = {
    "": "not whole JSON",
    "[]": "its schema is not 1",
    "{}": "its schema is not 1",
    json.dumps({"schema": 1}): "its layout is missing",
    json.dumps(RECORD | {"seed": None}): "its seed is missing",
    json.dumps(RECORD | {"sha256": 1}): "its sha256 is missing or of another type",
    json.dumps(RECORD | {"batch": {"size": 10**9, "row": 0}}): "its batch.size is missing or out of range",
    json.dumps(
        RECORD | {"made_with": {"model": "world", "dtype": "fp32", "threads": 0}}
    ): "made_with.threads",
    json.dumps(RECORD | {"made_with": {"model": "world", "dtype": "int4", "threads": 1}}): "made_with.dtype",
}


@pytest.mark.parametrize(("text", "problem"), RECORDS.items())
def test_a_file_that_is_no_record(refused, tmp_path, text, problem):
    path = tmp_path / "record.json"
    path.write_text(text)
    sentence = refused("--regenerate", path)
    assert sentence.startswith("--regenerate: ")
    assert problem in sentence


def test_a_record_that_lacks_how_it_was_sampled(refused, tmp_path, gated_folder):
    loading = {"model": str(gated_folder), "revision": None, "lora": None, "dtype": "fp32", "device": "cpu"}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORD | {"made_with": loading | {"threads": 1}}))
    assert "--regenerate: the record is not whole" in refused("--regenerate", path)


def test_a_record_that_is_nowhere(refused, tmp_path):
    assert "cannot read" in refused("--regenerate", tmp_path / "record.json")


def test_commands_that_are_not_there(refused):
    assert (
        refused(command="generat") == "there is no command 'generat'; there are "
        "generate, plan, convert, methods, train, dataset, evaluate, merge, votes, results, world"
    )
    assert refused("unmake", command="world") == "world: there is no action 'unmake'; there are build, report"


def test_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    monkeypatch.setenv(TRACEBACK, "1")
    assert main(["generate"]) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):" and last.startswith("trueline: PROMPT: give")
