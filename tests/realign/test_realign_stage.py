"""RealignDiff's fine stage: looking, assigning, drawing again, and what is left when something gives way.

The nets that draw are tiny real ones. What looks is written by hand where a test says what it sees, and real classes
of transformers in the test of everything together.
"""

import json
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import tiny_look
import torch
from chat_server import ChatServer, hang, isolate
from PIL import Image
from tiny_blip import bert_tokenizer, loud
from transformers import (
    GroundingDinoImageProcessor,
)

from trueline.boxes import iou
from trueline.cli import main
from trueline.layout import Layout, Region
from trueline.methods import of_record
from trueline.methods.realign import LIKELIHOODS, SURPLUS, Reweighting
from trueline.perception import Detection, Detector, Segmenter, Tagger
from trueline.perception.reason import LLMReasoner, Reasoned, RulesReasoner
from trueline.realign import GroundedObject, Observation, Realign, VisionModels, check_picture, observe
from trueline.realign.assign import assign_phrases, without_duplicates
from trueline.realign.attributes import attribute_score, colour_of, count_in, count_of
from trueline.realign.panel import panel
from trueline.realign.stage import OTHER_NOISE, UNGROUNDED, layout_of
from trueline.sampling.heat_maps import AttentionRecorder
from trueline.sampling.method import Method
from trueline.sampling.pipeline import PictureError, Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # notes are read where they are counted

PROMPT = "a red apple and a blue car"
LEFT, RIGHT = (0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)
FAST = {"steps": 2, "guidance_scale": 1.0, "progress": False}


def seen(label, box, score=0.9, **more):
    return Detection(label, box, score, **more)


APPLE, CAR = seen("apple", LEFT), seen("car", RIGHT, 0.8)
SPECK = seen("apple", (0.492, 0.492, 0.501, 0.501))


class Scripted:
    """Sees what the test says: one list of detections a look, the last one for all that follow."""

    name = "scripted"

    def __init__(self, *looks, tags=None, masks=True):
        self.looks, self.tags, self.masks = list(looks), tags, masks
        self.asked = []

    def tag(self, images, prompts):
        self.now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [self.tags if self.tags is not None else list(dict.fromkeys(d.label for d in self.now))]

    def detect(self, images, labels):
        self.asked.append(list(labels[0]))
        return [[d for d in self.now if d.label in labels[0]]]

    def segment(self, images, boxes):
        return [[self.mask(images[0], box) for box in boxes[0]]]

    def mask(self, image, box):
        mask = np.zeros((image.height, image.width), np.float32)
        if self.masks:
            x0, y0, x1, y1 = (round(v * s) for v, s in zip(box, [image.width, image.height] * 2, strict=True))
            mask[y0:y1, x0:x1] = 1
        return mask

    def models(self, segmenter=True):
        return VisionModels(self, self, self if segmenter else None)


def white(size=64):
    return Image.new("RGB", (size, size), "white")


# Phrases


@pytest.mark.parametrize(
    ("phrase", "count", "colour"),
    [
        ("a red cat", 1, "red"),
        ("two blue cats", 2, "blue"),
        ("12 grey dogs", 12, "gray"),
        ("cats", None, None),
        ("several cats", None, None),
        ("a pair of white shoes", 2, "white"),
        ("the glass", 1, None),
        ("a bus", 1, None),
        ("", 1, None),
    ],
)
def test_numbers_and_colours_of_phrases(phrase, count, colour):
    assert (count_of(phrase), colour_of(phrase)) == (count, colour)


def test_a_phrase_that_stands_twice_speaks_of_two():
    assert count_in("a cat and a cat", "a cat") == 2
    assert count_in("a cat and a dog", "a cat") == 1
    assert count_in("cats and a dog", "cats") is None


def test_likeness_is_the_detectors_reading_or_the_pixels():
    picture = white()
    picture.paste((255, 0, 0), (0, 0, 32, 64))
    half = seen("cat", (0, 0, 1, 1))
    assert attribute_score(picture, half, "a red cat") == pytest.approx(0.5)
    assert attribute_score(picture, half, "a cat") == 0
    assert (
        attribute_score(picture, seen("cat", (0, 0, 1, 1), colour="blue", texture="striped"), "a red cat")
        == 0
    )
    assert (
        attribute_score(picture, seen("cat", LEFT, colour="red", texture="striped"), "a striped red cat") == 2
    )
    assert attribute_score(picture, seen("cat", LEFT, colour="grey"), "a gray cat") == 1


# Which box is which phrase


def give(prompt, found, picture=None):
    """(phrase, box) of each thing, and the notes."""
    tags = list(dict.fromkeys(d.label for d in found))
    notes = []
    objects = RulesReasoner().reason(prompt, tags).objects
    things = assign_phrases(picture or white(), prompt, objects, found, notes)
    return [(t.phrase, t.detection.box) for t in things], notes


def test_two_phrases_of_one_tag_by_colour():
    prompt = "a red cat and a blue cat"
    found = [seen("cat", LEFT, colour="blue"), seen("cat", RIGHT, colour="red")]
    assert give(prompt, found) == ([("a red cat", RIGHT), ("a blue cat", LEFT)], [])
    picture = white()
    picture.paste((0, 0, 255), (0, 0, 32, 64))
    picture.paste((255, 0, 0), (32, 0, 64, 64))
    plain = [seen("cat", LEFT), seen("cat", RIGHT)]
    assert give(prompt, plain, picture)[0] == [("a red cat", RIGHT), ("a blue cat", LEFT)]
    picture.paste((255, 0, 0), (0, 0, 64, 64))  # both red: the blue one is what is left, here the right one
    assert give(prompt, plain, picture)[0] == [("a red cat", LEFT), ("a blue cat", RIGHT)]


def test_from_left_to_right_where_nothing_else_tells_them_apart():
    found = [seen("cat", RIGHT), seen("cat", LEFT)]
    assert give("a small cat and a large cat", found)[0] == [("a small cat", LEFT), ("a large cat", RIGHT)]


def test_one_phrase_takes_as_many_as_it_speaks_of():
    boxes = [(0.0, 0.0, 0.3, 0.3), (0.35, 0.0, 0.65, 0.3), (0.7, 0.0, 1.0, 0.3)]
    three = [seen("cat", box, score) for box, score in zip(boxes, (0.5, 0.9, 0.7), strict=True)]
    assert give("a cat", three) == ([("a cat", boxes[1])], ["3 were seen of 'a cat'; the surest 1 count"])
    assert [box for _, box in give("two cats", three)[0]] == [boxes[1], boxes[2]]
    assert len(give("some cats", three)[0]) == 3
    assert [box for _, box in give("a cat and a cat", three)[0]] == [boxes[1], boxes[2]]


def test_more_phrases_than_boxes_and_more_boxes_than_phrases():
    one = [seen("cat", LEFT, colour="blue")]
    things, notes = give("a red cat and a blue cat", one)
    assert things == [("a blue cat", LEFT)] and notes == ["no box of 'cat' is left for 'a red cat'"]
    box = (0.0, 0.8, 0.2, 1.0)
    found = [seen("cat", LEFT, colour="blue"), seen("cat", RIGHT, colour="red"), seen("cat", box, 0.3)]
    things, notes = give("a red cat and a blue cat", found)
    assert things == [("a red cat", RIGHT), ("a blue cat", LEFT)]
    assert notes == ["1 more 'cat' was seen than the prompt has"]
    things, _ = give("a red cat and blue cats", [*found[:2], seen("cat", box, 0.3, colour="blue")])
    assert things == [("a red cat", RIGHT), ("blue cats", LEFT), ("blue cats", box)]


def test_what_is_too_many_may_be_what_nobody_saw():
    two = [seen("book", LEFT, 0.9), seen("book", RIGHT, 0.6)]
    things, notes = give("a book and an umbrella", two)
    assert things == [("a book", LEFT), ("an umbrella", RIGHT)]
    assert notes == [
        "2 were seen of 'a book'; the surest 1 count",
        "a 'book' too many may be 'an umbrella', which was not seen",
    ]
    objects = RulesReasoner().reason("a book and an umbrella", ["book"]).objects
    stands = assign_phrases(white(), "a book and an umbrella", objects, two, [])[1]
    assert (stands.tag, stands.score) == ("book", 0.5), "possible, not certain"
    assert check_picture("a book and an umbrella", Observation(things=(stands,))).shown == ()
    # By colour, each phrase no more than it lacks, and nothing of what should not be there.
    spots = [(0.0, 0.0, 0.2, 0.2), (0.3, 0.0, 0.5, 0.2), (0.6, 0.0, 0.8, 0.2), (0.0, 0.5, 0.2, 0.7)]
    colours = ["red", "green", "blue", "red"]
    books = [
        seen("book", box, 0.9 - 0.1 * n, colour=colour)
        for n, (box, colour) in enumerate(zip(spots, colours, strict=True))
    ]
    prompt = "a red book, a blue umbrella and a green hat without a cat"
    assert give(prompt, books)[0] == [
        ("a red book", spots[0]),
        ("a blue umbrella", spots[2]),
        ("a green hat", spots[1]),
    ]
    things, _ = give("two chairs and a book", [seen("chair", spots[0]), *books[1:3]])
    assert things == [("two chairs", spots[0]), ("a book", spots[1]), ("two chairs", spots[2])]
    # A place or a part is none that a box of something else may be.
    dogs = [seen("dog", LEFT, 0.9), seen("dog", RIGHT, 0.6)]
    for prompt in ("a dog on the grass", "a dog with a long tail", "a dog at the beach"):
        assert [phrase for phrase, _ in give(prompt, dogs)[0]] == ["a dog"]
    # A second box of the same thing is no thing too many.
    things, _ = give("a book and an umbrella", [seen("book", LEFT), seen("book", LEFT, 0.5)])
    assert things == [("a book", LEFT)]


def test_a_tag_without_a_box_is_noted():
    notes = []
    objects = [
        Reasoned("apple", 2.0, "a red apple"),
        Reasoned("car", 2.0, "a blue car"),
        Reasoned("hat", 0.0),
    ]
    things = assign_phrases(white(), PROMPT, objects, [APPLE], notes)
    assert [t.phrase for t in things] == ["a red apple"]
    assert notes == ["no box was found of 'car', which is a tag of the picture"]


def test_doubles_are_left_out():
    moved = (0.02, 0.25, 0.52, 0.75)
    assert iou(LEFT, moved) > 0.9 and iou(LEFT, RIGHT) == 0 and iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    assert without_duplicates([seen("cat", moved, 0.5), seen("cat", LEFT, 0.9), seen("dog", LEFT, 0.1)]) == [
        seen("cat", LEFT, 0.9),
        seen("dog", LEFT, 0.1),
    ]
    objects = [Reasoned("puppy", 0.5, "a dog"), Reasoned("dog", 2.0, "a dog")]
    found = [seen("puppy", LEFT, 0.9), seen("dog", moved, 0.4)]
    things = assign_phrases(white(), "a dog", objects, found, [])
    assert [(t.tag, t.score) for t in things] == [("dog", 2.0)]


# Looking


def test_a_look():
    scripted = Scripted([APPLE, CAR, seen("hat", (0, 0, 0.1, 0.1))])
    observation = observe(white(), PROMPT, scripted.models(), RulesReasoner())
    assert isinstance(scripted, Tagger) and isinstance(scripted, Detector) and isinstance(scripted, Segmenter)
    assert observation.tags == ("apple", "car", "hat") and scripted.asked == [["apple", "car"]]
    assert [(t.tag, t.phrase, t.score) for t in observation.things] == [
        ("apple", "a red apple", 2.0),
        ("car", "a blue car", 2.0),
    ]
    assert [each.score for each in observation.objects] == [2.0, 2.0, 0.0]
    assert observation.things[0].detection.mask.mean() == pytest.approx(0.25)
    record = json.loads(json.dumps(observation.record()))
    assert record["things"][1]["mask_area"] == 0.25 and record["objects"][2]["phrase"] is None


def test_what_is_not_there_is_noted_and_nothing_invented():
    observation = observe(white(), PROMPT, Scripted([APPLE]).models(), RulesReasoner())
    assert [t.phrase for t in observation.things] == ["a red apple"]
    assert observation.notes == ("of the prompt, no tag is 'a blue car'",)
    nothing = observe(white(), PROMPT, Scripted([]).models(), RulesReasoner())
    assert nothing.things == () and nothing.notes == ("the tagger saw nothing in the picture",)
    foreign = Scripted([seen("hat", LEFT)])
    observation = observe(white(), PROMPT, foreign.models(), RulesReasoner())
    assert observation.things == () and foreign.asked == []
    assert "none of the 1 tags of the picture is in the prompt" in observation.notes


def test_more_tags_than_are_reasoned_about_are_said():
    scripted = Scripted([APPLE], tags=[*(f"thing {i}" for i in range(1200)), None, 3, "apple"])
    observation = observe(white(), "a red apple", scripted.models(), RulesReasoner())
    assert "2 tags are no text and are left out" in observation.notes
    assert "1201 tags are too many; those after the first 1000 are left out" in observation.notes


def test_three_hundred_tags():
    scripted = Scripted(
        [APPLE, CAR], tags=[f"thing {chr(97 + i % 26)}{i}x" for i in range(298)] + ["apple", "car"]
    )
    observation = observe(white(), PROMPT, scripted.models(), RulesReasoner())
    assert (
        scripted.asked == [["apple", "car"]]
        and len(observation.objects) == 300
        and len(observation.things) == 2
    )


def test_empty_masks_and_broken_boxes_are_left_out():
    observation = observe(white(), PROMPT, Scripted([APPLE, CAR], masks=False).models(), RulesReasoner())
    assert observation.things == () and "the mask of a 'car' has no area; it is left out" in observation.notes
    broken = [APPLE, seen("car", (0.5, 0.5, 0.5, 0.9)), seen("car", (0, 0, math.nan, 1))]
    observation = observe(white(), PROMPT, Scripted(broken).models(), RulesReasoner())
    assert [t.tag for t in observation.things] == ["apple"]
    assert "2 boxes without an area are left out" in observation.notes


def test_without_a_segmenter_boxes_and_the_detectors_own_masks_count():
    observation = observe(white(), PROMPT, Scripted([APPLE]).models(segmenter=False), RulesReasoner())
    assert observation.things[0].detection.mask is None
    own = np.ones((64, 64), np.float32)
    observation = observe(
        white(), PROMPT, Scripted([seen("apple", LEFT, mask=own)]).models(False), RulesReasoner()
    )
    assert observation.things[0].detection.mask is own


class OneByOne(Scripted):
    def detect(self, images, labels):
        if len(labels[0]) > 1:
            raise ValueError("the labels of one picture make 300 tokens; ask for fewer")
        return super().detect(images, labels)


def test_a_detector_that_takes_one_label_at_a_time():
    observation = observe(white(), PROMPT, OneByOne([APPLE, CAR]).models(), RulesReasoner())
    assert [t.tag for t in observation.things] == ["apple", "car"]
    assert any("one tag at a time" in note for note in observation.notes)


def test_models_are_loaded_by_name():
    models = VisionModels.load("noun-phrases", "oracle")
    assert models.names == {"tagger": "noun-phrases", "detector": "oracle", "segmenter": None}
    with pytest.raises(ValueError, match="segmenter: 'oracle' is no segmenter"):
        VisionModels.load("noun-phrases", "oracle", "oracle")
    with pytest.raises(ValueError, match="unknown kind of model 'seer'"):
        VisionModels.load("seer", "oracle")


# The check


def things(*found):
    return Observation(things=tuple(found))


def test_the_check_wants_every_noun_certain_with_its_attributes_and_number():
    apple = GroundedObject("apple", "a red apple", 2.0, seen("apple", LEFT, colour="red"))
    car = GroundedObject("car", "a blue car", 2.0, seen("car", RIGHT))
    assert check_picture(PROMPT, things(apple, car)).passed, "nobody read the car's colour"
    wrong = GroundedObject("car", "a blue car", 2.0, seen("car", RIGHT, colour="red"))
    assert check_picture(PROMPT, things(apple, wrong)).lacking == ("a blue car",)
    perhaps = GroundedObject("van", "a blue car", 0.5, seen("van", RIGHT))
    assert check_picture(PROMPT, things(apple, perhaps)).lacking == ("a blue car",)
    plain = GroundedObject("car", "a striped car", 2.0, seen("car", RIGHT, texture="plain"))
    assert not check_picture("a striped car", things(plain)).passed
    short = GroundedObject("apple", "red apple", 2.0, seen("apple", LEFT))  # as a language model may say
    assert check_picture("a red apple", things(short)).passed
    carpet = GroundedObject("car", "a car", 2.0, seen("car", LEFT))
    assert check_picture("a car and a carpet", things(carpet)).lacking == ("a carpet",)
    one = GroundedObject("cat", "two cats", 2.0, seen("cat", LEFT))
    other = GroundedObject("cat", "two cats", 2.0, seen("cat", RIGHT))
    assert (
        not check_picture("two cats", things(one)).passed
        and check_picture("two cats", things(one, other)).passed
    )
    assert check_picture(
        "a cat without a hat", things(GroundedObject("cat", "a cat", 2.0, seen("cat", LEFT)))
    ).passed


def test_too_many_do_not_pass():
    found = [APPLE, seen("apple", RIGHT, 0.5, colour="red")]
    observation = observe(white(), "a red apple", Scripted(found).models(), RulesReasoner())
    assert [thing.detection.box for thing in observation.things] == [LEFT]
    assert [each.box for each in observation.surplus] == [RIGHT]
    check = check_picture("a red apple", observation)
    assert check.shown == ("a red apple",) and check.surplus == ("apple",) and not check.passed
    assert check.points < check_picture("a red apple", things(observation.things[0])).points
    assert check.record()["surplus"] == ["apple"]
    assert [(each["tag"], each["box"]) for each in observation.record()["surplus"]] == [
        ("apple", list(RIGHT))
    ]
    # What may belong to a thing that the prompt names is not too many.
    both = [seen("tree", (0.0, 0.0, 1.0, 1.0)), *found]
    assert observe(white(), "an apple tree", Scripted(both).models(), RulesReasoner()).surplus == ()


# The layout of the second picture


def test_a_thing_that_is_called_by_the_whole_prompt_shows_nothing():
    vague = GroundedObject("apple", PROMPT, 2.0, APPLE)
    assert check_picture(PROMPT, Observation(things=(vague,))).lacking == ("a red apple", "a blue car")


def test_things_become_regions_with_scores():
    mask = np.zeros((64, 64), np.float32)
    mask[16:48, :20] = 0.7
    apple = GroundedObject("apple", "a red apple", 0.5, seen("apple", LEFT, mask=mask))
    car = GroundedObject("car", "a blue car", 2.0, CAR)
    made = layout_of(Layout(PROMPT, meta={"mine": 1}, seed=3), things(apple, car))
    assert [(r.phrase, r.box.xyxy) for r in made.regions] == [("a blue car", RIGHT), ("a red apple", LEFT)]
    assert np.array_equal(made.regions[1].mask_array(), mask > 0.5) and made.regions[0].mask is None
    assert made.meta == {"mine": 1, LIKELIHOODS: {"a blue car": 2.0, "a red apple": 0.5}}
    assert (made.prompt, made.seed) == (PROMPT, 3)


def test_boxes_of_the_caller_stay_and_have_their_phrase():
    own = Layout(PROMPT, [Region("A red apple", (0.6, 0.6, 0.9, 0.9))])
    made = layout_of(
        own,
        things(
            GroundedObject("apple", "a red apple", 2.0, APPLE), GroundedObject("car", "a blue car", 2.0, CAR)
        ),
    )
    assert [(r.phrase, r.box.x0) for r in made.regions] == [("A red apple", 0.6), ("a blue car", 0.5)]


def test_too_many_and_too_small_things_are_noted():
    notes = []
    many = [GroundedObject("cat", "cats", 2.0, seen("cat", (i / 50, 0, i / 50 + 0.02, 1))) for i in range(40)]
    assert len(layout_of(Layout("cats"), things(*many), 30, notes).regions) == 30
    assert notes == ["more than 30 things were seen; the likeliest 30 are drawn again"]
    notes.clear()
    speck = GroundedObject("cat", "a cat", 2.0, seen("cat", (0.5, 0.5, 0.501, 0.501)))
    assert layout_of(Layout("a cat"), things(speck), 30, notes).regions == ()
    assert "a 'cat' that was seen is left out: box: its area" in notes[0]


def test_what_is_too_much_has_its_place_in_meta():
    mask = np.zeros((64, 64), np.float32)
    mask[16:48, 32:] = 1
    observation = replace(
        things(GroundedObject("apple", "a red apple", 2.0, APPLE)),
        surplus=(seen("apple", RIGHT, 0.5, mask=mask), SPECK),
    )
    notes = []
    made = layout_of(Layout("a red apple"), observation, 30, notes)
    assert [region.phrase for region in made.regions] == ["a red apple"]
    assert made.meta[SURPLUS] == [Region("apple", RIGHT, mask > 0.5).model_dump(mode="json")]
    assert len(notes) == 1 and "a 'apple' that was seen is left out" in notes[0]
    again = layout_of(made, replace(observation, surplus=(CAR,) * 40), 30, notes)
    assert len(again.meta[SURPLUS]) == 30 and again.meta[SURPLUS][0] == made.meta[SURPLUS][0]
    assert notes[1:] == ["40 things are too many; the surest 29 are pushed away"]


# Two stages


def realign(backbone, scripted, **settings):
    return Realign(Pipeline(backbone), scripted.models(), **({"maps": False} | settings))


@pytest.fixture(scope="module")
def first(gated):
    """Stage one, made without all of this."""
    return Pipeline(gated)(PROMPT, seeds=[7], **FAST).images[0].tobytes()


def test_the_second_picture_is_the_pipelines_own_from_the_same_noise(gated, first):
    (done,) = realign(gated, Scripted([APPLE, CAR]), maps=True)(PROMPT, seeds=[7], **FAST)
    one, two = done.rounds
    assert one.image.tobytes() == first, "recording and detecting leave no trace"
    assert done.kept == 1 and done.image is two.image and done.notes == ()
    again = Pipeline(gated)(
        two.layout, seeds=[7], methods=[Reweighting()], grounding_schedule=UNGROUNDED, **FAST
    )
    assert again.images[0].tobytes() == two.image.tobytes() != first
    assert again.records[0] == two.record, "no word of the watching in it either"
    assert [r.phrase for r in two.layout.regions] == ["a red apple", "a blue car"]
    record = json.loads(json.dumps(done.record))
    made = Pipeline(gated).remake(record, of_record(record["methods"]))
    assert made.image.tobytes() == done.image.tobytes()
    assert record["realign"]["rounds"][0]["looked"]["things"][0]["phrase"] == "a red apple"
    assert (one.observation.tags, two.observation) == (("apple", "car"), None), "nobody looks at the last one"


def test_attention_moves_into_the_masks(gated):
    options = FAST | {"steps": 4, "seeds": [7]}
    (done,) = realign(gated, Scripted([APPLE, CAR]), maps=True, method=Reweighting(power=1))(
        PROMPT, **options
    )
    two = done.rounds[1]
    for phrase, half in (("a red apple", np.s_[2:6, :4]), ("a blue car", np.s_[2:6, 4:])):
        before, after = two.before[phrase], two.after[phrase]
        assert before.shape == after.shape == (8, 8) and 0 <= float(before.min()) <= float(after.max()) <= 1
        assert after[half].sum() > 1.02 * before[half].sum()
    picture = panel(done)
    assert picture.width > 1000 and picture.height > picture.width  # a row of pictures, two of phrases
    (quiet,) = realign(gated, Scripted([APPLE, CAR]), method=Reweighting(power=1))(PROMPT, **options)
    assert quiet.rounds[1].before == {} and quiet.image.tobytes() == done.image.tobytes()
    assert quiet.record == done.record


def test_the_steps_that_are_watched():
    first = AttentionRecorder(until=0.3, times=5)
    assert first.recorded_steps(50) == {0, 3, 6, 9, 12}
    assert first.recorded_steps(1) == {0} and AttentionRecorder(until=1, times=100).recorded_steps(3) == {
        0,
        1,
        2,
    }


def test_several_pictures_in_batches_keep_their_order_and_their_noise(gated):
    wide = Layout("a cat", width=128, height=64)
    prompts = [PROMPT, wide, "a blue car"]
    done = realign(gated, Scripted([APPLE, CAR]), maps=True)(prompts, seeds=5, batch_size=2, **FAST)
    assert [each.index for each in done] == [0, 1, 2]
    assert [each.kept for each in done] == [1, 0, 1], "nothing of the second is in its prompt"
    assert done[1].image.size == (128, 64)
    for each in done:
        for one in each.rounds:
            assert one.record["index"] == each.index
            made = Pipeline(gated).remake(one.record, of_record(one.record["methods"]))
            assert made.image.tobytes() == one.image.tobytes()
    assert list(done[2].rounds[1].after) == ["a blue car"]


def test_boxes_of_the_caller_keep_their_grounding(gated):
    own = Layout(PROMPT, [Region("a red apple", LEFT)], seed=7)
    (done,) = realign(gated, Scripted([APPLE, CAR]))(own, **FAST)
    assert done.rounds[1].record["grounding_schedule"] == list(gated.grounding_schedule)
    assert [r.phrase for r in done.rounds[1].layout.regions] == ["a red apple", "a blue car"]


# What gives way


class Blind(Scripted):
    def tag(self, images, prompts):
        raise KeyError("no eyes")


class Breaks(Method):
    """Fails in the second stage only: where there are regions."""

    def guide(self, z, ctx):
        if ctx.layouts[0].regions:
            raise RuntimeError("broken\nin two lines")
        return z


@pytest.mark.parametrize(
    ("scripted", "methods", "said"),
    [
        (Blind([]), [], "round 0 could not be looked at: 'no eyes'"),
        (Scripted([]), [], "nothing that was seen in round 0 can be drawn again"),
        (Scripted([seen("hat", LEFT)]), [], "nothing that was seen in round 0"),
        (Scripted([APPLE], tags=["car"]), [], "nothing that was seen in round 0"),
        (Scripted([APPLE, CAR], masks=False), [], "nothing that was seen in round 0"),
        (Scripted([APPLE, CAR]), [Breaks()], "round 1 could not be drawn: broken in two lines"),
    ],
)
def test_stage_one_is_kept_and_the_record_says_why(gated, first, scripted, methods, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (done,) = realign(gated, scripted)(PROMPT, seeds=[7], methods=methods, **FAST)
    assert done.kept == 0 and len(done.rounds) == 1 and done.image.tobytes() == first
    assert said in done.record["realign"]["notes"][0]
    assert any(said in str(each.message) for each in caught)
    assert panel(done).size[0] > 300


CROWD = [seen("apple", (i / 50, 0.25, i / 50 + 0.02, 0.75), 0.9 - i / 100) for i in range(40)]


@pytest.mark.parametrize("found", [[*CROWD, CAR], [SPECK, CAR]], ids=["a crowd", "a speck"])
def test_the_panel_shows_what_is_too_much_or_too_small_for_a_layout(gated, found):
    (done,) = realign(gated, Scripted(found), maps=True)("red apples and a blue car", seeds=[7], **FAST)
    assert done.kept == 1 and done.notes and panel(done).size[0] > 300


def test_the_panel_shows_a_phrase_that_is_too_long_for_a_box(gated):
    (done,) = realign(gated, Scripted([APPLE, CAR]))(PROMPT, seeds=[7], **FAST)
    long = GroundedObject("apple", "a red apple " * 40, 2.0, APPLE)
    observation = replace(done.rounds[0].observation, things=(long,))
    assert (
        panel(replace(done, rounds=(replace(done.rounds[0], observation=observation), done.rounds[1]))).size[
            0
        ]
        > 300
    )


@pytest.mark.parametrize(
    ("likelihoods", "said"),
    [
        ({"a dog": 2}, "meta.likelihoods: no region has the phrase 'a dog'"),
        ([1], "meta.likelihoods: must be a dictionary"),
        (None, "meta.likelihoods: must be a dictionary"),
        ({"a red apple": 11}, "'a red apple' has 11, no score"),
    ],
)
def test_bad_likelihoods_are_refused_before_anything_is_drawn(gated, likelihoods, said):
    own = Layout(PROMPT, [Region("a red apple", LEFT)], meta={"likelihoods": likelihoods})
    with pytest.raises(ValueError, match=said):
        realign(gated, Scripted([APPLE])).stream([PROMPT, own], **FAST)


@pytest.mark.parametrize("score", [11.0, math.nan, "2", None])
def test_a_reasoner_that_says_nonsense_costs_the_second_stage_only(gated, first, score):
    class Wild(Inventive):
        def reason(self, prompt, tags):
            return type(RulesReasoner().reason("a", []))(
                (Reasoned("apple", score, "a red apple"),), (), "wild"
            )

    (done,) = realign(gated, Scripted([APPLE]), reasoner=Wild())(PROMPT, seeds=[7], **FAST)
    assert done.kept == 0 and done.image.tobytes() == first
    assert "round 0" in done.notes[0]


def test_a_second_apple_is_pushed_away(gated):
    """From the same noise; the record tells its place, and the picture can be made again from it."""
    found = [APPLE, seen("apple", RIGHT, 0.5)]
    (done,) = realign(gated, Scripted(found), maps=True)("a red apple", seeds=[7], **FAST)
    (other,) = realign(gated, Scripted([APPLE]))("a red apple", seeds=[7], **FAST)
    assert done.rounds[0].image.tobytes() == other.rounds[0].image.tobytes()
    assert done.image.tobytes() != other.image.tobytes()
    layout = done.rounds[1].layout
    assert [region["box"] for region in layout.meta[SURPLUS]] == [list(RIGHT)]
    assert json.loads(json.dumps(done.record))["layout"]["meta"][SURPLUS] == layout.meta[SURPLUS]
    again = Pipeline(gated).remake(done.rounds[1].record, [Reweighting()])
    assert again.image.tobytes() == done.image.tobytes()
    assert panel(done).size[0] > 300


def test_where_the_caller_gave_all_boxes_what_is_too_much_is_still_pushed_away(gated):
    own = Layout("a red apple", [Region("a red apple", LEFT)])
    found = [APPLE, seen("apple", RIGHT, 0.5)]
    (done,) = realign(gated, Scripted(found))(own, seeds=[7], **FAST)
    assert done.kept == 1 and done.rounds[1].layout.meta[SURPLUS][0]["box"] == list(RIGHT)
    as_in_the_paper = realign(gated, Scripted(found), method=Reweighting(surplus=False))
    for stages in (as_in_the_paper, realign(gated, Scripted([APPLE]))):
        (done,) = stages(own, seeds=[7], **FAST)
        assert done.kept == 0 and "nothing that was seen in round 0 can be drawn again" in done.notes[0]


class Breaking(Method):
    """Its pictures of cars are not finite: from stage ``since`` on."""

    since: int = 0

    def guide(self, z, ctx):
        for row, layout in enumerate(ctx.layouts):
            if "car" in layout.prompt and len(layout.regions) >= self.since:
                z[row] = math.nan
        return z


@pytest.mark.parametrize("since", [0, 1])
def test_a_picture_that_is_not_finite_costs_itself_alone(gated, since):
    made, stages = [], realign(gated, Scripted([APPLE]))
    prompts = ["a red apple", "a blue car and a red apple", "an apple and a chair"]
    stream = stages.stream(prompts, seeds=[7, 8, 9], methods=[Breaking(since=since)], **FAST)
    with (
        nullcontext() if since else pytest.raises(PictureError, match="picture 1 could not be made: its numb")
    ):
        made.extend(stream)
    assert [done.index for done in made] == ([0, 1, 2] if since else [0, 2])
    assert {done.index: done.kept for done in made if done.index != 1} == {0: 1, 2: 1}
    if since:
        assert made[1].failed and made[1].kept == 0
        assert made[1].notes[0].startswith("round 1 could not be drawn: its numbers are not finite")


def test_one_that_cannot_be_drawn_again_does_not_stop_the_others(gated):
    class Picky(Method):
        """Fails on cars, in the second stage."""

        def guide(self, z, ctx):
            if any(region.phrase == "a blue car" for layout in ctx.layouts for region in layout.regions):
                raise RuntimeError("no cars")
            return z

    prompts = ["a red apple", "a blue car", "a red apple on a table"]
    done = realign(gated, Scripted([APPLE, CAR]))(prompts, seeds=5, methods=[Picky()], **FAST)
    assert [each.kept for each in done] == [1, 0, 1]
    assert done[1].notes == ("round 1 could not be drawn: no cars",)


def test_a_language_model_that_hangs_or_invents(gated, monkeypatch):
    isolate(monkeypatch)
    with ChatServer(hang) as server:
        reasoner = LLMReasoner.of(
            "test", base_url=server.url, api_key="x", timeout=0.4, retries=0, cache=False
        )
        (done,) = realign(gated, Scripted([APPLE, CAR]), reasoner=reasoner)(PROMPT, seeds=[7], **FAST)
    observation = done.rounds[0].observation
    assert done.kept == 1 and observation.reasoner == "rules"
    assert any("the rules judge 2 of 2 tags, not the language model" in note for note in observation.notes)


class Inventive:
    name = "inventive"

    def reason(self, prompt, tags):
        reasoning = RulesReasoner().reason(prompt, tags)
        lie = (Reasoned("car", 2.0, "a green dragon"), Reasoned("apple", 2.0, "a red apple"))
        return type(reasoning)(lie, (), self.name)


def test_an_invented_phrase_leads_nothing(gated):
    """Reasoners check their phrases; should one come through, its words are nowhere and the record says so."""
    (done,) = realign(gated, Scripted([APPLE, CAR]), reasoner=Inventive())(PROMPT, seeds=[7], **FAST)
    assert any("does not hold the phrase 'a green dragon'" in note for note in done.rounds[1].record["notes"])


def test_scores_of_0_leave_nothing_to_draw(gated, first):
    class Doubtful(Inventive):
        def reason(self, prompt, tags):
            return type(RulesReasoner().reason("a", []))(
                (Reasoned("apple", 0.0, "a red apple"),), (), "doubtful"
            )

    (done,) = realign(gated, Scripted([APPLE]), reasoner=Doubtful())(PROMPT, seeds=[7], **FAST)
    assert done.image.tobytes() == first and "the likelihood of every region is 0" in done.notes[0]
    (done,) = realign(
        gated, Scripted([APPLE]), reasoner=Doubtful(), method=Reweighting(suppress=2, duration=1)
    )(PROMPT, seeds=[7], **FAST)
    assert done.kept == 1 and done.image.tobytes() != first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latents": torch.zeros(1, 4, 8, 8)}, "latents: cannot be used here; .* give seeds"),
        ({"generator": torch.Generator()}, "generator: cannot be used here"),
        ({"output_type": "latent"}, "output_type: cannot be used"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt: cannot"),
        ({"methods": [Reweighting()]}, r"methods: the modulation is given as Realign\(method=...\)"),
        ({"steps": 0}, "steps: must be"),
    ],
)
def test_what_cannot_be_asked_for(gated, options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        realign(gated, Scripted([APPLE])).stream(PROMPT, **options)


def test_rounds_are_a_small_number(gated):
    for rounds in (0, 11, True, 1.5):
        with pytest.raises(ValueError, match="rounds: must be a whole number from 1 to 10"):
            realign(gated, Scripted([APPLE]), rounds=rounds)


# Rounds

BAD = seen("car", RIGHT, 0.8, colour="red")
TOP = seen("apple", (0.0, 0.0, 0.5, 0.5))


def test_a_refinement_stops_when_all_is_there(gated, first):
    (done,) = realign(gated, Scripted([APPLE, CAR]), rounds=3)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 1 and done.image.tobytes() == first and done.rounds[0].check.passed
    scripted = Scripted([APPLE, BAD], [TOP, CAR], [])
    (done,) = realign(gated, scripted, rounds=3)(PROMPT, seeds=[7], **FAST)
    assert [each.check.lacking for each in done.rounds] == [("a blue car",), ()] and done.kept == 1


def test_one_round_with_a_check_draws_again_what_is_wrong_and_keeps_the_better_one(gated, first):
    (done,) = realign(gated, Scripted([APPLE, CAR]), check=True)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 1 and done.image.tobytes() == first and not done.notes
    (done,) = realign(gated, Scripted([APPLE, BAD], [TOP, CAR]), check=True)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 2 and done.kept == 1 and done.rounds[1].check.passed
    (done,) = realign(gated, Scripted([APPLE, BAD], [BAD]), check=True)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 2 and done.kept == 0 and done.image.tobytes() == first
    (plain,) = realign(gated, Scripted([APPLE, BAD], [BAD]))(PROMPT, seeds=[7], **FAST)
    assert plain.kept == 1 and plain.image.tobytes() == done.rounds[1].image.tobytes(), "the paper's way"


def test_a_refinement_keeps_the_best_round_and_the_earliest_of_equals(gated):
    scripted = Scripted([APPLE], [TOP, BAD], [APPLE, BAD], [BAD])
    (done,) = realign(gated, scripted, rounds=3)(PROMPT, seeds=[7], **FAST)
    assert [len(each.check.shown) for each in done.rounds] == [1, 1, 1, 0] and done.kept == 0
    scripted = Scripted([BAD], [TOP], [BAD], [BAD])
    (done,) = realign(gated, scripted, rounds=3, maps=True)(PROMPT, seeds=[7], **FAST)
    assert [len(each.check.shown) for each in done.rounds] == [0, 1, 0, 0] and done.kept == 1
    # Round 1 was led by what was seen in stage one; round 2 starts again, and what was seen in it led round 3.
    led = [[r.box.xyxy for r in each.layout.regions] for each in done.rounds]
    assert led == [[], [BAD.box], [], [BAD.box]] and [each.restart for each in done.rounds] == [0, 0, 1, 0]
    afresh, again = done.rounds[2], done.rounds[3]
    (alone,) = Pipeline(gated)(PROMPT, seeds=[7 + OTHER_NOISE], **FAST).images
    assert afresh.image.tobytes() == alone.tobytes() and afresh.record["seed"] == 7 + OTHER_NOISE
    assert again.record["seed"] == 7 + OTHER_NOISE and again.image.tobytes() != afresh.image.tobytes()
    assert list(again.before) == list(again.after) == ["a blue car"] and not afresh.before
    for name, found in again.before.items():
        assert not torch.equal(found, done.rounds[1].before[name]), "the maps of the new stage one"
    scripted = Scripted([BAD], [TOP], [], [])
    (done,) = realign(gated, scripted, rounds=3)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 3 and done.kept == 1 and "round 2 can be drawn again" in done.notes[0]
    assert panel(done).height > 800


def test_a_refinement_goes_on_from_other_noise_where_nothing_was_seen(gated):
    (done,) = realign(gated, Scripted([], [APPLE, CAR]), rounds=3)(PROMPT, seeds=[7], **FAST)
    assert [each.restart for each in done.rounds] == [False, True] and done.kept == 1
    assert done.rounds[1].check.passed
    assert done.notes == ("nothing that was seen in round 0 can be drawn again",)
    (done,) = realign(gated, Scripted([]), rounds=3)(PROMPT, seeds=[7], **FAST)
    assert len(done.rounds) == 2 and done.kept == 0 and len(done.notes) == 2


# Everything together, with real classes of transformers


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A tiny Grounding DINO, random and loud, so that its boxes pass its usual thresholds."""
    folder = tmp_path_factory.mktemp("dino") / "tiny-dino"
    tokenizer = bert_tokenizer(folder)
    loud(tiny_look.grounding_dino(tokenizer)).save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    return tiny_look.sam2_folder(tmp_path_factory.mktemp("sam2") / "tiny-sam2")


@pytest.fixture
def trueline(gated_folder, dino, sam2, tmp_path, capsys):
    """Run ``trueline generate --realign`` on tiny checkpoints; gives exit code, stdout and stderr."""
    looking = ["--detector", f"grounding-dino={dino}", "--segmenter", f"sam2={sam2}"]

    def call(*arguments, looking=looking, out=tmp_path / "out"):
        command = ["generate", *arguments, "--model", str(gated_folder), "--steps", "2", "--out", str(out)]
        code = main([*command, *looking])
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_the_whole_stage_with_real_classes(trueline, tmp_path, capsys):
    """Noun phrases, Grounding DINO and SAM 2, from the command line to files, and both pictures once more."""
    out = tmp_path / "out"
    code, _, stderr = trueline("a red apple", "--realign", "--realign.sreg", "0", "--seed", "3")
    assert code == 0, stderr
    assert "1 of 1 pictures were drawn again" in stderr
    record = json.loads((out / "0000-0.json").read_text())
    about = record["realign"]
    assert about["models"] == {"tagger": "noun-phrases", "detector": "grounding-dino", "segmenter": "sam2"}
    (thing,) = about["rounds"][0]["looked"]["things"]
    assert thing["phrase"] == "a red apple" and thing["confidence"] > 0.25 and 0 < thing["mask_area"] < 1
    assert record["methods"][-1]["name"] == "Reweighting" and record["methods"][-1]["settings"]["sreg"] == 0
    assert record["layout"]["meta"][LIKELIHOODS] == {"a red apple": 2.0}
    assert record["layout"]["regions"][0]["mask"]
    folder = out / "0000-0-realign"
    assert {path.name for path in folder.iterdir()} == {
        *("round-0.png", "round-0.json", "round-1.png", "round-1.json", "looked.json", "panel.png"),
        *("round-1-mask-0.png", "round-1-before-0.png", "round-1-after-0.png", "attention-1.npz"),
        "round-1-surplus.png",
    }
    assert Image.open(out / "0000-0.png").tobytes() == Image.open(folder / "round-1.png").tobytes()
    mask = np.asarray(Image.open(folder / "round-1-mask-0.png"))
    assert (mask > 0).mean() == pytest.approx(thing["mask_area"], abs=1e-4)
    with np.load(folder / "attention-1.npz") as maps:
        assert list(maps["phrases"]) == ["a red apple"] and maps["before"].shape == maps["after"].shape == (
            1,
            8,
            8,
        )
    for path in (out / "0000-0.json", folder / "round-0.json", folder / "round-1.json"):
        assert main(["generate", "--regenerate", str(path), "--out", str(tmp_path / "again")]) == 0
        assert "bit for bit" in capsys.readouterr().out
    run = json.loads((out / "run.json").read_text())
    asked = run["settings"]["realign"]
    assert (asked["rounds"], asked["check"]) == (1, False)
    assert json.loads((out / "state.json").read_text())["status"] == "complete"


SEEING = ("--realign", "--detector", "oracle", "--segmenter", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tagger", "noun-phrases"], "--tagger: belongs to --realign, which is not given"),
        (["--realign-rounds", "2"], "--realign-rounds: belongs to --realign"),
        (["--realign-check"], "--realign-check: belongs to --realign"),
        (["--realign", "--realign-rounds", "0"], "--realign-rounds: must be from 1 to 10 (got 0)"),
        (["--realign", "--method", "realign"], "--method realign: --realign brings it"),
        (["--realign.sreg", "0"], "--realign.sreg: belongs to --method realign, which is not given"),
        (["--realign", "--realign.magic", "0"], "realign has no such setting"),
        ([*SEEING, "--reasoner", "magic"], "--reasoner: there is no 'magic'; there are rules and llm:MODEL"),
        ([*SEEING, "--reasoner", "llm:x", "--llm.magic", "3"], "--reasoner: "),
        ([*SEEING, "--reasoner", "llm:x", "--llm.api_key", "3"], "--llm.api_key: set OPENAI_API_KEY instead"),
        ([*SEEING, "--llm.timeout", "3"], "--llm.timeout: belongs to --planner llm"),
        (["--realign"], "--detector: name what finds things in this model's pictures"),
        (["--realign", "--detector", "oracle"], "--segmenter: name what draws masks"),
        (["--realign", "--detector", "magic=x", "--segmenter", "none"], "unknown kind of model 'magic'"),
        (["--realign", "--detector", "noun-phrases", "--segmenter", "none"], "'noun-phrases' is no detector"),
    ],
)
def test_bad_flags_are_one_sentence(trueline, arguments, said, tmp_path):
    code, _, stderr = trueline("a red apple", *arguments, looking=[])
    assert code == 2 and said in stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_picture_of_nothing_is_kept_from_the_command_line(trueline, tmp_path):
    """The oracle knows no bananas."""
    code, _, stderr = trueline("a banana", *SEEING, "--overlay", looking=[])
    assert code == 0 and "0 of 1 pictures were drawn again" in stderr and "its picture is kept" in stderr
    record = json.loads((tmp_path / "out/0000-0.json").read_text())
    assert record["realign"]["round"] == 0 and record["methods"] == []
    assert "no box was found of 'banana'" in record["realign"]["rounds"][0]["looked"]["notes"][0]
    assert (tmp_path / "out/0000-0-realign/panel.png").exists()
