"""Checkpoints of a run: one safetensors file each, written whole or not at all, the newest last to be trusted.

Tensors are named GROUP/NAME; all else is JSON in the file's metadata. The last tensor, "sha256", is the hash of every
byte before it, so that a file that was cut or changed is known.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trueline.files import Folder
from trueline.training.settings import check_same

NAME = re.compile(r"step-(\d{8})\.safetensors")
HASH = "sha256"
MOMENTS = "optimiser."  #: before the names of its groups
BLOCK = 2**24  #: bytes read at a time

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Groups = Mapping[str, Mapping[str, Tensor]]  #: group -> name -> tensor


@dataclass(frozen=True)
class TrainingState:
    """The state after ``step`` steps: tensors by group and name, and the rest as JSON has it."""

    step: int
    tensors: Groups
    rest: Mapping[str, Any]


class Checkpoints:
    """The folder of a run's checkpoints, of which the last ``keep`` stay.

    ``identity``: what a run must keep when it goes on; it is in every checkpoint.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], keep: int):
        self.folder, self.identity, self.keep = Folder(path), dict(identity), keep

    def save(self, step: int, tensors: Groups, rest: Mapping[str, Any]) -> Path:
        """Write the state, then remove those that are too many: the last good one is never lost.

        Raises:
            OSError: it cannot be written, such as where the disk is full; those before it stay.
        """
        about = json.dumps({"step": step, "identity": self.identity, "rest": rest})
        path = self.folder.write(f"step-{step:08d}.safetensors", lambda file: _write(file, tensors, about))
        for old in self._paths()[: -self.keep]:
            if old != path:
                old.unlink(missing_ok=True)
        return path

    def newest(self) -> TrainingState | None:
        """The state of the newest checkpoint that can be read; None when there is none.

        Raises:
            ValueError: it was made with other settings or data, or none of those there can be read.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                state, identity = _read(path)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                warnings.warn(f"{path} cannot be read ({error}); taking the one before", stacklevel=2)
                continue
            check_same(identity, json.loads(json.dumps(self.identity)), self.folder.path.parent)
            return state
        if paths:
            raise ValueError(
                f"{self.folder.path}: none of the checkpoints can be read; choose another folder"
            )
        if old := sorted(self.folder.path.glob("step-*.pt")):
            raise ValueError(
                f"{old[-1]}: checkpoints are safetensors files now, and a pickled one is not opened; choose another "
                "folder"
            )
        return None

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.path.iterdir() if NAME.fullmatch(path.name))


def moments(optimiser: Any, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The state of an optimiser of parameters with these names, in this order, as groups of tensors."""
    groups: dict[str, dict[str, Tensor]] = {}
    for place, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            groups.setdefault(f"{MOMENTS}{key}", {})[names[place]] = value
    return groups


def put_moments(optimiser: Any, names: Sequence[str], tensors: Groups) -> None:
    """The reverse of ``moments``; rates and the like stay as they are."""
    own = {group.removeprefix(MOMENTS): held for group, held in tensors.items() if group.startswith(MOMENTS)}
    state = {
        place: {key: held[name] for key, held in own.items() if name in held}
        for place, name in enumerate(names)
        if any(name in held for held in own.values())
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _write(file: BinaryIO, tensors: Groups, about: str) -> None:
    """A safetensors file, tensor by tensor: safetensors' own writer needs a second copy of all of them in memory."""
    flat = {f"{group}/{name}": value for group, held in tensors.items() for name, value in held.items()}
    # The widest numbers first, as safetensors itself does: each tensor begins at a multiple of its width.
    flat = dict(sorted(flat.items(), key=lambda item: -item[1].element_size()))
    header: dict[str, Any] = {"__metadata__": {"trueline": about}}
    end = 0
    for name, value in flat.items():
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _TYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
    header[HASH] = {"dtype": "U8", "shape": [32], "data_offsets": [end, end + 32]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    found = hashlib.sha256()
    for part in _parts(text, flat):
        found.update(part)
        file.write(part)
    file.write(found.digest())


def _parts(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    yield len(header).to_bytes(8, "little")
    yield header
    for value in tensors.values():
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read(path: Path) -> tuple[TrainingState, dict[str, Any]]:
    """The state and the identity in a file.

    Raises:
        OSError, ValueError, KeyError, TypeError, SafetensorError: it is not whole.
    """
    found, left = hashlib.sha256(), path.stat().st_size - 32
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(BLOCK, left))
            if not block:
                raise ValueError("it was cut while it was read")
            found.update(block)
            left -= len(block)
        if file.read() != found.digest():
            raise ValueError("its bytes are not those that were written")
    tensors: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as opened:
        about = json.loads(opened.metadata()["trueline"])
        for key in opened.keys():  # noqa: SIM118 (it is no dict)
            if key != HASH:
                group, _, name = key.partition("/")
                tensors.setdefault(group, {})[name] = opened.get_tensor(key)
    return TrainingState(about["step"], tensors, about["rest"]), about["identity"]
