"""The attention seam where nets are used in earnest: under gradient checkpointing, with a LoRA, in bfloat16."""

import pytest
import torch
from peft import LoraConfig
from tiny import as_encoded, sampled, tiny_backbone

from trueline.layout import Layout, Region
from trueline.methods.boxdiff import BoxDiff
from trueline.models.attention import sites, tapped
from trueline.models.grounding import Grounding, grounded

SCALE = torch.tensor([1.0, 0.0])  # the second picture has no regions: its fusers run, and add nothing
TWO = Layout(
    "a red apple and a blue car",
    [Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    seed=1,
)


@pytest.fixture
def backbone(tokenizer):
    return tiny_backbone(tokenizer, gated=True)


def inputs():
    generator = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 24, 32, generator=generator)
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5]], [[0.4, 0.2, 0.9, 0.9]]])
    return z, text, Grounding(boxes, torch.ones(2, 1), torch.randn(2, 1, 32, generator=generator))


def look(backbone, where=lambda site: True, edits=()):
    """Prediction, maps, and the gradients of a loss on both, with respect to the latents and to open weights.

    They are taken while taps and grounding are open, as a training step does.
    """
    z, text, grounding = inputs()
    z, unet = z.to(backbone.dtype).requires_grad_(True), backbone.unet
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    with grounded(unet, grounding, SCALE, like=z) as kwargs, tapped(unet, where, edits) as maps:
        prediction = unet(z, 500, text.to(z), cross_attention_kwargs=kwargs).sample
        seen = dict(maps)
        loss = (
            sum(probs.float().square().sum() for probs in maps.values()) + prediction.float().square().mean()
        )
        gradient, *of_weights = torch.autograd.grad(loss, [z, *weights])
        assert maps.keys() == seen.keys(), "by site: a second run of a block adds none"
    return prediction.detach().float(), seen, gradient.float(), of_weights


@pytest.fixture
def lora(backbone, tmp_path):
    """A LoRA of peft's in a file, for the queries and values of all kinds of attention."""
    torch.manual_seed(1)
    backbone.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    backbone.unet.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    backbone.unet.unload_lora()
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("kind", ["self", "cross", "gated"])
def test_gradients_under_the_nets_own_checkpointing(backbone, kind):
    """The taps of blocks that run again see the same logits, and write over their maps."""
    runs = []

    def where(site):
        return site.kind == kind

    def sharpen(site, logits):
        runs.append(site)
        return 1.5 * logits

    prediction, maps, gradient, _ = look(backbone, where, [sharpen])
    assert sorted(map(str, runs)) == sorted(map(str, maps)), "once each"
    runs.clear()
    backbone.unet.enable_gradient_checkpointing()
    again, maps_again, gradient_again, _ = look(backbone, where, [sharpen])
    assert len(runs) > len(maps), "the block ran again for its gradient"
    assert torch.equal(again, prediction) and torch.equal(gradient_again, gradient)
    assert maps_again.keys() == maps.keys() == {site for site in sites(backbone.unet) if site.kind == kind}
    assert all(torch.equal(maps_again[site], maps[site]) for site in maps)
    assert gradient.flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_lora_is_seen_and_its_weights_get_gradients(backbone, lora, checkpointing):
    without, plain_maps, *_ = look(backbone)
    processors = dict(backbone.unet.attn_processors)
    backbone.load_lora(lora)
    if checkpointing:
        backbone.unet.enable_gradient_checkpointing()
    for name, weight in backbone.unet.named_parameters():
        weight.requires_grad_("lora" in name)
    prediction, maps, gradient, of_weights = look(backbone)
    with torch.no_grad():
        z, text, grounding = inputs()
        untapped = backbone.predict(z, 500, as_encoded(text), grounding, SCALE)
    torch.testing.assert_close(prediction, untapped, rtol=1e-5, atol=1e-5)
    assert (prediction - without).abs().max() > 1e-3
    assert maps.keys() == plain_maps.keys()
    for kind in ("self", "cross", "gated"):
        assert any((maps[s] - plain_maps[s]).abs().max() > 1e-4 for s in maps if s.kind == kind), kind
    assert len(of_weights) == 2 * 2 * 12, "two matrices for queries and values of twelve layers"
    assert all(each.isfinite().all() and each.any() for each in (gradient, *of_weights))
    backbone.unload_lora()
    assert backbone.unet.attn_processors.keys() == processors.keys()
    back, again, *_ = look(backbone)
    assert torch.equal(back, without) and all(torch.equal(again[site], plain_maps[site]) for site in again)


def last(backbone, *methods):
    return list(sampled(backbone, [TWO], methods, 2, 4.0, grounding_schedule=(0.5, 0.5, 0)))[-1].z


METHOD = BoxDiff(cells=8, scale=2.0, refinements=1)


def test_a_method_runs_with_a_lora(backbone, lora):
    without = last(backbone, METHOD)
    backbone.load_lora(lora)
    with_it = last(backbone, METHOD)
    assert with_it.isfinite().all()
    assert (with_it - last(backbone)).abs().max() > 1e-4 and (with_it - without).abs().max() > 1e-4
    backbone.unload_lora()
    assert torch.equal(last(backbone, METHOD), without)


def test_a_method_runs_on_a_net_that_its_user_checkpoints(backbone):
    """Between two steps of a training, say; the gradient of guidance is taken when taps and grounding are closed."""
    expected = last(backbone, METHOD)
    backbone.unet.enable_gradient_checkpointing()
    assert torch.equal(last(backbone, METHOD), expected)
    assert backbone.unet.is_gradient_checkpointing


def test_maps_and_gradients_in_bfloat16(backbone):
    _, exact, gradient, _ = look(backbone)
    backbone.to(dtype=torch.bfloat16)
    prediction, maps, coarse, _ = look(backbone)
    assert prediction.isfinite().all()
    for site, probs in maps.items():
        assert probs.dtype == torch.bfloat16
        torch.testing.assert_close(probs.float(), exact[site], rtol=0.1, atol=0.02)
        torch.testing.assert_close(
            probs.float().sum(-1), torch.ones(probs.shape[:-1]), rtol=0, atol=0.02, msg="softmax in float32"
        )
    likeness = torch.nn.functional.cosine_similarity(coarse.flatten(1), gradient.flatten(1))
    assert likeness.min() > 0.95


def test_maps_of_a_picture_without_regions_are_there_and_its_fusers_add_nothing(backbone):
    """The gated layers of a batch are tapped in all rows; the scale says which of them count."""
    prediction, maps, *_ = look(backbone)
    gated = [site for site in maps if site.kind == "gated"]
    assert gated and all(maps[site].shape == (2, 2, *[maps[site].shape[-1]] * 2) for site in gated)

    def blind(site, logits):
        """Places look at places only."""
        return torch.cat([logits[..., :-1], torch.full_like(logits[..., -1:], -torch.inf)], dim=-1)

    changed, *_ = look(backbone, lambda site: site.kind == "gated", [blind])
    difference = (changed - prediction).flatten(1).abs().amax(1)
    assert difference[0] > 1e-3 and difference[1] < 1e-5
