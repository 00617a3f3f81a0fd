"""Memory that runs out in the middle of a batch: the pictures are those of a machine with enough of it."""

import pytest
import torch

from trueline.layout import Layout, Region
from trueline.sampling.pipeline import Pipeline

LAYOUTS = [Layout("a red apple", [Region("a red apple", (0, 0, 0.5, 0.5))]), Layout("a cat"), Layout("a car")]


def draw(backbone, noise: str):
    """Three pictures of three steps, each step with fresh noise from the picture's own generator."""
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    source = {"seeds": [0, 1, 2]} if noise == "seeds" else {"generator": generators}
    result = Pipeline(backbone)(LAYOUTS, steps=3, eta=1.0, progress=False, output_type="latent", **source)
    return result, [generator.get_state() for generator in generators]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", ["seeds", "generator"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_out_of_memory_after_noise_was_drawn_changes_no_picture(noise, at, plain):
    """At the ``at``-th pass of the U-Net: ``at`` - 1 steps have taken their noise from the generators by then."""
    expected, states = draw(plain, noise)
    passes = []

    def full(_module, args, kwargs):
        passes.append(len(args[0]))
        if len(passes) == at:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = plain.unet.register_forward_pre_hook(full, with_kwargs=True)
    try:
        found, after = draw(plain, noise)
    finally:
        handle.remove()
    assert passes[:at] == [6] * at and set(passes[at:]) == {2}, "three pictures at once, then each alone"
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(after, states, strict=True))
    note = "out of memory with 3 pictures at once; the batch was halved"
    assert all(note in record["notes"] for record in found.records)
