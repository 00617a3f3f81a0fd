"""Activation checkpointing: the same gradients, less kept, and nothing left behind in the net."""

import pytest
import torch
from tiny import sampled, tiny_backbone

from trueline.layout import Layout, Region
from trueline.methods.attend_and_excite import AttendAndExcite
from trueline.methods.boxdiff import BoxDiff
from trueline.methods.dense_diffusion import DenseDiffusion
from trueline.methods.layout_guidance import LayoutGuidance
from trueline.models.attention import recomputed, sites, tapped
from trueline.sampling.guidance import evaluate, mean_map
from trueline.sampling.method import Method

TWO = Layout(
    "a red apple and a blue car",
    regions=[Region("a red apple", (0.0, 0.0, 0.5, 0.5)), Region("a blue car", (0.5, 0.5, 1.0, 1.0))],
    seed=2,
)
CATS = Layout(
    "a cat", regions=[Region("cat", (0.1, 0.5, 0.4, 0.9)), Region("cat", (0.6, 0.5, 0.9, 0.9))], seed=3
)
GUIDED = [
    AttendAndExcite(cells=8, scale=4.0, refinements=2),
    BoxDiff(cells=8, scale=4.0, refinements=2),
    LayoutGuidance(scale=4.0, until=0.5),
]


@pytest.fixture
def backbone(tokenizer):
    return tiny_backbone(tokenizer, gated=True)


def last(backbone, *methods, steps=3):
    return list(sampled(backbone, [TWO, CATS], methods, steps, 4.0, grounding_schedule=(0.5, 0.5, 0)))[-1].z


def at_a_step(backbone, act, *methods):
    """What ``act(z, ctx)`` gives at the first step, where the grounding is on and the methods' edits act."""
    seen = []

    class Act(Method):
        def guide(self, z, ctx):
            seen.append(act(z, ctx))
            return z

    next(sampled(backbone, [TWO, CATS], [*methods, Act()], 2, 4.0, grounding_schedule=(1, 0, 0)))
    return seen[0]


def up_and_middle(site):
    return site.kind in ("cross", "self") and site.place in ("mid", "up")


def loss(maps):
    return torch.stack([probs.float()[..., 1:5].square().sum((1, 2, 3)) for probs in maps.values()]).sum(0)


def state(unet):
    """Everything that taps, grounding and checkpointing change for a while."""
    flags = [
        (name, m.gradient_checkpointing, vars(m).get("_gradient_checkpointing_func"))
        for name, m in unet.named_modules()
        if hasattr(m, "gradient_checkpointing")
    ]
    hooks = [name for name, m in unet.named_modules() if m._forward_hooks]
    enabled = [m.enabled for m in unet.modules() if hasattr(m, "enabled")]
    return dict(unet.attn_processors), flags, hooks, enabled


@pytest.mark.parametrize("method", GUIDED, ids=lambda m: type(m).__name__)
def test_pictures_are_the_same_bit_for_bit_and_the_nets_are_restored(backbone, method):
    before, expected = state(backbone.unet), last(backbone, method)
    backbone.enable_gradient_checkpointing()
    assert torch.equal(last(backbone, method), expected)
    assert not torch.equal(last(backbone), expected), "the method does something"
    assert state(backbone.unet) == before


def test_gradients_are_the_same_with_grounding_and_another_methods_edits(backbone):
    """Taps, edits and the fusers' scale are off when the gradient is taken; the blocks run as they were."""
    act = lambda z, ctx: evaluate(z, ctx, up_and_middle, loss)  # noqa: E731
    expected = at_a_step(backbone, act, DenseDiffusion())
    assert not torch.allclose(expected.gradient, at_a_step(backbone, act).gradient), "edits matter"
    backbone.enable_gradient_checkpointing()
    got = at_a_step(backbone, act, DenseDiffusion())
    assert torch.equal(got.loss, expected.loss) and torch.equal(got.gradient, expected.gradient)
    assert expected.gradient.flatten(1).norm(dim=1).min() > 0


def test_blocks_run_twice_and_keep_little(backbone):
    """Counted: passes through a block, and the bytes of all tensors that autograd keeps between them."""

    def cost():
        block, kept, ran = backbone.unet.down_blocks[0].attentions[0].transformer_blocks[0], [], []
        handle = block.register_forward_pre_hook(lambda *_: ran.append(1))

        def keep(tensor):
            kept.append(tensor.numel() * tensor.element_size() * (not isinstance(tensor, torch.nn.Parameter)))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            at_a_step(backbone, lambda z, ctx: evaluate(z, ctx, up_and_middle, loss))
        handle.remove()
        return len(ran), sum(kept)

    once, much = cost()
    backbone.enable_gradient_checkpointing()
    twice, little = cost()
    backbone.enable_gradient_checkpointing(False)
    assert (once, twice) == (2, 3), "the guidance and the prediction; the gradient's second run"
    assert little < 0.25 * much
    assert cost() == (once, much)


def test_the_gradient_may_be_taken_after_all_is_closed_and_twice(backbone):
    before = state(backbone.unet)

    def act(z, ctx):
        with torch.enable_grad(), recomputed(backbone.unet):
            z = z.clone().requires_grad_(True)
            maps = ctx.maps(z, up_and_middle)
            total = loss(maps).sum()
        first = {site: probs.detach().clone() for site, probs in maps.items()}
        assert state(backbone.unet) == before
        gradients = [torch.autograd.grad(total, z, retain_graph=True)[0] for _ in range(2)]
        assert state(backbone.unet) == before
        assert maps.keys() == first.keys() and all(torch.equal(maps[s], first[s]) for s in first)
        return gradients

    one, two = at_a_step(backbone, act)
    expected = at_a_step(backbone, lambda z, ctx: evaluate(z, ctx, up_and_middle, loss))
    assert torch.equal(one, expected.gradient) and torch.equal(two, one)


def test_an_error_in_a_block_is_the_users_and_the_net_is_restored(backbone):
    class Breaks(Method):
        def taps(self, site):
            return site.kind == "cross"

        def edit(self, site, logits, ctx):
            raise ZeroDivisionError

    before = state(backbone.unet)
    backbone.enable_gradient_checkpointing()
    with pytest.raises(ZeroDivisionError):
        at_a_step(backbone, lambda z, ctx: evaluate(z, ctx, up_and_middle, loss), Breaks())
    assert state(backbone.unet) == before


def test_diffusers_own_checkpointing_works_while_the_taps_are_open_and_is_given_back(backbone):
    """As in training: the gradient is taken inside ``tapped``. Maps are kept by site, not appended."""
    unet = backbone.unet
    site = next(s for s in sites(unet) if s.kind == "cross" and s.place == "up")
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)).requires_grad_(True)
    text = backbone.encode(["a cat"])

    def gradient():
        with tapped(unet, lambda s: s == site) as maps:
            output = backbone.predict(z, 500, text)
            total = mean_map(maps, (8, 8))[..., 2].square().sum() + output.square().mean()
            (found,) = torch.autograd.grad(total, z)
            assert list(maps) == [site]
        return found

    expected = gradient()
    unet.enable_gradient_checkpointing()
    own = state(unet)
    assert torch.equal(gradient(), expected)
    with recomputed(unet):
        assert torch.equal(gradient(), expected)
    assert state(unet) == own and unet.is_gradient_checkpointing
