"""Memory that runs out in the middle of a batch: the pictures are those of a machine with enough of it."""

import json
import subprocess
import sys

import pytest
import torch

from trueline.exits import unusable
from trueline.layout import Layout, Region
from trueline.sampling.drawing import CUTS
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


# The ladder: halves, tiles, slices, an error

BIG = Layout("a cat", width=128, height=64, seed=1)
HALVED = "out of memory with {} pictures at once; the batch was halved"


def vae_with_room_for(backbone, latents: int):
    """Memory runs out, as an allocator has it, where the VAE is to decode more latents than that at once."""

    def full(_module, args):
        if args[0].shape[0] * args[0].shape[2] * args[0].shape[3] > latents:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return backbone.vae.decoder.register_forward_pre_hook(full)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("room", "tile", "cuts"),
    [(8 * 16, 0, []), (8 * 8, 8, [*CUTS[:1]]), (4 * 4, 4, [*CUTS])],
    ids=["halves", "tiles", "slices"],
)
def test_each_step_is_taken_in_turn_and_noted(plain, room, tile, cuts):
    pipe = Pipeline(plain)
    handle = vae_with_room_for(plain, room)
    try:
        result = pipe([BIG, BIG, BIG], seeds=[1, 2, 3], steps=2, progress=False)
    finally:
        handle.remove()
    first = result.records[0]
    assert first["notes"] == [HALVED.format(3), *cuts]
    assert [record.get("vae_tile", 0) for record in result.records] == [tile] * 3
    assert {record["batch"]["size"] for record in result.records} == {1}
    assert not plain.vae.use_tiling, "as it was set"
    again = pipe.remake(json.loads(json.dumps(first)))  # with memory enough
    assert again.image.tobytes() == result.images[0].tobytes()
    assert again.record | {"notes": first["notes"]} == first
    whole = pipe(BIG, seeds=[1], steps=2, progress=False)
    assert (whole.images[0].tobytes() == again.image.tobytes()) == (tile == 0)
    assert "vae_tile" not in whole.records[0]


def test_what_is_too_much_at_last_is_one_error_with_all_that_was_tried(plain):
    handle = vae_with_room_for(plain, 3 * 3)
    try:
        with pytest.raises(
            torch.OutOfMemoryError, match="one picture of 128 x 64 pixels is too large"
        ) as caught:
            Pipeline(plain)([BIG, BIG], seeds=[1, 2], steps=2, progress=False)
    finally:
        handle.remove()
    said = str(caught.value)
    assert all(cut in said for cut in CUTS) and "CUDA out of memory" in said and "\n" not in said
    assert unusable(caught.value).startswith("the memory is full (one picture of 128 x 64")


def test_tiling_that_the_user_switched_on_is_recorded_and_made_again(gated_folder):
    pipe = Pipeline.from_pretrained(gated_folder)
    pipe.backbone.enable_vae_tiling()
    made = pipe(BIG, seeds=[1], steps=2, progress=False)
    assert made.records[0]["vae_tile"] == pipe.backbone.vae.tile_latent_min_size == 8
    small = pipe(BIG.model_copy(update={"width": 64}), seeds=[1], steps=2, progress=False)
    assert "vae_tile" not in small.records[0], "no larger than a tile"
    pipe.backbone.enable_vae_tiling(False)
    again = pipe.remake(made.records[0])
    assert again.image.tobytes() == made.images[0].tobytes() and again.record == made.records[0]


LIMITED = """
import json, resource, sys, warnings
import torch
from trueline.layout import Layout
from trueline.sampling.pipeline import Pipeline

warnings.simplefilter("ignore")
torch.set_num_threads(1)
pipe = Pipeline.from_pretrained(sys.argv[1])
large = Layout("a cat", width=512, height=512, seed=1)

def draw():
    made = pipe(large, steps=1, guidance_scale=1, progress=False, output_type="pt")
    return made.images[0], made.records[0]

whole, _ = draw()  # and all that is loaded late is there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 2**20, resource.RLIM_INFINITY))
tiled, record = draw()
print(json.dumps([record["notes"], record["vae_tile"], float((tiled - whole).abs().mean())]))
"""


def test_a_real_limit(gated_folder):
    """The allocator's own error, of a process that may have 20 MB more; whole pixels would take 40."""
    command = [sys.executable, "-c", LIMITED, str(gated_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    notes, tile, difference = json.loads(done.stdout)
    assert notes == [CUTS[0]] and tile == 32 and 0 < difference < 0.05
