"""How a command ends: the exit codes, the sentence for what went wrong outside of Trueline, and SIGTERM.

What was asked for wrongly is a ``ValueError`` of one sentence, from whoever notices. Other libraries, and the
machine, have errors of their own: ``unusable`` knows them. What it does not know is a fault of Trueline.
"""

import errno
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DONE, NOT_AS_WANTED, UNUSABLE, FAULT = 0, 1, 2, 3
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

#: Exit code of every command -> what it says.
EXITS = {
    DONE: "done",
    NOT_AS_WANTED: "done, but not as wanted: failures that were counted, plans by a stand-in, a judge that was not "
    "sure, other pixels than were recorded",
    UNUSABLE: "input, or a machine, that cannot be used; one sentence says what, and the cure",
    FAULT: "a fault of Trueline itself; please report it",
    INTERRUPTED: "stopped by Ctrl-C",
    TERMINATED: "stopped by SIGTERM",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what Ctrl-C stops, it stops, and what stays then stays."""


def stop_code(stop: KeyboardInterrupt) -> int:
    """The exit code of what was stopped."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """As long as it is open, the first SIGTERM raises ``Terminated`` in the main thread; a second one acts as before.
    Elsewhere, and where SIGTERM is ignored, nothing changes."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, before)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Failures

_FULL = re.compile(
    r"no space left|disk quota exceeded|file too large|PytorchStreamWriter"
    r"|inline_container.*unexpected pos|file write failed",
    re.IGNORECASE | re.DOTALL,
)
_NUMPY_FULL = re.compile(r"\d+ requested and \d+ written")
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY = "the memory is full ({}); make batches or pictures smaller, or take a machine with more"
_UNREADABLE = "a file cannot be read ({}); it is damaged, or not what its name says: copy it again"
_NUMBERS = "the numbers of the nets are broken ({}); take other weights, or fp32"
_DEVICE = "the device failed ({}); try another, such as cpu"
#: Errors of other libraries, and those of ours that are no ``ValueError``: package and name -> sentence, of what they
#: say. By name: nothing is imported.
_OF_LIBRARIES = {
    "builtins.MemoryError": _MEMORY,
    "builtins.RecursionError": "an input is nested too deeply to be read ({}); make it flatter",
    "builtins.OverflowError": "a number is too large to compute with ({}); make it smaller",
    "builtins.FloatingPointError": _NUMBERS,
    "builtins.EOFError": _UNREADABLE,
    "subprocess.SubprocessError": "another program failed ({}); see what it needs, or do without it",
    "torch.OutOfMemoryError": _MEMORY,
    "torch.AcceleratorError": _DEVICE,
    "torch._LinAlgError": _NUMBERS,
    "torch.DistError": "the other processes of this run cannot be reached ({}); see what they say, start all again",
    "safetensors.SafetensorError": _UNREADABLE,
    "trueline.DecodeError": "{}",
    "trueline.ChatError": "{}",
    "trueline.WorkerFailed": "{}",
    "PIL.DecompressionBombError": "a picture is too large ({}); make it smaller",
    "zipfile.BadZipFile": _UNREADABLE,
    "tarfile.TarError": _UNREADABLE,
    "zlib.error": _UNREADABLE,
    "struct.error": _UNREADABLE,
    "csv.Error": _UNREADABLE,
    "pickle.UnpicklingError": _UNREADABLE,
    "yaml.YAMLError": _UNREADABLE,
}
#: Of torch's RuntimeErrors, which have no classes: what they say -> sentence.
_OF_TORCH = {
    r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED": _MEMORY,
    r"(?-i:(CUDA|HIP|NCCL|cuDNN|MPS) (error|driver|backend)|CUBLAS_STATUS|CUDNN_STATUS|No CUDA GPUs|NVIDIA)": _DEVICE,
    r"not implemented for '|Could not run 'aten::": "the device cannot compute so ({}); take fp32, or another device",
    r"\b(nan|inf|infinity|overflow|underflow|singular|converge|finite|non-finite)\b": _NUMBERS,
    r"PytorchStreamReader|unexpected EOF|invalid header|not a ZIP archive": _UNREADABLE,
    r"Error\(s\) in loading state_dict|size mismatch for": "the weights do not fit the net ({}); take those of one "
    "checkpoint",
}
_CURES = {
    FileNotFoundError: "give one that is there",
    PermissionError: "choose another, or ask for the right",
    IsADirectoryError: "give a file",
    NotADirectoryError: "give a folder",
}


def no_room(error: BaseException) -> bool:
    """Whether it says that a disk is full, or a quota; each library says it in its own way."""
    text = str(error)
    if isinstance(error, OSError):
        return error.errno in _FULL_NUMBERS or _NUMPY_FULL.fullmatch(text) is not None
    return _FULL.search(text) is not None


def unusable(error: BaseException) -> str | None:
    """The sentence on input, or a machine, that cannot be used; None: the error is a fault of Trueline."""
    from trueline.errors import first_line, one_line  # not above: help waits for no library

    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, ValueError | ModuleNotFoundError):
        return str(error)
    if isinstance(error, ImportError):  # a library that does not fit this system
        return None if (error.name or "").startswith("trueline") else f"{one_line(error)}; install it again"
    if no_room(error):
        return _full("", first_line(error))
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0].removeprefix("_")
        if sentence := _OF_LIBRARIES.get(f"{package}.{kind.__name__}"):
            return sentence.format(_what(error))
    if isinstance(error, RuntimeError):
        for pattern, sentence in _OF_TORCH.items():
            if re.search(pattern, str(error), re.IGNORECASE):
                return sentence.format(_what(error))
    return None


def _of_the_system(error: OSError) -> str:
    """An ``OSError`` names no argument: its file says which."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' to '.join(names)}: " if names else ""
    if no_room(error):
        return _full(where, error.strerror or str(error))
    if error.errno is None or error.strerror is None:  # not by the system: a sentence of ours or of a library
        return str(error)
    if isinstance(error, BrokenPipeError):
        return f"{where or 'output: '}who reads it has gone; what was written before stays"
    cure = next((f"; {cure}" for kind, cure in _CURES.items() if isinstance(error, kind)), "")
    return f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}{cure if names else ''}"


def _full(where: str, said: str) -> str:
    cure = "free some, and give the same command again: what is done stays"
    return f"{where}no space left on the disk ({said}); {cure}"


def _what(error: BaseException) -> str:
    """What a library says, with what a program wrote before it failed."""
    from trueline.errors import one_line

    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        wrote = error.stderr if isinstance(error.stderr, str) else error.stderr.decode(errors="replace")
        return f"{one_line(error)}: {' '.join(wrote.split())[-200:]}"
    return one_line(error)
