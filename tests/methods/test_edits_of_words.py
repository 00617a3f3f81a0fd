"""Paint-with-words, regional masks and token weights: their logits by hand, and on every layer of tiny real nets."""

import math

import pytest
import torch
from seen_logits import logits_of

from trueline.cli import main
from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods import make
from trueline.methods.paint_with_words import PaintWithWords, painted
from trueline.methods.regional_masks import RegionalMasks
from trueline.methods.token_weights import TokenWeights
from trueline.sampling.pipeline import Pipeline

# Boxes on the lines of the 8 x 8 and the 4 x 4 map: upper left quarter, right half.
APPLE, CAR = Region("a red apple", (0, 0, 0.5, 0.5)), Region("a blue car", (0.5, 0, 1, 1))
BOTH = Layout("a red apple and a blue car", [APPLE, CAR], seed=1)
TWICE = Layout("a cat and a cat", [Region("cat", (0, 0, 0.5, 1))], seed=2)
WORDS = {"a red apple": [1, 2, 3], "a blue car": [5, 6, 7]}


def where(box, side):
    centre = (torch.arange(side) + 0.5) / side
    x0, y0, x1, y1 = box
    inside = ((centre > y0) & (centre < y1))[:, None] & ((centre > x0) & (centre < x1))[None]
    return inside.flatten()


def area_by_hand(side, keys):
    area = torch.zeros(side * side, keys)
    for region in BOTH.regions:
        own = torch.isin(torch.arange(keys), torch.tensor(WORDS[region.phrase]))
        area[where(region.box.xyxy, side)[:, None] & own] = 1
    return area


def cross(backbone, layouts, method, **options):
    calls = [call for call in logits_of(backbone, layouts, method, **options) if call[0].kind == "cross"]
    assert calls
    return calls


# Paint-with-words


def test_painted_by_hand():
    logits = torch.tensor([[[[1.0, -2.0], [4.0, -math.inf]]], [[[-1.0, -2.0], [-3.0, -4.0]]]])
    area = torch.tensor([[[1.0, 0.5], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    out = painted(logits, area, 0.5)
    assert out[0].tolist() == [[[3.0, -1.0], [4.0, -math.inf]]], "half of 4 more, its part at an edge"
    assert torch.equal(out[1], logits[1]), "a greatest logit below 0 gives nothing"
    spread = painted(logits, area, 0.5, "std")
    assert spread[1, 0, 0, 0].item() == pytest.approx(-1 + 0.5 * torch.tensor([1.0, 2, 3, 4]).std().item())
    assert spread[0, 0, 0, 0].item() == pytest.approx(1 + 0.5 * torch.tensor([1.0, -2, 4]).std().item())


def test_every_cross_attention_is_painted_as_the_equation_says(plain):
    layouts = [BOTH, Layout("a cat", seed=3)]
    for site, ctx, before, after in cross(plain, layouts, PaintWithWords(strength=0.3, until=0.5), steps=4):
        side, keys = math.isqrt(before.shape[-2]), before.shape[-1]
        abar = float(plain.scheduler.alphas_cumprod[int(ctx.t)])
        weight = 0.3 * math.log(1 + math.sqrt((1 - abar) / abar))
        gain = weight * max(float(before[0].max()), 0.0) * area_by_hand(side, keys)
        expected = before[0] + (gain if ctx.index < 2 else 0)
        torch.testing.assert_close(after[0], expected, rtol=0, atol=1e-5, msg=str(site))
        assert torch.equal(after[1], before[1]), "without regions plain"


# Regional masks


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_words_are_hidden_outside_their_region(plain, strength):
    for site, _ctx, before, after in cross(plain, [BOTH], RegionalMasks(strength=strength), steps=2):
        side, keys = math.isqrt(before.shape[-2]), before.shape[-1]
        named = torch.zeros(keys, dtype=torch.bool)
        named[[token for own in WORDS.values() for token in own]] = True
        hidden = named[None] & (area_by_hand(side, keys) == 0)
        loss = -math.inf if strength == 1 else math.log(0.75)
        expected = torch.where(hidden, before[0] + loss, before[0])
        assert torch.equal(after[0], expected), site
        probs, plain_probs = after[0].softmax(-1), before[0].softmax(-1)
        odds, plain_odds = probs / probs[..., :1], plain_probs / plain_probs[..., :1]
        hidden = hidden.expand_as(odds)
        torch.testing.assert_close(odds[hidden], (1 - strength) * plain_odds[hidden], rtol=1e-3, atol=1e-6)


# Token weights


def test_words_are_multiplied_before_the_softmax(plain):
    method = TokenWeights(weights={"red": 3.0, "blue car": 0.5, "apple": 0.0}, strength=2)
    for _site, _ctx, before, after in cross(plain, [BOTH], method, steps=2):
        probs, plain_probs = after[0].softmax(-1), before[0].softmax(-1)
        odds = (probs / probs[..., :1]) / (plain_probs / plain_probs[..., :1])
        factors = torch.ones(before.shape[-1])
        factors[2], factors[3], factors[6:8] = 9.0, 0.0, 0.25
        torch.testing.assert_close(odds, factors.expand_as(odds), rtol=1e-3, atol=1e-6)


def test_all_places_of_a_word_count_and_no_part_of_another(plain):
    (_, _, before, after), *_ = cross(plain, [TWICE], TokenWeights(weights={"cat": 2.0}), steps=1)
    changed = (after != before).any(0).any(0)[0]
    assert changed.nonzero().flatten().tolist() == [2, 5]
    assert TokenWeights(weights={"blue apple": 2.0}).idle(BOTH, plain) is not None, (
        "an apple alone is no blue one"
    )


@pytest.mark.filterwarnings("ignore")
def test_words_that_are_not_there_are_noted(plain):
    result = Pipeline(plain)(
        [BOTH, TWICE],
        methods=[TokenWeights(weights={"cat": 2.0, "dog": 2.0, "red": 1.5})],
        steps=2,
        progress=False,
    )
    notes = [" ".join(record["notes"]) for record in result.records]
    assert "does not hold 'cat'" in notes[0] and "does not hold 'dog'" in notes[0] and "'red'" not in notes[0]
    assert "does not hold 'red'" in notes[1] and "'cat'" not in notes[1]


GIVEN = ("red:1.5, blue car:.5", {"red": 1.5, "blue car": 0.5}, [["red", 1.5], ["blue car", 0.5]])


@pytest.mark.parametrize("given", GIVEN)
def test_weights_may_be_written_in_three_ways(given):
    method = make("token-weights", {"weights": given})
    assert method.weights == (("red", 1.5), ("blue car", 0.5))
    assert make("token-weights", method.model_dump(mode="json")) == method


@pytest.mark.parametrize("wrong", ["red", "red:", ":2", "red:-1", "red:11", "red:nan", {"red": math.inf}, 3])
def test_weights_that_are_none(wrong):
    with pytest.raises((ValueError, FieldError), match="weights"):
        make("token-weights", {"weights": wrong})


def test_on_the_command_line(plain_folder, tmp_path, capsys):
    asked = [
        "generate",
        BOTH.prompt,
        "--model",
        str(plain_folder),
        "--steps",
        "2",
        "--device",
        "cpu",
        "--quiet",
    ]
    pictures = []
    for number, weights in enumerate(("red:3,apple:2", "red:1")):
        out = tmp_path / str(number)
        assert (
            main([*asked, "--out", str(out), "--method", "token-weights", "--token-weights.weights", weights])
            == 0
        )
        pictures.append((out / "0000-0.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert (
        main(
            [
                *asked,
                "--out",
                str(tmp_path / "x"),
                "--method",
                "token-weights",
                "--token-weights.weights",
                "red",
            ]
        )
        == 2
    )
    assert "--token-weights.weights: " in capsys.readouterr().err
