"""Names of models, as far as they say something before a model is loaded; and the weights that come with the package:
the embedded world's, one folder for each net. No torch."""

import json
import re
from importlib.resources import files
from pathlib import Path

from trueline.errors import FieldError, redacted
from trueline.models.schedules import RELEASED_SCALE, check_scale

WORLD = "world"  #: what a model is called that is the world's own
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]*\w", re.ASCII)


def shipped_folder(name: str) -> Path:
    """The folder of that net ("clip", "hcma", ...), whether or not it is there."""
    return Path(str(files("trueline"))) / "world" / "weights" / name


def check_place(name: str | Path, argument: str) -> None:
    """Refuse what is neither on this machine nor can be on the Hub, before anything is loaded or fetched.

    Raises:
        FieldError: naming ``argument``.
    """
    if not Path(name).exists() and not _HUB_ID.fullmatch(str(name)):
        problem = "it is neither a folder nor a Hub id such as owner/name; check the path"
        raise FieldError(argument, f"{redacted(str(name))!r} cannot be read: {problem}")


def own_guidance_scale(model: str) -> float | None:
    """The weight of the prompt that a model on this machine wants; None: of the Hub, so that it is known once it is
    here."""
    folder = shipped_folder("pipeline") if model == WORLD else Path(model)
    path = folder / "model_index.json"
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return check_scale(index.get("trueline", {}).get("guidance_scale", RELEASED_SCALE))
    except (
        OSError,
        ValueError,
        AttributeError,
        RecursionError,
    ):  # what is wrong with it is said when it is loaded
        return None


def whole_net(folder: str | Path, what: str) -> Path:
    """The folder, which holds a net as ``save_pretrained`` writes it.

    Raises:
        ValueError: it does not, as in a build of the world that has not come so far.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no {what} of the world; run `trueline world build` to make it")
    return Path(folder)
