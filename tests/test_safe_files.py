"""Files that are whole or not there, and files of others that may hold code: what must hold when nobody looks.

Each of these was broken once in the source, and no other test saw it.
"""

import ast
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from trueline.files import Folder
from trueline.models.backbone import Backbone
from trueline.models.checkpoint import CheckpointError
from trueline.training.checkpoints import Checkpoints

# Whole files


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    folder = Folder(tmp_path)
    folder.write_json("run.json", {"pictures": [1, 2, 3]})
    code = f"""
        import os, signal
        from trueline.files import Folder

        def fill(file):
            file.write(b"x" * 100_000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        Folder({str(tmp_path)!r}).write("run.json", fill)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run.json").read_text()) == {"pictures": [1, 2, 3]}
    seen = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert seen == ["run.json"], "what is half written has a name that no reader looks for"
    folder.write_json("run.json", {"pictures": [4]})
    assert json.loads((tmp_path / "run.json").read_text()) == {"pictures": [4]}


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole_and_on_the_disk(tmp_path, monkeypatch):
    target, happened = tmp_path / "a.txt", []
    target.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def on_fsync(number: int) -> None:
        of = os.fstat(number)
        folder = stat.S_ISDIR(of.st_mode)
        happened.append(
            ("names to disk", 0, target.read_bytes())
            if folder
            else ("to disk", of.st_size, target.read_bytes())
        )
        fsync(number)

    def on_replace(source, goal) -> None:
        happened.append(("renamed", Path(source).stat().st_size, target.read_bytes()))
        assert Path(source).parent == Path(goal).parent, "a rename between two disks is a copy"
        replace(source, goal)

    monkeypatch.setattr(os, "fsync", on_fsync)
    monkeypatch.setattr(os, "replace", on_replace)

    def fill(file) -> None:
        file.write(b"new, and longer")
        file.flush()
        happened.append(("written", 0, target.read_bytes()))

    Folder(tmp_path).write("a.txt", fill)
    steps = [("written", 0, b"old"), ("to disk", 15, b"old"), ("renamed", 15, b"old")]
    assert happened == [*steps, ("names to disk", 0, b"new, and longer")]
    assert target.read_bytes() == b"new, and longer" and [*tmp_path.iterdir()] == [target]


# Code in files of others


class Trap:
    """Pickled, it writes a file as soon as it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.write_text, (self.mark, "ran"))


@pytest.mark.parametrize("name", ["step-00000020.pt", "step-00000020.safetensors"])
def test_a_training_checkpoint_that_holds_code_is_refused_and_the_code_not_run(name, tmp_path):
    mark = tmp_path / "mark"
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"recipe": "goal"}, keep=3)
    trap = {"step": 20, "identity": json.dumps({"recipe": "goal"}), "weight": Trap(mark)}
    torch.save(trap, tmp_path / "checkpoints" / name)
    if name.endswith(".pt"):
        with pytest.raises(
            ValueError, match=rf"{name}: .*a pickled one is not opened; choose another folder"
        ):
            checkpoints.newest()
    checkpoints.save(10, {"weights": {"one": torch.ones(2)}}, {})
    with nullcontext() if name.endswith(".pt") else pytest.warns(UserWarning, match=f"{name} cannot be read"):
        state = checkpoints.newest()
    assert state.step == 10 and torch.equal(state.tensors["weights"]["one"], torch.ones(2))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap is one"


#: Calls that can run code of a file.
UNSAFE = {
    "torch.jit.load", "pickle.load", "pickle.loads", "joblib.load", "shelve.open", "marshal.load", "marshal.loads",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec",
}  # fmt: skip
#: Those that can unless this argument has this value, and the value that it has by itself.
UNLESS = {"torch.load": ("weights_only", True, None), "np.load": ("allow_pickle", False, False)}


def unsafe_calls(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            argument, wanted, usual = UNLESS.get(name, (None, True, None))
            if name in UNSAFE or (argument and given.get(argument, usual) is not wanted):
                found.append(f"{name}, line {node.lineno}")
    return found


def test_no_reader_of_files_can_run_what_is_in_them():
    root = Path(__file__).parents[1]
    files = [path for part in ("src", "studies", "benchmarks_perf") for path in (root / part).rglob("*.py")]
    wrong = {
        f"{path.relative_to(root)}": found for path in files if (found := unsafe_calls(path.read_text()))
    }
    assert len(files) > 100 and not wrong
    for bad in (
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "pickle.load(f)",
        "np.load(p, None, True, allow_pickle=x)",
    ):
        assert unsafe_calls(bad)
    assert not unsafe_calls("torch.load(p, weights_only=True); np.load(p); yaml.safe_load(t)")


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae"])
def test_a_part_of_a_checkpoint_that_brings_code_is_refused(part, plain_folder, tmp_path):
    folder = shutil.copytree(plain_folder, tmp_path / "checkpoint")
    path = folder / part / ("tokenizer_config.json" if part == "tokenizer" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}}))
    (folder / part / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    with pytest.raises(CheckpointError, match=rf"{part}.* asks to run code of its own \(auto_map\)"):
        Backbone.from_pretrained(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "address", ["s3://bucket/run", "gs://b", "https://me:pw@host/?token=t", Path("s3://b/run")]
)
def test_an_object_store_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = r"^out: .* is an address, not a folder; .* make shards in local folders"
    with pytest.raises(ValueError, match=said) as caught:
        Folder(address)
    assert list(tmp_path.iterdir()) == [] and "pw" not in str(caught.value)
