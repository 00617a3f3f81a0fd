"""Asking a language model: ``Chat.of("llama3.2", base_url="http://localhost:11434/v1").ask(messages, Schema)``.

The answer is an object of a pydantic schema, or a ``ChatError`` in one sentence. An answer that does not fit is asked
for again with what is wrong with it, at most ``MAX_RETRIES`` times; answers are kept on disk. What a model writes is
data: parsed, checked, cut to size, never run. Models: an OpenAI-style address (``endpoint``, extra ``llm``) or a chat
model of transformers on this machine (``local``).

Nothing here imports torch or openai.
"""

from trueline.chat.asking import Chat, keep_usable
from trueline.chat.model import ChatError, Completion, Messages, Model
from trueline.chat.settings import ChatSettings

__all__ = ["Chat", "ChatError", "ChatSettings", "Completion", "Messages", "Model", "keep_usable"]
