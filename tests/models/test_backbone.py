"""Loading, refusing, saving, LoRA, text, decoding."""

import copy
import json
import shutil
import warnings

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model_state_dict
from tiny import tiny_backbone

from trueline.models import checkpoint
from trueline.models.backbone import Backbone, CheckpointError, DecodeError


@pytest.fixture
def folder(gated_folder, tmp_path):
    """A copy of the GLIGEN checkpoint to break."""
    return shutil.copytree(gated_folder, tmp_path / "copy")


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def prediction(backbone):
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.predict(z, 100, backbone.encode(["a red apple"]))


# Round trips


def test_save_and_load(gated, gated_folder, plain, plain_folder):
    for backbone, folder in ((gated, gated_folder), (plain, plain_folder)):
        loaded = Backbone.from_pretrained(str(folder), local_files_only=True)
        assert loaded.grounded == backbone.grounded and loaded.source == str(folder)
        torch.testing.assert_close(prediction(loaded), prediction(backbone))
        assert loaded.scheduler.config.prediction_type == "epsilon" and loaded.max_regions == 30
        assert not any(p.requires_grad for p in loaded.unet.parameters()) and not loaded.unet.training


@pytest.mark.filterwarnings("ignore")
def test_settings_of_the_checkpoint_survive_diffusers_too(tokenizer, tmp_path):
    from diffusers import StableDiffusionGLIGENPipeline

    settings = {"max_regions": 8, "grounding_schedule": [0.5, 0.2, 0.3], "vocabulary": ["Apple", "red"]}
    backbone = tiny_backbone(tokenizer, gated=True)
    backbone.settings = settings
    backbone.save_pretrained(tmp_path)
    loaded = Backbone.from_pretrained(tmp_path)
    assert loaded.max_regions == 8 and loaded.grounding_schedule == (0.5, 0.2, 0.3)
    assert loaded.vocabulary == {"apple", "red"}
    assert type(StableDiffusionGLIGENPipeline.from_pretrained(tmp_path).unet) is type(backbone.unet)


def test_dtype_and_a_fp16_variant(folder):
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    loaded = Backbone.from_pretrained(folder, dtype=torch.bfloat16)
    assert loaded.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == torch.bfloat16
    assert loaded.encode(["a cat"]).states.dtype == torch.bfloat16
    assert prediction(loaded).dtype == torch.float32
    assert loaded.to(dtype=torch.float32).dtype == torch.float32


def hub_cache(root, folder, repository, commit="abc123"):
    """The folder as the Hub's client caches it."""
    home = root / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    shutil.copytree(folder, home / "snapshots" / commit)


def test_a_cached_hub_id_loads_offline(gated_folder, tmp_path, monkeypatch):
    hub_cache(tmp_path, gated_folder, "someone/gligen-tiny")
    loaded = Backbone.from_pretrained("someone/gligen-tiny", cache_dir=tmp_path, local_files_only=True)
    assert loaded.grounded and loaded.revision == "abc123"
    monkeypatch.setitem(checkpoint.ALIASES, "tiny", ("someone/deleted", "someone/gligen-tiny"))
    assert Backbone.from_pretrained("tiny", cache_dir=tmp_path, local_files_only=True).revision == "abc123"


# Refusals


def refused(name, **options):
    with pytest.raises(CheckpointError) as caught:
        Backbone.from_pretrained(name, **options)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)
    return str(caught.value)


def test_not_found(tmp_path):
    assert "is not in the local cache" in refused("no/such-model", cache_dir=tmp_path, local_files_only=True)
    assert "neither a folder nor a Hub id" in refused(str(tmp_path / "a" / "b" / "c"), local_files_only=True)
    assert "is no checkpoint: it has no model_index.json" in refused(tmp_path)


class Bomb:
    """A pickle that would leave a trace when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_refused_unopened(folder, tmp_path):
    trace = tmp_path / "executed"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({"w": Bomb(trace)}, weights.with_suffix(".bin"))
    message = refused(folder)
    assert (
        "only pickled weights (diffusion_pytorch_model.bin)" in message
        and "safe_serialization=True" in message
    )
    only_ckpt = tmp_path / "single"
    only_ckpt.mkdir()
    torch.save({"w": Bomb(trace)}, only_ckpt / "model.ckpt")
    assert "only a pickled checkpoint (model.ckpt)" in refused(only_ckpt)
    assert not trace.exists()


def test_broken_weights(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    intact = weights.read_bytes()
    for broken in (intact[:1000], b"", b"\xff" * 64, intact[:-100]):
        weights.write_bytes(broken)
        assert f"the weights in {folder}/vae cannot be read" in refused(folder)
    state = safetensors.torch.load(intact)
    state.pop("decoder.conv_in.weight")
    safetensors.torch.save_file(state, weights)
    assert "lack decoder.conv_in.weight" in refused(folder)


def test_half_a_text_encoder(folder):
    weights = folder / "text_encoder" / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    gone = next(key for key in state if key.endswith("final_layer_norm.weight"))
    state.pop(gone)
    safetensors.torch.save_file(state, weights, metadata={"format": "pt"})
    assert "final_layer_norm.weight" in refused(folder)


def test_missing_parts(folder):
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer_config.json is missing" in refused(folder)
    shutil.rmtree(folder / "vae")
    assert f"{folder}/vae is missing" in refused(folder)
    (folder / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "names the pipeline 'StableDiffusionXLPipeline'"),
        ({"_class_name": ["pipeline", "Evil"]}, "names the pipeline ['pipeline', 'Evil']"),
        (
            {"unet": ["my_unet", "UNet2DConditionModel"]},
            "names 'UNet2DConditionModel' of 'my_unet' as its unet",
        ),
        ({"unet": ["diffusers", "FluxTransformer"]}, "Trueline loads UNet2DConditionModel"),
        ({"scheduler": ["diffusers", "UniPCMultistepScheduler"]}, "names 'UniPCMultistepScheduler'"),
        (
            {"text_encoder_2": ["transformers", "CLIPTextModel"]},
            "as its text_encoder_2; Trueline loads no such part",
        ),
        ({"vae": [None, None]}, "lacks"),
        ({"trueline": 3}, '"trueline" must be a JSON object'),
    ],
)
def test_unknown_classes_are_refused_by_name(folder, changes, sentence):
    edit_json(folder / "model_index.json", **changes)
    assert sentence in refused(folder)


def test_code_in_a_checkpoint_is_refused(folder):
    edit_json(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    assert "asks to run code of its own" in refused(folder)


def test_parts_that_do_not_fit(folder, plain_folder):
    edit_json(folder / "unet" / "config.json", attention_type="default")
    assert not Backbone.from_pretrained(folder).grounded, "fewer layers than weights is a plain U-Net"
    edit_json(plain_folder.parent / "checkpoint" / "unet" / "config.json")
    shutil.copytree(plain_folder / "unet", folder / "unet", dirs_exist_ok=True)
    edit_json(folder / "unet" / "config.json", attention_type="gated")
    assert "fuser" in refused(folder) or "position_net" in refused(folder), "no random grounding layers"


# LoRA


def make_lora(backbone, path, alpha):
    """A LoRA made by peft, saved with diffusers' names; returns what the U-Net predicts with it."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_q", "to_v"], init_lora_weights=False)
    backbone.unet.add_adapter(config)
    expected = prediction(backbone)
    if alpha == config.r:  # as kohya's and older trainers do: names only
        state = {f"unet.{key}": value for key, value in get_peft_model_state_dict(backbone.unet).items()}
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        backbone.unet.save_lora_adapter(path.parent, weight_name=path.name)
    backbone.unet.unload_lora()
    return expected


@pytest.mark.parametrize("alpha", [2, 7])
def test_lora_round_trip(tokenizer, tmp_path, alpha):
    backbone = tiny_backbone(tokenizer, gated=True)
    before, path = prediction(backbone), tmp_path / "lora.safetensors"
    expected = make_lora(backbone, path, alpha)
    assert (expected - before).abs().max() > 1e-3 and torch.equal(prediction(backbone), before)
    backbone.load_lora(path)
    torch.testing.assert_close(prediction(backbone), expected)
    assert backbone.adapters == {"default": 1.0}
    with pytest.raises(ValueError, match="a LoRA is loaded"):
        backbone.save_pretrained(tmp_path / "out")
    backbone.unload_lora()
    assert torch.equal(prediction(backbone), before) and not backbone.adapters


def test_lora_weights_add_up(tokenizer, tmp_path):
    backbone = tiny_backbone(tokenizer, gated=False)
    expected = make_lora(backbone, tmp_path / "lora.safetensors", 2)
    for name in ("one", "two"):
        backbone.load_lora(tmp_path, adapter_name=name, weight=0.5)
    torch.testing.assert_close(prediction(backbone), expected)
    assert backbone.adapters == {"one": 0.5, "two": 0.5}


def test_bad_loras(gated, tmp_path):
    (tmp_path / "lora.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is not a \.safetensors file"):
        gated.load_lora(tmp_path / "lora.bin")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        gated.load_lora(tmp_path / "junk.safetensors")
    alien = tmp_path / "alien.safetensors"
    safetensors.torch.save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 3)}, alien)
    with pytest.raises(CheckpointError, match="does not fit this U-Net"):
        gated.load_lora(alien)
    safetensors.torch.save_file({"text_encoder.x.lora_A.weight": torch.zeros(2, 3)}, alien)
    with pytest.raises(CheckpointError, match="changes the text encoder"):
        gated.load_lora(alien)
    assert not gated.adapters and not getattr(gated.unet, "peft_config", None)


# Text


def test_encode_pads_and_says_what_it_cuts(gated):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gated.encode(["a cat", ""]).states.shape == (2, 24, 32)
        assert gated.encode_phrases(["a red apple"]).shape == (1, 32)
    long = " ".join(["apple"] * 22 + ["the", "green", "chair"] + ["car"] * 200)
    with pytest.warns(UserWarning, match=r'prompt cut to 24 tokens; not read: "the green chair car car'):
        states = gated.encode([long]).states
    kept = gated.encode([" ".join(["apple"] * 22)]).states
    torch.testing.assert_close(states, kept, msg="the end token is kept")


def test_phrase_feature_is_the_state_of_the_end_token(gated):
    phrase = "a red apple"
    end = len(gated.tokenizer(phrase).input_ids) - 1
    feature = gated.encode_phrases([phrase, "cat"])
    torch.testing.assert_close(feature[0], gated.encode([phrase]).states[0, end])
    long = " ".join(["apple"] * 40)
    torch.testing.assert_close(gated.encode_phrases([long])[0], gated.encode(["apple " * 22]).states[0, 23])


# Pictures


def test_sizes(gated):
    assert gated.latent_size() == (4, 8, 8) and gated.latent_size(128, 64) == (4, 8, 16)
    assert gated.picture_size(None, 128) == (64, 128)
    with pytest.raises(ValueError, match="width: must be a multiple of 8"):
        gated.latent_size(100, 64)


@torch.no_grad()
def test_decode_range_and_tiling(gated):
    z = torch.randn(2, 4, 8, 8)
    pictures = gated.decode(z)
    assert pictures.shape == (2, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
    gated.enable_vae_tiling()
    assert gated.vae.use_tiling
    gated.enable_vae_tiling(False)
    assert torch.equal(gated.decode(z), pictures)


@torch.no_grad()
def test_non_finite_pixels_are_decoded_again_in_float32(tokenizer):
    """A real overflow: weights that float16 cannot multiply and float32 can."""
    backbone = tiny_backbone(tokenizer, gated=False)
    backbone.vae.to(torch.float16)
    backbone.vae.post_quant_conv.weight.mul_(2000)
    z = torch.zeros(2, 4, 8, 8)
    z[1] = 100.0
    backbone.vae.post_quant_conv.bias.zero_()
    weights = {name: weight.clone() for name, weight in backbone.vae.state_dict().items()}
    heard = []
    pictures = backbone.decode(z, report=lambda row, sentence: heard.append((row, sentence)))
    assert pictures.isfinite().all() and [row for row, _ in heard] == [1]
    assert "non-finite pixels in torch.float16; decoded in float32" in heard[0][1]
    assert backbone.vae.dtype == torch.float16, "not left in float32"
    assert all(torch.equal(weights[name], weight) for name, weight in backbone.vae.state_dict().items())
    with pytest.warns(UserWarning, match="picture 1: the VAE gave non-finite"):
        backbone.decode(z)


@torch.no_grad()
def test_pixels_that_stay_non_finite_are_an_error(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=False)
    z = torch.full((1, 4, 8, 8), torch.nan)
    with pytest.raises(DecodeError, match="non-finite pixels in float32"):
        backbone.decode(z)
    backbone.vae.to(torch.float16)
    with pytest.raises(DecodeError, match="in float32 too"):
        backbone.decode(z)
    assert backbone.vae.dtype == torch.float16


@torch.no_grad()
def test_cpu_offload_gives_the_same_picture(tokenizer):
    backbone = tiny_backbone(tokenizer, gated=True)
    before = prediction(backbone)
    backbone.enable_model_cpu_offload("cpu")
    assert torch.equal(prediction(backbone), before) and backbone.device == torch.device("cpu")
    with pytest.raises(ValueError, match="device: the nets are under enable_model_cpu_offload"):
        backbone.to("cpu")


def test_the_vaes_round_trip_scales_nothing_between_its_halves(plain):
    """In half precision a scale and its inverse would round; published reference rows are without."""
    half = copy.deepcopy(plain).to(dtype=torch.bfloat16)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = half.vae.encode(pictures.bfloat16()).latent_dist.mean
        assert torch.equal(half.reconstruct(pictures), half.vae.decode(mean).sample)
        assert not torch.equal(
            half.decode(half.encode_images(pictures)) * 2 - 1, half.reconstruct(pictures).float()
        )
