"""LoRA files for the U-Net: which one is meant, what is in it, and for which base it was made.

Those that come with the package are folders ``world/weights/lora/NAME``: one safetensors file in diffusers' naming
and ``lora.json``, which says of which base it was made. Training writes the same two files, and says it in the header
of the safetensors file too, so that a file alone knows it.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from trueline.errors import first_line
from trueline.models.checkpoint import CheckpointError
from trueline.models.shipped import WORLD, shipped_folder
from trueline.models.soundness import check_file

SHIPPED = shipped_folder("lora")
ABOUT = "lora.json"  #: beside the weights: their base
KEY = "trueline"  #: in the header of the weights: the same
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SAMPLES = 1024  #: numbers of each weight that a checksum reads; another training run changes nearly all
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Lora:
    """A LoRA file: its tensors, the prefix of their names, peft's settings where diffusers saved them, and the base
    it was made for where that is known (see ``base_of``)."""

    path: Path
    state: dict[str, torch.Tensor]
    prefix: str | None
    metadata: dict[str, Any] | None
    base: dict[str, Any] | None = None

    def layers(self) -> set[str]:
        """The U-Net's layers that it changes, by name."""
        return {key.removeprefix("unet.").split(".lora_")[0] for key in self.state}

    def other_base(self, unet: nn.Module) -> str | None:
        """A sentence where it was made for another version of the U-Net; None where not, or where nobody knows."""
        sums = (self.base or {}).get("unet")
        dtype = str(next(unet.parameters()).dtype).removeprefix("torch.")
        wanted = sums.get(dtype) if isinstance(sums, dict) else None
        if wanted is None or wanted == checksum(unet, _DTYPES[dtype]):
            return None
        return (
            f"the LoRA {self.path} was made for another version of {(self.base or {}).get('model', 'its base')} (the "
            "checksum of its U-Net differs), so that it may do little or harm; train it again on this one"
        )


# Which one is meant


def names() -> list[str]:
    """The LoRAs that come with the package."""
    if not SHIPPED.is_dir():
        return []
    return sorted(folder.name for folder in SHIPPED.iterdir() if list(folder.glob("*.safetensors")))


def shipped(name: str | Path, model: str) -> Path | None:
    """The folder of the LoRA that comes with the package under this name for this model; None: there is none. A name
    goes before a folder of that name in the working directory, which is ``./NAME``."""
    known = isinstance(name, str) and model == WORLD and name in names()
    return SHIPPED / name if known else None


def find(name: str | Path, model: str) -> Path:
    """The path of a LoRA by its name (for the model "world"), or of a file or folder.

    Raises:
        CheckpointError: a name that there is not, or a name for another model.
    """
    if (own := shipped(name, model)) is not None:
        return own
    path = Path(name)
    if not (isinstance(name, str) and NAME.fullmatch(name)) or path.exists():
        return path
    known = f"there are {', '.join(names())}" if names() else "none comes with the package"
    if model == WORLD:
        raise CheckpointError(f"there is no LoRA {name!r} of the world; {known}; or give a .safetensors file")
    raise CheckpointError(
        f"LoRA {name!r}: no such file, and names are for the model world ({known}); give a .safetensors file "
        f"made for {model}"
    )


# What is in it


def read(path: Path) -> Lora:
    """The LoRA of a safetensors file, or of a folder that holds exactly one.

    Raises:
        CheckpointError: not safetensors, unreadable, empty, not of finite numbers, or it changes the text encoder.
    """
    path = weights_of(path)
    try:
        check_file(path)  # a pipe would be waited for
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            saved = json.loads(header.get("lora_adapter_metadata", "{}"))
            base = json.loads(header.get(KEY, "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dictionary)
        beside = path.with_name(ABOUT)
        if base is None and beside.exists():
            base = json.loads(beside.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"the LoRA {path} cannot be read: {first_line(error)}") from error
    for key, tensor in state.items():
        if ".lora_" in key and not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise CheckpointError(
                f"the LoRA {path} holds no finite numbers in {key}; train or fetch it again"
            )
    if not state:
        raise CheckpointError(f"the LoRA {path} is empty; train or fetch it again")
    if any(key.startswith("text_encoder.") for key in state):
        raise CheckpointError(f"{path} also changes the text encoder, which stays as it is; use a U-Net LoRA")
    prefix = "unet" if any(key.startswith("unet.") for key in state) else None
    # None, not {}: without settings diffusers takes scale 1; with empty ones it takes peft's defaults.
    matching = {key: value for key, value in saved.items() if prefix is None or key.startswith("unet.")}
    return Lora(path, state, prefix, matching or None, base if isinstance(base, dict) else None)


def load(path: Path, denoiser: Any, adapters: dict[str, float], name: str, weight: float) -> None:
    """Put a LoRA into the net under that name; ``adapters``, those it has and their weights, then has it too.

    Raises:
        CheckpointError: not safetensors, or layers that the net does not have; the net is as it was.
        ValueError: there is one of that name.
    """
    if name in adapters:
        raise ValueError(
            f"adapter_name: a LoRA {name!r} is loaded; give another name, or unload_lora() first"
        )
    found = read(path)
    other_base = found.other_base(denoiser)
    _add(found, denoiser, name, others=bool(adapters))
    adapters[name] = weight
    denoiser.set_adapters(list(adapters), list(adapters.values()))
    denoiser.requires_grad_(False)
    if other_base:
        warnings.warn(other_base, stacklevel=3)


def _add(found: Lora, denoiser: Any, name: str, others: bool) -> None:
    layers = {module for module, _ in denoiser.named_modules()}
    if strange := sorted(found.layers() - layers):
        raise CheckpointError(f"{found.path} does not fit this U-Net, which has no layer {strange[0]!r}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
            denoiser.load_lora_adapter(
                found.state, prefix=found.prefix, adapter_name=name, metadata=found.metadata
            )
    except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
        if not others:
            denoiser.unload_lora()  # the part of it that was added
        raise CheckpointError(f"{found.path} does not fit this U-Net: {first_line(error)}") from error


def weights_of(path: Path) -> Path:
    """The safetensors file of a LoRA: the path itself, or the only one of a folder.

    Raises:
        CheckpointError: another kind of file, or a folder with none or several.
    """
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise CheckpointError(f"{path} holds {len(found)} .safetensors files; give the LoRA's own path")
        return found[0]
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file; pickled LoRAs can run code when loaded")
    return path


# Of which base it was made


def base_of(unet: nn.Module, model: str, revision: str | None) -> dict[str, Any]:
    """What a LoRA's file says of its base: the model's name and revision, and the U-Net's checksum in each precision
    in which it may be loaded. ``unet``: float32; a LoRA in it does not count."""
    sums = {name: checksum(unet, dtype) for name, dtype in _DTYPES.items()}
    return {"model": model, "revision": revision, "unet": sums}


@torch.no_grad()
def checksum(unet: nn.Module, dtype: torch.dtype) -> str:
    """Of names, shapes and values of the weights, without those of LoRAs, as rounded to ``dtype``; of each weight at
    most ``SAMPLES`` values, evenly spaced."""
    own = {
        name.replace(".base_layer.", "."): weight
        for name, weight in unet.named_parameters()
        if ".lora_" not in name
    }
    made = hashlib.sha256()
    for name in sorted(own):
        values = own[name].detach().flatten()
        values = values[:: max(1, -(-values.numel() // SAMPLES))]
        made.update(f"{name} {tuple(own[name].shape)}\0".encode())
        made.update(values.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()[:16]


def stamp(folder: Path, base: dict[str, Any]) -> None:
    """Let the LoRA in ``folder`` say of which base it was made, in its header and in ``lora.json``."""
    path = weights_of(folder)
    header, state = _whole(path)
    save_file(state, path, metadata=header | {KEY: json.dumps(base)})
    (folder / ABOUT).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")


def pack(trained: Path, folder: Path) -> None:
    """A trained LoRA, as ``stamp`` left it, in float16 and nothing else of its training: what ships.

    Raises:
        CheckpointError: no LoRA that says of which base it was made.
    """
    path = weights_of(trained)
    header, state = _whole(path)
    if KEY not in header:
        raise CheckpointError(
            f"{path} does not say of which base it was made; train it with `trueline train`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in state.items()}, folder / path.name, metadata=header)
    shutil.copyfile(path.with_name(ABOUT), folder / ABOUT)


def _whole(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@contextmanager
def without_lora(net: nn.Module) -> Iterator[None]:
    """The net without its LoRA; after it, also where something fails, with it and with what learns as before.

    Raises:
        ValueError: it has no LoRA.
    """
    layers: list[Any] = [layer for layer in net.modules() if hasattr(layer, "lora_A")]
    if not layers:
        raise ValueError(
            "preserve: this U-Net has no LoRA to switch off; set lora, or give a frozen copy as nets['base']"
        )
    learns = {weight: weight.requires_grad for weight in net.parameters()}
    before = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer.enable_adapters(not off)
        for weight, did in learns.items():  # peft freezes what it switches off
            weight.requires_grad_(did)
