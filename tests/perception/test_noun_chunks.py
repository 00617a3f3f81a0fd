"""B-VQA's chunks and product. The expected chunks were written by hand."""

import importlib.util

import pytest
from shared_data import SHARED, needs

from trueline.english.noun_chunks import MAX_CHUNKS, b_vqa, best_parser, chunks, questions

PROMPTS = {
    "a red apple and a green train": "a red apple|a green train",
    "the soft pillow was next to the rough brick": "the soft pillow|the rough brick",
    "a spherical trophy and a pyramidal trophy stand": "a spherical trophy|a pyramidal trophy stand",
    "a teardrop earring and a diamond engagement ring": "a teardrop earring|a diamond engagement ring",
    "a round pancake and a square piece of toast": "a round pancake|a square piece|toast",
    "The fluffy cat is on the left of the soft pillow.": "The fluffy cat|the soft pillow",
    "The red hat was on top of the brown coat rack.": "The red hat|the brown coat rack",
    "The striped black and white cat lay next to the soft grey blanket.":
        "The striped black and white cat|the soft grey blanket",
    "The smooth, white marble columns supported the grand entrance.":
        "The smooth, white marble columns|the grand entrance",
    "The wooden spoon and metallic ladle serve the fluffy soup in the plastic bowl.":
        "The wooden spoon|metallic ladle|the fluffy soup|the plastic bowl",
    "The bright yellow sunflower stood tall next to the soft blue sky.":
        "The bright yellow sunflower|the soft blue sky",
    "The soft pillow was on top of the hard rocking chair.": "The soft pillow|the hard rocking chair",
    "The scent of the freshly brewed coffee filled the air.": "The scent|the freshly brewed coffee|the air",
    "four trains carried three people": "four trains|three people",
    "rubber gloves and a metallic door knob": "rubber gloves|a metallic door knob",
    "The sky is blue.": "The sky",
    "two": "",
}  # fmt: skip


@pytest.mark.parametrize(("prompt", "wanted"), PROMPTS.items())
def test_chunks_as_written_by_hand(prompt, wanted):
    assert chunks(prompt) == [chunk for chunk in wanted.split("|") if chunk]


def test_questions_and_the_limit_of_eight():
    assert questions("a red apple and a cat") == ["a red apple?", "a cat?"]
    assert len(chunks(", ".join(["a cat"] * 12))) == MAX_CHUNKS == 8


def test_the_score_is_the_product_and_absent_chunks_count_one():
    assert b_vqa([0.5, 0.8]) == pytest.approx(0.4)
    assert b_vqa([0.5, 0.8] + [1.0] * 6) == pytest.approx(b_vqa([0.5, 0.8]))
    assert b_vqa([]) == 1.0
    assert b_vqa([0.9, 0.0, 0.9]) == 0.0


def test_the_spacy_parser_says_what_it_needs_or_parses():
    if importlib.util.find_spec("spacy") is None:
        assert best_parser() == "rules"
        with pytest.raises(ValueError, match="en_core_web_sm"):
            chunks("a red apple", "spacy")
    elif best_parser() == "spacy":
        assert chunks("a red apple and a green train", "spacy") == ["a red apple", "a green train"]


@needs("t2i_compbench")
def test_every_prompt_of_the_attribute_sets_has_its_two_things():
    folder = SHARED / "t2i_compbench"
    simple = missed = 0
    for category in ("color", "shape", "texture"):
        for prompt in (folder / f"{category}_val.txt").read_text().split("\n"):
            prompt = prompt.strip().rstrip(".")
            first, _, second = prompt.partition(" and ")
            if (
                not prompt.startswith(("a ", "an "))
                or not second.startswith(("a ", "an "))
                or " of " in prompt
            ):
                continue
            if len(prompt.split()) > 9:
                continue
            simple += 1
            missed += chunks(prompt) != [first, second]
    assert simple > 600
    assert missed <= 0.02 * simple, (missed, simple)
