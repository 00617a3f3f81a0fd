"""Loads the pipeline that the settings name, and keeps the bars and notes of the libraries off the screen."""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trueline.commands._parser import DTYPES
from trueline.errors import redacted
from trueline.models import checkpoint
from trueline.models.devices import fast_bfloat16
from trueline.models.lora import find as find_lora
from trueline.perception import check as check_perception
from trueline.sampling.pipeline import Pipeline

Looked = Iterable[tuple[str, str | None]]
LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID")  #: environment variables: which process of its machine this is
KNOWN = "; it knows: "  #: before the words that a model knows, in the warning about those it does not


def check_loading(
    model: str, device: str | None = None, lora: str | None = None, others: Looked = ()
) -> None:
    """Refuse what needs neither network nor weights to be refused, before time is spent on anything. From here on
    other libraries are silent.

    Args:
        others: models that look at pictures: an argument, and the name that it has (None: nobody).
    """
    silence_libraries()
    find_device(device)
    checkpoint.check(model)
    if lora is not None and not (path := find_lora(lora, model)).exists():
        raise ValueError(f"lora: {path} cannot be read: it is not there; check the path")
    for argument, name in others:
        try:
            if name is not None:
                check_perception(name)
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from None


def load_pipeline(settings: dict[str, Any]) -> Pipeline:
    """The pipeline of "model", "revision", "lora" (a file, or a name for the world), "dtype" and "device"; "offload"
    and "vae_tiling" may be left out."""
    device = find_device(settings["device"])
    silence_libraries()
    dtype, offload = getattr(torch, DTYPES[settings["dtype"]]), settings.get("offload")
    place = "cpu" if offload else device
    pipe = Pipeline.from_pretrained(
        settings["model"], revision=settings["revision"], dtype=dtype, device=place
    )
    if settings["lora"] is not None:
        pipe.backbone.load_lora(settings["lora"])
    if settings.get("vae_tiling"):
        pipe.backbone.enable_vae_tiling()
    if offload:
        pipe.backbone.enable_model_cpu_offload(device)
    return pipe


def find_device(name: str | None) -> torch.device:
    """The named device, tried out; without a name CUDA where there is one: of several GPUs the one for this process,
    by what accelerate, torchrun or Slurm say."""
    try:
        device = torch.device(name or (f"cuda:{own_gpu()}" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError):  # AssertionError: torch built without CUDA
        raise ValueError(
            f"--device: {name!r} is not a device of this machine; leave it out or use cpu"
        ) from None
    return device


def own_gpu() -> int:
    """Number of the GPU for this process, among those that it sees."""
    place = next((os.environ[name] for name in LOCAL_RANK if os.environ.get(name, "").isdecimal()), "0")
    return int(place) % max(1, torch.cuda.device_count())


def fast_dtype(device: str | None) -> str:
    """bf16 where the device computes in it natively, fp32 elsewhere."""
    return "bf16" if fast_bfloat16(find_device(device)) else "fp32"


def silence_libraries() -> None:
    """No "Loading weights" bars: they would fill the log of every job that is not at a terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Each warning for the user is one line on stderr, once; those for programmers are not shown."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = " ".join(redacted(str(message)).split())
        head, mark, rest = line.partition(KNOWN)
        if mark and rest in seen:  # the list of words was shown already
            line = head
        elif mark:
            seen.add(rest)
        if category is UserWarning and line not in seen:
            seen.add(line)
            print(f"trueline: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
