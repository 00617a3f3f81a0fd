"""Structured Diffusion: values of the prompt and its noun phrases, keys of the prompt."""

import numpy as np
import pytest
import torch
from tiny import sampled, tiny_backbone

from trueline.english import noun_chunks
from trueline.errors import FieldError
from trueline.layout import Layout, Region
from trueline.methods.structured import Structured, noun_places, structured_values
from trueline.models.attention import sites, tapped
from trueline.sampling.method import Method

BOTH = Layout("a red apple and a blue car", seed=1)
THREE = Layout("a cat to the left of a clock and the blue car", [Region("cat", (0.1, 0.1, 0.5, 0.5))], seed=2)
BARE = Layout("red and blue", seed=3)  # no noun
no_noun = pytest.mark.filterwarnings("ignore:no noun phrase", "ignore:this backbone has no grounding layers")


def run(backbone, layouts, *methods, **options):
    return list(sampled(backbone, layouts, methods, **({"steps": 6} | options)))


def cross(site):
    return site.kind == "cross"


# The pure functions


def test_the_mean_by_hand():
    full = torch.tensor([[[0.0], [3.0], [6.0]], [[1.0], [1.0], [1.0]]])
    variants = torch.tensor(
        [[[[0.0], [9.0], [6.0]], [[0.0], [3.0], [0.0]]], [[[7.0], [1.0], [1.0]], [[9.0]] * 3]]
    )
    counted = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert structured_values(full, variants, counted).flatten(1).tolist() == [[0, 5, 4], [4, 1, 1]]
    assert torch.equal(structured_values(full, variants, 0 * counted), full)


def test_values_of_the_mean_are_the_mean_of_the_outputs():
    """The paper's average over separate attentions, in float64 numpy."""
    random = np.random.default_rng(0)
    query, full, variants = (
        random.normal(size=(5, 4)),
        random.normal(size=(7, 3)),
        random.normal(size=(2, 7, 3)),
    )
    to_k, to_v = random.normal(size=(3, 4)), random.normal(size=(3, 4))
    logits = np.exp(query @ (full @ to_k).T / 2)
    probs = logits / logits.sum(-1, keepdims=True)
    expected = np.mean([probs @ (context @ to_v) for context in (full, *variants)], axis=0)
    mean = structured_values(
        torch.from_numpy(full)[None], torch.from_numpy(variants)[None], torch.ones(1, 2, dtype=torch.float64)
    )[0].numpy()
    np.testing.assert_allclose(probs @ (mean @ to_v), expected, rtol=0, atol=1e-12)


def test_noun_phrases_stand_where_they_are_written(plain):
    assert noun_places(plain, BOTH.prompt) == [("a red apple", (1, 2, 3)), ("a blue car", (5, 6, 7))]
    assert [tokens for _, tokens in noun_places(plain, THREE.prompt)] == [(1, 2), (7, 8), (10, 11, 12)]
    twice = noun_places(plain, "a cat and a blue cat and a cat")
    assert twice == [("a cat", (1, 2)), ("a blue cat", (4, 5, 6)), ("a cat", (8, 9))]
    inner = noun_places(plain, "the red cat chair and red cat")  # words of the second stand in the first
    assert inner == [("the red cat chair", (1, 2, 3, 4)), ("red cat", (6, 7))]
    assert noun_places(plain, BARE.prompt) == []


# The hook


def test_the_values_are_the_mean_over_variants(plain):
    text = plain.encode([BOTH.prompt, THREE.prompt])
    before = text.states.clone()
    values = Structured().values(text, [BOTH, THREE], plain).states
    expected = before.double()
    for row, phrases in (
        (0, {"a red apple": slice(1, 4), "a blue car": slice(5, 8)}),
        (1, {"a cat": slice(1, 3), "a clock": slice(7, 9), "the blue car": slice(10, 13)}),
    ):
        for phrase, tokens in phrases.items():
            alone = plain.encode([phrase]).states[0, 1 : 1 + tokens.stop - tokens.start].double()
            k = len(phrases)  # all other variants have the prompt's encoding here
            expected[row, tokens] = (k * before[row, tokens].double() + alone) / (k + 1)
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-5)
    assert (values[0, 5:8] - before[0, 5:8]).abs().max() > 1e-3 and torch.equal(text.states, before)
    half = Structured(strength=0.5).values(text, [BOTH, THREE], plain).states
    torch.testing.assert_close(half, (before + values) / 2, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_a_layers_output_is_the_papers_average(kind, request):
    """Layer by layer: the mean of the outputs, each with one variant's values and the prompt's keys."""
    backbone = request.getfixturevalue(kind)
    encoded = backbone.encode([BOTH.prompt])
    text = encoded.states
    variants = [text.clone(), text.clone(), text]
    for variant, phrase, first in zip(variants[:2], ("a red apple", "a blue car"), (1, 5), strict=True):
        variant[0, first : first + 3] = backbone.encode([phrase]).states[0, 1:4]
    for site in filter(cross, sites(backbone.unet)):
        layer = backbone.unet.get_submodule(site.name)
        places = torch.randn(1, 9, layer.to_q.in_features, generator=torch.Generator().manual_seed(0))

        def output(values, layer=layer, places=places, site=site):
            with tapped(backbone.unet, lambda s: s == site, values=lambda _site, _context: values):
                return layer(places, encoder_hidden_states=text)

        expected = torch.stack([output(variant) for variant in variants]).mean(0)
        actual = output(Structured().values(encoded, [BOTH], backbone).states)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        assert (actual - output(text)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_keys_are_the_prompts_and_the_unconditional_half_is_plain(kind, request):
    backbone = request.getfixturevalue(kind)
    seen = []

    class Watch(Method):
        def combine(self, prediction, cond, uncond, z, ctx):
            seen.append((cond, uncond))
            return prediction

    plain_maps = run(backbone, [BOTH], Watch(), steps=1, record=cross)[0].maps
    maps = run(backbone, [BOTH], Structured(), Watch(), steps=1, record=cross)[0].maps
    first = next(site for site in sites(backbone.unet) if cross(site))
    assert torch.equal(maps[first], plain_maps[first]), (
        "the first layer sees the same places and the same keys"
    )
    (cond, uncond), (new_cond, new_uncond) = seen
    torch.testing.assert_close(new_uncond, uncond, rtol=0, atol=1e-6)
    assert (new_cond - cond).abs().max() > 1e-4


# In the loop


@no_noun
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_a_picture_does_not_depend_on_its_mates(kind, request):
    backbone = request.getfixturevalue(kind)
    layouts = [BOTH, BARE, THREE]
    together = run(backbone, layouts, Structured())[-1].z
    for row, layout in enumerate(layouts):
        alone = run(backbone, [layout], Structured())[-1].z
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    plain_sampling = run(backbone, layouts, record=cross)[-1].z
    assert torch.equal(together[1], plain_sampling[1]), "no noun phrase, nothing to change"
    for row in (0, 2):
        assert (together[row] - plain_sampling[row]).abs().max() > 1e-4


def test_a_prompt_without_noun_phrases_is_plain_and_says_so(gated):
    with pytest.warns(UserWarning, match="no noun phrase in 'red and blue'; Structured leaves it plain"):
        z = run(gated, [BARE], Structured())[-1].z
    assert torch.equal(z, run(gated, [BARE])[-1].z)


def test_works_beside_methods_that_change_text_and_logits(gated):
    class Shift(Method):
        """Adds to the text before Structured sees it."""

        def text(self, text, layouts, backbone):
            return text.with_states(text.states + 1)

    class Blind(Method):
        """All words are seen alike."""

        def taps(self, site):
            return cross(site)

        def edit(self, site, logits, ctx):
            return 0 * logits

    text = gated.encode([BOTH.prompt])
    seen = []

    class Watch(Method):
        def combine(self, prediction, cond, uncond, z, ctx):
            seen.append((ctx.text, ctx.values))
            return prediction

    steps = run(gated, [BOTH], Structured(), Shift(), Blind(), Watch(), record=cross)
    context, values = seen[0]
    shifted = text.with_states(text.states + 1)
    assert torch.equal(context.states, shifted.states)
    torch.testing.assert_close(values.states, Structured().values(shifted, [BOTH], gated).states)
    assert all((probs == 1 / 24).all() for probs in steps[-1].maps.values())
    assert (steps[-1].z - run(gated, [BOTH], Shift(), Blind())[-1].z).abs().max() > 1e-4


def test_bfloat16(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=True).to(dtype=torch.bfloat16)
    text = backbone.encode([BOTH.prompt])
    assert Structured().values(text, [BOTH], backbone).states.dtype == torch.bfloat16
    assert run(backbone, [BOTH], Structured(), steps=2)[-1].z.isfinite().all()


@pytest.mark.skipif(noun_chunks.best_parser() == "spacy", reason="spaCy is installed")
def test_spacy_that_is_not_there_is_one_sentence(gated):
    with pytest.raises(ValueError, match=r'parser: "spacy" needs spaCy .* use "rules"'):
        run(gated, [BOTH], Structured(parser="spacy"))


def test_bad_settings_name_themselves():
    for settings in ({"strength": 1.5}, {"strength": -1}, {"parser": "stanza"}, {"conjunction": True}):
        with pytest.raises(FieldError, match=next(iter(settings))):
            Structured(**settings)
