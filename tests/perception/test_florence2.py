"""Florence-2: its answers are read whatever they are; a net that was taught some answers gives them back."""

import pytest
import torch
from tiny_look import FLORENCE_SIDE, florence2_folder
from transformers import Florence2ForConditionalGeneration

from trueline.perception import Captioner, Detector, Tagger, load
from trueline.perception.florence2 import Florence2, kind_of, located


def places(*bins):
    return "".join(f"<loc_{bin}>" for bin in bins)


BOX, OTHER = (100, 200, 500, 600), (0, 0, 998, 999)


def at(x0, y0, x1, y1):
    return pytest.approx([(bin + 0.5) / 1000 for bin in (x0, y0, x1, y1)])


@pytest.mark.parametrize(
    ("text", "wanted", "broken"),
    [
        (f"</s><s>cat{places(*BOX)}</s><pad><pad>", [("cat", BOX)], 0),
        (f"cat{places(*BOX)}a red car{places(*OTHER)}", [("cat", BOX), ("a red car", OTHER)], 0),
        (f"cat{places(*BOX, *OTHER)}", [("cat", BOX), ("cat", OTHER)], 0),
        (f"<od>cat {places(*BOX)} dog {places(*OTHER)}</od>", [("cat", BOX), ("dog", OTHER)], 0),
        (places(*BOX), [("", BOX)], 0),
        (f"K\u00e4fer{places(*BOX)}", [("K\u00e4fer", BOX)], 0),
        (f"cat<poly>{places(100, 200, 500, 300, 200, 600)}</poly>", [("cat", BOX)], 0),
        (
            f"cat<poly>{places(100, 200)}<sep>{places(500, 600)}</poly>dog{places(*OTHER)}",
            [("cat", BOX), ("dog", OTHER)],
            0,
        ),
        ("", [], 0),
        ("</s><s></s>", [], 0),
        # what is broken is left out and counted; the rest stays
        ("cat", [], 1),
        (f"cat{places(*BOX)}dog", [("cat", BOX)], 1),
        (f"cat dog</s>{places(*BOX[:3])}", [], 1),
        (f"cat{places(*BOX, 7, 8)}dog{places(*OTHER)}", [("cat", BOX), ("dog", OTHER)], 1),
        (f"cat{places(100, 200, 500, 1000)}", [], 1),
        (f"cat{places(500, 200, 100, 600)}dog{places(5, 5, 5, 5)}", [], 2),
        (f"cat<poly>{places(100, 200, 500, 600, 3)}", [("cat", BOX)], 1),
        (f"cat<poly>{places(7)}</poly>", [], 1),
        (f"cat<poly></poly>dog{places(*BOX)}", [("dog", BOX)], 1),
        (f"cat{places(*BOX)}<loc_12", [("cat", BOX)], 2),
        (f"a<b{places(*BOX)}", [("b", BOX)], 2),
        ("<loc_><loc_x><<>>" + "<loc_99999999999999999999>", [], 9),
    ],
)
def test_answers_are_read(text, wanted, broken):
    found, lost = located(text)
    assert [phrase for phrase, _ in found] == [phrase for phrase, _ in wanted]
    assert [box for _, box in found] == [at(*box) for _, box in wanted]
    if broken == 9:  # garbage: how many pieces it is does not matter
        assert lost
    else:
        assert lost == broken


def test_any_garbage_is_read_without_an_error():
    import random

    rng = random.Random(0)
    pieces = [
        "<loc_1>",
        "<loc_9>",
        "<loc_999>",
        "<loc_1000>",
        "<poly>",
        "</poly>",
        "<sep>",
        "<s>",
        "cat",
        "<",
        ">",
        " ",
    ]
    for _ in range(2000):
        found, broken = located("".join(rng.choices(pieces, k=rng.randrange(30))))
        assert broken >= 0 and all(0 < x0 < x1 < 1 and 0 < y0 < y1 < 1 for _, (x0, y0, x1, y1) in found)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("apple", "red apple"),
        ("man", "person"),
        ("person", "person"),
        ("Dogs", "dog"),
        ("car", None),
        ("chair", None),
        ("", None),
    ],
)
def test_the_label_that_a_thing_is(name, label):
    assert kind_of(name, ["red apple", "person", "red car", "blue car", "dog", ""]) == label


# The whole call

ANSWERS = {
    "What does the image describe?": "a cat",
    "Locate the objects with category name in the image.": f"cat{places(*BOX)}Dog{places(*OTHER)}cat{places(*OTHER)}",
    "Locate red cat in the image.": f"cat{places(*BOX)}",
    "Locate dog in the image.": places(*OTHER),
    "Locate car in the image.": f"boat{places(*BOX)}",
    "Locate the phrases in the caption: red cat. dog.": f"dog{places(*OTHER)}red cat{places(*BOX)}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return florence2_folder(tmp_path_factory.mktemp("florence") / "tiny-florence2")


@pytest.fixture(scope="module")
def taught(folder, tmp_path_factory):
    """The same net, taught by rote to give ``ANSWERS``. Its questions are written here, not by the processor."""
    torch.manual_seed(0)
    tokenizer = load(f"florence2={folder}").processor.tokenizer
    net = Florence2ForConditionalGeneration(Florence2ForConditionalGeneration.from_pretrained(folder).config)
    pictures = (FLORENCE_SIDE // 8) ** 2 + 1
    asked = tokenizer(
        [f"{'<image>' * pictures}<s>{question}</s>" for question in ANSWERS],
        padding=True,
        return_tensors="pt",
        add_special_tokens=False,
    )
    told = tokenizer(
        [f"<s>{answer}</s>" for answer in ANSWERS.values()],
        padding=True,
        return_tensors="pt",
        add_special_tokens=False,
    ).input_ids
    told[told == tokenizer.pad_token_id] = -100
    net.model.vision_tower.requires_grad_(False)
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], 2e-2)
    for _ in range(400):
        pixels = torch.randn(len(ANSWERS), 3, FLORENCE_SIDE, FLORENCE_SIDE)
        loss = net(**asked, pixel_values=pixels, labels=told).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    else:
        pytest.fail(f"the net did not learn its answers (loss {float(loss):.3f})")
    made = tmp_path_factory.mktemp("taught") / "taught-florence2"
    for part in (net, tokenizer, load(f"florence2={folder}").processor.image_processor):
        part.save_pretrained(made)
    return made


def test_it_tags_and_says_what_it_was_taught(taught, pictures):
    model = load(f"florence2={taught}", local_files_only=True)
    assert isinstance(model, Tagger) and isinstance(model, Captioner) and isinstance(model, Detector)
    assert model.tag(pictures, ["a bird"] * 3) == [["cat", "dog"]] * 3
    assert model.caption(pictures) == ["a cat"] * 3
    assert model.tag([], []) == model.caption([]) == model.detect([], []) == []
    assert model.broken == model.unmatched == 0
    assert load(f"florence2={taught}", dtype="bfloat16").tag(pictures[:1], [""]) == [["cat", "dog"]]


def test_it_detects_in_three_ways(taught, pictures):
    model = Florence2(str(taught), beams=1)
    found = model.detect(pictures, [["red cat", "dog", "car"], [], ["dog", "<OD>", "  "]])
    assert [(d.label, d.score) for d in found[0]] == [("red cat", 1.0), ("dog", 1.0)] and found[1] == []
    assert [d.box for d in found[0]] == [at(*BOX), at(*OTHER)]
    assert [d.label for d in found[2]] == ["dog"], "what is no word is not asked"
    assert model.unmatched == 1, "a boat is no car"
    grounding = Florence2(str(taught), task="grounding", beams=1)
    assert (model.name, grounding.name) == ("florence2", "florence2-grounding")
    assert [(d.label, d.box) for d in grounding.detect(pictures[:1], [["red cat", "dog"]])[0]] == [
        ("dog", at(*OTHER)),
        ("red cat", at(*BOX)),
    ]
    known = Florence2(str(taught), task="od", beams=1)
    seen = known.detect(pictures[:1], [["red cat", "animal"]])[0]
    assert [d.label for d in seen] == ["red cat", "animal", "red cat"] and known.unmatched == 0
    assert [d.label for d in known.detect(pictures[:1], [["boat"]])[0]] == [] and known.unmatched == 3


def test_noise_is_counted_and_warned_about(folder, pictures):
    model = Florence2(str(folder), longest=12, beams=2)
    with pytest.warns(UserWarning, match="cut or cannot be read"):
        tags = model.tag(pictures, [""] * 3)
    assert len(tags) == 3 and model.broken > 0
    before = model.broken
    with pytest.warns(UserWarning, match="pieces of Florence-2's answers"):
        found = model.detect(pictures, [["cat", "red apple"], [], ["a <loc_5> dog <OD>"]])
    assert len(found) == 3 and found[1] == [] and model.broken > before
    with pytest.warns(UserWarning):
        said = model.caption(pictures)
    assert len(said) == 3 and not any("<" in text and ">" in text for text in said)
    with pytest.raises(ValueError, match="for each picture"):
        model.tag(pictures, ["a"])
    with pytest.raises(ValueError, match="for each picture"):
        model.detect(pictures, [[]])
    with pytest.raises(ValueError, match="Florence-2 reads 256; ask for fewer or shorter"):
        model.detect(pictures[:1], [["cat" * 100]])


def test_settings_and_checkpoints_are_checked(folder, clip_folder, tmp_path):
    for settings, problem in (
        ({"task": "ocr"}, "task must be one of open-vocabulary, grounding, od"),
        ({"beams": 0}, "at least 1"),
        ({"longest": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=problem):
            Florence2(str(folder), **settings)
    for name, problem in (
        (f"florence2={clip_folder}", "is a clip, not a Florence-2"),
        (f"florence2={tmp_path}", r"config\.json of .* cannot be read"),
        ("florence2", "needs a checkpoint"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            load(name, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_without_the_pictures_token_is_refused(folder, tmp_path):
    import json
    import shutil

    other = shutil.copytree(folder, tmp_path / "other")
    file = other / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_token_id": 7}))
    with pytest.raises(ValueError, match="no <image> token like its net's"):
        load(f"florence2={other}")
