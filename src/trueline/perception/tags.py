"""The things that a prompt names, as the tags of its picture: no model is needed.

It cannot name what is in the picture and not in the prompt; a tagger that sees the picture, such as Florence-2, can.
"""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image

from trueline.english.naming import bare_noun, nouns
from trueline.models.pretrained import same_length
from trueline.perception import Detector, load


class NounTagger:
    """The nouns of the prompt without number, adjectives and article: "apple" for "two red apples".

    What the prompt says is not there ("without a hat") is left out. With a ``detector``: the names that it finds in
    the picture, surest first. Without one: all, in the prompt's order, whether the thing is in the picture or not.
    """

    def __init__(self, detector: Detector | None = None):
        self.detector = detector
        self.name = f"noun-phrases+{detector.name}" if detector else "noun-phrases"
        self.protocol = "nouns of the prompt"
        if detector:
            self.protocol += f", confirmed by {getattr(detector, 'protocol', detector.name)}"

    def tag(self, images: Sequence[Image], prompts: Sequence[str]) -> list[list[str]]:
        same_length(images, prompts)
        named = [things(prompt) for prompt in prompts]
        asked = [i for i, names in enumerate(named) if names]
        if self.detector is None or not asked:
            return named
        rows = self.detector.detect([images[i] for i in asked], [named[i] for i in asked])
        for i, detections in zip(asked, rows, strict=True):
            best: dict[str, float] = {}
            for each in detections:
                best[each.label] = max(each.score, best.get(each.label, each.score))
            named[i] = sorted((name for name in named[i] if name in best), key=lambda name: -best[name])
        return named


def things(prompt: str) -> list[str]:
    """The kinds of things that a prompt names, each once, in its order."""
    return list(dict.fromkeys(bare_noun(noun.phrase).lower() for noun in nouns(prompt) if not noun.absent))


def noun_phrases(detector: str = "", device: str = "cpu", dtype: str = "float32", **files: Any) -> NounTagger:
    """``detector``: as ``load`` names it, so that "noun-phrases=owlv2=FOLDER" asks OWLv2; none if empty.

    Raises:
        ValueError: it cannot be loaded, or does not detect.
    """
    if not detector:
        return NounTagger()
    model = load(detector, device, dtype, **files)
    if not isinstance(model, Detector):
        raise ValueError(f"noun-phrases: {model.name} is no detector; name one, as noun-phrases=owlv2=FOLDER")
    return NounTagger(model)
