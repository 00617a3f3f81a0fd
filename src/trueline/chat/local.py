"""A chat model of transformers on this machine: a folder or a Hub id, safetensors only, no code of its own."""

from pathlib import Path
from typing import Any

import torch
import transformers

from trueline.chat.model import LOCAL, WARM, ChatError, Completion, Messages
from trueline.chat.settings import ChatSettings
from trueline.errors import first_line
from trueline.models.pretrained import Checkpoint
from trueline.seeds import seed_torch


class Local:
    """``complete`` writes the likeliest answer, or with a seed a sampled one; same seed, same answer.

    Raises:
        ValueError: the checkpoint cannot be read, is not whole, or its tokenizer has no chat template.
    """

    def __init__(self, checkpoint: str, settings: ChatSettings):
        source = Checkpoint(checkpoint, settings.revision, settings.local_files_only)
        self.tokenizer = source.tokenizer()
        if not self.tokenizer.chat_template:
            raise ValueError(f"{checkpoint} has no chat template; give one, often named -Instruct or -Chat")
        self.model = source.model(transformers.AutoModelForCausalLM, settings.device, settings.dtype)
        self.name, self.max_tokens = f"{LOCAL}{checkpoint}", settings.max_tokens
        self.identity = f"{_version(checkpoint, self.model)} {settings.dtype} {settings.max_tokens}"
        self.longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @torch.inference_mode()
    def complete(
        self,
        messages: Messages,
        schema: dict[str, Any] | None,
        seconds: float,
        seed: int | None,
        notes: list[str],
    ) -> Completion:
        """As ``Model.complete``; after ``seconds`` what was written so far. ``schema`` is not enforced.

        Raises:
            ChatError: the question is too long for the model, or running it failed.
        """
        try:
            tokens = self._tokens(messages).to(self.model.device)
            asked = tokens["input_ids"].shape[1]
            room = self.max_tokens if self.longest is None else min(self.max_tokens, self.longest - asked)
            if room <= 0:
                raise ChatError(
                    f"the question has {asked} tokens and {self.name} takes {self.longest}; give fewer exemplars (k)"
                )
            devices = [self.model.device] if self.model.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices, enabled=seed is not None):
                if seed is not None:
                    seed_torch(seed)
                written = self.model.generate(
                    **tokens,
                    max_new_tokens=room,
                    max_time=max(seconds, 0.1),
                    pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
                    **({"do_sample": False} if seed is None else {"do_sample": True, "temperature": WARM}),
                )[0, asked:]
        except ChatError:
            raise
        except Exception as error:  # no memory, a device that is gone, ids that the net has no rows for
            raise ChatError(f"{self.name} cannot be run ({first_line(error)[:200]})") from None
        ends = self.model.generation_config.eos_token_id
        ended = len(written) > 0 and int(written[-1]) in ([ends] if isinstance(ends, int) else ends or [])
        return Completion(self.tokenizer.decode(written, skip_special_tokens=True), cut=not ended)

    def _tokens(self, messages: Messages) -> Any:
        """The chat as ids (1, tokens). Where the template knows no system role, it goes before the question."""
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        except Exception as error:  # of the template's own, which is the checkpoint's
            if messages[0]["role"] != "system":
                raise ChatError(f"the chat template of {self.name} refuses the question ({error})") from None
        first, second, *rest = messages
        return self._tokens([{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest])


def _version(checkpoint: str, model: Any) -> str:
    """What tells two states of a checkpoint apart: the Hub's commit, or when a folder's weights were written."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return f"{checkpoint}@{getattr(model.config, '_commit_hash', None)}"
    written = max((file.stat().st_mtime_ns for file in folder.glob("*.safetensors")), default=0)
    return f"{folder.resolve()}@{written}"
