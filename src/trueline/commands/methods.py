"""``trueline methods``: what there is to guide sampling with, and its settings."""

import argparse
from collections.abc import Sequence

from trueline.commands._parser import Parser
from trueline.methods import METHODS, method_class


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline methods", description="The methods of trueline generate --method and of evaluate."
    )
    top.add_argument("name", nargs="?", choices=METHODS, metavar="NAME", help="one method, with its settings")
    return top


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    if options.name is None:
        width = max(map(len, METHODS))
        for name, entry in METHODS.items():
            print(f"{name:{width}}  {entry.does}; needs {entry.needs}")
            print(f"{'':{width}}  {entry.paper}; hooks: {entry.hooks}")
        print("\n`trueline methods NAME` lists a method's settings.")
        return 0
    kind = method_class(options.name)
    print(f"{' '.join(kind.__doc__.split())}\n")
    for key, field in kind.model_fields.items():
        said = f"  {field.description}" if field.description else ""
        print(f"--{options.name}.{key}  (default {' '.join(str(field.default).split())}){said}")
    return 0
