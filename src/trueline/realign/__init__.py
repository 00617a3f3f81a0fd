"""RealignDiff's fine stage as one call: draw, look, reason, mask, and draw again from the same noise.

    eyes = Eyes.load(tagger="noun-phrases", detector="grounding-dino=FOLDER", segmenter="sam2=FOLDER")
    for each in Realign(pipe, eyes).stream(["a red apple and a blue car"], seeds=[0]):
        each.image, each.record, each.rounds[0].looked.things

Fang et al. 2023, "RealignDiff" (arXiv 2305.19599), section 3.2. ``look`` finds what is there, ``assign`` which of it
is which phrase, ``check`` whether that is all, ``stage`` draws, ``maps`` and ``panel`` show.
"""

from trueline.realign.check import Check, checked
from trueline.realign.detect_and_segment import Eyes, look
from trueline.realign.observation import Looked, Thing
from trueline.realign.stage import Realign, Realigned, Round

__all__ = ["Check", "Eyes", "Looked", "Realign", "Realigned", "Round", "Thing", "checked", "look"]
