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
    assert "trueline.layout" in imports_of(SOURCE / "grounding.py")
    assert "trueline.commands._run" in imports_of(SOURCE / "commands" / "generate.py"), "in a function"


LOWER = {
    "layout": set(),
    "attention": set(),
    "sheet": {"layout"},
    "folder": set(),
    "schedulers": set(),
    "grounding": {"layout"},
    "checkpoint": {"schedulers"},
    "lora": {"checkpoint"},
    "backbone": {"checkpoint", "grounding", "lora", "schedulers"},
    "plurals": set(),
    "phrases": {"layout", "plurals"},
    "sample": {"attention", "backbone", "grounding", "layout", "phrases", "schedulers"},
    "request": {"grounding", "layout", "sample", "schedulers"},
    "records": {"backbone", "layout", "request"},
    "pipeline": {"backbone", "layout", "records", "request", "sample"},
}


@pytest.mark.parametrize("name", LOWER)
def test_arrows_point_down(name):
    allowed = {f"trueline.{other}" for other in LOWER[name]}
    assert imports_of(SOURCE / f"{name}.py") <= allowed


#: What knows the world beside itself: its command, and its side of the evaluation.
OF_THE_WORLD = (
    "trueline.commands.world",
    "trueline.commands.evaluate",
    "trueline.evaluation.benchmarks.world",
    "trueline.evaluation.world_judge",
    "trueline.world.perception",
    "trueline.world.training_data",
)


def test_nothing_below_the_command_line_imports_it_or_the_world():
    for path in FILES:
        name = module_of(path)
        upper = {n for n in imports_of(path) if n.startswith(("trueline.cli", "trueline.commands"))}
        assert not upper or name.startswith(("trueline.cli", "trueline.commands")), (name, upper)
        world = {n for n in imports_of(path) if n.startswith("trueline.world")}
        assert not world or name.startswith(("trueline.world", *OF_THE_WORLD)), (name, world)


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
        HELP.format("'generate', "),
        HELP.format("'plan', "),
        HELP.format("'world', "),
        HELP.format("'evaluate', "),
        HELP.format("'train', "),
    ],
)
def test_help_loads_no_library(statement):
    assert loaded_after(statement) == set()


def test_layouts_load_no_torch():
    assert loaded_after("import trueline; trueline.Layout('x')") <= {"numpy", "pydantic"}


def test_rules_and_plans_load_no_torch():
    modules = [m for m in MODULES if m.startswith(("trueline.evaluation.rules", "trueline.planner"))]
    loaded = loaded_after(
        "; ".join(f"import {m}" for m in [*modules, "trueline.evaluation.benchmarks.nsr_1k"])
    )
    assert loaded <= {"numpy", "pydantic"}


def test_every_public_name_is_there():
    assert all(getattr(trueline, name) is not None for name in trueline.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = trueline.nonsense


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["evaluate", "--help"]])
def test_help_answers_at_once(arguments):
    """CPU time, the best of three: the claim is about what help does, not about how busy the machine is."""
    command = [sys.executable, "-m", "trueline.cli", *arguments]
    spent = []
    for _ in range(3):
        before = os.times()
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        spent.append(min(wall, cpu))
    assert min(spent) < 0.5
