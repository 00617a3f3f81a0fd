"""RealignDiff's fine stage as one call: draw, detect, reason, segment, and draw again from the same noise.

    models = VisionModels.load(tagger="noun-phrases", detector="grounding-dino=FOLDER", segmenter="sam2=FOLDER")
    for each in Realign(pipe, models).stream(["a red apple and a blue car"], seeds=[0]):
        each.image, each.record, each.rounds[0].observation.things

Fang et al. 2023, "RealignDiff" (arXiv 2305.19599), section 3.2. ``observe`` finds what a picture shows,
``assign_phrases`` which of it is which phrase, ``check_picture`` whether that is all, ``stage`` draws, ``maps`` and
``panel`` show.
"""

from trueline.realign.check import Check, check_picture
from trueline.realign.detect_and_segment import VisionModels, observe
from trueline.realign.observation import GroundedObject, Observation
from trueline.realign.rounds import Realignment, Round
from trueline.realign.stage import Realign

__all__ = [
    "Check",
    "GroundedObject",
    "Observation",
    "Realign",
    "Realignment",
    "Round",
    "VisionModels",
    "check_picture",
    "observe",
]
