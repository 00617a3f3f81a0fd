"""The guides, from top to bottom: each command and each example of a page runs as it stands there, in one folder.

Only the sizes are smaller (``SMALLER``). What needs a download, a GPU or people is marked in the page by a comment:
of those commands only the options are read, in test_cli.
"""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from trueline.cli import COMMANDS, main

GUIDES = sorted((Path(__file__).parents[1] / "docs" / "guides").glob("*.md"))
_BLOCK = re.compile(r"(<!-- not run[^\n]*-->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

#: Command -> what is added to its line. The last value of an option counts.
SMALLER = {
    "generate": ["--steps", "2", "--quiet"],
    "evaluate": ["--n", "2", "--steps", "2", "--quiet"],
    "train": ["--quiet"],
    "dataset build": ["--templates", "6", "--tries", "1", "--steps", "12", "--quiet"],
}
#: Settings of a training, in place of the page's.
SMALL_TRAINING = {
    "steps": 1, "batch": 2, "accumulate": 1, "data.n": 4, "validation.n": 2, "validation.steps": 2,
}  # fmt: skip


class Block(NamedTuple):
    language: str
    text: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text, not mark) for mark, language, text in found]


def lines_of(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def smaller(arguments: list[str]) -> list[str]:
    """The same command with less to do."""
    if "--regenerate" in arguments:
        return arguments
    command = " ".join(arguments[:2]) if arguments[0] == "dataset" else arguments[0]
    if command == "train":
        given = [value for flag, value in pairwise(arguments) if flag == "--set"]
        kept = [value for value in given if value.partition("=")[0] not in SMALL_TRAINING]
        bare = [word for word in arguments if word != "--set" and word not in given]
        values = [*kept, *(f"{key}={value}" for key, value in SMALL_TRAINING.items())]
        arguments = bare + [word for value in values for word in ("--set", value)]
    return arguments + SMALLER.get(command, [])


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_can_be_followed(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "json":  # the text before it names the file
            (tmp_path / "scenes.jsonl").write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(block.text.replace("steps=20", "steps=2"), {})
        else:
            assert block.language == "sh"
            for line in lines_of(block):
                if line.startswith("trueline "):
                    assert main(smaller(shlex.split(line, comments=True)[1:])) == 0, (
                        line,
                        capsys.readouterr(),
                    )
                else:
                    subprocess.run(line, shell=True, check=True)


def test_the_guides_show_every_command():
    lines = [
        line
        for page in GUIDES
        for block in blocks(page)
        if block.language == "sh"
        for line in lines_of(block)
    ]
    assert {line.split()[1] for line in lines if line.startswith("trueline ")} == set(COMMANDS)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
