"""The command line: runs the module of a command, and turns failures into one sentence and an exit code.

Exit codes: 0 done; 1 done, but not as wanted; 2 input that cannot be used; 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

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

TRACEBACK = "TRUELINE_TRACEBACK"  #: environment variable: when set, failures show where they come from


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: ``sys.argv``) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from trueline import __version__

        print(f"trueline {__version__}")
        return 0
    command, *rest = arguments
    try:
        if command not in COMMANDS:
            raise ValueError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}")
        return import_module(f"trueline.commands.{command}").main(rest)
    except KeyboardInterrupt:
        print("trueline: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if TRACEBACK in os.environ:
            _hide_secrets(error)
            raise
        print(f"trueline: {_sentence(error, command)}", file=sys.stderr)
        return 2


def _sentence(error: BaseException, command: str) -> str:
    """The error in one line. The library names arguments; what the command has a flag for is named by that."""
    from trueline.errors import redacted

    sentence = " ".join(redacted(str(error)).split())
    module = sys.modules.get(f"trueline.commands.{command}")
    if module is None:
        return sentence
    from trueline.commands._parser import with_flags

    return with_flags(sentence, getattr(module, "FLAGS", {}), getattr(module, "GROUPS", ()))


def _hide_secrets(error: BaseException) -> None:
    """A traceback ends in what the error says."""
    from trueline.errors import redacted

    error.args = redacted(error.args)
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = redacted(error.filename)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return f"""usage: trueline COMMAND ...

Text-to-image diffusion that follows its words and its boxes.

commands:
{commands}

`trueline COMMAND --help` tells more. {TRACEBACK}=1 shows where an error comes from."""


if __name__ == "__main__":
    sys.exit(main())
