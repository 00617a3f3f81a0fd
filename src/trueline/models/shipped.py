"""The weights that come with the package: the embedded world's, one folder for each net. No torch."""

from importlib.resources import files
from pathlib import Path

WORLD = "world"  #: what a model is called that is the world's own


def shipped_folder(name: str) -> Path:
    """The folder of that net ("clip", "hcma", ...), whether or not it is there."""
    return Path(str(files("trueline"))) / "world" / "weights" / name


def whole_net(folder: str | Path, what: str) -> Path:
    """The folder, which holds a net as ``save_pretrained`` writes it.

    Raises:
        ValueError: it does not, as in a build of the world that has not come so far.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no {what} of the world; run `trueline world build` to make it")
    return Path(folder)
