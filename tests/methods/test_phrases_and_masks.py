"""Where phrases stand in tokens, and regions on grids."""

import numpy as np
import pytest
import torch
from tiny import reading
from torch.nn.functional import interpolate

from trueline.layout import Layout, Region
from trueline.models.text import locate, locate_phrase, own_tokens
from trueline.sampling.masks import region_mask, region_masks
from trueline.sampling.pipeline import Pipeline
from trueline.seeds import generator_of
from trueline.training.data.examples import open_examples
from trueline.training.settings import Data

BOX = (0.1, 0.1, 0.5, 0.5)


@pytest.fixture(scope="module")
def real():
    """The world's tokenizer, whose BPE makes several tokens of some words."""
    return Pipeline.from_pretrained("world").backbone.tokenizer


def words(tokenizer, prompt, found):
    ids = tokenizer(prompt).input_ids
    return tokenizer.decode([ids[i] for i in found.tokens]).strip()


@pytest.mark.parametrize(
    ("prompt", "phrase", "said"),
    [
        ("a red apple and a blue car", "a red apple", "a red apple"),
        ("A RED Apple, and a blue car", "a red apple", "a red apple"),
        ("the red apple and a blue car", "a red apple", "red apple"),
        ("two red apples", "a red apple", "red apples"),
        ("two umbrellas", "an umbrella", "umbrellas"),
        ("two ripe tomatoes", "a ripe tomato", "ripe tomatoes"),
        ("two photos", "a photo", "photos"),
        ("three children", "a child", "children"),
        ("a photo of apples", "a red apple", "apples"),
        ("a car in the carpet", "car", "car"),
    ],
)
def test_a_phrase_is_found_however_it_is_written(real, prompt, phrase, said):
    found = locate_phrase(reading(real), prompt, phrase)
    assert words(real, prompt, found) == said
    assert not found.problem
    ids = real(prompt).input_ids
    assert real.decode([ids[i] for i in found.head]).strip() == said.split()[-1]


@pytest.mark.parametrize(
    ("prompt", "phrase", "form"),
    [
        ("a red apple and a blue car", "a red apple", "whole"),
        ("A RED Apple", "a red apple", "whole"),
        ("the red apple", "a red apple", "whole"),
        ("two red apples", "a red apple", "whole"),
        ("a car in the carpet", "car", "whole"),
        ("a chair", "a white chair", "noun"),
        ("three cameras in the picture", "a purple checkered camera", "noun"),
        ("a striped chair", "a red striped chair", "noun"),
        ("chair, table", "a white chair", "noun"),
        ("a photo of apples", "a red apple", "noun"),
        ("a photo: apples", "a red apple", "noun"),
        ("(car)", "a red car", "noun"),
        ("a blue car and a red apple", "a red car", "word"),
        ("a toy-car", "a red car", "word"),
        ("a cat to the left of a dog", "a clock on the left", "word"),
        ("a cat", "dog", "none"),
    ],
)
def test_it_says_what_of_the_phrase_the_prompt_holds(real, prompt, phrase, form):
    assert locate_phrase(reading(real), prompt, phrase).form == form


def test_the_worlds_phrases_are_their_captions_own(real):
    examples = open_examples(Data(n=200), (128, 128), 8)
    layouts = [examples.layout(index, generator_of(0, index)) for index in range(200)]
    forms = {found.form for layout in layouts for found in locate(reading(real), layout)}
    assert forms == {"whole", "noun"}, "captions may leave colours out, and name nothing else so"


def test_a_word_of_several_tokens_has_them_all(real):
    text = "a suitcase and an umbrella"
    found = locate_phrase(reading(real), text, "umbrella")
    pieces = real("umbrella").input_ids[1:-1]
    assert [real(text).input_ids[i] for i in found.tokens] == pieces
    several = [w for w in ("airplane", "umbrellas", "suitcases", "checkered") if len(real(w).input_ids) > 3]
    assert several, "the world's tokenizer splits some words"
    for word in several:
        assert (
            len(locate_phrase(reading(real), f"a red {word}", word).tokens) == len(real(word).input_ids) - 2
        )


def test_the_kth_region_of_a_phrase_takes_its_kth_occurrence(real):
    layout = Layout(
        "a cat and a cat", regions=[Region("a cat", BOX), Region("A cat", BOX), Region("a cat", BOX)]
    )
    first, second, third = (found.tokens for found in locate(reading(real), layout))
    assert first[-1] < second[0]
    assert third == second


def test_what_is_not_there_and_what_is_cut_off(real):
    assert "does not hold the phrase 'dog'" in locate_phrase(reading(real), "a cat", "dog").problem
    assert locate_phrase(reading(real), "a caterpillar", "cat").tokens == ()
    long = " ".join(["a red apple"] * 40)
    cut = locate_phrase(reading(real), f"{long} and a cat", "cat")
    assert cut.tokens == () and "cut off at the prompt's 32 tokens" in cut.problem
    assert len(own_tokens(reading(real), long)) == 30
    assert len(own_tokens(reading(real), "a cat")) == len(real("a cat").input_ids) - 2


def test_a_box_covers_the_cells_that_are_at_least_half_in_it():
    mask = region_mask(Region("a", (0.0, 0.25, 0.5, 0.875)), 4, 4)
    expected = np.zeros((4, 4))
    expected[1:4, 0:2] = 1
    assert mask.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("cut", "rows", "columns"),
    [
        ("half", (2, 3), (0, 2)),
        ("round", (1, 3), (0, 2)),
        ("floor", (1, 3), (0, 1)),
        ("corner", (2, 4), (1, 2)),
    ],
)
def test_a_box_is_cut_by_a_named_rule(cut, rows, columns):
    """On a grid of 4: x from .3 to 1.6, y from 1.3 to 3.2. Of the cells in row 1 less than half is covered."""
    box = (0.075, 0.325, 0.4, 0.8)
    expected = torch.zeros(4, 4)
    expected[slice(*rows), slice(*columns)] = 1
    assert torch.equal(region_mask(Region("a", box), 4, 4, cut), expected)
    wide = region_masks([Region("a", (0, 0, 1, 1)), Region("a", box)], 4, 4, cut)
    assert torch.equal(wide, torch.stack([torch.ones(4, 4), expected]))


def test_half_a_cell_is_rounded_to_the_even_line():
    mask = region_mask(Region("a", (0.0, 0.125, 1.0, 0.625)), 4, 4, "round")
    assert mask.any(1).tolist() == [True, True, False, False]


def test_rows_and_columns_are_cut_on_their_own_grids():
    mask = region_mask(Region("a", (0.3, 0.3, 0.9, 0.9)), 2, 10, "floor")
    assert torch.equal(mask, torch.tensor([[0.0] * 3 + [1.0] * 6 + [0.0], [0.0] * 10]))


def test_corners_are_what_nearest_sampling_of_a_fine_mask_keeps():
    """As DenseDiffusion's released code makes its masks, from pictures of 512 pixels."""
    lines = torch.Generator().manual_seed(0)
    for _ in range(200):
        x0, y0, x1, y1 = torch.randint(0, 449, (4,), generator=lines).tolist()
        pixels = (x0, y0, x0 + 64 + x1 % (449 - x0), y0 + 64 + y1 % (449 - y0))
        fine = torch.zeros(1, 1, 512, 512)
        fine[..., pixels[1] : pixels[3], pixels[0] : pixels[2]] = 1
        region = Region("a", tuple(value / 512 for value in pixels))
        latent = interpolate(fine, (64, 64), mode="nearest")
        for side in (64, 32, 16, 8):
            expected = interpolate(latent, (side, side), mode="nearest")[0, 0]
            assert torch.equal(region_mask(region, side, side, "corner"), expected), pixels


@pytest.mark.parametrize("cut", ["half", "round", "floor", "corner"])
def test_a_box_below_one_cell_has_the_cell_it_covers_most_of(cut):
    mask = region_mask(Region("a", (0.30, 0.55, 0.36, 0.6)), 4, 4, cut)
    assert mask.sum() == 1 and mask[2, 1] == 1


def test_a_mask_counts_instead_of_the_box():
    drawn = np.zeros((8, 8), bool)
    drawn[0:4, 4:8] = True
    for cut in ("half", "round", "floor", "corner"):
        mask = region_mask(Region("a", (0, 0, 1, 1), mask=drawn), 2, 2, cut)
        assert mask.tolist() == [[0, 1], [0, 0]]


def test_no_regions():
    assert region_masks([], 3, 5).shape == (0, 3, 5)
    assert torch.equal(region_masks([Region("a", (0, 0, 1, 1))], 2, 2), torch.ones(1, 2, 2))
