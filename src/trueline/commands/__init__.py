"""One module per command, named as the command, each with ``main(arguments) -> exit code``.

What a module here imports at its top is what ``trueline COMMAND --help`` costs: the standard library, and
pydantic where flags are made of settings.
"""
