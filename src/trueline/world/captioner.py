"""The world's captioner: a tiny BLIP that says what a picture shows, for rewards and for RealignDiff.

It is no judge of the tables: those are the oracle's. It learns from the scenes' own captions, and never from what the
oracle detects.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BlipForConditionalGeneration, CLIPTokenizer

from trueline.models.devices import autocast
from trueline.training.objective import Losses
from trueline.world.blip import VARIANTS, BlipWithHeads, blip_config, picture_states
from trueline.world.captions import Caption, caption
from trueline.world.clip import patch_loss
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.judge import Agreement
from trueline.world.language import LENGTH, tokenize
from trueline.world.scenes import Scene
from trueline.world.training_pictures import Trips, disturbed
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, NOUNS, NUMBERS

PATCHES = 0.5  #: weight of the loss that asks what is in each patch

Pair = tuple[str, str | None]  #: a name, and its colour or None where none is said


def make_captioner(tokenizer: CLIPTokenizer) -> BlipForConditionalGeneration:
    """An untrained BLIP of the world's size (about 1.8 M parameters)."""
    return BlipForConditionalGeneration(blip_config(tokenizer))


def training_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """One of the scene's captions: of two drawn ones the first that says the colours, if one does.

    One in ten of all captions names no colours; a reward wants to hear them.
    """
    first, second = (caption(scene, int(v)) for v in rng.choice(VARIANTS, 2, replace=False))
    return first if all(group.colour for group in first.groups) else second


def words_loss(net: BlipForConditionalGeneration, states: Tensor, ids: Tensor, end: int) -> Tensor:
    """Mean cross-entropy of each token given those before it, up to and with the first ``end``.

    ``states`` are the vision half's, (batch, patches + 1, WIDTH); ``ids`` (batch, tokens) begin with the start.
    """
    wanted = ids[:, 1:]
    is_end = wanted == end
    behind = is_end.cumsum(1) - is_end.long() > 0
    logits = net.text_decoder(input_ids=ids[:, :-1], encoder_hidden_states=states).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), wanted.masked_fill(behind, -100).flatten())


def train_captioner(
    folder: Path,
    tokenizer: CLIPTokenizer,
    trips: Trips,
    settings: StageSettings,
    device: torch.device,
    start: BlipForConditionalGeneration | None = None,
) -> Fitting:
    """Train in ``folder``, from scratch or from ``start``."""
    torch.manual_seed(7)
    learner = BlipWithHeads(start or make_captioner(tokenizer)).to(device).train()
    net = learner.net

    def loss(step: int, generator: torch.Generator) -> Losses:
        scenes, pictures = trips.batch(step, settings.batch, 21)
        rng = np.random.default_rng([22, step])
        texts = [training_caption(scene, rng).text for scene in scenes]
        ids = tokenize(tokenizer, texts, "longest").input_ids.to(device)
        pixels = disturbed(to_tensor(pictures), generator).to(device)
        with autocast(device):
            states = picture_states(net, pixels)
            words = words_loss(net, states, ids, tokenizer.eos_token_id)
            patches = learner.patch(states[:, 1:])
        patch = patch_loss(patches, scenes)
        return {"total": words + PATCHES * patch, "words": words, "patches": patch}

    return fit(folder, learner, settings, loss, seed=7)


@torch.no_grad()
def captions_of(
    net: BlipForConditionalGeneration, tokenizer: CLIPTokenizer, pixels: Tensor, batch: int = 32
) -> list[str]:
    """The greedy caption of each picture; ``pixels`` (pictures, 3, SIZE, SIZE) in -1..1."""
    captions: list[str] = []
    for part in pixels.split(batch):
        start_and_end = torch.ones(len(part), 2, dtype=torch.long, device=net.device)
        ids = net.generate(
            pixel_values=part.to(net.device, net.dtype),
            attention_mask=start_and_end,
            max_new_tokens=LENGTH,
            do_sample=False,
            num_beams=1,
        )
        captions += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in captions]


# Measuring captions

_BETWEEN = ("a", "an", "the", "and")  #: here a new phrase begins
_MANY = {word: number for number, word in enumerate(NUMBERS)}


def things_named(text: str) -> list[Pair]:
    """Name and colour of each thing that a caption names: "two red apples and a car" is three things.

    Adjectives belong to the next noun; words outside the world's are passed over.
    """
    things: list[Pair] = []
    number, colour = 1, None
    for word in text.lower().replace(",", " ").split():
        if word in NOUNS:
            things += [(NOUNS[word], colour)] * number
            number, colour = 1, None
        elif word in _MANY:
            number = _MANY[word]
        elif word in COLOURS:
            colour = word
        elif word in _BETWEEN:
            number, colour = 1, None
    return things


def caption_accuracy(texts: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """How truly captions tell the scenes: shares of all things, or of all things said.

    ``named`` and ``named_and_coloured``: things whose name, and whose name and colour at once, are said (a number too
    small leaves some out). ``invented``: things said whose name the scene does not have so often; ``wrong``: whose
    name and colour it does not have so often.
    """
    named, coloured = Agreement(), Agreement()
    for text, scene in zip(texts, scenes, strict=True):
        said, true = things_named(text), [(thing.name, thing.colour) for thing in scene.things]
        coloured.add(Counter(said), Counter(true))
        named.add(Counter(name for name, _ in said), Counter(name for name, _ in true))
    return {
        "named": named.recall,
        "named_and_coloured": coloured.recall,
        "invented": 1 - named.precision,
        "wrong": 1 - coloured.precision,
    }
