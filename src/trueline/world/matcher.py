"""The world's matcher: a tiny BLIP that says whether a text is what a picture shows, to judge and as a reward.

It shares no weights with the world's CLIP or captioner: its vision half and its text half are trained from nothing.
So its cosine (ITC) is a held-out CLIP score, and its matching head (ITM) another opinion about a whole sentence. It
learns from the scenes' own captions, and never from what the oracle detects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipForImageTextRetrieval, CLIPTokenizer

from trueline.models.devices import autocast
from trueline.perception import Detection
from trueline.training.objective import Losses
from trueline.world.blip import VARIANTS, BlipWithHeads, blip_config, picture_states
from trueline.world.captions import Caption, caption
from trueline.world.clip import contrastive, patch_loss
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.judge import check
from trueline.world.language import tokenize
from trueline.world.scenes import Scene, Thing
from trueline.world.training_pictures import Trips, disturbed
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES

#: Weight of the loss that asks what is in each patch. Names come last: at 0.5, which does for the captioner, colours
#: and textures were told apart after 3,000 steps (98%), names not (70%).
PATCHES = 2.0
#: What a wrong caption has changed: one thing's name, colour or texture, or what two things exchange.
CHANGES = ("name", "colour", "texture", "colours", "places")

Value = TypeVar("Value")


def make_matcher(tokenizer: CLIPTokenizer) -> BlipForImageTextRetrieval:
    """An untrained BLIP for retrieval of the captioner's size (about 2 M parameters)."""
    return BlipForImageTextRetrieval(blip_config(tokenizer))


class MatcherWithHeads(BlipWithHeads):
    """The matcher, its temperature, and the head for patches."""

    def __init__(self, net: BlipForImageTextRetrieval):
        super().__init__(net)
        self.scale = nn.Parameter(torch.tensor(2.659))  # log(1 / .07), CLIP's start


def itc(
    matcher: BlipForImageTextRetrieval, states: Tensor, text: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Features of pictures, by their ``picture_states``, and of texts for the cosine, not of unit length."""
    read = matcher.text_encoder(**text).last_hidden_state[:, 0]
    return matcher.vision_proj(states[:, 0]), matcher.text_proj(read)


def itm(matcher: BlipForImageTextRetrieval, states: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """Logits (pairs, 2) of "does not match" and "matches", of each row of ``states`` with each text."""
    read = matcher.text_encoder(**text, encoder_hidden_states=states)
    return matcher.itm_head(read.last_hidden_state[:, 0])


# Wrong captions


def altered(scene: Scene, change: str, rng: np.random.Generator) -> Scene:
    """The scene with one of ``CHANGES`` made to it; what two things exchange needs two."""
    things = list(scene.things)
    first = int(rng.integers(len(things)))
    one = things[first]
    if change == "name":
        things[first] = replace(one, name=_another(OBJECTS, one.name, rng))
    elif change == "colour":
        things[first] = replace(one, colour=_another(tuple(COLOURS), one.colour, rng))
    elif change == "texture":
        things[first] = replace(one, texture=_another(TEXTURES, one.texture, rng))
    else:
        second = (first + 1 + int(rng.integers(len(things) - 1))) % len(things)
        two = things[second]
        if change == "colours":
            things[first], things[second] = replace(one, colour=two.colour), replace(two, colour=one.colour)
        else:
            things[first], things[second] = _placed(one, two), _placed(two, one)
    return replace(scene, things=tuple(things))


def _another(values: Sequence[Value], now: Value, rng: np.random.Generator) -> Value:
    others = [value for value in values if value != now]
    return others[int(rng.integers(len(others)))]


def _placed(thing: Thing, there: Thing) -> Thing:
    return replace(thing, x=there.x, y=there.y, w=there.w, h=there.h)


def true_of(scene: Scene, said: Caption) -> bool:
    """Whether a caption tells all of a scene, and nothing else. Of where a lone thing stands it asks nothing."""
    truth = [Detection(t.name, t.box, 1.0, t.colour, t.texture) for t in scene.things]
    return check(truth, said).all_right


def wrong_caption(scene: Scene, variant: int, rng: np.random.Generator, tries: int = 8) -> tuple[str, str]:
    """A caption of a scene close by that is not true of this one, and which of ``CHANGES`` makes it wrong.

    Many captions do not say what was changed, so kinds of change are drawn until one shows; at last a name, which
    every caption says.
    """
    kinds = CHANGES if len(scene.things) > 1 else CHANGES[:3]
    related = caption(scene, variant).relation is not None  # few are, and only they teach relations
    for attempt in range(tries):
        change = "places" if related and rng.random() < 0.5 else kinds[int(rng.integers(len(kinds)))]
        if attempt + 1 == tries:
            change = "name"
        said = caption(altered(scene, change, rng), variant)
        if not true_of(scene, said):
            return said.text, change
    raise AssertionError("a caption with another name is never true")


# Training


def train_matcher(
    folder: Path,
    tokenizer: CLIPTokenizer,
    trips: Trips,
    settings: StageSettings,
    device: torch.device,
    start: BlipForImageTextRetrieval | None = None,
) -> Fitting:
    """Train in ``folder``, from scratch or from ``start``.

    ITC: CLIP's loss within the batch, and the true caption above a wrong one close by (as NegCLIP, Yuksekgonul et
    al. 2023). ITM: the true caption, a wrong one close by, and another picture's.
    """
    torch.manual_seed(8)
    learner = MatcherWithHeads(start or make_matcher(tokenizer)).to(device).train()
    net = learner.net

    def loss(step: int, generator: torch.Generator) -> Losses:
        scenes, pictures = trips.batch(step, settings.batch, 31)
        rng = np.random.default_rng([32, step])
        variants = [int(rng.integers(VARIANTS)) for _ in scenes]
        right = [caption(scene, v).text for scene, v in zip(scenes, variants, strict=True)]
        wrong = [wrong_caption(scene, v, rng)[0] for scene, v in zip(scenes, variants, strict=True)]
        pixels = disturbed(to_tensor(pictures), generator).to(device)
        both = tokenize(tokenizer, right + wrong, "longest").to(device)
        count = len(scenes)
        with autocast(device):
            states = picture_states(net, pixels)
            image, text = itc(net, states, both)
            others = {name: torch.cat([rows, rows[:count].roll(1, 0)]) for name, rows in both.items()}
            logits = itm(net, states.repeat(3, 1, 1), others)
            patches = learner.patch(states[:, 1:])
        contrast = contrastive(image, text[:count], learner.scale, right)
        true, false = (F.cosine_similarity(image, part).float() for part in (text[:count], text[count:]))
        close = F.softplus(learner.scale.exp().clamp(max=100) * (false - true)).mean()
        same = torch.tensor([a == b for a, b in zip(right, right[-1:] + right[:-1], strict=True)])
        labels = torch.cat([torch.ones(count), torch.zeros(count), same]).long().to(device)
        match = F.cross_entropy(logits.float(), labels)
        patch = patch_loss(patches, scenes)
        total = contrast + close + match + PATCHES * patch
        return {"total": total, "contrast": contrast, "close": close, "match": match, "patches": patch}

    return fit(folder, learner, settings, loss, seed=8)


# Measuring


@torch.no_grad()
def measure(
    net: BlipForImageTextRetrieval, tokenizer: CLIPTokenizer, pixels: Tensor, scenes: Sequence[Scene]
) -> dict[str, float]:
    """How often it is right about ``pixels`` (scenes, 3, SIZE, SIZE) in -1..1, as shares of the pictures.

    ``itm_right``: true captions that match and wrong ones close by that do not, half each; ``itm_<change>`` and
    ``itc_<change>``: pairs whose true caption scores above the wrong one, by what makes it wrong; ``itc_among``:
    whose caption's cosine is the greatest among all of the pictures' captions.
    """
    rng = np.random.default_rng(33)
    right = [caption(scene).text for scene in scenes]
    pairs = [wrong_caption(scene, 0, rng) for scene in scenes]
    true = _scores(net, tokenizer, pixels, right)
    false = _scores(net, tokenizer, pixels, [text for text, _ in pairs])
    nearest = (F.normalize(true["image"], dim=1) @ F.normalize(true["text"], dim=1).T).argmax(1)
    nearest_right = [right[int(n)] == said for n, said in zip(nearest, right, strict=True)]
    figures = {
        "itm_right": float(0.5 * ((true["itm"] > 0.5).float() + (false["itm"] <= 0.5).float()).mean()),
        "itc_among": float(np.mean(nearest_right)),
    }
    for head in ("itm", "itc"):
        above = (true[head] > false[head]).tolist()
        for change in CHANGES:
            those = [won for won, (_, kind) in zip(above, pairs, strict=True) if kind == change]
            if those:
                figures[f"{head}_{change}"] = float(np.mean(those))
    return figures


def _scores(
    net: BlipForImageTextRetrieval, tokenizer: CLIPTokenizer, pixels: Tensor, texts: Sequence[str]
) -> dict[str, Tensor]:
    rows = []
    for first in range(0, len(texts), 32):
        part = pixels[first : first + 32].to(net.device, net.dtype)
        text = tokenize(tokenizer, texts[first : first + 32], "longest").to(net.device)
        states = picture_states(net, part)
        image, read = (features.float() for features in itc(net, states, text))
        matching = itm(net, states, text).float().softmax(1)[:, 1]
        rows.append((image, read, matching, F.cosine_similarity(image, read)))
    columns = (torch.cat(column).cpu() for column in zip(*rows, strict=True))
    return dict(zip(("image", "text", "itm", "itc"), columns, strict=True))
