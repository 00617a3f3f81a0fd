"""What lives for one run of the loop: made once, kept to its end, and nothing of it in the next run."""

import gc
import weakref

import pytest
import torch
from tiny import sampled

from trueline.layout import Layout, Region
from trueline.methods.composable import Composable
from trueline.methods.dense_diffusion import DenseDiffusion
from trueline.methods.multidiffusion import MultiDiffusion
from trueline.methods.realign import Reweighting
from trueline.models.attention import sites
from trueline.sampling.method import Method

TWO = Layout(
    "a red apple and a blue car",
    regions=[
        Region("a red apple", (0.0, 0.0, 0.5, 0.5), negative="a cat"),
        Region("a blue car", (0.5, 0.5, 1.0, 1.0)),
    ],
    seed=3,
)
PARTS = Layout("a red apple | a blue car", seed=4)


def drawn(backbone, layout, *methods, steps=4, **options):
    return list(sampled(backbone, [layout], methods, steps, 4.0, **options))


class Keeps(Method):
    """Keeps a tensor of its own in the run."""

    made: list

    def guide(self, z, ctx):
        kept = ctx.once("kept", lambda: torch.zeros(3))
        self.made.append((ctx.index, id(kept), weakref.ref(kept)))
        return z


def test_once_makes_a_thing_once_in_a_run_and_frees_it_with_the_run(plain):
    method = Keeps.model_construct(made=[])
    drawn(plain, PARTS, method)
    first = list(method.made)
    assert len({kept for _, kept, _ in first}) == 1 and [index for index, *_ in first] == [0, 1, 2, 3]
    gc.collect()
    assert first[0][2]() is None, "nothing outlives the run"
    walked = sampled(plain, [PARTS], [method], 4, 4.0)
    next(walked)
    assert method.made[-1][2]() is not None
    del walked
    gc.collect()
    assert method.made[-1][2]() is None, "nor a consumer who walks away"


@pytest.mark.parametrize(
    ("layout", "method", "calls"),
    [(TWO, MultiDiffusion(), 2 + 2 + 1), (PARTS, Composable(), 2 + 2)],
    ids=["multidiffusion", "composable"],
)
def test_phrases_are_encoded_once_in_a_run(plain, monkeypatch, layout, method, calls):
    """Besides the prompt and the negative prompt: each turn's phrases, and its negatives where it has some."""
    encode, counted = plain.encode, []
    monkeypatch.setattr(plain, "encode", lambda prompts: counted.append(prompts) or encode(prompts))
    drawn(plain, layout, method)
    assert len(counted) == calls
    drawn(plain, layout, method)
    assert len(counted) == 2 * calls, "a run knows nothing of the run before"


@pytest.mark.parametrize("method", [DenseDiffusion(), Reweighting()], ids=lambda m: type(m).__name__)
def test_layers_are_open_only_in_the_steps_that_are_modulated(gated, method):
    """30% of ten steps; in the others every layer keeps its fast attention."""
    opened = []

    def count(*_):
        processors = gated.unet.attn_processors.values()
        opened.append(sum(type(processor).__name__ == "_Tap" for processor in processors))

    handle = gated.unet.conv_out.register_forward_hook(count)
    try:
        drawn(gated, TWO, method, steps=10)
    finally:
        handle.remove()
    mine = sum(site.kind in ("self", "cross") for site in sites(gated.unet))
    assert opened == [mine] * 3 + [0] * 7
