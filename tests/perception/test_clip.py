"""CLIP, PickScore and NegCLIP: cosines against the raw model, the end token of long texts, open_clip's weights."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel

from trueline.perception import Embedder, FeatureExtractor, Matcher, load
from trueline.perception.clip import Clip, PickScore
from trueline.perception.negclip import WEIGHTS, NegClip, from_open_clip

TEXTS = ["a red apple", "a blue car and a green chair", "the cat"]


@pytest.fixture(scope="module")
def clip(clip_folder):
    return Clip(clip_folder)


@pytest.fixture(scope="module")
def raw(clip, clip_folder, pictures):
    """What transformers' own forward pass says: logits and unit vectors."""
    words = clip.tokenizer(TEXTS, padding=True, return_tensors="pt")
    pixels = clip.pictures(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        return CLIPModel.from_pretrained(clip_folder).eval()(**words, pixel_values=pixels)


def test_the_score_is_the_cosine_of_the_raw_vectors(clip, raw, pictures):
    for protocol in (Embedder, Matcher, FeatureExtractor):
        assert isinstance(clip, protocol)
    image, text = raw.image_embeds, raw.text_embeds
    cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(image, text, strict=True)]
    assert clip.match(pictures, TEXTS).tolist() == pytest.approx(cosines, abs=1e-5)
    assert max(cosines) - min(cosines) > 0.05  # the tiny net does tell pairs apart
    torch.testing.assert_close(clip.images(pictures), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.features(pictures).norm(dim=1), torch.ones(3))


def test_batches_and_nothing_at_all(clip, pictures):
    many = [pictures[i % 3] for i in range(35)]  # more than two batches
    torch.testing.assert_close(clip.images(many)[33:], clip.images(pictures[:2]), atol=1e-5, rtol=0)
    assert clip.images([]).shape == clip.texts([]).shape == (0, 16)
    assert clip.match([], []).shape == (0,)
    with pytest.raises(ValueError, match="for each picture"):
        clip.match(pictures, TEXTS[:2])


def test_a_text_of_200_tokens_keeps_its_end(clip, pictures):
    long = " ".join(["red apple"] * 100)
    ids = clip.tokens([long]).input_ids[0]
    assert len(ids) == clip.length == 24
    assert ids[-1] == clip.tokenizer.eos_token_id
    # What torchmetrics does: cut the ids, end token and all.
    cut = clip.tokenizer([long], return_tensors="pt").input_ids[:, : clip.length]
    assert cut[0, -1] != clip.tokenizer.eos_token_id
    with torch.no_grad():
        wrong = F.normalize(clip.model.get_text_features(input_ids=cut).pooler_output, dim=-1)
    right = clip.texts([long])
    assert float(right @ wrong.T) < 0.99
    # The end is what is read: only the first 22 words count.
    torch.testing.assert_close(right, clip.texts([" ".join(["red apple"] * 11)]), atol=1e-5, rtol=0)


def test_modes_and_sizes_of_pictures(clip):
    grey = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    assert clip.images([grey, grey.convert("RGBA"), grey.resize((80, 50))]).shape == (3, 16)


def test_the_resize_is_pils_bicubic(clip, pictures):
    square = pictures[2]
    seen = clip.pictures([square], return_tensors="pt").pixel_values[0]
    small = np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC)) / 255
    mean, std = np.array(clip.pictures.image_mean), np.array(clip.pictures.image_std)
    np.testing.assert_allclose(seen.permute(1, 2, 0), (small - mean) / std, atol=1e-5)
    assert "PIL bicubic to 32" in clip.protocol and "24 tokens" in clip.protocol


def test_bfloat16_stays_near(clip_folder, clip, pictures):
    half = load(f"clip={clip_folder}", dtype="bfloat16")
    assert half.model.dtype is torch.bfloat16
    assert half.match(pictures, TEXTS).dtype is torch.float32
    torch.testing.assert_close(half.match(pictures, TEXTS), clip.match(pictures, TEXTS), atol=0.03, rtol=0)


def test_pickscore_is_the_diagonal_of_clips_logits(clip_folder, raw, pictures):
    scores = PickScore(clip_folder).match(pictures, TEXTS)
    torch.testing.assert_close(scores, raw.logits_per_image.diagonal(), atol=1e-4, rtol=0)
    scale = float(torch.tensor(2.6592).exp())
    cosines = (raw.image_embeds * raw.text_embeds).sum(1)
    torch.testing.assert_close(scores, scale * cosines, atol=1e-3, rtol=0)


def test_pickscore_takes_the_words_of_another_checkpoint(clip_folder, clip, pictures, tmp_path):
    clip.model.save_pretrained(tmp_path / "weights")
    with pytest.raises(ValueError, match="cannot be read"):
        PickScore(tmp_path / "weights")
    scored = PickScore(tmp_path / "weights", processor=clip_folder).match(pictures, TEXTS)
    torch.testing.assert_close(scored, PickScore(clip_folder).match(pictures, TEXTS))


# ---------------------------------------------------------------------------------------------- NegCLIP


class OpenClip(torch.nn.Module):
    """The forward pass of open_clip's ViT, written out on its own names of tensors."""

    def __init__(self, state: dict[str, torch.Tensor], act):
        super().__init__()
        self.state, self.act = state, act

    def block(self, x, name, mask):
        s, width = self.state, x.shape[-1]
        norm = lambda v, n: F.layer_norm(v, (width,), s[f"{name}.{n}.weight"], s[f"{name}.{n}.bias"])  # noqa: E731
        y = norm(x, "ln_1")
        q, k, v = F.linear(y, s[f"{name}.attn.in_proj_weight"], s[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (width // 64, 64)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + F.linear(y, s[f"{name}.attn.out_proj.weight"], s[f"{name}.attn.out_proj.bias"])
        y = F.linear(norm(x, "ln_2"), s[f"{name}.mlp.c_fc.weight"], s[f"{name}.mlp.c_fc.bias"])
        return x + F.linear(self.act(y), s[f"{name}.mlp.c_proj.weight"], s[f"{name}.mlp.c_proj.bias"])

    def image(self, pixels):
        s = self.state
        x = F.conv2d(pixels, s["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
        x = (
            torch.cat([s["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
            + s["visual.positional_embedding"]
        )
        x = F.layer_norm(x, x.shape[-1:], s["visual.ln_pre.weight"], s["visual.ln_pre.bias"])
        for i in range(2):
            x = self.block(x, f"visual.transformer.resblocks.{i}", None)
        x = F.layer_norm(x[:, 0], x.shape[-1:], s["visual.ln_post.weight"], s["visual.ln_post.bias"])
        return x @ s["visual.proj"]

    def text(self, ids):
        s = self.state
        x = s["token_embedding.weight"][ids] + s["positional_embedding"][: ids.shape[1]]
        mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        for i in range(2):
            x = self.block(x, f"transformer.resblocks.{i}", mask)
        x = F.layer_norm(x, x.shape[-1:], s["ln_final.weight"], s["ln_final.bias"])
        return x[torch.arange(len(x)), ids.argmax(1)] @ s["text_projection"]


def quick(x):
    return x * torch.sigmoid(1.702 * x)


@pytest.fixture(scope="module")
def open_clip_state(tokenizer):
    """Random weights under open_clip's names: two layers, 64 and 128 wide, 16 patches of 8 x 8."""
    generator = torch.Generator().manual_seed(5)
    random = lambda *shape: torch.randn(shape, generator=generator) * 0.2  # noqa: E731
    state = {
        "positional_embedding": random(24, 64),
        "text_projection": random(64, 16),
        "logit_scale": torch.tensor(2.0),
        "token_embedding.weight": random(len(tokenizer), 64) * 5,
        "visual.class_embedding": random(128),
        "visual.positional_embedding": random(17, 128),
        "visual.proj": random(128, 16),
        "visual.conv1.weight": random(128, 3, 8, 8),
    }
    norms = {"ln_final": 64, "visual.ln_pre": 128, "visual.ln_post": 128}
    for prefix, width in (("transformer", 64), ("visual.transformer", 128)):
        for i in range(2):
            name = f"{prefix}.resblocks.{i}"
            norms |= {f"{name}.ln_1": width, f"{name}.ln_2": width}
            state |= {
                f"{name}.attn.in_proj_weight": random(3 * width, width),
                f"{name}.attn.in_proj_bias": random(3 * width),
            }
            for part, out, into in (
                ("attn.out_proj", width, width),
                ("mlp.c_fc", 4 * width, width),
                ("mlp.c_proj", width, 4 * width),
            ):
                state |= {f"{name}.{part}.weight": random(out, into), f"{name}.{part}.bias": random(out)}
    for name, width in norms.items():
        state |= {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}
    return state


def test_negclip_reads_open_clips_tensors_with_quick_gelu(open_clip_state, tokenizer, pictures, tmp_path):
    save_file({k: v.contiguous() for k, v in open_clip_state.items()}, tmp_path / WEIGHTS)
    tokenizer.save_pretrained(tmp_path)
    negclip = load(f"negclip={tmp_path}")
    assert isinstance(negclip, NegClip) and negclip.name == "negclip"
    assert negclip.pictures.crop_size["height"] == 32

    pixels = negclip.pictures(pictures, return_tensors="pt").pixel_values
    ids = negclip.tokens(TEXTS).input_ids
    theirs = OpenClip(open_clip_state, quick)
    image, text = theirs.image(pixels), theirs.text(ids)
    torch.testing.assert_close(negclip.images(pictures), F.normalize(image, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(negclip.texts(TEXTS), F.normalize(text, dim=-1), atol=1e-5, rtol=0)
    wrong = OpenClip(open_clip_state, F.gelu)  # the trap
    assert float((F.normalize(wrong.text(ids), dim=-1) - negclip.texts(TEXTS)).abs().max()) > 1e-3
    assert float(negclip.model.logit_scale) == 2.0


def test_negclip_refuses_pickles_and_other_nets(open_clip_state, tmp_path):
    (tmp_path / "negclip.pth").write_bytes(b"not opened")
    with pytest.raises(ValueError, match="pickled"):
        NegClip(tmp_path)
    part = {k: v for k, v in open_clip_state.items() if k != "ln_final.bias"}
    with pytest.raises(ValueError, match="not those of an open_clip ViT"):
        from_open_clip(part)
    with pytest.raises(ValueError, match="not those of an open_clip ViT"):
        from_open_clip({"weight": torch.zeros(2, 2)})
    (tmp_path / WEIGHTS).write_bytes(b"{}")
    with pytest.raises(ValueError, match="safetensors"):
        NegClip(tmp_path)


# ---------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_must_be_whole_and_must_not_be_pickled(clip, clip_folder, tmp_path):
    state = clip.model.state_dict()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((clip_folder / name).read_bytes())
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="weights"):
        Clip(tmp_path)
    state.pop("visual_projection.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for visual_projection\.weight"):
        Clip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "auto_map": {"AutoTokenizer": ["x.Y", None]}
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError):
        Clip(tmp_path)
    assert not (tmp_path / "ran").exists()
