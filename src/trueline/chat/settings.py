"""Which language model answers, and how it is asked."""

from pathlib import Path
from typing import Any

from pydantic import Field, StrictInt, field_validator

from trueline.errors import Frozen

MAX_RETRIES = 3


class ChatSettings(Frozen):
    """Settings of a language model; those of another kind of model are ignored."""

    base_url: str | None = Field(
        None, description="address of an OpenAI-style server; None takes OPENAI_BASE_URL, else OpenAI's own"
    )
    api_key: str | None = Field(None, repr=False, description="None takes OPENAI_API_KEY")
    timeout: float = Field(
        120.0,
        strict=True,
        ge=0.1,
        le=3600,
        description="seconds that a question may take with all its retries",
    )
    retries: StrictInt = Field(MAX_RETRIES, ge=0, le=MAX_RETRIES, description="attempts after the first")
    max_tokens: StrictInt = Field(2048, ge=1, le=100_000, description="length of an answer")
    cache: str | Path | bool = Field(
        True, description="folder of answers; True is the user's (TRUELINE_CACHE moves it), False keeps none"
    )
    device: str = Field("cpu", description="of a model of transformers, as are those below")
    dtype: str = "float32"
    revision: str | None = None
    local_files_only: bool = False

    @field_validator("api_key", mode="before")
    @classmethod
    def _unseen(cls, key: Any) -> str | None:
        """Pydantic's own sentence would show the key."""
        if not isinstance(key, str | None):
            raise ValueError("must be text")
        return key
