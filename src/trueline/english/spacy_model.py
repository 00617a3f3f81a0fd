"""spaCy and its small English model, where they are installed. spaCy's models are no ordinary packages."""

from functools import lru_cache
from typing import Any

MODEL = "en_core_web_sm"


@lru_cache(maxsize=2)
def load_spacy(argument: str, instead: str, disable: tuple[str, ...] = ()) -> Any:
    """The model, without the parts named in ``disable``.

    Raises:
        ValueError: it is not installed; ``argument`` was to be "spacy" and may be ``instead``.
    """
    try:
        import spacy

        return spacy.load(MODEL, disable=disable)
    except (ImportError, OSError) as error:
        raise ValueError(
            f'{argument}: "spacy" needs spaCy and its model (python -m spacy download {MODEL}); install them or use '
            f'"{instead}"'
        ) from error


@lru_cache(maxsize=1)
def has_spacy() -> bool:
    """Whether spaCy and its model are installed."""
    try:
        load_spacy("", "")
    except ValueError:
        return False
    return True
