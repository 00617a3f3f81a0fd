"""BLIP and BLIP-2 as captioners whose words have a gradient to the picture, and BLIP-2's text encoder.

transformers' ``generate`` runs without gradients, and where it draws, it draws from the 50 likeliest words unless
told not to: the log-probability of another distribution. So captions are drawn here, word by word from the whole one,
with a cache and without gradient; then one pass over all of them gives the log-probabilities with gradient.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2TextModelWithProjection,
    BlipForConditionalGeneration,
)

from trueline.models.devices import at_least_float32
from trueline.models.pixels import Fitting, Images
from trueline.models.pretrained import Checkpoint, Dtype, precision

LONGEST = 20  #: words of a drawn caption; BLIP's and BLIP-2's own default
PROMPT = 64  #: tokens of a given text that are read
Generators = Sequence[torch.Generator]  #: one for each picture, on the CPU


class Captions(NamedTuple):
    """k captions of each picture; ``texts[j][i]`` is the j-th of picture i.

    ``log_prob``: log-probability (nats) of the whole caption with its end, with a gradient to the picture.
    ``logits``: of each token given those before it; ``mask``: which tokens are there, the end among them.
    """

    ids: Int[Tensor, "k batch tokens"]
    texts: list[list[str]]
    log_prob: Float[Tensor, "k batch"]
    logits: Float[Tensor, "k batch tokens words"]
    mask: Bool[Tensor, "k batch tokens"]


class Likelihood(NamedTuple):
    """Log-probabilities (nats) of given texts, with a gradient to the pictures, and their lengths in tokens."""

    total: Float[Tensor, " batch"]
    tokens: Int[Tensor, " batch"]


class Autoregressive(nn.Module):
    """What such captioners share: drawing, and log-probabilities of what was drawn or given.

    A subclass sees the picture once (``see``) and continues captions (``run``). Ids that the tokenizer has no word
    for are never said.

    Settings:
        longest: tokens of a drawn caption with its end; one that is cut there has the log-probability of its part.
        temperature: of drawing, and of the log-probabilities of what was drawn. 1 = the captioner's own distribution.
        prefix: words that every caption begins with, which are not part of it (CoMat: "a photography of"). Given
            texts follow it after a space.
    """

    name: str
    end: int

    def __init__(
        self, tokenizer: Any, words: int, longest: int = LONGEST, temperature: float = 1.0, prefix: str = ""
    ):
        super().__init__()
        if longest < 1 or temperature <= 0:
            raise ValueError(f"longest and temperature: must be above 0 (got {longest} and {temperature})")
        self.tokenizer, self.longest, self.temperature = tokenizer, longest, temperature
        self.words = min(words, len(tokenizer))
        self.vocabulary: dict[str, int] = {w: i for w, i in tokenizer.get_vocab().items() if i < self.words}
        self.begun, self.prefix = prefix.rstrip(), self._ids(prefix.rstrip())

    @abstractmethod
    def see(self, images: Images) -> Float[Tensor, "batch places width"]:
        """What ``run`` reads of the pictures, with gradient."""

    @abstractmethod
    def run(
        self, seen: Tensor, ids: Int[Tensor, "rows tokens"], past: Any = None, cached: bool = False
    ) -> tuple[Float[Tensor, "rows places words"], Any]:
        """Logits of what follows the start and each of ``ids``: one place more than there are ids. With ``past``: of
        what follows each of ``ids`` alone. And the new past, if ``cached``."""

    def sample(self, images: Images, k: int, generators: Generators | None = None) -> Captions:
        batch = len(images)
        seen = self.see(images).repeat(k, 1, 1)
        chances = _uniform(k, batch, self.longest, generators).flatten(0, 1).to(seen.device)
        with torch.no_grad():
            ids, mask = self._draw(seen.detach(), chances)
        logits = self._logits(seen, ids) / self.temperature
        spoken = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        log_prob = torch.where(mask, spoken, 0.0).sum(1)
        said = self.tokenizer.batch_decode(ids.masked_fill(~mask, self.end), skip_special_tokens=True)
        texts = [said[row * batch : (row + 1) * batch] for row in range(k)]
        return Captions(
            ids.unflatten(0, (k, batch)),
            [[text.strip() for text in row] for row in texts],
            log_prob.unflatten(0, (k, batch)),
            logits.unflatten(0, (k, batch)),
            mask.unflatten(0, (k, batch)),
        )

    def log_prob(self, images: Images, texts: Sequence[str]) -> Likelihood:
        rows = [[*self._following(text)[: PROMPT - 1], self.end] for text in texts]
        longest = max(map(len, rows))
        seen = self.see(images)
        if len(seen) == 1:
            seen = seen.expand(len(rows), *seen.shape[1:])
        ids = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows], device=seen.device)
        lengths = torch.tensor([len(row) for row in rows], device=seen.device)
        spoken = self._logits(seen, ids).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        there = torch.arange(longest, device=seen.device) < lengths[:, None]
        return Likelihood(torch.where(there, spoken, 0.0).sum(1), lengths)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _following(self, text: str) -> list[int]:
        """The text's ids after the prefix: others than its own, where a space is part of the next word's token."""
        if not self.prefix:
            return self._ids(text)
        both = self._ids(f"{self.begun} {text}")
        return both[len(self.prefix) :] if both[: len(self.prefix)] == self.prefix else self._ids(f" {text}")

    def _logits(self, seen: Tensor, ids: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens words"]:
        """Of each of ``ids`` given those before it."""
        before = torch.cat([self._begun(ids), ids[:, :-1]], 1)
        return self._said(self.run(seen, before)[0][:, len(self.prefix) :])

    def _said(self, logits: Tensor) -> Tensor:
        """At least float32, without ids that mean nothing."""
        return at_least_float32(logits)[..., : self.words]

    def _begun(self, like: Tensor) -> Int[Tensor, "rows prefix"]:
        return torch.tensor(self.prefix, dtype=torch.long, device=like.device).expand(len(like), -1)

    def _draw(
        self, seen: Tensor, chances: Float[Tensor, "rows tokens"]
    ) -> tuple[Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
        """Inverse transform sampling: the first word up to which the probabilities exceed the chance."""
        logits, past = self.run(seen, self._begun(seen), cached=True)
        going = torch.ones(len(seen), dtype=torch.bool, device=seen.device)
        ids, mask = [], []
        for place in range(self.longest):
            share = (self._said(logits[:, -1]) / self.temperature).softmax(-1).cumsum(-1)
            bound = chances[:, place, None].to(share) * share[:, -1:]
            drawn = (share <= bound).sum(-1).clamp(max=self.words - 1)
            drawn = torch.where(going, drawn, self.end)
            ids.append(drawn)
            mask.append(going)
            going = going & (drawn != self.end)
            if not going.any():
                break
            if place + 1 < self.longest:
                logits, past = self.run(seen, drawn[:, None], past, cached=True)
        return torch.stack(ids, 1), torch.stack(mask, 1)


def _uniform(
    k: int, batch: int, longest: int, generators: Generators | None
) -> Float[Tensor, "k batch tokens"]:
    """Drawn on the CPU, each picture's from its own generator: the same whatever device and batch mates it has."""
    if generators is None:
        return torch.rand(k, batch, longest)
    return torch.stack([torch.rand(k, longest, generator=generator) for generator in generators], 1)


class BlipCaptioner(Autoregressive):
    """``BlipForConditionalGeneration`` (Salesforce/blip-image-captioning-base): light, BERT's words."""

    def __init__(self, model: BlipForConditionalGeneration, tokenizer: Any, processor: Any, **settings: Any):
        text = model.config.text_config
        super().__init__(tokenizer, text.vocab_size, **settings)
        self.model, self.fitting = model.eval().requires_grad_(False), Fitting(processor)
        self.start, self.end, self.name = text.bos_token_id, text.sep_token_id, "blip"

    def see(self, images: Images) -> Tensor:
        pixels = self.fitting(images).to(self.model.dtype)
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def run(self, seen: Tensor, ids: Tensor, past: Any = None, cached: bool = False) -> tuple[Tensor, Any]:
        if past is None:
            start = torch.full((len(seen), 1), self.start, device=seen.device)
            ids = torch.cat([start, ids], 1)
        out = self.model.text_decoder(
            input_ids=ids, encoder_hidden_states=seen, past_key_values=past, use_cache=cached
        )
        return out.logits, out.past_key_values


class Blip2Captioner(Autoregressive):
    """``Blip2ForConditionalGeneration`` on OPT (Salesforce/blip2-opt-2.7b) or on T5 (-flan-t5-xl).

    bfloat16 or float32: users' float16 runs give NaN (transformers#30789), and Flan-T5 must not be float16 at all.
    The pictures' vectors are put before the words as transformers' own forward pass does.
    """

    def __init__(self, model: Blip2ForConditionalGeneration, tokenizer: Any, processor: Any, **settings: Any):
        text = model.config.text_config
        super().__init__(tokenizer, text.vocab_size, **settings)
        self.model, self.fitting = model.eval().requires_grad_(False), Fitting(processor)
        end = text.eos_token_id
        self.start, self.end = text.bos_token_id, end[0] if isinstance(end, list) else end
        self.name = "blip2"

    def see(self, images: Images) -> Tensor:
        pixels = self.fitting(images).to(self.model.dtype)
        seen = self.model.get_image_features(pixel_values=pixels).pooler_output
        language = self.model.language_model
        if not language.config.is_encoder_decoder:
            return seen
        start = torch.full((len(seen), 1), self.start, device=seen.device)
        asked = torch.cat([seen, self._embedded(start)], 1)
        return language.get_encoder()(inputs_embeds=asked, attention_mask=_ones(asked)).last_hidden_state

    def run(self, seen: Tensor, ids: Tensor, past: Any = None, cached: bool = False) -> tuple[Tensor, Any]:
        if self.model.language_model.config.is_encoder_decoder:
            return self._run_t5(seen, ids, past, cached)
        places = 0
        if past is None:
            start = torch.full((len(seen), 1), self.start, device=seen.device)
            ids = torch.cat([start, ids], 1)
            places = seen.shape[1]
            inputs = torch.cat([seen, self._embedded(ids)], 1)
        else:
            inputs = self._embedded(ids)
        out = self.model.language_model(inputs_embeds=inputs, past_key_values=past, use_cache=cached)
        return out.logits[:, places:], out.past_key_values

    def _run_t5(self, seen: Tensor, ids: Tensor, past: Any, cached: bool) -> tuple[Tensor, Any]:
        language = self.model.language_model
        if past is None:
            start = torch.full((len(seen), 1), language.config.decoder_start_token_id, device=seen.device)
            ids = torch.cat([start, ids], 1)
        out = language(
            encoder_outputs=(seen,),
            attention_mask=_ones(seen),
            decoder_input_ids=ids,
            past_key_values=past,
            use_cache=cached,
        )
        return out.logits, out.past_key_values

    def _embedded(self, ids: Any) -> Tensor:
        return self.model.get_input_embeddings()(ids)


def _ones(states: Float[Tensor, "rows places width"]) -> Int[Tensor, "rows places"]:
    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)


class Blip2TextEncoder(nn.Module):
    """f of eq. 4: ``Blip2TextModelWithProjection`` (Salesforce/blip2-itm-vit-g), the vector of the first token.

    Its ``text_embeds`` has a unit vector for every token; retrieval, and LAVIS, take the first. Padding is masked.
    """

    def __init__(self, model: Blip2TextModelWithProjection, tokenizer: Any, longest: int = 32):
        super().__init__()
        self.model, self.tokenizer, self.longest = model.eval().requires_grad_(False), tokenizer, longest
        words = model.config.qformer_config.vocab_size
        self.vocabulary: dict[str, int] = {w: i for w, i in tokenizer.get_vocab().items() if i < words}

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        read = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.model.device)
        out = self.model(input_ids=read.input_ids, attention_mask=read.attention_mask)
        return at_least_float32(out.text_embeds[:, 0])

    def soft(
        self, weights: Float[Tensor, "rows tokens words"], mask: Bool[Tensor, "rows tokens"]
    ) -> Float[Tensor, "rows d"]:
        """Of weighted words (one-hot in value, with straight-through), their end among them; [CLS] goes before."""
        model = self.model
        table = model.embeddings.word_embeddings.weight
        known = weights.shape[-1]
        first = table[self.tokenizer.cls_token_id].expand(len(weights), 1, -1)
        words = torch.cat([first, weights.to(table) @ table[:known]], 1)[:, : self.longest]
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)[:, : self.longest]
        # As ``Blip2TextEmbeddings`` does of ids: the words' vectors, their places; the Q-Former normalises.
        places = model.embeddings.position_ids[:, : words.shape[1]]
        states = words + model.embeddings.position_embeddings(places)
        out = model.qformer(query_embeds=states, query_length=0, attention_mask=mask.long())
        vector = model.text_projection(out.last_hidden_state[:, 0].to(model.text_projection.weight.dtype))
        return at_least_float32(F.normalize(vector, dim=-1))


# From checkpoints


def load_captioner(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    **settings: Any,
) -> BlipCaptioner | Blip2Captioner:
    """The captioner in a folder or on the Hub (there at ``revision``), as ``captioner_of``."""
    return captioner_of(Checkpoint(name, revision), device, dtype, **settings)


def captioner_of(
    source: Checkpoint, device: str | torch.device, dtype: Dtype, **settings: Any
) -> BlipCaptioner | Blip2Captioner:
    """The captioner of a checkpoint: BLIP or BLIP-2, as its config says.

    Raises:
        ValueError: neither, float16 for BLIP-2, or what cannot be read.
    """
    kind = source.config().model_type
    if kind not in ("blip", "blip-2"):
        raise ValueError(f"the captioner {source.name} is a {kind}; give a checkpoint of BLIP or BLIP-2")
    if kind == "blip-2" and precision(dtype) is torch.float16:
        raise ValueError("BLIP-2 is not stable in float16; use dtype bfloat16 or float32")
    made: Any = BlipCaptioner if kind == "blip" else Blip2Captioner
    net: Any = BlipForConditionalGeneration if kind == "blip" else Blip2ForConditionalGeneration
    processor = source.image_processor("BlipImageProcessor", resample=3)
    return made(source.model(net, device, dtype), source.tokenizer(), processor, **settings).to(device)


def load_blip2_text(
    name: str | Path, device: str | torch.device = "cpu", dtype: str = "float32", revision: str | None = None
) -> Blip2TextEncoder:
    """The text half of a BLIP-2 retrieval checkpoint, a folder's or the Hub's (there at ``revision``).

    Raises:
        ValueError: it cannot be read, or float16.
    """
    if precision(dtype) is torch.float16:
        raise ValueError("BLIP-2 is not stable in float16; use dtype bfloat16 or float32")
    source = Checkpoint(name, revision)
    return Blip2TextEncoder(source.model(Blip2TextModelWithProjection, device, dtype), source.tokenizer())
