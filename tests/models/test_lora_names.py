"""LoRAs that come with the package, by name; and the base that a LoRA says it was made for."""

import copy
import json
import warnings

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from trueline.cli import main
from trueline.commands._regenerate import read_record
from trueline.models import lora
from trueline.models.backbone import Backbone, CheckpointError
from trueline.sampling.pipeline import Pipeline
from trueline.training.recipes.recipe import save_backbone
from trueline.training.settings import Training


def write(backbone: Backbone, folder, seed: int = 1):
    """What ``trueline train`` leaves of a LoRA, with values that matter."""
    torch.manual_seed(seed)
    twin = copy.deepcopy(backbone)
    twin.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    save_backbone(Training(lora=2), twin, folder)
    return folder


@pytest.fixture(scope="module")
def shelf(gated, tmp_path_factory):
    """In the place of the package's own."""
    home = tmp_path_factory.mktemp("shelf")
    for number, name in enumerate(("goal", "realign"), start=1):
        write(gated, home / name, number)
    (home / "unfinished").mkdir()
    return home


@pytest.fixture
def world(gated, shelf, monkeypatch) -> Backbone:
    """A tiny world with LoRAs of its own."""
    monkeypatch.setattr(lora, "SHIPPED", shelf)
    twin = copy.deepcopy(gated)
    twin.source = "world"
    return twin


def predict(backbone: Backbone) -> torch.Tensor:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.predict(z, 500, backbone.encode(["a red apple", "a cat"]))


def test_by_name_and_by_file_are_the_same_and_both_can_be_taken_off(world, shelf, tmp_path, monkeypatch):
    before, layers = predict(world), list(world.unet.state_dict())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goal").mkdir()  # a folder of that name does not hide the package's; ./goal is it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.load_lora("goal")
    named = predict(world)
    world.unload_lora()
    assert torch.equal(predict(world), before) and list(world.unet.state_dict()) == layers
    world.load_lora(shelf / "goal" / "pytorch_lora_weights.safetensors")
    assert torch.equal(predict(world), named) and not torch.equal(named, before)
    world.unload_lora()
    Pipeline(world).load_lora("realign", "second", 0.5)
    assert world.adapters == {"second": 0.5} and not torch.equal(predict(world), named)
    with pytest.raises(CheckpointError, match=r"goal holds 0 \.safetensors files"):
        world.load_lora("./goal")


def test_two_add_up_and_one_name_is_one_lora(world):
    world.load_lora("goal", "one", 0.5)
    half = predict(world)
    with pytest.raises(ValueError, match="adapter_name: a LoRA 'one' is loaded; give another name"):
        world.load_lora("goal", "one")
    world.load_lora("goal", "two", 0.5)
    both = predict(world)
    world.unload_lora()
    world.load_lora("goal")
    torch.testing.assert_close(both, predict(world), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both, half, atol=1e-4)


def test_names_that_there_are_not(world, monkeypatch, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        world.load_lora("gaol")
    assert str(caught.value) == (
        "there is no LoRA 'gaol' of the world; there are goal, realign; or give a .safetensors file"
    )
    world.source = "gligen"
    with pytest.raises(CheckpointError) as caught:
        world.load_lora("goal")
    assert str(caught.value) == (
        "LoRA 'goal': no such file, and names are for the model world (there are goal, realign); give a .safetensors "
        "file made for gligen"
    )
    monkeypatch.setattr(lora, "SHIPPED", tmp_path / "nothing")
    world.source = "world"
    with pytest.raises(CheckpointError, match="of the world; none comes with the package; or give"):
        world.load_lora("goal")


def test_another_version_of_the_base_is_warned_of(world, shelf):
    with torch.no_grad():
        world.unet.conv_in.weight[0, 0, 0, 0] += 0.5
    with pytest.warns(
        UserWarning, match=r"goal.* was made for another version of memory .*train it again on this"
    ):
        world.load_lora("goal")
    assert world.adapters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_base_is_known_in_every_precision_and_beneath_other_loras(world, dtype):
    world.to(dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.load_lora("realign", "first")
        world.load_lora("goal", "second")
    assert set(world.adapters) == {"first", "second"}


def test_what_ships_is_half_as_large_and_does_the_same(world, shelf, tmp_path):
    lora.pack(shelf / "goal", tmp_path / "small" / "goal")
    small, large = (
        folder / "goal" / "pytorch_lora_weights.safetensors" for folder in (tmp_path / "small", shelf)
    )
    assert {value.dtype for value in load_file(small).values()} == {torch.float16}
    numbers = sum(value.numel() for value in load_file(large).values())
    assert large.stat().st_size - small.stat().st_size == pytest.approx(2 * numbers, rel=0.05)
    assert lora.read(small).base == lora.read(large).base
    before, found = predict(world), []
    for path in (large, small):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            world.load_lora(path)
        assert all(weight.dtype == torch.float32 for weight in world.unet.parameters())
        found.append(predict(world) - before)
        world.unload_lora()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0.01 * found[0].abs().max().item())
    save_file(load_file(large), tmp_path / "unsaid.safetensors")
    with pytest.raises(CheckpointError, match="does not say of which base it was made; train it"):
        lora.pack(tmp_path / "unsaid.safetensors", tmp_path / "packed")


def test_a_file_whose_header_was_lost_reads_what_lies_beside_it(world, shelf, tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    state = load_file(shelf / "goal" / path.name)
    save_file(state, path)
    assert lora.read(tmp_path).base is None
    about = json.loads((shelf / "goal" / "lora.json").read_text())
    assert lora.read(shelf / "goal").base == about and about["model"] == "memory"
    about["unet"] = dict.fromkeys(about["unet"], "0" * 16)
    (tmp_path / "lora.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match="another version"):
        world.load_lora(path)
    (tmp_path / "lora.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        lora.read(path)
    (tmp_path / "lora.json").unlink()
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="is empty"):
        lora.read(tmp_path / "empty.safetensors")


def test_a_lora_that_does_not_fit_leaves_the_net_as_it_was(world, tmp_path, shelf):
    state = load_file(shelf / "goal" / "pytorch_lora_weights.safetensors")
    wide = {key: torch.cat([value, value], -1) if "lora_A" in key else value for key, value in state.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    before, layers = predict(world), list(world.unet.state_dict())
    with pytest.raises(CheckpointError, match="does not fit this U-Net"):
        world.load_lora(tmp_path / "wide.safetensors")
    assert list(world.unet.state_dict()) == layers and torch.equal(predict(world), before)
    world.load_lora("goal")


def test_generate_by_name_and_again(gated_folder, shelf, tmp_path, monkeypatch, capsys):
    """The record holds the name, not a path, so that it holds on another machine."""
    monkeypatch.setattr(lora, "SHIPPED", shelf)
    monkeypatch.setattr("trueline.models.checkpoint._world", lambda: gated_folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goal").mkdir()
    how = ["--steps", "2", "--quiet", "--device", "cpu", "--dtype", "fp32"]
    for name, more in (("without", []), ("with", ["--lora", "goal"])):
        assert main(["generate", "a red apple", *how, *more, "--out", str(tmp_path / name)]) == 0
    pictures = [(tmp_path / name / "0000-0.png").read_bytes() for name in ("without", "with")]
    assert pictures[0] != pictures[1]
    record = tmp_path / "with" / "0000-0.json"
    assert read_record(record)["made_with"]["lora"] == "goal"
    assert main(["generate", "--regenerate", str(record), "--out", str(tmp_path / "again")]) == 0
    assert "bit for bit" in capsys.readouterr().out
    assert main(["generate", "a red apple", *how, "--lora", "gaol"]) == 2
    assert "there are goal, realign" in capsys.readouterr().err
