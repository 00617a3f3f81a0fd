"""Word lists, in text files beside this one.

``NAME: words`` is a list, which goes on in indented lines. Words are divided at spaces, or at commas where
the list has any ("tv set," is one phrase). A line that begins with # is a comment.
"""

from importlib.resources import files


def read_lists(file: str) -> dict[str, frozenset[str]]:
    """The lists of ``file``.txt by their names, in its order."""
    lists: dict[str, str] = {}
    for line in files(__name__).joinpath(f"{file}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            lists[next(reversed(lists))] += line
        elif line.strip() and not line.startswith("#"):
            name, _, words = line.partition(":")
            lists[name] = words
    return {name: frozenset(_divided(words)) for name, words in lists.items()}


def _divided(words: str) -> list[str]:
    if "," not in words:
        return words.split()
    return [" ".join(part.split()) for part in words.split(",") if part.strip()]
