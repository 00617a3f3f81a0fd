"""How commands end: each failure has its documented code, signals are a wish to stop, a full disk is said."""

import csv
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from trueline.chat.cache import AnswerCache
from trueline.chat.model import ChatError
from trueline.cli import COMMANDS, TRACEBACK, main
from trueline.exits import EXITS, FAULT, TERMINATED
from trueline.files import write_text

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ending(monkeypatch, capsys):
    """Run a command that does this; gives exit code and stderr."""
    monkeypatch.delenv(TRACEBACK, raising=False)

    def call(does: Callable[[], object]) -> tuple[int, str]:
        monkeypatch.setattr("trueline.commands.methods.main", lambda _: (does(), 0)[1])
        code = main(["methods"])
        return code, capsys.readouterr().err

    return call


def endless(depth: int = 0) -> int:
    return endless(depth + 1) + 1


def garbage(path: Path) -> Path:
    path.write_bytes(b"\x07" * 100)
    return path


def huge_picture(path: Path) -> Image.Image:
    Image.new("1", (20_000, 20_000)).save(path)
    return Image.open(path)


BY_OTHERS = {
    "memory": (lambda _: bytearray(2**62), "the memory is full"),
    "memory-of-torch": (lambda _: torch.empty(10**15), "the memory is full ([enforce fail"),
    "memory-of-a-device": (lambda _: _raise(torch.OutOfMemoryError("CUDA out of memory.")), "the memory is full"),
    "recursion": (lambda _: endless(), "nested too deeply"),
    "overflow": (lambda _: float(10**400), "too large to compute with"),
    "program": (lambda _: sh("echo no such job >&2; exit 7"), "another program failed (Command"),
    "what-the-program-wrote": (lambda _: sh("echo no such job >&2; exit 7"), "exit status 7.: no such job)"),
    "program-in-time": (lambda _: subprocess.run(["sleep", "9"], timeout=0.01), "another program failed"),
    "safetensors": (lambda p: safe_open(garbage(p), "pt").keys(), "a file cannot be read (Error while deserializing"),
    "torch-file": (lambda p: torch.load(cut(p)), "a file cannot be read (PytorchStreamReader"),
    "zip": (lambda p: zipfile.ZipFile(garbage(p)), "a file cannot be read (File is not a zip file)"),
    "zlib": (lambda _: zlib.decompress(b"x"), "a file cannot be read"),
    "struct": (lambda _: struct.unpack("i", b""), "a file cannot be read"),
    "pickle": (lambda _: pickle.loads(b"x"), "a file cannot be read"),
    "csv": (lambda _: list(csv.reader(['"a"b'], strict=True)), "a file cannot be read"),
    "yaml": (lambda _: yaml.safe_load("{"), "a file cannot be read"),
    "picture": (lambda p: huge_picture(p.with_suffix(".png")).load(), "a picture is too large"),
    "chat": (lambda _: _raise(ChatError("the server is gone")), "the server is gone"),
    "singular": (lambda _: torch.linalg.cholesky(-torch.eye(2)), "the numbers of the nets are broken (linalg"),
    "nan": (lambda _: torch.multinomial(torch.tensor([float("nan")]), 1), "the numbers of the nets are broken"),
    "device": (lambda _: _raise(RuntimeError("CUDA error: device-side assert triggered")), "the device failed (CUDA"),
    "no-such-kernel": (lambda _: _raise(NotImplementedError("\"conv\" not implemented for 'Half'")), "take fp32"),
    "weights": (lambda _: torch.nn.Linear(2, 2).load_state_dict({}), "the weights do not fit the net (Error(s) in"),
    "library": (lambda _: _raise(ImportError("libx.so: no such file", name="x")), "libx.so: no such file; install"),
    "no-file": (lambda p: p.read_text(), "-x: no such file or directory; give one that is there"),
    "a-folder": (lambda p: p.parent.read_text(), "is a directory; give a file"),
}  # fmt: skip


def _raise(error: Exception) -> None:
    raise error


def sh(line: str) -> None:
    subprocess.run(["sh", "-c", line], check=True, capture_output=True)


def cut(path: Path) -> Path:
    torch.save(torch.zeros(1000), path)
    path.write_bytes(path.read_bytes()[:2000])
    return path


@pytest.mark.parametrize("name", BY_OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_a_failure_of_libraries_and_of_the_machine_is_one_sentence(ending, tmp_path, monkeypatch, name):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fails, sentence = BY_OTHERS[name]
    code, said = ending(lambda: fails(tmp_path / "file-x"))
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("trueline: ") and sentence in said and len(said) < 600


def test_broken_weights_are_one_sentence(ending, gated):
    sick = torch.full((1, 4, 8, 8), float("nan"))
    code, said = ending(lambda: gated.decode(sick))
    assert code == 2 and said.startswith("trueline: the VAE gave non-finite pixels in float32")


@pytest.mark.parametrize(
    "fault",
    [
        lambda: {}["api_key=sesame"],
        lambda: torch.zeros(2, 3) @ torch.zeros(2, 3),
        lambda: _raise(ImportError("cannot import name 'x'", name="trueline.layout")),
        lambda: _raise(NotImplementedError()),
        lambda: [][1],
    ],
    ids=["KeyError", "RuntimeError", "ImportError", "NotImplementedError", "IndexError"],
)
def test_a_fault_of_trueline_keeps_its_traceback_and_says_how_to_report_it(ending, request, fault):
    code, said = ending(fault)
    assert code == FAULT == 3
    assert said.startswith("Traceback (most recent call last)") and "test_exits.py" in said
    last = said.splitlines()[-1]
    assert last.startswith(f"trueline: a fault of Trueline itself ({request.node.callspec.id}: ")
    assert last.endswith("please report it, with the command and the lines above")
    assert "sesame" not in said


def test_help_says_the_codes_that_there_are(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f" {code} {what}" in shown for code, what in EXITS.items())
    assert [*EXITS] == [0, 1, 2, 3, 130, 143]


# Signals


def trueline(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "trueline.cli", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, text=True, env=surroundings, **(pipes | options))


@pytest.mark.parametrize(
    ("number", "code", "what"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_a_signal_stops_a_command_and_it_says_how_to_go_on(number, code, what):
    process = trueline("plan", "a cat", "--file", "-")
    process.stdin.write("a red apple\n")  # the rest is waited for
    process.stdin.flush()
    deadline = threading.Event()
    while not (Path("/proc") / str(process.pid) / "wchan").exists() or "pipe" not in _waits_in(process.pid):
        assert process.poll() is None and not deadline.wait(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert (
        said.startswith(f"trueline: stopped by {what}; give the same command again: ")
        and said.count("\n") == 1
    )


def _waits_in(process: int) -> str:
    return (Path("/proc") / str(process) / "wchan").read_text()


def test_sigterm_runs_what_is_to_be_done_at_the_end(ending, monkeypatch):
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        ours = signal.getsignal(signal.SIGTERM)

        def work() -> None:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # a second one acts as ever
                seen.append(0)

        assert ending(work)[0] == TERMINATED
        assert seen == [signal.SIGTERM, 0]
        assert ending(lambda: 0)[0] == 0
        assert signal.getsignal(signal.SIGTERM) is ours, "as it was"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert ending(lambda: os.kill(os.getpid(), signal.SIGTERM))[0] == 0, "who started us wants that"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_command_may_run_in_any_thread(ending):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(ending(lambda: 0)[0]))
    thread.start()
    thread.join()
    assert codes == [0]


RESUMED, ANEW = (
    "what is done is kept, and the same command goes on",
    "give the same command again: it begins anew",
)
HOW = {
    **{"generate a": RESUMED, "train goal": RESUMED, "dataset build": RESUMED, "evaluate world": RESUMED},
    **{"world build": RESUMED, "dataset finish": ANEW, "world report": ANEW, "merge": ANEW, "votes": ANEW},
    **{
        "results": ANEW,
        "methods": ANEW,
        "convert": "what is written stays: give the same command again, with --force",
    },
    "plan": "give the same command again: what a language model has answered is not asked again",
}


@pytest.mark.parametrize("line", HOW)
def test_each_command_says_how_to_go_on(monkeypatch, capsys, line):
    def stopped(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"trueline.commands.{line.split()[0]}.main", stopped)
    assert main(line.split()) == 130
    assert capsys.readouterr().err == f"trueline: stopped by Ctrl-C; {HOW[line]}\n"


def test_how_to_go_on_is_tested_for_all():
    assert {line.split()[0] for line in HOW} == set(COMMANDS)


# No room


@pytest.fixture
def full(monkeypatch):
    """Files of more than 4 kB cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 10_000),
        lambda path: path.write_bytes(b"x" * 10_000),
        lambda path: torch.save(torch.zeros(10_000), path),
        lambda path: save_file({"a": torch.zeros(10_000)}, path),
        lambda path: np.save(path, np.zeros(10_000)),
        lambda path: Image.effect_noise((200, 200), 9).save(path, "PNG"),
    ],
    ids=["ours", "python", "torch", "safetensors", "numpy", "pillow"],
)
def test_a_full_disk_is_said_whoever_writes(ending, full, tmp_path, write):
    code, said = ending(lambda: write(tmp_path / "a"))
    assert (code, said.count("\n")) == (2, 1), said
    assert "no space left on the disk" in said and "give the same command again: what is done stays" in said


def test_a_full_disk_names_the_checkpoint(ending, full, gated, tmp_path):
    code, said = ending(lambda: gated.save_pretrained(tmp_path / "mine"))
    assert (code, said) == (
        2,
        f"trueline: {tmp_path / 'mine'}: no space left on the disk; free some, and give the same command again: what "
        "is done stays\n",
    )


def test_a_full_disk_is_said_in_the_words_of_others_too(full, tmp_path):
    notes: list[str] = []
    AnswerCache(tmp_path).put("key", "x" * 10_000, notes)
    assert notes == [
        f"the answer cannot be kept in {tmp_path} (no space left on the disk); it is used all the same"
    ]


def test_a_full_disk_names_the_file(small_disk):
    prompts = small_disk.parent / "prompts.txt"
    prompts.write_text("a red apple\n" * 1000)
    target = small_disk / "layouts.jsonl"
    process = trueline("plan", "--file", str(prompts), "--out", str(target))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"trueline: {target}: no space left on the disk")
    assert not list(small_disk.iterdir()), "no half file"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_pictures_that_found_room_stay_and_the_same_command_goes_on(
    small_disk, gated_folder, tmp_path, capsys
):
    def draw(out: Path) -> tuple[int, str]:
        line = ["a cat", "--model", str(gated_folder), "--steps", "1", "--n", "8", "--batch-size", "1"]
        return main(["generate", *line, "--device", "cpu", "--out", str(out)]), capsys.readouterr().err

    code, said = draw(small_disk / "out")
    assert code == 2 and said.splitlines()[-1].startswith(f"trueline: {small_disk / 'out'}/")
    assert "no space left on the disk; free some, and give the same command again" in said
    kept = {path: path.stat().st_mtime_ns for path in (small_disk / "out").glob("0000-?.png")}
    assert 0 < len(kept) < 8
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert draw(small_disk / "out")[0] == draw(tmp_path / "whole")[0] == 0
    drawn = {path.name: path.read_bytes() for path in (small_disk / "out").glob("0000-?.png")}
    assert drawn == {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("0000-?.png")}
    assert len(drawn) == 8


def test_a_training_without_room_goes_on_once_there_is_some(small_disk, gated_folder, tmp_path, capsys):
    def train(out: Path) -> tuple[int, str]:
        quick = ["steps=4", "batch=1", "warmup=1", "save_every=1", "data.n=2", "precision=fp32", "ema=0"]
        sets = [part for each in quick for part in ("--set", each)]
        line = ["train", "hcma", "--stage", "control", "--model", str(gated_folder), "--device", "cpu", *sets]
        return main([*line, "--out", str(out)]), capsys.readouterr().err

    assert train(tmp_path / "whole" / "out")[0] == 0
    size = max(path.stat().st_size for path in (tmp_path / "whole" / "out" / "checkpoints").iterdir())
    subprocess.run(["mount", "-o", f"remount,size={int(size * 2.5)}", str(small_disk)], check=True)
    code, said = train(small_disk / "out")
    last = said.splitlines()[-1]
    assert code == 2 and last.startswith(f"trueline: {small_disk / 'out' / 'checkpoints' / 'step-'}"), said
    assert "no space left on the disk" in last
    assert list((small_disk / "out" / "checkpoints").glob("step-*.safetensors"))
    subprocess.run(["mount", "-o", "remount,size=500m", str(small_disk)], check=True)
    assert train(small_disk / "out")[0] == 0
    weights = [
        sorted((where / "out" / "final").rglob("*.safetensors")) for where in (small_disk, tmp_path / "whole")
    ]
    assert weights[0] and [path.read_bytes() for path in weights[0]] == [
        path.read_bytes() for path in weights[1]
    ]


@pytest.mark.parametrize("asked", ["--version", "methods"])
def test_an_output_without_room(asked):
    with open("/dev/full", "w") as full:
        process = trueline(asked, stdout=full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1
    assert said.startswith("trueline: no space left on the disk")


def test_an_output_that_nobody_reads():
    process = trueline("plan", *["a red apple"] * 3)
    process.stdout.close()
    said = process.stderr.read()
    assert (
        process.wait(60) == 2
        and said == "trueline: output: who reads it has gone; what was written before stays\n"
    )
