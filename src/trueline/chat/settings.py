"""Which language model answers, and how it is asked."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from trueline.errors import Frozen

MAX_RETRIES = 3


class ChatSettings(Frozen):
    """Settings of a language model; those of another kind of model are ignored."""

    base_url: Annotated[
        str | None,
        Field(description="of an OpenAI-style server; None takes OPENAI_BASE_URL, else OpenAI's own address"),
    ] = None
    api_key: Annotated[str | None, Field(repr=False, description="None takes OPENAI_API_KEY")] = None
    timeout: Annotated[
        float, Field(strict=True, ge=0.1, le=3600, description="seconds for a question with all its retries")
    ] = 120.0
    retries: Annotated[
        int, Field(strict=True, ge=0, le=MAX_RETRIES, description="attempts after the first")
    ] = MAX_RETRIES
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=100_000, description="length of an answer")] = 2048
    cache: Annotated[
        str | Path | bool,
        Field(
            description="folder of answers; True is the user's (TRUELINE_CACHE moves it), False keeps none"
        ),
    ] = True
    device: Annotated[str, Field(description="of a model of transformers, as are those below")] = "cpu"
    dtype: str = "float32"
    revision: str | None = None
    local_files_only: bool = False

    @field_validator("api_key", mode="before")
    @classmethod
    def _hide_key(cls, key: Any) -> str | None:
        """Pydantic's own sentence would show the key."""
        if not isinstance(key, str | None):
            raise ValueError("must be text")
        return key
