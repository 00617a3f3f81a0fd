"""What every language model here has in common, whether it answers from a server or on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

WARM = 0.7  #: temperature of an answer that has a seed; without one it is 0
LOCAL = "transformers="  #: begins the name of a model on this machine

Message = dict[str, str]  #: {"role", "content"}
Messages = Sequence[Message]


class ChatError(RuntimeError):
    """No answer, in one sentence. ``again``: another attempt may help; ``wait``: seconds that the server asks for."""

    def __init__(self, problem: str, *, again: bool = False, wait: float | None = None):
        super().__init__(problem)
        self.again, self.wait = again, wait


@dataclass(frozen=True)
class Completion:
    """What a model wrote. ``cut``: it had not finished."""

    text: str
    cut: bool = False


class Model(Protocol):
    """``name`` is what stands in records; ``identity`` all that its answers depend on (no secrets)."""

    name: str
    identity: str

    def complete(
        self,
        messages: Messages,
        schema: dict[str, Any] | None,
        seconds: float,
        seed: int | None,
        notes: list[str],
    ) -> Completion:
        """The model's answer, within ``seconds``. ``schema``: JSON schema of the answer, None for free text.
        ``seed``: None for the likeliest answer. Sentences on what had to be changed are added to ``notes``.

        Raises:
            ChatError: there is no answer.
        """
        ...
