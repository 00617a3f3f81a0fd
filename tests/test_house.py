"""What the house asks of its source: sizes, names, flags, and tables that agree. Counted, so that it stays so."""

import ast
import importlib
import re
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import trueline
from trueline.methods import METHODS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "trueline"
FILES = sorted(SOURCE.rglob("*.py"))
FLAG = re.compile(r"(^|[\s(`'\"])--[a-z]")
#: What is said there is a whole command: git's own, and the one that a data set's card tells its readers to run.
WHOLE_COMMANDS = {"sampling/records.py", "dataset/card.py"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_no_file_is_longer_than_400_lines():
    long = {name_of(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 400}
    assert long == set()


def test_no_function_is_longer_than_60_lines():
    """Without its docstring and its decorators."""
    long = set()
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (node.end_lineno or 0) - first.lineno + 1 > 60:
                    long.add(f"{name_of(path)}:{node.name}")
    assert long == set()


def test_the_root_holds_what_everybody_uses_and_no_more():
    assert len(list(SOURCE.glob("*.py"))) <= 8


def test_no_two_public_classes_have_one_name():
    homes = defaultdict(set)
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(name_of(path))
    assert {name for name, files in homes.items() if len(files) > 1} == set()


def test_the_formatter_has_nearly_all_of_it():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.split()]
    mark = "# fmt: " + "skip"
    assert sum(path.read_text(encoding="utf-8").count(mark) for path in paths if path.is_file()) <= 60


def docstrings(module: ast.Module) -> set[int]:
    """The lines on which docstrings begin, and texts that stand alone."""
    return {
        node.value.lineno
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def test_the_library_names_arguments_and_no_flags():
    """In what it says: docstrings may name the command line."""
    found = []
    for path in FILES:
        if name_of(path).startswith(("commands/", "cli.py")):
            continue
        told = docstrings(tree(path))
        for node in ast.walk(tree(path)):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if FLAG.search(text) and node.lineno not in told:
                found.append(f"{name_of(path)}:{node.lineno} {text[:60]!r}")
    assert [line for line in found if line.partition(":")[0] not in WHOLE_COMMANDS] == []


def test_methods_keep_nothing_in_their_modules():
    """What a method makes once per run is kept by the run."""
    kept = []
    for path in sorted((SOURCE / "methods").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        kept += [
            f"{path.name}: {word}" for word in ("lru_cache", "WeakKeyDictionary", "global ") if word in text
        ]
        kept += [
            f"{path.name}: @cache" for line in text.splitlines() if line.strip() in ("@cache", "@cache()")
        ]
    assert kept == []


#: What only ``models`` and the world may speak of; a VAE or a text encoder of another model is no backbone's.
OF_NETS = re.compile(
    r"backbone\.(unet|vae|text_encoder|tokenizer|scheduler)\b|\.unet\b|alphas_cumprod|num_train_timesteps"
    r"|CLIPTokenizer|\bCLIPTextModel\b|UNet2DConditionModel|AutoencoderKL|prediction_type"
)


def test_nets_are_spoken_of_in_their_room_only():
    found = [
        f"{name_of(path)}: {match[0]}"
        for path in FILES
        if not name_of(path).startswith(("models/", "world/"))
        for match in OF_NETS.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


# Tables that agree


def test_each_public_name_is_there_and_has_one_home():
    assert trueline.__all__ == ["__version__", *trueline._HOME]
    for name, home in trueline._HOME.items():
        assert hasattr(importlib.import_module(f"trueline.{home}"), name), name
        assert getattr(trueline, name) is getattr(importlib.import_module(f"trueline.{home}"), name)
    assert set(trueline.__all__) <= set(dir(trueline))


def test_each_method_of_the_table_is_a_public_name():
    homes = {entry.home.replace(":", ".") for entry in METHODS.values()}
    public = {
        f"{home.removeprefix('methods.')}.{name}"
        for name, home in trueline._HOME.items()
        if home.startswith("methods.")
    }
    assert homes == public


@pytest.mark.parametrize("page", ["README.md"])
def test_the_front_page_lists_the_methods_of_the_table(page):
    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in rows if name in METHODS] == list(METHODS)
