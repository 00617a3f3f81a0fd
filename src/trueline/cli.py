"""The command line: runs the module of a command, and turns failures into one sentence and an exit code.

What the codes mean is in ``trueline.exits.EXITS``; ``trueline --help`` shows it.
"""

import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from trueline.exits import EXITS, FAULT, UNUSABLE, Terminated, sigterm_stops, stop_code, unusable

#: Command name = module in ``trueline.commands`` -> what it does. Strings, so that help imports nothing.
COMMANDS = {
    "generate": "pictures from a prompt and boxes, or from a file of layouts",
    "plan": "boxes for a prompt: layouts by rules, by a language model, or of a file",
    "convert": "layouts from and to the formats of GLIGEN, COCO, YOLO, LabelMe and others",
    "methods": "what to guide sampling with, and its settings",
    "train": "train a net on captions and boxes; a run that was stopped goes on",
    "dataset": "pictures with boxes to train on, made from prompts and checked by a person",
    "evaluate": "draw what a benchmark asks for, look at it, and write the table",
    "merge": "join the folders of an evaluation that was spread over machines",
    "votes": "score the votes of a user study that an evaluation made the page of",
    "results": "one page of all the result files in a folder",
    "world": "make and measure the embedded world",
}

#: How a command line begins -> how to go on where it was stopped.
GO_ON = {
    **dict.fromkeys(
        ("generate", "train", "dataset build", "evaluate", "world build"),
        "what is done is kept, and the same command goes on",
    ),
    "plan": "give the same command again: what a language model has answered is not asked again",
    "convert": "what is written stays: give the same command again, with --force",
    "": "give the same command again: it begins anew",
}
#: Read by other libraries once they are imported: no bars and remarks of theirs, for who does not ask for them.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
TRACEBACK = "TRUELINE_TRACEBACK"  #: environment variable: when set, failures show where they come from


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: ``sys.argv``) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with sigterm_stops():
            run, rest = _command(arguments)
            code = run(rest)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        _say(_stopped(stop, arguments))
        return stop_code(stop)
    except Exception as error:
        return _failed(error, arguments)


def _command(arguments: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """What to call, and with which arguments."""
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        return _about, arguments
    command, *rest = arguments
    if command not in COMMANDS:
        raise ValueError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
    return import_module(f"trueline.commands.{command}").main, rest


def _about(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        from trueline import __version__

        print(f"trueline {__version__}")
        return 0
    print(_usage())
    return 0 if arguments else UNUSABLE


def _stopped(stop: KeyboardInterrupt, arguments: Sequence[str]) -> str:
    what = "SIGTERM" if isinstance(stop, Terminated) else "Ctrl-C"
    line = " ".join(arguments)
    return f"stopped by {what}; {next(how for start, how in GO_ON.items() if line.startswith(start))}"


def _failed(error: Exception, arguments: Sequence[str]) -> int:
    """Say what failed; the exit code. A fault of Trueline shows where it is from; so does all, for who asks."""
    from trueline.errors import one_line, redacted

    sentence = unusable(error)
    if sentence is None or TRACEBACK in os.environ:
        print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, OSError):
        _close_stdout_if_full()
    if sentence is None:
        fault = f"{type(error).__name__}: {one_line(error)}"
        _say(f"a fault of Trueline itself ({fault}); please report it, with the command and the lines above")
        return FAULT
    _say(_with_flags(" ".join(redacted(sentence).split()), arguments[:1]))
    return UNUSABLE


def _say(sentence: str) -> None:
    print(f"trueline: {sentence}", file=sys.stderr)


def _close_stdout_if_full() -> None:
    """What cannot be written must not be tried once more when the process ends: that is another message and code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_flags(sentence: str, command: Sequence[str]) -> str:
    """The library names arguments; what the command has a flag for is named by that."""
    module = sys.modules.get(".".join(["trueline.commands", *command]))
    if module is None:
        return sentence
    from trueline.commands._parser import with_flags

    return with_flags(sentence, getattr(module, "FLAGS", {}), getattr(module, "GROUPS", ()))


def _usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    codes = "\n".join(
        textwrap.fill(what, 100, initial_indent=f"  {code:<{width}}  ", subsequent_indent=" " * (width + 4))
        for code, what in EXITS.items()
    )
    return f"""usage: trueline COMMAND ...

Text-to-image diffusion that follows its words and its boxes.

commands:
{commands}

exit codes:
{codes}

`trueline COMMAND --help` tells more. {TRACEBACK}=1 shows where an error comes from."""


if __name__ == "__main__":
    sys.exit(main())
