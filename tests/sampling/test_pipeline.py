"""The pipeline: what goes in, what comes out, seeds, records, and what happens when something gives way."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_backbone

from trueline.layout import Layout, Region
from trueline.sampling.method import Method
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import Pipeline, Result

FAST = {"steps": 3, "progress": False}
APPLE = Layout("a red apple", [Region("a red apple", (0.1, 0.1, 0.5, 0.5))], seed=3)
CAR = Layout("a blue car", seed=4)


@pytest.fixture
def pipe(gated):
    return Pipeline(gated)


def latents_of(pipe, prompt, **options):
    return pipe(prompt, output_type="latent", **(FAST | options)).images


# In and out


def test_prompt_or_layout_or_a_list_of_either(pipe):
    for prompt, count in (("a cat", 1), (APPLE, 1), (["a cat", APPLE, CAR], 3)):
        result = pipe(prompt, **FAST)
        assert isinstance(result, Result) and len(result.images) == len(result.records) == count
        assert all(isinstance(image, Image.Image) and image.size == (64, 64) for image in result.images)
    images, records = pipe("a cat", return_dict=False, **FAST)
    assert len(images) == len(records) == 1


def test_output_types_agree(pipe):
    pil, array, tensor, latent = (
        pipe(APPLE, output_type=kind, **FAST).images for kind in ("pil", "np", "pt", "latent")
    )
    assert array.shape == (1, 64, 64, 3) and tensor.shape == (1, 3, 64, 64) and latent.shape == (1, 4, 8, 8)
    np.testing.assert_array_equal(np.asarray(pil[0]), (array[0] * 255).round().astype("uint8"))
    np.testing.assert_array_equal(array[0], tensor[0].permute(1, 2, 0).numpy())
    assert torch.equal(pipe.backbone.decode(latent), tensor)


def test_sizes_are_grouped_and_order_is_kept(pipe):
    layouts = [Layout("a cat", width=64 * (1 + i % 2), seed=i) for i in range(4)]
    result = pipe(layouts, output_type="np", **FAST)
    assert [image.shape for image in result.images] == [(64, 64, 3), (64, 128, 3)] * 2
    alone = pipe(layouts[1], output_type="np", **FAST).images
    assert abs(result.images[1] - alone[0]).max() <= 1e-5
    assert pipe("a cat", width=128, height=64, **FAST).images[0].size == (128, 64)


def test_call_options_fill_what_layouts_leave_open(pipe):
    records = pipe(
        [Layout("p", negative_prompt="own", width=128), "q"], negative_prompt=["x", "y"], width=64, **FAST
    ).records
    assert [record["layout"]["negative_prompt"] for record in records] == ["own", "y"]
    assert [record["layout"]["width"] for record in records] == [128, 64]


# Noise


def test_the_picture_depends_on_seed_and_index_and_not_on_the_batch(pipe):
    together = latents_of(pipe, [APPLE, CAR], num_images_per_prompt=3, seeds=[5, 6])
    small = latents_of(pipe, [APPLE, CAR], num_images_per_prompt=3, seeds=[5, 6], batch_size=2)
    torch.testing.assert_close(small, together, rtol=0, atol=1e-5)
    third = latents_of(pipe, APPLE, seeds=[(5, 2)])
    torch.testing.assert_close(third[0], together[2], rtol=0, atol=1e-5)
    assert len({tuple(z.flatten().tolist()) for z in together}) == 6
    counted = latents_of(pipe, ["a cat"] * 3, seeds=5)
    torch.testing.assert_close(
        counted, latents_of(pipe, "a cat", num_images_per_prompt=3, seeds=5), rtol=0, atol=1e-5
    )


def test_seeds_of_layouts_and_fresh_ones(pipe):
    assert torch.equal(latents_of(pipe, APPLE), latents_of(pipe, APPLE, seeds=[3]))
    first, second = (pipe("a cat", **FAST).records[0]["seed"] for _ in range(2))
    assert first != second


def test_given_latents(pipe):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = latents_of(pipe, ["a cat", "a car"], latents=noise, batch_size=1)
    drawn = latents_of(pipe, "a cat", generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(given[:1], drawn, rtol=0, atol=1e-5)


def test_one_generator_gives_the_same_pictures_in_any_batching(pipe):
    def run(batch_size):
        generator = torch.Generator().manual_seed(1)
        return latents_of(pipe, ["a cat", "a car", "the chair"], generator=generator, batch_size=batch_size)

    torch.testing.assert_close(run(1), run(3), rtol=0, atol=1e-5)


# Callback and stream


def test_callback_sees_and_replaces_latents(pipe):
    calls = []

    def callback(pipeline, step, timestep, tensors):
        calls.append((pipeline, step, timestep, sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    images = latents_of(
        pipe, CAR, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents", "x0"]
    )
    assert [call[1] for call in calls] == [0, 1, 2] and calls[0][2] > calls[2][2]
    assert all(call[0] is pipe and call[3] == ["latents", "x0"] for call in calls)
    assert torch.equal(images, latents_of(pipe, CAR)), "after the last step there is nothing to go on from"
    early = latents_of(
        pipe, CAR, callback_on_step_end=lambda p, i, t, k: {"latents": k["latents"] + 0.5 * (i == 0)}
    )
    assert (early - images).abs().mean() > 0.1


def test_stream_gives_each_batch_as_it_finishes(pipe):
    seen = []
    stream = pipe.stream(
        [APPLE, CAR, "a cat"], batch_size=1, callback_on_step_end=lambda *_: seen.append(1), **FAST
    )
    first = next(stream)
    assert first.index == 0 and len(seen) == 3 and first.record["layout"]["prompt"] == "a red apple"
    assert [picture.index for picture in stream] == [1, 2]


def test_pictures_already_streamed_survive_an_interrupt(pipe):
    def interrupt(pipeline, step, timestep, tensors):
        calls.append(step)
        if len(calls) == 5:
            raise KeyboardInterrupt

    calls, kept = [], []
    with pytest.raises(KeyboardInterrupt):
        for picture in pipe.stream([APPLE, CAR], batch_size=1, callback_on_step_end=interrupt, **FAST):
            kept.append(picture)
    assert [picture.index for picture in kept] == [0]
    torch.testing.assert_close(latents_of(pipe, APPLE), latents_of(pipe, [APPLE]))


# Records


class Shift(Method):
    by: float = 0.1

    def guide(self, z, ctx):
        return z + self.by


def test_a_record_says_everything_in_json(pipe):
    record = pipe([APPLE, CAR], methods=[Shift(by=0.2)], guidance_scale=4, **FAST).records[1]
    assert json.loads(json.dumps(record)) == record
    assert record["layout"] == {"schema": 1, "prompt": "a blue car", "width": 64, "height": 64, "seed": 4}
    wanted = {
        "index": 1,
        "seed": 4,
        "seed_index": 0,
        "steps": 3,
        "scheduler": "ddim",
        "guidance_scale": 4.0,
        "guidance_interval": [0.0, 1.0],
        "grounding_schedule": [0.3, 0.0, 0.7],
        "eta": 0.0,
        "dtype": "float32",
        "device": "cpu",
        "notes": [],
        "methods": [{"name": "Shift", "settings": {"by": 0.2}}],
        "batch": {"size": 2, "row": 1},
        "model": {"source": "memory", "revision": None, "loras": {}},
    }
    assert {key: record[key] for key in wanted} == wanted
    assert set(record["versions"]) == {"trueline", "python", "torch", "diffusers", "transformers"}


def test_a_recorded_picture_is_made_again_bit_for_bit(pipe):
    options = FAST | {
        "methods": [Shift()],
        "num_images_per_prompt": 2,
        "seeds": 9,
        "scheduler": "dpmsolver++",
    }
    result = pipe([APPLE, CAR, "a cat"], **options)
    for image, record in zip(result.images, result.records, strict=True):
        again = pipe.remake(json.loads(json.dumps(record)), [Shift()])
        assert again.image.tobytes() == image.tobytes()
        assert {k: v for k, v in again.record.items() if k != "index"} == {
            k: v for k, v in record.items() if k != "index"
        }


#: For every option of the loop a value that is not its default.
OTHER = {
    "steps": 4,
    "scheduler": "ddim",
    "guidance_scale": 3.0,
    "guidance_interval": (0.0, 0.5),
    "grounding_schedule": (0.5, 0.0, 0.5),
    "eta": 0.8,
}


def test_every_option_is_recorded_and_made_again(pipe):
    """``strict`` alone is not: it changes no pixel."""
    assert OTHER.keys() == Sampling.model_fields.keys() - {"strict"}
    first = pipe(APPLE, seeds=5, progress=False, **OTHER)
    record = json.loads(json.dumps(first.records[0]))
    assert Sampling.of_record(record) == Sampling(**OTHER)
    again = pipe.remake(record)
    assert again.image.tobytes() == first.images[0].tobytes() and again.record == first.records[0]


@pytest.mark.parametrize("name", ["guidance_scale", "guidance_interval", "grounding_schedule", "eta"])
def test_every_option_changes_the_picture(pipe, name):
    """So that a picture made again could not be equal without it."""
    images = [
        pipe(APPLE, seeds=5, progress=False, **(OTHER | change)).images[0].tobytes()
        for change in ({}, {name: None if "_" in name and name != "guidance_scale" else 0.0})
    ]
    assert images[0] != images[1]


def test_options_in_one_object_or_as_keywords(pipe):
    """Keywords go over the object; the JSON of one serves too."""
    ways = [
        OTHER,
        {"sampling": Sampling(**OTHER)},
        {"sampling": Sampling(eta=0.1), **OTHER},
        {"sampling": OTHER},
    ]
    pictures = {pipe(APPLE, seeds=5, progress=False, **way).images[0].tobytes() for way in ways}
    assert len(pictures) == 1


def test_what_cannot_be_made_again_is_refused(pipe):
    record = pipe("a cat", generator=torch.Generator(), **FAST).records[0]
    assert record["seed"] is None
    with pytest.raises(ValueError, match="record: made from a generator"):
        pipe.remake(record)
    with pytest.raises(ValueError, match="methods: give those of the record"):
        pipe.remake(pipe(CAR, **FAST).records[0], [Shift()])


def notes_of(pipe, *prompt, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipe(*prompt, **(FAST | options)).records[0]["notes"]


def test_notes_on_cut_words_and_ignored_boxes(pipe, plain):
    long = " ".join(["apple"] * 22 + ["green", "chair"])
    assert notes_of(pipe, long) == ['prompt cut to 24 tokens; not read: "green chair"']
    assert notes_of(pipe, Layout("a cat", negative_prompt=long)) == [
        'negative_prompt cut to 24 tokens; not read: "green chair"'
    ]
    assert "ignores the boxes" in notes_of(Pipeline(plain), APPLE)[0]
    with pytest.warns(UserWarning, match="ignores the boxes"):
        Pipeline(plain)(APPLE, **FAST)


def test_words_that_the_model_does_not_know(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=True)
    backbone.settings["vocabulary"] = ["a", "red", "apple"]
    sentence = "words that this model does not know: zebra, x-ray; it knows: a, apple, red"
    with pytest.warns(UserWarning, match=sentence):
        record = Pipeline(backbone)("a Red zebra, a x-ray!", **FAST).records[0]
    assert record["notes"] == [sentence]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Pipeline(backbone)(APPLE, **FAST).records[0]["notes"]


# When something gives way


def fail_above(backbone, rows, error):
    """Run out of memory, as the U-Net would, when it gets more rows than that."""

    def check(_module, args, kwargs):
        if len(args[0]) > rows:
            raise error

    return backbone.unet.register_forward_pre_hook(check, with_kwargs=True)


CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), CPU_ERROR])
@pytest.mark.parametrize("noise", ["seeds", "generator"])
def test_out_of_memory_halves_the_batch_and_says_so(pipe, error, noise):
    def options():
        generators = [torch.Generator().manual_seed(i) for i in range(5)]
        return {"eta": 1.0, **({"seeds": range(5)} if noise == "seeds" else {"generator": generators})}

    layouts = [APPLE, CAR, "a cat", "a car", "a chair"]
    expected = latents_of(pipe, layouts, **options())
    handle = fail_above(pipe.backbone, 4, error)  # two pictures with guidance
    try:
        result = pipe(layouts, output_type="latent", **FAST, **options())
    finally:
        handle.remove()
    torch.testing.assert_close(result.images, expected, rtol=0, atol=1e-5)
    assert [record["batch"]["size"] for record in result.records] == [2, 2, 1, 1, 1] or max(
        record["batch"]["size"] for record in result.records
    ) <= 2
    assert result.records[0]["notes"][0] == "out of memory with 5 pictures at once; the batch was halved"


def test_out_of_memory_with_one_picture_and_other_errors_are_raised(pipe):
    for rows, error in ((0, torch.OutOfMemoryError("CUDA out of memory.")), (0, RuntimeError("a bug"))):
        handle = fail_above(pipe.backbone, rows, error)
        try:
            with pytest.raises(type(error), match=str(error)):
                pipe([APPLE, CAR], **FAST)
        finally:
            handle.remove()


@torch.no_grad()
def test_a_decode_in_float32_is_noted_for_its_picture_only(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=False)
    backbone.vae.to(torch.float16)

    def overflow(_module, args):
        rows = args[0].clone()
        rows[1:] = 3e4
        return (rows * 4 if rows.dtype == torch.float16 else rows,)

    handle = backbone.vae.post_quant_conv.register_forward_pre_hook(overflow)
    with pytest.warns(UserWarning, match="picture 1: the VAE gave non-finite pixels"):
        records = Pipeline(backbone)(["a cat", "a car"], **FAST).records
    handle.remove()
    assert not records[0]["notes"] and "decoded in float32" in records[1]["notes"][0]


# Misuse


@pytest.mark.parametrize(
    ("prompt", "options", "error", "sentence"),
    [
        (3, {}, TypeError, "prompt: must be a text, a Layout, or a list"),
        (["a", 3], {}, TypeError, "prompt: "),
        ([], {}, ValueError, "prompt: the list is empty"),
        ("", {}, ValueError, "prompt: is empty"),
        ("p", {"bogus": 1}, TypeError, "bogus: no such option; the options are batch_size"),
        ("p", {"layouts": ()}, TypeError, "layouts: no such option"),
        ("p", {"steps": 0}, ValueError, "steps: "),
        ("p", {"steps": 2.5}, ValueError, "steps: "),
        ("p", {"steps": 2, "num_inference_steps": 2}, ValueError, "num_inference_steps: is another name"),
        ("p", {"guidance_scale": float("nan")}, ValueError, "guidance_scale: "),
        ("p", {"guidance_scale": "7"}, ValueError, "guidance_scale: "),
        ("p", {"eta": 2}, ValueError, "eta: "),
        ("p", {"scheduler": "magic"}, ValueError, "scheduler: must be one of ddim"),
        ("p", {"output_type": "jpg"}, ValueError, "output_type: must be one of pil, np, pt, latent"),
        ("p", {"num_images_per_prompt": 0}, ValueError, "num_images_per_prompt: "),
        ("p", {"batch_size": 0}, ValueError, "batch_size: "),
        ("p", {"seeds": [1, 2]}, ValueError, "seeds: give one per layout"),
        ("p", {"seeds": [-1]}, ValueError, "seeds: "),
        ("p", {"seeds": "12"}, ValueError, "seeds: "),
        ("p", {"seeds": 1.5}, ValueError, "seeds: "),
        ("p", {"seeds": 1, "generator": torch.Generator()}, ValueError, "seeds: cannot be given together"),
        ("p", {"generator": [torch.Generator()] * 2}, ValueError, "generator: give one, or one per picture"),
        ("p", {"generator": 5}, TypeError, "generator: must be"),
        ("p", {"latents": torch.zeros(1, 4, 4, 4)}, ValueError, "latents: must have shape"),
        ("p", {"latents": [1]}, TypeError, "latents: must be a tensor"),
        ("p", {"width": 100}, ValueError, "width: must be a multiple of 8"),
        ("p", {"negative_prompt": ["a", "b"]}, ValueError, "negative_prompt: give one text"),
        ("p", {"negative_prompt": 3}, ValueError, "negative_prompt: "),
        ("p", {"methods": [Shift]}, TypeError, "methods: must be Method objects"),
        ("p", {"methods": Shift()}, TypeError, "methods: "),
        ("p", {"methods": [Shift()], "scheduler": "pndm"}, ValueError, "scheduler: pndm"),
        ("p", {"grounding_schedule": (1, 1)}, ValueError, "grounding_schedule: "),
        ("p", {"guidance_interval": (0.5, 0.5)}, ValueError, "guidance_interval: must be start < stop"),
        ("p", {"callback_on_step_end": 3}, TypeError, "callback_on_step_end: must be a function"),
        ("p", {"callback_on_step_end": lambda *_: 3}, TypeError, "callback_on_step_end: must return"),
        (
            "p",
            {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            ValueError,
            "callback_on_step_end_tensor_inputs",
        ),
    ],
)
def test_misuse_names_the_argument(pipe, prompt, options, error, sentence):
    with pytest.raises(error) as caught:
        pipe(prompt, **({"progress": False} | options))
    assert str(caught.value).startswith(sentence)


def test_too_many_regions_for_the_checkpoint(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=True)
    backbone.settings["max_regions"] = 1
    two = Layout("p", [APPLE.regions[0]] * 2)
    with pytest.raises(ValueError, match=r"regions: this backbone takes at most 1 \(got 2\)"):
        Pipeline(backbone)([APPLE, two], **FAST)


def test_from_pretrained_save_and_precision(gated_folder, tmp_path):
    pipe = Pipeline.from_pretrained(gated_folder, dtype=torch.bfloat16)
    record = pipe(APPLE, **FAST).records[0]
    assert record["dtype"] == "bfloat16" and record["model"]["source"] == str(gated_folder)
    pipe.to(dtype=torch.float32).save_pretrained(tmp_path / "again")
    assert Pipeline.from_pretrained(tmp_path / "again").backbone.grounded
