"""BLIP and BLIP-2 as captioners: their words are those of transformers' greedy ``generate``."""

import pytest
import torch
from tiny_look import captioner_folder
from transformers import Blip2ForConditionalGeneration, BlipForConditionalGeneration, BlipImageProcessorPil

from trueline.perception import Captioner, load
from trueline.perception.captioner import blip, greedy

KINDS = {"blip": "blip-captioner", "opt": "blip2-captioner", "t5": "blip2-captioner"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("captioners")
    return {kind: captioner_folder(made / f"tiny-{kind}", kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_those_of_generate(folders, pictures, kind):
    captioner = load(f"{KINDS[kind]}={folders[kind]}", local_files_only=True)
    assert isinstance(captioner, Captioner) and captioner.name == ("blip" if kind == "blip" else "blip2")
    assert f"tiny-{kind}" in captioner.protocol
    said = captioner.caption(pictures)
    net = BlipForConditionalGeneration if kind == "blip" else Blip2ForConditionalGeneration
    net = net.from_pretrained(folders[kind]).eval()
    words = captioner.net.tokenizer
    bad = [[word] for word in range(len(words), net.config.text_config.vocab_size)]
    pixels = BlipImageProcessorPil.from_pretrained(folders[kind])(pictures, return_tensors="pt").pixel_values
    wanted = net.generate(
        pixels, do_sample=False, num_beams=1, max_new_tokens=captioner.net.longest, bad_words_ids=bad
    )
    assert said == [text.strip() for text in words.batch_decode(wanted, skip_special_tokens=True)]
    assert len(set(said)) > 1, "the picture matters"
    # A picture's words do not depend on its batch mates.
    assert [captioner.caption([picture])[0] for picture in pictures] == said
    assert captioner.caption([]) == []
    assert captioner.caption([picture.convert("RGBA") for picture in pictures]) == said


def test_a_caption_is_cut_and_begun_as_set(folders, pictures):
    short = blip(str(folders["blip"]), longest=2)
    assert all(len(text.split()) <= 2 for text in short.caption(pictures))
    begun = blip(str(folders["blip"]), longest=3, prefix="a red")
    plain = blip(str(folders["blip"]), longest=3)
    ids = begun.net.tokenizer("a red", add_special_tokens=False).input_ids
    assert begun.net.prefix == ids and begun.caption(pictures) != plain.caption(pictures)
    seen = begun.net.see(torch.rand(1, 3, 16, 16))
    with torch.no_grad():
        first = begun.net.run(seen, torch.tensor([ids]))[0][0, -1, : begun.net.words].argmax()
        assert greedy(begun.net, seen)[0, 0] == first


def test_half_precision(folders, pictures):
    with pytest.raises(ValueError, match="not stable in float16; use dtype bfloat16"):
        load(f"blip2-captioner={folders['opt']}", dtype="float16")
    for kind in ("blip", "opt"):
        said = load(f"{KINDS[kind]}={folders[kind]}", dtype="bfloat16").caption(pictures)
        assert len(said) == 3 and all(isinstance(text, str) for text in said)


def test_another_kind_of_checkpoint_is_refused(folders, clip_folder):
    for name, problem in (
        (f"blip-captioner={folders['opt']}", "is a blip-2, not a BLIP captioner; give a checkpoint of BLIP"),
        (
            f"blip2-captioner={folders['blip']}",
            "is a blip, not a BLIP-2 captioner; give a checkpoint of BLIP-2",
        ),
        (f"blip2-captioner={clip_folder}", "is a clip"),
        ("blip-captioner=/nowhere/at/all", r"config\.json of /nowhere/at/all cannot be read"),
        ("blip-captioner", "needs a checkpoint"),
    ):
        with pytest.raises(ValueError, match=problem) as caught:
            load(name, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_a_retrieval_checkpoint_has_no_words(blip_folder):
    with pytest.raises(ValueError, match="has no weights for text_decoder"):
        load(f"blip-captioner={blip_folder}")
