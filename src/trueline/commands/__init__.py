"""One module per command, named as the command, each with ``main(arguments) -> exit code``.

A ValueError of any function here is input that cannot be used, in one sentence that names the flag.

What a module here imports at its top is what ``trueline COMMAND --help`` costs: the standard library, and
pydantic where flags are made of settings.
"""
