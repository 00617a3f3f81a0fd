"""The world's captioner: a tiny BLIP that says what a picture shows, for rewards and for looking.

It is no judge of the tables: those are the oracle's. It learns from the scenes' own captions, and never from what the
oracle sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipConfig, BlipForConditionalGeneration, CLIPTokenizer

from trueline.models.devices import autocast
from trueline.world.captions import Caption, caption
from trueline.world.clip import PATCH, classes_loss, token_labels
from trueline.world.fitting import Fit, Losses, Plan
from trueline.world.language import LENGTH
from trueline.world.scenes import SIZE, Scene
from trueline.world.training_pictures import Trips, disturbed
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, NUMBERS, OBJECTS, TEXTURES, plural

WIDTH = 128
VARIANTS = 6  #: captions of one scene
POSITIONS = 80  #: of the text: more than captions have, since users may score longer texts
PATCHES = 0.5  #: weight of the loss that asks what is in each patch

Pair = tuple[str, str | None]  #: a name, and its colour or None where none is said


def blip_config(tokenizer: CLIPTokenizer) -> BlipConfig:
    """The size of the world's BLIPs, whose words are ``tokenizer``'s; ``<|endoftext|>`` is what BERT's call [SEP]."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    end = tokenizer.eos_token_id
    text = {
        **shape, "num_hidden_layers": 3, "vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH,
        "max_position_embeddings": POSITIONS, "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "sep_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    # BLIP's own start for the vision half, 1e-10, is for weights read from elsewhere: no gradient would pass.
    vision = {
        **shape, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH, "initializer_range": 0.02,
    }  # fmt: skip
    return BlipConfig(
        text_config=text, vision_config=vision, projection_dim=WIDTH, image_text_hidden_size=WIDTH
    )


def make_captioner(tokenizer: CLIPTokenizer) -> BlipForConditionalGeneration:
    """An untrained BLIP of the world's size (about 1.8 M parameters)."""
    return BlipForConditionalGeneration(blip_config(tokenizer))


class Learner(nn.Module):
    """The captioner with a head that says what covers each patch; the head is thrown away after training.

    As for the world's CLIP, supervision of every patch teaches a small vision transformer in minutes.
    """

    def __init__(self, captioner: BlipForConditionalGeneration):
        super().__init__()
        self.captioner = captioner
        self.patch = nn.Linear(WIDTH, len(OBJECTS) + len(COLOURS) + len(TEXTURES) + 3)


def said_of(scene: Scene, rng: np.random.Generator) -> Caption:
    """One of the scene's captions: of two drawn ones the first that says the colours, if one does.

    One in ten of all captions names no colours; a reward wants to hear them.
    """
    first, second = (caption(scene, int(v)) for v in rng.choice(VARIANTS, 2, replace=False))
    return first if all(group.colour for group in first.groups) else second


def words_loss(net: BlipForConditionalGeneration, seen: Tensor, ids: Tensor, end: int) -> Tensor:
    """Mean cross-entropy of each token given those before it, up to and with the first ``end``.

    ``seen`` is what the vision half gives, (batch, patches + 1, WIDTH); ``ids`` (batch, tokens) begin with the start.
    """
    wanted = ids[:, 1:]
    over = (wanted == end).cumsum(1) - (wanted == end).long() > 0  # behind the first end
    logits = net.text_decoder(input_ids=ids[:, :-1], encoder_hidden_states=seen).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), wanted.masked_fill(over, -100).flatten())


def train_captioner(
    folder: Path,
    tokenizer: CLIPTokenizer,
    trips: Trips,
    plan: Plan,
    device: torch.device,
    start: BlipForConditionalGeneration | None = None,
) -> Fit:
    """Train in ``folder``, from scratch or from ``start``."""
    torch.manual_seed(7)
    learner = Learner(start or make_captioner(tokenizer)).to(device).train()
    net = learner.captioner

    def loss(step: int, generator: torch.Generator) -> Losses:
        scenes, pictures = trips.lessons(step, plan.batch, 21)
        rng = np.random.default_rng([22, step])
        texts = [said_of(scene, rng).text for scene in scenes]
        ids = tokenizer(
            texts, padding="longest", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).input_ids.to(device)
        pixels = disturbed(to_tensor(pictures), generator).to(device)
        with autocast(device):
            seen = net.vision_model(pixel_values=pixels).last_hidden_state
            words = words_loss(net, seen, ids, tokenizer.eos_token_id)
            patches = learner.patch(seen[:, 1:])
        labels = torch.from_numpy(np.stack([token_labels(s) for s in scenes])).to(device)
        patch = classes_loss(patches, labels)
        return {"total": words + PATCHES * patch, "words": words, "patches": patch}

    return Fit(folder, learner, plan, loss, seed=7)


@torch.no_grad()
def captions_of(
    net: BlipForConditionalGeneration, tokenizer: CLIPTokenizer, pixels: Tensor, batch: int = 32
) -> list[str]:
    """The greedy caption of each picture; ``pixels`` (pictures, 3, SIZE, SIZE) in -1..1."""
    said: list[str] = []
    for part in pixels.split(batch):
        ids = net.generate(
            pixel_values=part.to(net.device, net.dtype),
            attention_mask=torch.ones(len(part), 2, dtype=torch.long, device=net.device),  # of start and end
            max_new_tokens=LENGTH, do_sample=False, num_beams=1,
        )  # fmt: skip
        said += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in said]


# What a caption says

_NOUNS = {noun: name for name in OBJECTS for noun in (name, plural(name))}
_BETWEEN = ("a", "an", "the", "and")  #: here a new phrase begins
_MANY = {word: number for number, word in enumerate(NUMBERS)}


def things_said(text: str) -> list[Pair]:
    """Name and colour of each thing that a caption names: "two red apples and a car" is three things.

    Adjectives belong to the next noun; words outside the world's are passed over.
    """
    things: list[Pair] = []
    number, colour = 1, None
    for word in text.lower().replace(",", " ").split():
        if word in _NOUNS:
            things += [(_NOUNS[word], colour)] * number
            number, colour = 1, None
        elif word in _MANY:
            number = _MANY[word]
        elif word in COLOURS:
            colour = word
        elif word in _BETWEEN:
            number, colour = 1, None
    return things


def heard(texts: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """How truly captions tell the scenes: shares of all things, or of all things said.

    ``named`` and ``named_and_coloured``: things whose name, and whose name and colour at once, are said (a number too
    small leaves some out). ``invented``: things said whose name the scene does not have so often; ``wrong``: whose
    name and colour it does not have so often.
    """
    things = said_things = named = coloured = 0
    for text, scene in zip(texts, scenes, strict=True):
        said = Counter(things_said(text))
        true: Counter[Pair] = Counter((thing.name, thing.colour) for thing in scene.things)
        coloured += (said & true).total()
        named += (_names(said) & _names(true)).total()
        things, said_things = things + true.total(), said_things + said.total()
    return {
        "named": named / max(things, 1), "named_and_coloured": coloured / max(things, 1),
        "invented": 1 - named / max(said_things, 1), "wrong": 1 - coloured / max(said_things, 1),
    }  # fmt: skip


def _names(pairs: Counter[Pair]) -> Counter[str]:
    names: Counter[str] = Counter()
    for (name, _), count in pairs.items():
        names[name] += count
    return names
