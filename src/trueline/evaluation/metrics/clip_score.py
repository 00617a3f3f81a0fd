"""CLIP scores of pictures and their texts, from unit embeddings of one space. No model is loaded here.

Two numbers go by the same name. The papers' "CLIP score" is the plain mean cosine: about 0.29 to 0.32 on COCO for
ViT-B/32, L/14 (HCMA's and GLIGEN's tables). Hessel et al. 2021 define CLIPScore = 2.5 max(cos, 0), with "A photo
depicts" put before the text (the embedder's business). torchmetrics reports 100 max(cos, 0). The metric's name must
say which, and the embedder: ``clip_score[openai/clip-vit-base-patch32]``.
"""

from typing import Any

import numpy as np

from trueline.evaluation.metrics.features import unit_rows

HESSEL_WEIGHT = 2.5


def clip_scores(images: Any, texts: Any) -> np.ndarray:
    """Cosine of each picture and its own text, (n,) float64 in -1..1; their mean is the papers' CLIP score.

    Args:
        images: (n, d) unit embeddings, array or tensor.
        texts: (n, d), row i belongs to picture i.

    Raises:
        ValueError: shapes differ, rows not of length 1, NaN (how many rows).
    """
    pictures, words = unit_rows(images, "images"), unit_rows(texts, "texts")
    if pictures.shape != words.shape:
        raise ValueError(
            f"texts: must be one embedding a picture in the same space (got {words.shape} for {pictures.shape})"
        )
    return (pictures * words).sum(axis=1)


def hessel_scores(images: Any, texts: Any) -> np.ndarray:
    """CLIPScore of Hessel et al., (n,) in 0..2.5: 2.5 times the cosine, negative ones as 0."""
    return HESSEL_WEIGHT * np.maximum(clip_scores(images, texts), 0.0)
