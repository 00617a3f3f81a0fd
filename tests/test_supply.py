"""What is installed and what is given away: the lock, the wheel and the source archive, the nightly plan."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
MEGABYTES = 100
#: What the source archive holds, besides what hatchling adds.
GIVEN = {
    "src", "tests", "docs", "configs", "benchmarks_perf", "studies", "results", "Makefile", "constraints.txt",
    "requirements.lock", "CHANGELOG.md", "NOTICE", "LICENSE", "README.md", "pyproject.toml", ".gitignore", "PKG-INFO",
}  # fmt: skip


def script(name: str):
    """A program of .ci as a module."""
    loader = SourceFileLoader(name, str(ROOT / ".ci" / name))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def bare(**more: str) -> dict[str, str]:
    """An environment that leads to no checkout."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | more


def call(*command, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, target: str, out: Path) -> Path:
    call(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", out, cwd=folder)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the source archive of this checkout. Nothing is downloaded: hatchling is here."""
    home = tmp_path_factory.mktemp("built")
    return build(ROOT, "wheel", home / "wheel"), build(ROOT, "sdist", home / "sdist")


def test_the_archives_are_small_and_hold_what_is_the_projects(built):
    wheel, archive = built
    assert all(path.stat().st_size < MEGABYTES * 2**20 for path in built)
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"trueline"}
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert {name.split("/")[0] for name in held} == GIVEN
    if (ROOT / ".git").exists():
        tracked = set(
            call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
        )
        assert held - {"PKG-INFO"} <= tracked, "a run, a cache or shared data is in the archive"


def test_the_source_archive_builds_the_same_wheel(built, tmp_path):
    wheel, archive = built
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    again = build(folder, "wheel", tmp_path / "again")
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again)]
    assert again.name == wheel.name and sums[0] == sums[1]


@pytest.mark.slow
def test_the_wheel_works_where_there_is_no_checkout(built, tmp_path):
    """In an environment of its own, with the libraries of this one; pip is that of the Python beneath, as in make."""
    home = tmp_path / "environment"
    pip = Path(sys.base_prefix) / "bin" / "python3"
    call(sys.executable, "-m", "venv", "--without-pip", home)
    call(
        pip, "-m", "pip", "--python", home / "bin" / "python", "install", "--no-deps", "--no-index", built[0]
    )
    (site,) = home.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    where = {"cwd": tmp_path, "env": bare(OMP_NUM_THREADS="1")}
    place = call(home / "bin" / "python", "-c", "import trueline; print(trueline.__file__)", **where)
    assert Path(place.strip()).is_relative_to(home)
    trueline = home / "bin" / "trueline"
    assert re.fullmatch(r"trueline \d+\.\d+\.\d+.*\n", call(trueline, "--version", **where))
    assert "lora: " in call(
        trueline, "train", "goal", "--config", "goal_world", "--show", "--out", "x", **where
    )
    drawing = ["a red apple", "--box", "a red apple@.1,.1,.6,.6", "--steps", "2", "--out", "drawn", "--quiet"]
    call(trueline, "generate", *drawing, "--device", "cpu", **where)
    assert list((tmp_path / "drawn").glob("*.png"))


def test_the_lock_is_of_the_constraints_and_every_file_has_a_hash():
    audit = script("audit")
    assert audit.differences() == []
    text = audit.LOCK.read_text(encoding="utf-8")
    rows = re.split(r"\n(?=\w)", text.partition("\n")[2])
    assert len(rows) > 90 and all("--hash=sha256:" in row for row in rows)
    assert "torch" not in audit.pinned(text) and "torch" in audit.pinned(audit.CONSTRAINTS.read_text())
    assert audit.pinned("Jaraco.Functools==4.6.0 ; x \\\n") == {"jaraco-functools": "4.6.0"}


def test_a_package_that_the_lock_lacks_is_named(tmp_path, monkeypatch, capsys):
    audit = script("audit")
    monkeypatch.setattr(audit, "CONSTRAINTS", tmp_path / "constraints.txt")
    audit.CONSTRAINTS.write_text(script("audit").CONSTRAINTS.read_text() + "sixth==1.0\n")
    assert audit.audit() == 1
    assert "sixth: 1.0 chosen, None locked" in capsys.readouterr().out


def test_what_could_not_be_audited_is_no_success(tmp_path, monkeypatch, capsys):
    """pip-audit says "No known vulnerabilities found", and exits 0, where its index answers for no package."""
    audit = script("audit")
    answer = tmp_path / "pip-audit"
    monkeypatch.setattr(audit, "tool", lambda name: str(answer))

    def answering(rows: str, code: int = 0) -> tuple[int, str]:
        answer.write_text(f"#!/bin/sh\necho '{rows}'\nexit {code}\n")
        answer.chmod(0o755)
        return audit.known_weaknesses(), capsys.readouterr().out

    fine = '{"name": "one", "version": "1", "vulns": []}'
    skipped = '{"name": "two", "skip_reason": "not found"}'
    weak = '{"name": "three", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}'
    assert answering(f'{{"dependencies": [{fine}]}}') == (
        0,
        "1 packages asked about, 0 with a known weakness\n",
    )
    code, said = answering(f'{{"dependencies": [{fine}, {skipped}]}}')
    assert code == 1 and "NOT AUDITED for 1 of 2 packages (such as two)" in said
    code, said = answering(f'{{"dependencies": [{fine}, {weak}]}}', 1)
    assert code == 1 and "three 1: CVE-1; versions without it: 2" in said
    code, said = answering("", 1)
    assert code == 1 and "NOT AUDITED, pip-audit could not ask" in said


def test_a_python_that_is_not_there_is_said(tmp_path):
    """One of the three is here; of the second there is a command that does not start, as pyenv leaves them."""
    for name, code in (("python3.11", 0), ("python3.12", 127)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    environment = bare(PATH=str(tmp_path), HOME=str(tmp_path))
    said = call(sys.executable, ROOT / ".ci" / "nightly", "--show", env=environment).splitlines()
    assert said == [
        f"Python 3.11, locked versions: to be run with {tmp_path / 'python3.11'}",
        "Python 3.12, locked versions: NOT RUN, no python3.12 on this machine",
        "Python 3.13, locked versions: NOT RUN, no python3.13 on this machine",
        f"Python 3.11, lowest versions: to be run with {tmp_path / 'python3.11'}",
    ]
