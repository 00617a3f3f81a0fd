"""The nouns of the prompt as tags, alone and confirmed by a detector."""

import pytest
from PIL import Image

from trueline.perception import Tagger, load
from trueline.perception.tags import NounTagger, things
from trueline.world.scenes import make_scene, render


@pytest.mark.parametrize(
    ("prompt", "tags"),
    [
        ("two red apples and a blue car on the left", ["apple", "car"]),
        ("A red Apple, a green apple and an apple tree", ["apple", "apple tree"]),
        ("a man without a hat", ["man"]),
        ("three cats and no dogs", ["cat"]),
        ("a brown teddy bear", ["teddy bear"]),
        ("", []),
        ("of the and", []),
    ],
)
def test_the_things_that_a_prompt_names(prompt, tags):
    assert things(prompt) == tags


def test_no_model_is_needed(pictures):
    tagger = load("noun-phrases")
    assert isinstance(tagger, Tagger) and tagger.name == "noun-phrases"
    assert tagger.tag(pictures, ["a red apple", "", "a cat and a dog"]) == [["apple"], [], ["cat", "dog"]]
    assert tagger.tag([], []) == []
    with pytest.raises(ValueError, match="for each picture"):
        tagger.tag(pictures, ["a cat"])


def test_a_detector_confirms_each():
    """Of the world: what the prompt names and the picture shows stays; the rest goes."""
    scene = make_scene("test", 3)
    shown = [thing.name for thing in scene.things]
    other = next(name for name in ("cat", "car", "apple") if name not in shown)
    picture = Image.fromarray(render(scene))
    prompt = f"a red {other} and " + " and ".join(f"a {name}" for name in shown)
    tagger = load("noun-phrases=oracle")
    assert isinstance(tagger.detector, type(load("oracle"))) and tagger.name == "noun-phrases+oracle"
    found = tagger.tag([picture, picture, picture], [prompt, "", f"a {other}"])
    assert sorted(found[0]) == sorted(set(shown)) and found[1:] == [[], []]
    scores = {name: max(d.score for d in tagger.detector.detect([picture], [[name]])[0]) for name in found[0]}
    assert [scores[name] for name in found[0]] == sorted(scores.values(), reverse=True)
    assert NounTagger().tag([picture], [prompt])[0][0] == other


def test_what_confirms_must_detect(clip_folder):
    with pytest.raises(ValueError, match="clip is no detector"):
        load(f"noun-phrases=clip={clip_folder}")
    with pytest.raises(ValueError, match="unknown kind of model 'nothing'"):
        load("noun-phrases=nothing")
