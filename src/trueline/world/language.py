"""The world's language: a real CLIP tokenizer trained on its captions, and a text tower that understands them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import BatchEncoding, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trueline.models.devices import autocast
from trueline.training.objective import Losses
from trueline.world.captions import Caption, caption
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.scenes import Thing, make_scene
from trueline.world.vocabulary import COLOURS, OBJECTS, RELATIONS, TEXTURES

LENGTH = 32  #: tokens of a prompt, with start and end
WIDTH = 192  #: of the text tower
MERGES = 140  #: of the byte pair encoding: too few for every word, so that the longer ones are several tokens
START, END = "<|startoftext|>", "<|endoftext|>"

#: Name, colour, texture (the last of both is "unsaid") and number of a noun.
NOUN_CLASSES = (len(OBJECTS), len(COLOURS) + 1, len(TEXTURES) + 1, 4)
#: Of a scene: 0..4 things of each name, colours and textures of each name, relation, name of the first thing.
SCENE_CLASSES = (*(len(OBJECTS) * n for n in (5, len(COLOURS), len(TEXTURES))), 5, len(OBJECTS))

_NAMES = {name: i for i, name in enumerate(OBJECTS)}
_COLOURS = {name: i for i, name in enumerate(COLOURS)}
_TEXTURES = {name: i for i, name in enumerate(TEXTURES)}
_RELATIONS = {name: i + 1 for i, name in enumerate(RELATIONS)}


def train_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Learn byte pairs on ``captions``; unknown words fall apart into bytes, as in CLIP."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        min_frequency=1,
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]][:MERGES]
    tokens = alphabet + [a + "</w>" for a in alphabet] + ["".join(m) for m in merges] + [START, END]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    special = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH, **special)


def tokenize(
    tokenizer: CLIPTokenizer, texts: Sequence[str], padding: str = "max_length", **options: Any
) -> BatchEncoding:
    """``texts`` as tensors of tokens, cut to ``LENGTH``; a text that is too long keeps its end token.

    ``padding``: to ``LENGTH`` tokens, or to those of the "longest" text.
    """
    return tokenizer(
        list(texts), padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt", **options
    )


def make_text_tower(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text tower of the world's size (about 2 M parameters)."""
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=128,
        **shape,
        **special,
    )
    return CLIPTextModel(config)


@dataclass(frozen=True)
class CaptionTargets:
    """What a batch of captions says. Per noun: row, position, and four classes; per caption: what is in it.

    Columns of ``nouns``: row, token position, name, colour (8 = unsaid), texture (3 = unsaid), count - 1.
    """

    nouns: Tensor  # (nouns, 6)
    counts: Tensor  # (batch, objects): 0..4 of each name
    coloured: Tensor  # (batch, objects * colours) multi-hot
    textured: Tensor  # (batch, objects * textures) multi-hot
    relation: Tensor  # (batch,): 0 = none
    first: Tensor  # (batch,): name of the first group


def targets(captions: list[Caption], offsets: list[list[tuple[int, int]]]) -> CaptionTargets:
    """``offsets``: character span of each token of each caption."""
    batch, objects = len(captions), len(OBJECTS)
    nouns, relations, first = [], [], []
    counts = torch.zeros(batch, objects, dtype=torch.long)
    coloured, textured = torch.zeros(batch, objects, len(COLOURS)), torch.zeros(batch, objects, len(TEXTURES))
    for row, said in enumerate(captions):
        for group in said.groups:
            ends = [i for i, (a, b) in enumerate(offsets[row]) if b > a and b == group.noun_span[1]]
            name = _NAMES[group.name]
            colour, texture = _COLOURS.get(group.colour or "", 8), _TEXTURES.get(group.texture or "", 3)
            if ends:
                nouns.append([row, ends[0], name, colour, texture, len(group.things) - 1])
            counts[row, name] += len(group.things)
            if group.colour and group.texture:
                coloured[row, name, colour] = textured[row, name, texture] = 1
        relations.append(_RELATIONS.get(said.relation or "", 0))
        first.append(_NAMES[said.groups[0].name])
    said_attributes = coloured.flatten(1), textured.flatten(1)
    return CaptionTargets(
        torch.tensor(nouns),
        counts.clamp(max=4),
        *said_attributes,
        torch.tensor(relations),
        torch.tensor(first),
    )


class TextWithHeads(nn.Module):
    """The text tower with linear heads that ask what the caption says; the heads are thrown away after training.

    Each noun must know its own adjectives and number, and the end of the text (and the padding after it, which
    the U-Net also attends to) must know the whole scene. A tower that has learned this binds attributes, and
    its features of a phrase are a clean code of object, colour and texture.
    """

    def __init__(self, tower: CLIPTextModel):
        super().__init__()
        self.tower = tower
        self.noun = nn.Linear(WIDTH, sum(NOUN_CLASSES))
        self.scene = nn.Linear(WIDTH, sum(SCENE_CLASSES))

    def noun_loss(self, hidden: Tensor, nouns: Tensor) -> Tensor:
        """Mean cross-entropy of name, colour, texture and number at the nouns."""
        logits = self.noun(hidden[nouns[:, 0], nouns[:, 1]]).float()
        parts = logits.split(NOUN_CLASSES, dim=1)
        return torch.stack([F.cross_entropy(p, nouns[:, 2 + i]) for i, p in enumerate(parts)]).sum()


def scene_loss(logits: Tensor, said: CaptionTargets) -> Tensor:
    """How wrong a head (batch, sum of ``SCENE_CLASSES``) is about what is in the captions."""
    count, colour, texture, relation, first = logits.float().split(SCENE_CLASSES, dim=1)
    things = (
        F.cross_entropy(count.reshape(-1, 5), said.counts.flatten())
        + F.binary_cross_entropy_with_logits(colour, said.coloured)
        + F.binary_cross_entropy_with_logits(texture, said.textured)
    )
    named = F.cross_entropy(relation, said.relation) + F.cross_entropy(first, said.first)
    return things * len(OBJECTS) + named


def training_captions(step: int, batch: int) -> list[Caption]:
    """Captions of fresh scenes; every eighth is one phrase alone, as regions have."""
    first = step * batch
    return [
        caption(make_scene("train", first + i, 1 if i % 8 == 0 else None), variant=step % 5)
        for i in range(batch)
    ]


def train_text(
    folder: Path, tokenizer: CLIPTokenizer, settings: StageSettings, device: torch.device
) -> Fitting:
    """Train the text tower to understand captions."""
    torch.manual_seed(2)
    net = TextWithHeads(make_text_tower(tokenizer)).to(device)

    def loss(step: int, generator: torch.Generator) -> Losses:
        captions = training_captions(step, settings.batch)
        read = tokenize(tokenizer, [c.text for c in captions], return_offsets_mapping=True)
        said = targets(captions, read["offset_mapping"].tolist())
        ids = read["input_ids"]
        end = (ids == tokenizer.eos_token_id).int().argmax(1)
        pad = end + (torch.rand(len(end), generator=generator) * (LENGTH - end)).long()
        with autocast(device):
            hidden = net.tower(ids.to(device)).last_hidden_state
            rows = torch.arange(len(end))
            noun = net.noun_loss(hidden, said.nouns)
            scene = scene_loss(net.scene(hidden[rows, end]), said)
            padding = scene_loss(net.scene(hidden[rows, pad]), said)
        return {"total": noun + scene + 0.5 * padding, "noun": noun, "scene": scene, "padding": padding}

    return fit(folder, net, settings, loss, seed=2)


@torch.no_grad()
def read_phrases(tower: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Pooled features (texts, WIDTH) of ``texts``, float32."""
    ids = tokenize(tokenizer, texts).input_ids
    return torch.cat([tower(part.to(tower.device)).pooler_output.float().cpu() for part in ids.split(256)])


def all_phrases() -> list[str]:
    """Every "a red striped apple" of the world."""
    kinds = [(n, c, t) for n in OBJECTS for c in COLOURS for t in TEXTURES]
    return [Thing(*kind, 0, 0, 1, 1).phrase for kind in kinds]


def sample_captions(count: int, split: str = "words") -> list[str]:
    return [
        caption(make_scene(split, i), variant=int(np.random.default_rng(i).integers(5))).text
        for i in range(count)
    ]
