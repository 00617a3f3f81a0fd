"""What the adapters share: a checkpoint's parts, read without running anything of it, and batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from PIL.Image import Image
from torch import Tensor

Dtype = torch.dtype | str  #: or its name, "bfloat16"
BATCH = 16  #: pictures that go through a net at once
Found = TypeVar("Found")


@dataclass(frozen=True)
class Checkpoint:
    """A folder in transformers' format, or a Hub id: safetensors only, no code of its own.

    ``revision`` is a commit or branch of the Hub; with ``local_files_only`` nothing is fetched.
    """

    name: str | Path
    revision: str | None = None
    local_files_only: bool = False

    @property
    def title(self) -> str:
        """The last part of the name: "clip-vit-base-patch32"."""
        return Path(self.name).name

    def model(self, kind: Any, device: str | torch.device, dtype: Dtype) -> Any:
        """The net of class ``kind``, ready to be used; its weights must be whole.

        Raises:
            ValueError: they are missing, pickled, or not all there.
        """
        net, report = self._read(
            kind, "weights", dtype=precision(dtype), use_safetensors=True, output_loading_info=True
        )
        missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
        if missing or report["mismatched_keys"]:
            lacking = missing or sorted(str(key) for key in report["mismatched_keys"])
            raise ValueError(
                f"the checkpoint {self.name} has no weights for {lacking[0]} and {len(lacking) - 1} more, so a "
                f"{kind.__name__} would be partly random; give a checkpoint of that class"
            )
        return net.to(device).eval().requires_grad_(False)

    def config(self) -> Any:
        """Its config.json, whatever model it is of."""
        return self._read(transformers.AutoConfig, "config.json")

    def check_kind(self, title: str, *types: str) -> None:
        """Refuse another model's checkpoint by the ``model_type`` of its config: its net would be built whole before
        its weights are missed.

        Raises:
            ValueError: it is none of ``types``; ``title`` is what they are called.
        """
        found = self.config().model_type
        if found not in types:
            raise ValueError(f"{self.name} is a {found}, not a {title}; give a checkpoint of {title}")

    def tokenizer(self) -> Any:
        return self._read(transformers.AutoTokenizer, "tokenizer")

    def image_processor(self, name: str, **changes: Any) -> Any:
        """transformers' image processor ``name``, always the one that resizes with PIL and numpy.

        The class of that name resizes with torchvision where torchvision is installed, and its numbers differ.
        """
        kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
        return self._read(kind, "preprocessor_config.json", **changes)

    def _read(self, kind: Any, part: str, **options: Any) -> Any:
        try:
            return kind.from_pretrained(
                self.name,
                revision=self.revision,
                local_files_only=self.local_files_only,
                trust_remote_code=False,
                **options,
            )
        except Exception as error:  # transformers, the Hub and the Rust tokenizer have no common base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            cure = "give a folder that save_pretrained wrote (safetensors), or a Hub id that is in the cache"
            raise ValueError(f"the {part} of {self.name} cannot be read ({reason}); {cure}") from error


def precision(dtype: Dtype) -> torch.dtype:
    """``torch.float32`` of "float32"; so too bfloat16 and float16."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype must be float32, bfloat16 or float16 (got {dtype})")
    return found


def rgb(images: Sequence[Image]) -> list[Image]:
    return [image.convert("RGB") for image in images]


def pixels_for(net: Any, processor: Any, images: Sequence[Image]) -> Tensor:
    """What ``net`` reads of the pictures, by transformers' image processor, on the net's device and in its dtype."""
    return processor(rgb(images), return_tensors="pt").pixel_values.to(net.device, net.dtype)


def batched(run: Callable[..., Tensor], *columns: Sequence[Any], size: int = BATCH) -> Tensor:
    """``run`` on ``size`` rows of all columns at a time; its results (rows, ...) as one float32 tensor on the CPU.

    Raises:
        ValueError: the columns differ in length.
    """
    count = same_length(*columns)
    if not count:
        return torch.zeros(0)
    return torch.cat([run(*(c[i : i + size] for c in columns)).float().cpu() for i in range(0, count, size)])


def asked_only(
    run: Callable[[list[Image], list[list[str]]], list[list[Found]]],
    images: Sequence[Image],
    labels: Sequence[Sequence[str]],
    size: int = BATCH,
) -> list[list[Found]]:
    """``run`` on ``size`` pictures at a time; one that nothing is asked about is not looked at: nothing is found.

    Raises:
        ValueError: not one list of labels for each picture.
    """
    same_length(images, labels)
    found: list[list[Found]] = [[] for _ in images]
    asked = [i for i, names in enumerate(labels) if names]
    for start in range(0, len(asked), size):
        rows = asked[start : start + size]
        seen = run([images[i] for i in rows], [list(labels[i]) for i in rows])
        for i, those in zip(rows, seen, strict=True):
            found[i] = those
    return found


def same_length(*columns: Sequence[Any]) -> int:
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError(
            f"there must be one text (or list of labels) for each picture (got {_counts(columns)})"
        )
    return lengths.pop()


def _counts(columns: Sequence[Sequence[Any]]) -> str:
    return " and ".join(str(len(column)) for column in columns)
