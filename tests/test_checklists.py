"""The checklists of docs/architecture.md: each example goes into its table, and the tests of that table run on it."""

import json
import re
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
import torch

from trueline import formats
from trueline.evaluation import benchmarks
from trueline.formats import FORMATS, Format
from trueline.layout import Layout
from trueline.models.backbone import FAMILIES, Backbone
from trueline.perception import Detection
from trueline.planner import PLANNERS, Planned, make_planner
from trueline.training.recipes import RECIPES
from trueline.training.recipes.recipe import Recipe, recipe
from trueline.training.rewards import REWARDS
from trueline.training.rewards.models import reward_kind
from trueline.training.rewards.reward import probe

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
CHECKLISTS = {
    title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^### Add a (\w+)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def test_each_table_has_its_checklist():
    assert list(CHECKLISTS) == ["method", "benchmark", "reward", "format", "recipe", "planner", "backbone"]
    assert all(len(blocks) == (1 if title == "backbone" else 2) for title, blocks in CHECKLISTS.items())


def parts(title: str) -> tuple[str, str, str, str]:
    """The module of the first block, its code, the key of the second block, and the value beside it."""
    code, line = CHECKLISTS[title]
    file = re.match(r"# ([\w/]+)\.py\n", code)[1]
    key = re.match(r'# [A-Z]+\["([\w-]+)"\]\n', line)[1]
    return f"trueline.{file.replace('/', '.')}", code, key, line.partition("\n")[2]


@pytest.fixture
def add(monkeypatch):
    """Make the module of a checklist, and put its line into the table; gives the key."""

    def added(title: str, table: dict, **names: object) -> str:
        module, code, key, value = parts(title)
        made = types.ModuleType(module)
        exec(compile(code, module, "exec"), vars(made))
        monkeypatch.setitem(sys.modules, module, made)
        monkeypatch.setattr(
            import_module(module.rpartition(".")[0]), module.rpartition(".")[2], made, raising=False
        )
        monkeypatch.setitem(table, key, eval(value, names))
        return key

    return added


PLUGIN = """
import sys, types
module, code, key, value = {parts!r}
from trueline.methods import METHODS, Entry
METHODS[key] = eval(value)
made = types.ModuleType(module)
sys.modules[module] = made
exec(compile(code, module, "exec"), vars(made))
"""


def test_a_method_passes_all_that_each_method_passes(tmp_path):
    (tmp_path / "example_method.py").write_text(PLUGIN.format(parts=parts("method")))
    code = f"import sys, pytest; sys.path.insert(0, {str(tmp_path)!r}); sys.exit(pytest.main(sys.argv[1:]))"
    generic = [str(TESTS / "methods" / f"test_{name}.py") for name in ("every_method", "direction")]
    options = ["-q", "-p", "example_method", "-p", "no:cacheprovider", "-k", parts("method")[2]]
    done = subprocess.run(
        [sys.executable, "-c", code, *options, *generic], capture_output=True, text=True, cwd=TESTS.parent
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 18


def test_a_benchmark_is_loaded_and_scored(add, tmp_path):
    name = add("benchmark", benchmarks.BENCHMARKS)
    (tmp_path / "pairs").mkdir()
    rows = [{"prompt": "a cat and a dog", "things": ["cat", "dog"]}]
    (tmp_path / "pairs" / "prompts.json").write_text(json.dumps(rows))
    found = benchmarks.load(name, tmp_path)
    (example,) = found.examples
    assert (
        found.name == name and example.prompt == rows[0]["prompt"] and found.labels(example) == ["cat", "dog"]
    )
    both = [Detection(label, (0, 0, 1, 1)) for label in ("cat", "dog")]
    for seen, right in ((both, 1.0), (both[:1], 0.0)):
        assert found.score(example, seen, (64, 64), "official", 0.5) == {"pair_accuracy": (right, 1.0)}
    (tmp_path / "pairs" / "prompts.json").write_text("[{}]")
    with pytest.raises(ValueError, match="row 1"):
        benchmarks.load(name, tmp_path)


def test_a_reward_has_a_gradient(add):
    reward = reward_kind(add("reward", REWARDS)).make(None)
    probe(reward, (16, 16))
    assert reward(torch.ones(2, 3, 8, 8), ["a", "b"]).tolist() == [1, 1]


def test_a_format_reads_what_it_wrote(add, tmp_path):
    name = add("format", FORMATS, Format=Format)
    layouts = [Layout("a cat", id="one"), Layout("a dog", id="two")]
    formats.write(layouts, tmp_path / "x.txt", name)
    assert [(layout.id, layout.prompt) for layout in formats.read(tmp_path / "x.txt", name)] == [
        ("one", "a cat"),
        ("two", "a dog"),
    ]


def test_a_recipe_is_found_with_its_settings(add):
    found = recipe(add("recipe", RECIPES))
    assert isinstance(found, Recipe) and callable(found.prepare) and "steps" in found.settings.model_fields


def test_a_planner_plans(add):
    planner = make_planner(add("planner", PLANNERS))
    planned = planner.plan("a red apple", width=512, height=512)
    assert isinstance(planned, Planned) and planned == planner.plan("a red apple", width=512, height=512)
    assert planned.planner == planner.name and len(planned.names) == len(planned.layout.regions) == 1


def test_a_backbone_says_what_is_abstract():
    names: dict[str, set[str]] = {}
    exec(CHECKLISTS["backbone"][0], names)
    assert names["properties"] | names["words"] | names["net"] == Backbone.__abstractmethods__
    assert all(isinstance(getattr(Backbone, name), property) for name in names["properties"])
    for home in FAMILIES.values():
        module, _, kind = home.partition(":")
        assert issubclass(getattr(import_module(f"trueline.models.{module}"), kind), Backbone)
