"""accelerate for a run: precision, device, and what several processes agree on."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object

from trueline.files import Busy, Claims, clean_leftovers
from trueline.models.devices import fast_bfloat16
from trueline.training.settings import Optimisation

CLAIM = "train"
#: accelerate's launcher says by these that the weights are spread over processes.
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


def make_accelerator(settings: Optimisation, device: torch.device) -> Accelerator:
    """accelerate for this precision and device.

    Raises:
        ValueError: fp16 where it cannot be trained in; accelerate was told to spread the weights over processes,
            of which each must hold them whole here: averages, checkpoints and validation read them.
    """
    for name, what in SHARDED.items():
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ValueError(
                f"accelerate: {what} spreads the weights over processes, which training does not do; launch plain "
                "processes, and save memory by lora and checkpointing"
            )
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if fast_bfloat16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision: fp16 needs a GPU; use bf16 or fp32")
    # A batch whose boxes are all dropped, or a loss that is not there, leaves parameters without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind: Any = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state and PartialState().num_processes == 1:
        # accelerate keeps the precision of an earlier run in this process and refuses another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=kind, cpu=device.type == "cpu", kwargs_handlers=[unused])


def in_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether it is so in one of them: all must take the same turn."""
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(count, "sum") > 0)


def gathered(accelerator: Accelerator, rows: list[Any]) -> list[Any]:
    """The rows of all processes."""
    return gather_object(rows) if accelerator.num_processes > 1 else rows


def of_main_process(accelerator: Accelerator, value: Any) -> Any:
    """What the main process has; the others' own value does not count."""
    values = [value]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


@contextmanager
def alone(accelerator: Accelerator, home: Path) -> Iterator[Callable[[], None]]:
    """Nobody else trains in the folder while the block runs; of several processes the main one holds the claim.

    Yields what raises Busy where another has taken the folder over, because this process gave no sign of life.

    Raises:
        Busy: another trains there, in every process.
    """
    claims, claim, refused = Claims(home / "progress" / "claims"), None, ""
    with ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                claim = stack.enter_context(claims.held(CLAIM, what=f"out: {home}"))
                clean_leftovers(home)
            except Busy as busy:
                refused = str(busy)
        if refused := of_main_process(accelerator, refused):
            raise Busy(refused)

        def check() -> None:
            if claim is not None and not claims.mine(claim):
                raise Busy(
                    f"out: {home} was taken over by {claims.holder(CLAIM)}, for this process had given no sign of "
                    "life; it writes nothing more there"
                )

        yield check
