"""What a device computes fast, and what must not be computed in half precision."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 natively.

    A CPU without such instructions (AVX512-BF16, AMX, ARM's BF16) emulates them: the world's U-Net then takes 2.4
    times as long as in float32 (measured on an Ice Lake Xeon).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    # Older versions of torch do not tell.
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is faster than float32; nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bfloat16(device))


_FULL = re.compile(
    r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|could not create a (primitive|memory)"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: only CUDA's allocator has a class of error for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32 of half precision; float32 and float64 stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def widened(*nets: nn.Module) -> Iterator[None]:
    """The nets in float32 at least; the former weights come back as they were, whatever happens inside."""
    weights = [
        each for net in nets for each in (*net.parameters(), *net.buffers()) if each.is_floating_point()
    ]
    before = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = at_least_float32(weight.data)
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data
