"""Who imports whom, and what an import costs. Arrows are read from the source, costs from fresh processes."""

import ast
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import trueline

SOURCE = Path(trueline.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "numpy", "pydantic")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_of(path) for path in FILES]


def imports_of(path: Path) -> set[str]:
    """Modules of trueline that a file names in any import statement, within functions too."""
    found: set[str] = set()
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return {name for name in found if name in MODULES and name != "trueline"}


def test_the_reader_of_imports_sees_what_there_is():
    assert "trueline.layout" in imports_of(SOURCE / "models" / "grounding.py")
    assert "trueline.commands._pictures" in imports_of(SOURCE / "commands" / "generate.py"), "in a function"


#: Every package and every module of the root, lowest first: each may import those before it, also in functions.
ORDER = (
    "errors", "exits", "boxes", "layout", "files", "pictures", "seeds", "engine",
    "english", "models", "sampling", "chat", "perception", "planner", "formats", "methods", "realign", "training",
    "world", "evaluation", "dataset", "commands", "cli",
)  # fmt: skip


def room_of(module: str) -> str:
    """The first name under ``trueline``."""
    return module.split(".")[1] if "." in module else module


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in MODULES} - {"trueline"}
    assert rooms == set(ORDER) and len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_arrows_point_down(room):
    """Strings that name a module (the tables of methods, readers, kinds) are plug-ins and no imports."""
    lower = {*ORDER[: ORDER.index(room) + 1]}
    for path in FILES:
        if room_of(module_of(path)) == room:
            upward = {name for name in imports_of(path) if room_of(name) not in lower}
            assert not upward, f"{module_of(path)} imports {sorted(upward)}"


def circles() -> list[list[str]]:
    """Modules that import each other, in functions too (Tarjan's components of more than one)."""
    arrows = {module_of(path): imports_of(path) - {module_of(path)} for path in FILES}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in arrows[module]:
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            place = stack.index(module)
            found.append(sorted(stack[place:]))
            del stack[place:]

    for module in arrows:
        if module not in number:
            visit(module)
    return [component for component in found if len(component) > 1]


def test_no_module_imports_itself_through_others():
    assert circles() == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_holds_what_it_promises(name):
    module = import_module(name)
    empty = not Path(module.__file__).read_text(encoding="utf-8").strip()
    assert module.__doc__ or empty, "says in its first lines what it is for"
    assert [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)] == []


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n' + ' '.join(m for m in {HEAVY} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


HELP = "from trueline.cli import main\ntry: main([{}'--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "statement",
    [
        "import trueline; dir(trueline)",
        HELP.format(""),
        HELP.format("'plan', "),
        HELP.format("'world', "),
        HELP.format("'train', "),
        HELP.format("'convert', "),
        HELP.format("'dataset', 'build', "),
        HELP.format("'methods', "),
        HELP.format("'merge', "),
        HELP.format("'results', "),
        HELP.format("'votes', "),
    ],
)
def test_help_loads_no_library(statement):
    assert loaded_after(statement) == set()


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_help_that_lists_settings_loads_their_model_only(command):
    assert loaded_after(HELP.format(f"'{command}', ")) <= {"pydantic"}


def test_layouts_load_no_torch():
    assert loaded_after("import trueline; trueline.Layout('x')") <= {"numpy", "pydantic"}


def test_benchmarks_and_planners_load_no_torch():
    """Except the world's benchmark, which draws its own pictures."""
    rooms = ("trueline.evaluation.benchmarks", "trueline.planner")
    modules = [m for m in MODULES if m.startswith(rooms) and not m.endswith("benchmarks.world")]
    loaded = loaded_after("; ".join(f"import {m}" for m in modules))
    assert loaded <= {"numpy", "pydantic"}


def test_every_public_name_is_there():
    assert all(getattr(trueline, name) is not None for name in trueline.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = trueline.nonsense


@pytest.mark.parametrize(
    ("arguments", "most"), [(["--help"], 0.1), (["generate", "--help"], 0.5), (["evaluate", "--help"], 0.5)]
)
def test_help_answers_at_once(arguments, most):
    """CPU time, the best of five: the claim is about what help does, not about how busy the machine is."""
    command = [sys.executable, "-m", "trueline.cli", *arguments]
    spent = []
    for _ in range(5):
        before = os.times()
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        spent.append(min(wall, cpu))
    assert min(spent) < most
