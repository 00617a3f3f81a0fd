"""LoRAs of rows: a row such as ``gligen+lora:goal`` draws with a changed U-Net, the rows after it do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.files import file_digest
from trueline.models.lora import weights_of
from trueline.sampling.pipeline import Pipeline


@dataclass(frozen=True)
class RowLora:
    """A LoRA of a row: its name in the table, its file, the file's checksum when the run began, and its strength."""

    name: str
    path: Path
    sha256: str
    weight: float = 1.0

    @classmethod
    def of(cls, name: str, path: Path, weight: float = 1.0) -> RowLora:
        """
        Raises:
            ValueError: there is no such file, or it is no LoRA.
        """
        path = weights_of(path)
        return cls(name, path, _sha256(path), weight)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "weight": self.weight}


@contextmanager
def worn(pipe: Pipeline, loras: Sequence[RowLora]) -> Iterator[None]:
    """The sum of the LoRAs in the U-Net for as long as it is open; after it the U-Net is as it was, bit for bit.

    Raises:
        ValueError: a file that does not fit the U-Net, or that is another one by now; or the model has one already.
    """
    if not loras:
        yield
        return
    if pipe.backbone.adapters:
        raise ValueError(
            "loras: the model has a LoRA already, which the other rows would have too; unload it"
        )
    try:
        for lora in loras:
            if _sha256(lora.path) != lora.sha256:
                raise ValueError(
                    f"loras: {lora.path} ({lora.name}) has changed since the run began; give the command again, "
                    "with another folder where pictures of it are there"
                )
            pipe.load_lora(lora.path, lora.name, lora.weight)
        yield
    finally:
        pipe.unload_lora()


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise ValueError(f"loras: cannot read {path} ({error.strerror})") from None
