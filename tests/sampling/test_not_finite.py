"""A picture whose numbers are not finite costs itself alone: it is tried once more, and the record says so."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_backbone

from trueline.cli import main
from trueline.engine import Engine, carry_out
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.drawing import drawing
from trueline.evaluation.run import PLAIN, EvaluationRun, EvaluationSettings
from trueline.layout import Layout, Region
from trueline.models.stable_diffusion import StableDiffusion
from trueline.sampling.options import Sampling
from trueline.sampling.pipeline import PictureError, Pipeline

FAST = {"steps": 2, "progress": False}
APPLE = Region("a red apple", (0, 0, 0.5, 0.5))
LAYOUTS = [Layout("a red apple", [APPLE], seed=seed) for seed in range(3)]
LOST = "its numbers are not finite, alone in float32 too"

pytestmark = pytest.mark.filterwarnings("ignore")


def noise(bad=None):
    drawn = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    if bad is not None:
        drawn[bad, 0, 0, 0] = torch.nan
    return drawn


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
def test_the_others_are_kept_and_the_lost_one_is_named(gated, kind):
    pipe = Pipeline(gated)
    whole = pipe(LAYOUTS, latents=noise(), output_type="latent", **FAST).images
    with pytest.warns(UserWarning, match=f"picture 1: {LOST}"):
        result = pipe(LAYOUTS, latents=noise(bad=1), output_type=kind, **FAST)
    assert [image is None for image in result.images] == [False, True, False]
    assert list(result.failed) == [1] and result.failed[1].startswith(LOST)
    assert result.records[1]["failed"] == result.failed[1] and "failed" not in result.records[0]
    if kind == "latent":
        torch.testing.assert_close(torch.stack(result.images[::2]), whole[::2], rtol=0, atol=1e-5)
    with pytest.raises(PictureError, match="picture 1 could not be made: its numbers are not finite"):
        result.whole()
    with pytest.raises(PictureError, match=r"picture 0 could not be made: its numbers are not finite"):
        pipe(LAYOUTS[0], latents=noise(bad=1)[1:2], output_type=kind, **FAST)


def test_the_stream_gives_the_good_ones_first(gated):
    pictures = list(Pipeline(gated).stream(LAYOUTS, latents=noise(bad=0), **FAST))
    assert [(picture.index, picture.image is None, bool(picture.failed)) for picture in pictures] == [
        (1, False, False), (2, False, False), (0, True, True)
    ]  # fmt: skip
    assert json.loads(json.dumps(pictures[2].record)) == pictures[2].record


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler", "lms", "pndm"])
def test_no_scheduler_spreads_it(gated, scheduler):
    options = FAST | {"output_type": "latent", "scheduler": scheduler, "steps": 4}
    whole = Pipeline(gated)(LAYOUTS, latents=noise(), **options).images
    found = Pipeline(gated)(LAYOUTS, latents=noise(bad=1), **options).images
    torch.testing.assert_close(torch.stack(found[::2]), whole[::2], rtol=0, atol=1e-5)


@pytest.fixture
def overflowing(tokenizer):
    """A real overflow: what the U-Net gives for one text is beyond float16, and within float32."""
    backbone = tiny_backbone(tokenizer, gated=False).to(dtype=torch.bfloat16)

    def overflow(_module, args, kwargs, output):
        states = kwargs["encoder_hidden_states"]
        if states.dtype == torch.bfloat16:  # as float16 would, in the nets of many checkpoints
            like = backbone.encode(["a blue car"]).states[0]
            rows = torch.tensor([torch.equal(row, like) for row in states])
            output.sample[rows] = torch.inf
        return output

    backbone.unet.register_forward_hook(overflow, with_kwargs=True)
    return backbone


@pytest.mark.parametrize("own", ["seeds", "generators"])
def test_half_precision_is_tried_again_in_float32(overflowing, own):
    pipe = Pipeline(overflowing)
    weights = {name: weight.clone() for name, weight in overflowing.unet.state_dict().items()}
    prompts = ["a cat", "a blue car", "a chair"]
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    how = {"seeds": [0, 1, 2]} if own == "seeds" else {"generator": generators}
    result = pipe(prompts, eta=1.0, **how, **FAST)
    assert not result.failed and overflowing.dtype == torch.bfloat16
    assert all(torch.equal(weights[name], weight) for name, weight in overflowing.unet.state_dict().items())
    record = result.records[1]
    assert record["redrawn_in"] == "float32" and record["dtype"] == "bfloat16"
    assert record["batch"] == {"size": 1, "row": 0}
    assert record["notes"] == ["the picture was not finite in bfloat16; drawn again alone in float32"]
    assert not any("redrawn_in" in each or each["notes"] for each in result.records[::2])

    if own == "generators":  # each goes on as after one picture
        alone = torch.Generator().manual_seed(2)
        pipe(prompts[2], eta=1.0, generator=alone, **FAST)
        assert torch.equal(generators[2].get_state(), alone.get_state())
    else:
        again = pipe.remake(json.loads(json.dumps(record)))
        assert again.image.tobytes() == result.images[1].tobytes()
        assert again.record | {"index": 1} == record
    overflowing.to(dtype=torch.float32)
    how = {"seeds": [1]} if own == "seeds" else {"generator": torch.Generator().manual_seed(1)}
    expected = pipe(prompts[1], eta=1.0, **how, **FAST)
    assert result.images[1].tobytes() == expected.images[0].tobytes(), (
        "what float32 gives from the same noise"
    )


def test_memory_that_is_too_small_for_float32_costs_that_picture_only(overflowing):
    def full(_module, args, kwargs):
        if kwargs["encoder_hidden_states"].dtype == torch.float32:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    overflowing.unet.register_forward_pre_hook(full, with_kwargs=True)
    result = Pipeline(overflowing)(["a cat", "a blue car"], seeds=[0, 1], **FAST)
    assert list(result.failed) == [1] and "the memory is too small to draw it again" in result.failed[1]
    assert overflowing.dtype == torch.bfloat16


@pytest.fixture
def no_clocks(monkeypatch):
    """Models break on the word clock, in any precision."""
    encode = StableDiffusion.encode

    def broken(self, prompts):
        text = encode(self, prompts)
        for row, prompt in enumerate(prompts):
            if "clock" in prompt:
                text.states[row] = torch.nan
        return text

    monkeypatch.setattr(StableDiffusion, "encode", broken)


def test_generate_keeps_the_others_counts_and_names_it(no_clocks, gated_folder, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "three.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"a {what}"}) + "\n" for what in ("cat", "clock", "car")))
    asked = [
        "generate",
        "--layout",
        str(file),
        "--model",
        str(gated_folder),
        "--steps",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*asked, "--out", str(out), "--quiet"]) == 1
    assert sorted(path.name for path in out.glob("*-0.png")) == ["0000-0.png", "0002-0.png"]
    assert LOST in json.loads((out / "0001-0.json").read_text())["failed"]
    state = json.loads((out / "state.json").read_text())
    assert list(state["failed"]) == ["0001-0"] and (state["done"], state["missing"]) == (3, [])
    said = capsys.readouterr().err
    assert f"trueline: 0001-0 could not be made: {LOST}" in said and "Traceback" not in said


def test_an_evaluation_keeps_the_others_counts_and_names_it(no_clocks, gated, tmp_path):
    """What is looked at is what there is; the others of its batch are there."""
    prompts = {"cat": "a cat", "clock": "a clock", "car": "a car"}
    examples = [Example(name, Layout(prompt), "", {}) for name, prompt in prompts.items()]
    benchmark = SimpleNamespace(name="three", source="here", examples=examples)
    settings = EvaluationSettings("three", "tiny", None, (0,), Sampling(steps=2), "fp32", 3)
    run = EvaluationRun(tmp_path, benchmark, settings)
    phase = drawing(run, [PLAIN], lambda: Pipeline(gated))
    carry_out(run.folder, [phase], Engine(), silent=True)
    lost, run.failed = run.pictures[1], run.folder.failed(phase.jobs)
    assert list(run.failed) == [f"plain/{lost.name}"] and LOST in run.failed[f"plain/{lost.name}"]
    assert [run.path("plain", picture).exists() for picture in run.pictures] == [True, False, True]
    assert [run.exists_for("plain", picture) for picture in run.pictures] == [True, False, True]
