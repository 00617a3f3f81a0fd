"""The pages about the world: their links lead somewhere, and their commands are ones that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from trueline.commands.world import build_parser, report_parser

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["world", *(f"results_{name}" for name in ("hcma", "goal", "realigndiff", "methods"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_a_page_and_a_heading(name):
    page = DOCS / f"{name}.md"
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    assert links
    for target, heading in links:
        file = DOCS / target if target else page
        assert file.is_file(), f"{name}: {target}"
        assert not heading or heading in anchors(file), f"{name}: {target}#{heading}"


def test_commands_of_the_page_are_understood():
    text = (DOCS / "world.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    commands = [words[2:] for words in commands if words[:2] == ["trueline", "world"]]
    assert {action for action, *_ in commands} == {"build", "report"}
    for action, *arguments in commands:
        (build_parser if action == "build" else report_parser)().parse_args(arguments)
