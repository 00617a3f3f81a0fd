"""Trueline against diffusers' own pipelines, and itself in other batches. CPU, float32, tiny random nets."""

import warnings

import pytest
import torch
from diffusers import StableDiffusionGLIGENPipeline, StableDiffusionPipeline
from tiny import sampled

from trueline.layout import Layout
from trueline.models.backbone import Backbone
from trueline.models.grounding import fusers
from trueline.models.schedulers import make_scheduler
from trueline.models.schedules import SCHEDULERS
from trueline.sampling.pipeline import Pipeline

STEPS = 12
EXACT = {"rtol": 0, "atol": 1e-5}


def theirs(kind, backbone, scheduler):
    """diffusers' pipeline around the very same nets."""
    parts = {name: getattr(backbone, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    extra = {"image_encoder": None} if kind is StableDiffusionPipeline else {}
    pipe = kind(
        **parts,
        **extra,
        scheduler=make_scheduler(scheduler, backbone.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def last(backbone, layouts, **options):
    *_, step = sampled(backbone, layouts, **({"steps": STEPS} | options))
    return step.z


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, None])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_plain_sampling_equals_stable_diffusion_pipeline(gated, gated_v, scheduler, prediction):
    backbone = gated if prediction == "epsilon" else gated_v
    pipe = theirs(StableDiffusionPipeline, backbone, scheduler)
    generator = torch.Generator().manual_seed(5)
    expected = pipe(
        "a red apple",
        negative_prompt="clock",
        num_inference_steps=STEPS,
        generator=generator,
        output_type="latent",
    ).images
    actual = last(backbone, [Layout("a red apple", negative_prompt="clock")], seeds=[5], scheduler=scheduler)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpmsolver++"])
def test_pictures_equal_stable_diffusion_pipeline(plain, scheduler):
    pipe = theirs(StableDiffusionPipeline, plain, scheduler)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    prompts = ["a red apple", "the green chair"]
    expected = pipe(prompts, num_inference_steps=STEPS, generator=generators, output_type="np").images
    options = {"num_inference_steps": STEPS, "scheduler": scheduler, "output_type": "np"}
    result = Pipeline(plain)(prompts, seeds=[3, 4], **options)
    assert abs(result.images - expected).max() <= 1e-5
    again = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    assert abs(Pipeline(plain)(prompts, generator=again, **options).images - expected).max() <= 1e-5


def test_one_generator_for_many_pictures_and_no_guidance_and_eta(plain):
    pipe = theirs(StableDiffusionPipeline, plain, "ddim")
    options = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "latent"}
    expected = pipe(
        "a cat", num_images_per_prompt=3, generator=torch.Generator().manual_seed(1), **options
    ).images
    ours = Pipeline(plain)(
        "a cat", num_images_per_prompt=3, generator=torch.Generator().manual_seed(1), **options
    )
    torch.testing.assert_close(ours.images, expected, **EXACT)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = pipe(["a cat", "a car"], eta=0.7, generator=generators, **options).images
    ours = Pipeline(plain)(["a cat", "a car"], eta=0.7, seeds=[3, 4], **options)
    torch.testing.assert_close(ours.images, expected, **EXACT)


@pytest.fixture
def fusers_back_on(gated, gated_v):
    """diffusers' pipeline leaves the fusers off; the next test must not depend on it."""
    yield
    for fuser in fusers(gated.unet) + fusers(gated_v.unet):
        fuser.enabled = True


@pytest.mark.usefixtures("fusers_back_on")
@pytest.mark.filterwarnings("ignore")  # diffusers' deprecation of the pipeline it is compared with
@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler"])
@pytest.mark.parametrize("full", [1.0, 0.3])
def test_grounded_sampling_equals_gligen_pipeline(gated, gated_v, layouts, scheduler, full):
    backbone = gated_v if full == 1.0 else gated
    layout = layouts[3]
    pipe = theirs(StableDiffusionGLIGENPipeline, backbone, scheduler)
    expected = pipe(
        layout.prompt,
        negative_prompt=layout.negative_prompt,
        gligen_phrases=[region.phrase for region in layout.regions],
        gligen_boxes=[region.box.xyxy for region in layout.regions],
        gligen_scheduled_sampling_beta=full,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(8),
        output_type="latent",
    ).images
    schedule = (full, 0, 1 - full)
    actual = last(backbone, [layout], seeds=[8], scheduler=scheduler, grounding_schedule=schedule)
    torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++"])
def test_a_batch_of_eight_layouts_equals_eight_single_calls(gated, layouts, scheduler):
    together = last(gated, layouts, seeds=range(8), scheduler=scheduler, grounding_schedule=(0.3, 0.3, 0.4))
    for row, layout in enumerate(layouts):
        alone = last(gated, [layout], seeds=[row], scheduler=scheduler, grounding_schedule=(0.3, 0.3, 0.4))
        torch.testing.assert_close(alone[0], together[row], **EXACT)


def test_grounding_off_equals_plain_and_on_does_not(gated, layouts):
    bare = [layout.model_copy(update={"regions": ()}) for layout in layouts[1:4]]
    plain = last(gated, bare, seeds=[0, 1, 2])
    off = last(gated, layouts[1:4], seeds=[0, 1, 2], grounding_schedule=(0, 0, 1))
    assert torch.equal(plain, off)
    assert (last(gated, layouts[1:4], seeds=[0, 1, 2]) - plain).flatten(1).abs().amax(1).min() > 1e-2


def test_repeats_are_bit_equal(gated, layouts):
    assert torch.equal(last(gated, layouts[2:4], seeds=[0, 1]), last(gated, layouts[2:4], seeds=[0, 1]))


def test_the_nets_are_as_before_after_an_exception(gated, layouts):
    hooks = [len(module._forward_hooks) for module in gated.unet.modules()]
    position_net = gated.unet.position_net

    def fail(_module, _inputs):
        raise KeyboardInterrupt

    handle = gated.unet.conv_norm_out.register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            last(gated, [layouts[2]], record=lambda site: True, grounding_schedule=(0, 1, 0))
    finally:
        handle.remove()
    assert all(fuser.enabled for fuser in fusers(gated.unet))
    assert [len(module._forward_hooks) for module in gated.unet.modules()] == hooks
    assert gated.unet.position_net is position_net
    assert {type(p).__name__ for p in gated.unet.attn_processors.values()} == {"AttnProcessor2_0"}


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_saved_here_loads_in_diffusers(gated, gated_folder, plain, plain_folder):
    for kind, backbone, folder in (
        (StableDiffusionGLIGENPipeline, gated, gated_folder),
        (StableDiffusionPipeline, plain, plain_folder),
    ):
        pipe = kind.from_pretrained(folder)
        for name in ("unet", "vae", "text_encoder"):
            saved, mine = getattr(pipe, name).state_dict(), getattr(backbone, name).state_dict()
            assert saved.keys() == mine.keys() and all(torch.equal(saved[key], mine[key]) for key in mine)
        assert pipe.tokenizer("a red apple").input_ids == backbone.tokenizer("a red apple").input_ids
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="latent"
    )
    torch.testing.assert_close(last(plain, [Layout("a cat")], steps=4, seeds=[0]), expected.images, **EXACT)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_saved_by_diffusers_loads_here(gated, plain, tmp_path):
    for kind, backbone in ((StableDiffusionGLIGENPipeline, gated), (StableDiffusionPipeline, plain)):
        folder = tmp_path / kind.__name__
        theirs(kind, backbone, "pndm").save_pretrained(folder)
        loaded = Backbone.from_pretrained(folder)
        assert loaded.grounded == backbone.grounded and type(loaded.scheduler).__name__ == "PNDMScheduler"
        torch.testing.assert_close(
            last(loaded, [Layout("a cat")], steps=4, seeds=[0], scheduler=None),
            last(backbone, [Layout("a cat")], steps=4, seeds=[0], scheduler="pndm"),
            **EXACT,
        )


def test_nothing_warns_on_the_ordinary_path(gated, layouts):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        z = last(gated, layouts[2:4], seeds=[0, 1], steps=2)
    assert [str(each.message) for each in caught] == []
    assert z.isfinite().all()
