"""Structured Diffusion: each noun phrase of the prompt is read once more without the rest of it.

Feng et al. 2023, "Training-Free Structured Diffusion Guidance for Compositional Text-to-Image Synthesis" (arXiv
2212.05032). Cross-attention's keys are those of the whole prompt, so where things are does not change; its values are
those of the prompt and of one variant for each noun phrase, in which the phrase's words have the encoding that they
have alone, and the outputs are averaged:

    O = 1/(k+1) sum_i softmax(Q K^T / sqrt(d)) V_i

The attention is the same in all terms and V_i is linear in the encoding, so O is attention with the values of the
variants' mean: one pass, whatever k is (tested).
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from trueline.english.noun_chunks import Parser, chunks
from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.encoded import Encoded, content
from trueline.models.text import locate_phrase
from trueline.sampling.method import Method

__all__ = ["Structured", "noun_places", "structured_values"]


def structured_values(
    full: Float[Tensor, "batch tokens width"],
    variants: Float[Tensor, "batch phrases tokens width"],
    counted: Float[Tensor, "batch phrases"],
) -> Float[Tensor, "batch tokens width"]:
    """The mean of the whole prompt's encoding and its variants.

    ``counted``, 1 or 0, says which variants there are: a picture with fewer phrases is padded.
    """
    total = full + (counted[:, :, None, None] * variants).sum(dim=1)
    return total / (1 + counted.sum(dim=1))[:, None, None]


def noun_places(
    backbone: Backbone, prompt: str, parser: Parser = "rules"
) -> list[tuple[str, tuple[int, ...]]]:
    """The prompt's noun phrases and their tokens, without those that are cut off its end.

    Raises:
        ValueError: parser "spacy" without spaCy or its model.
    """
    found = chunks(prompt, parser)
    places = []
    for index, chunk in enumerate(found):
        # "a cat food and a cat": the second phrase is the second place where its words are.
        occurrence = sum(_times(chunk, earlier) for earlier in found[:index])
        places.append((chunk, locate_phrase(backbone, prompt, chunk, occurrence).tokens))
    return [(chunk, tokens) for chunk, tokens in places if tokens]


def _times(words: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE))


class Structured(Method):
    """Structured Diffusion, at every step. Needs no boxes; acts on the prompt's own words only.

    Differs from the paper: noun phrases are flat noun chunks, at most eight ("a red apple to the left of a blue car"
    has two), not all nodes NP of a constituency tree, where phrases hold phrases; so the whole prompt weighs more. Of
    the authors' two modes this is their default, not the conjunction, which varies the keys too.

    A prompt without noun phrases is sampled plainly, and its record says so. Boxes, masks and negative phrases of
    regions are not used.

    Raises, when sampling begins:
        ValueError: parser "spacy" without spaCy or its model.
    """

    strength: float = Field(1.0, ge=0, le=1, description="from plain sampling to the mean of all variants")
    parser: Parser = Field("rules", description='what finds noun phrases: "rules" (word lists) or "spacy"')

    def idle(self, layout: Layout, backbone: Backbone) -> str | None:
        found = noun_places(backbone, layout.prompt, self.parser)
        return None if found else f"no noun phrase in {layout.prompt!r}"

    def values(self, text: Encoded, layouts: Sequence[Layout], backbone: Backbone) -> Encoded:
        places = [noun_places(backbone, layout.prompt, self.parser) for layout in layouts]
        phrases = list(dict.fromkeys(chunk for found in places for chunk, _ in found))
        if not phrases:
            return text
        alone, row_of = backbone.encode(phrases), {phrase: row for row, phrase in enumerate(phrases)}
        full = text.states.float()
        variants = full[:, None].repeat(1, max(map(len, places)), 1, 1)
        counted = full.new_zeros(variants.shape[:2])
        for row, found in enumerate(places):
            for index, (chunk, tokens) in enumerate(found):
                own = row_of[chunk]
                words = content(alone.spans[own][0])[: len(tokens)]
                variants[row, index, list(tokens)] = alone.states[own, list(words)].float()
                counted[row, index] = 1
        return text.with_states(torch.lerp(full, structured_values(full, variants, counted), self.strength))
