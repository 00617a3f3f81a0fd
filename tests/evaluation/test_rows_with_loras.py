"""Rows of an evaluation with LoRAs: in their row alone, known by their bytes, refused where they do not fit."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from trueline.cli import main
from trueline.commands._rows import read_loras, read_rows
from trueline.evaluation.benchmarks.world import World
from trueline.evaluation.loras import RowLora, worn
from trueline.models import lora
from trueline.sampling.pipeline import Pipeline
from trueline.training.recipes.recipe import save_backbone
from trueline.training.settings import Training

WEIGHTS = "pytorch_lora_weights.safetensors"
SMALL = ["--n", "2", "--steps", "1", "--batch-size", "1", "--dtype", "fp32", "--device", "cpu", "--quiet"]


def write(backbone, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    twin = copy.deepcopy(backbone)
    twin.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    save_backbone(Training(lora=2), twin, folder)
    return folder / WEIGHTS


@pytest.fixture(scope="module")
def written(gated, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("shelf/goal", "ldm", "other"), start=1):
        write(gated, home / name, seed)
    return home


@pytest.fixture
def files(written, tmp_path, monkeypatch) -> dict[str, Path]:
    """Two LoRAs of a user's own, and one of the package's."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(lora, "SHIPPED", tmp_path / "shelf")
    return {name: tmp_path / name / WEIGHTS for name in ("ldm", "other")}


@pytest.fixture(scope="module")
def scenes() -> World:
    """Made once: making them takes longer than drawing."""
    return World()


@pytest.fixture
def evaluate(gated_folder, scenes, monkeypatch):
    """``trueline evaluate world`` with tiny nets in the world's place, which draws only."""
    monkeypatch.setattr("trueline.models.checkpoint._world", lambda: gated_folder)
    monkeypatch.setattr("trueline.commands.evaluate.load", lambda *_, **__: scenes)

    def call(out: Path, *more: str) -> int:
        return main(["evaluate", "world", *SMALL, "--judges", "none", "--out", str(out), *map(str, more)])

    return call


def pictures(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((out / "pictures").rglob("*.png")):
        with Image.open(path) as image:
            found[f"{path.parent.name}/{path.name}"] = image.tobytes()
    return found


def of_row(found: dict[str, bytes], row: str) -> list[bytes]:
    return [pixels for name, pixels in found.items() if name.startswith(f"{row}/")]


def test_a_lora_is_in_its_row_alone(evaluate, files, tmp_path):
    """Bit for bit: the rows after it are those of a run without."""
    rows = ["gligen+lora:goal", "lora:ldm", "gligen+lora:goal+lora:ldm", "plain", "gligen"]
    loras = ["--loras", f"ldm={files['ldm']}"]
    assert evaluate(tmp_path / "with", "--methods", *rows, *loras) == 0
    assert evaluate(tmp_path / "without", "--methods", "plain", "gligen") == 0
    ours, theirs = pictures(tmp_path / "with"), pictures(tmp_path / "without")
    assert len(theirs) == 4 and theirs.items() <= ours.items()
    drawn = [of_row(ours, row) for row in rows]
    assert [len(row) for row in drawn] == [2] * 5
    assert len({pixels for row in drawn[:4] for pixels in row}) == 8, "each LoRA changes its pictures"
    path = next((tmp_path / "with/pictures/gligen+lora:goal+lora:ldm").glob("*.png"))
    with Image.open(path) as image:
        record = json.loads(image.text["trueline"])
    assert record["method"] == "gligen+lora:goal+lora:ldm"
    assert record["model"]["loras"] == {"goal": 1.0, "ldm": 1.0}
    assert [each["name"] for each in record["loras"]] == ["goal", "ldm"]
    assert record["loras"][1]["sha256"] == RowLora.of("ldm", files["ldm"]).sha256


def test_the_net_is_as_it_was_whatever_happens(gated, files):
    pipe = Pipeline(copy.deepcopy(gated))
    before = {name: value.clone() for name, value in pipe.backbone.unet.state_dict().items()}
    rows = [RowLora.of("ldm", files["ldm"], 0.5), RowLora.of("other", files["other"])]
    with pytest.raises(KeyError), worn(pipe, rows):
        assert pipe.backbone.adapters == {"ldm": 0.5, "other": 1.0}
        raise KeyError
    after = pipe.backbone.unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    pipe.load_lora(files["ldm"])
    with pytest.raises(ValueError, match=r"^loras: the model has a LoRA already"), worn(pipe, rows):
        pass


def test_a_file_that_changed_refuses_to_go_on(evaluate, files, tmp_path, capsys):
    command = [tmp_path / "out", "--methods", "plain", "lora:ldm", "--loras", f"ldm={files['ldm']}"]
    assert evaluate(*command) == 0 and evaluate(*command) == 0
    before = pictures(tmp_path / "out")
    whole = files["ldm"].read_bytes()
    state = load_file(files["ldm"])
    save_file({name: value * 2 for name, value in state.items()}, files["ldm"])
    assert evaluate(*command) == 2
    assert "holds pictures of lora:ldm with another file or strength of its LoRA" in capsys.readouterr().err
    assert pictures(tmp_path / "out") == before
    files["ldm"].write_bytes(whole)
    assert evaluate(*command) == 0
    files["ldm"].rename(files["ldm"].with_name("moved.safetensors"))
    moved = f"ldm={files['ldm'].with_name('moved.safetensors')}"
    assert evaluate(*command[:-1], moved) == 0, "the bytes count, not where they are"


def test_a_file_that_changes_while_other_rows_are_drawn(files, gated):
    row = RowLora.of("ldm", files["ldm"])
    files["ldm"].write_bytes(files["other"].read_bytes())
    with pytest.raises(ValueError, match=r"\(ldm\) has changed since the run began"):  # noqa: SIM117
        with worn(Pipeline(copy.deepcopy(gated)), [row]):
            pass


def test_a_lora_that_does_not_fit_is_said_before_anything_is_drawn(evaluate, files, tmp_path, capsys):
    state = load_file(files["ldm"])
    strange = {name.replace("down_blocks.0", "down_blocks.7"): value for name, value in state.items()}
    save_file(strange, tmp_path / "strange.safetensors")
    rows = ["--methods", "plain", "lora:odd", "--loras", f"odd={tmp_path / 'strange.safetensors'}"]
    assert evaluate(tmp_path / "out", *rows) == 2
    assert "does not fit this U-Net, which has no layer" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_shards_are_merged(evaluate, files, tmp_path, capsys):
    rows = ["--methods", "plain", "gligen+lora:goal", "lora:ldm@weight=.5", "--loras", f"ldm={files['ldm']}"]
    assert evaluate(tmp_path / "whole", *rows) == 0
    for part in (1, 2):
        assert evaluate(tmp_path / f"part-{part}", *rows, "--shard", f"{part}/2") == 0
    parts = [str(tmp_path / f"part-{part}") for part in (1, 2)]
    assert main(["merge", *parts, "--out", str(tmp_path / "merged")]) == 0
    assert pictures(tmp_path / "merged") == pictures(tmp_path / "whole")
    assert evaluate(tmp_path / "merged", *rows) == 0
    files["ldm"].write_bytes(files["other"].read_bytes())
    assert evaluate(tmp_path / "late", *rows, "--shard", "2/2") == 0
    assert main(["merge", parts[0], str(tmp_path / "late"), "--out", str(tmp_path / "mixed")]) == 2
    assert "differs from" in capsys.readouterr().err, "the shards had different files"


def test_rows_are_read(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goal").mkdir()  # the package's goes first
    rows = read_rows(
        ["gligen+lora:goal+boxdiff@scale=7", "lora:ldm@weight=.5", "lora:ldm+structured"],
        {},
        {"ldm": files["ldm"]},
    )
    first, second, third = rows
    assert first.grounded and first.boxes and first.needy and first.methods[0].scale == 7
    assert first.loras[0].path == tmp_path / "shelf" / "goal" / WEIGHTS
    assert (second.boxes, second.methods, second.loras[0].weight) == (False, (), 0.5)
    assert third.boxes and third.name == "lora:ldm+structured"
    assert "loras" not in read_rows(["plain"], {})[0].to_json(), "older folders go on"
    mine = read_rows(["lora:goal"], {}, {"goal": files["ldm"]})
    assert mine[0].loras[0].path == files["ldm"], "a definition goes before the package's"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("lora:gaol", "there is no LoRA 'gaol' of the world; there are goal;.*--loras gaol=FILE"),
        ("lora:", "write a LoRA as lora:NAME"),
        ("lora:../x", "settings that hold a path"),
        ("lora:ldm+lora:ldm", "has lora:ldm twice"),
        ("lora:ldm+lora:ldm@weight=2", "has lora:ldm twice"),
        ("lora:ldm@scale=2", "a LoRA has one setting, weight"),
        ("lora:ldm@weight=true", "a LoRA has one setting, weight"),
        ("lora:ldm@weight=NaN", "a LoRA has one setting, weight"),
        ("plain+lora:ldm", "plain stands alone"),
        ("lora:ldm+gligen", "gligen first"),
        ("lora:ldm+boxdif", "there is no 'boxdif'.*lora:NAME"),
        ("plain", "--loras: ldm is in no row; name it in --methods, as lora:ldm"),
    ],
)
def test_rows_that_cannot_be_drawn(files, row, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_rows([row], {}, {"ldm": files["ldm"]})


def test_names_of_another_model(files):
    with pytest.raises(
        ValueError, match=r"names are for the model world \(there are goal\).*--loras goal=FILE"
    ):
        read_rows(["lora:goal"], {}, {}, "gligen")


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["ldm"], "write NAME=FILE"),
        (["ldm="], "write NAME=FILE"),
        (["l+m=x"], "write NAME=FILE"),
        (["ldm=a", "ldm=b"], "ldm is there twice"),
    ],
)
def test_definitions_that_are_none(texts, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_loras(texts)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("x.pt", "not a .safetensors file"), ("x.safetensors", "cannot read .*No such file")],
)
def test_files_that_are_none(name, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        read_rows(["lora:x"], {}, {"x": tmp_path / name})


@pytest.mark.slow
def test_the_table_keeps_the_rows_name(files, tmp_path, monkeypatch):
    """On the real world, judged."""
    world = Pipeline.from_pretrained("world").backbone
    rows = [
        "--methods",
        "gligen",
        "gligen+lora:mine",
        "--loras",
        f"mine={write(world, tmp_path / 'mine', 4)}",
    ]
    small = ["--n", "2", "--steps", "2", "--dtype", "fp32", "--device", "cpu", "--quiet"]
    assert main(["evaluate", "world", *small, "--out", str(tmp_path / "out"), *rows]) in (0, 1)
    table = json.loads((tmp_path / "out/results.json").read_text())
    methods = {row["method"] for row in table}
    assert {"gligen", "gligen+lora:mine"} <= methods
    against = {row["against"] for row in table if row["method"] == "gligen+lora:mine" and "against" in row}
    assert against == {"gligen"}
