"""The world's CLIP: a vision tower tuned to the locked text tower, on whole pictures and on crops of regions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from trueline.models.devices import autocast
from trueline.models.shipped import shipped_folder
from trueline.training.objective import Losses
from trueline.world.captions import caption
from trueline.world.fitting import Fitting, StageSettings, fit
from trueline.world.language import SCENE_CLASSES, scene_loss, targets, tokenize
from trueline.world.scenes import SIZE, Scene, Thing, make_scene, masks, render
from trueline.world.vae import to_tensor
from trueline.world.vocabulary import COLOURS, OBJECTS, TEXTURES

PATCH = 16
PROJECTION = 128  #: width of the common space
GRID = SIZE // PATCH
CLASSES = (len(OBJECTS) + 1, len(COLOURS) + 1, len(TEXTURES) + 1)  #: the last of each is "nothing here"


def make_clip(tower: CLIPTextModel) -> CLIPModel:
    """A CLIP with ``tower`` as its text half and an untrained vision half (about 3 M parameters)."""
    shape = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    vision = CLIPVisionConfig(image_size=SIZE, patch_size=PATCH, projection_dim=PROJECTION, **shape)
    config = CLIPConfig(
        text_config=tower.config.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION
    )
    clip = CLIPModel(config)
    own = {k.removeprefix("text_model."): v for k, v in tower.state_dict().items()}
    clip.text_model.load_state_dict(own)
    return clip


def load_clip() -> tuple[CLIPModel, CLIPTokenizer]:
    """The world's CLIP that ships, for judging, and its tokenizer."""
    weights = shipped_folder("clip")
    return CLIPModel.from_pretrained(weights).float().eval(), CLIPTokenizer.from_pretrained(weights)


def crop_box(picture: np.ndarray, box: Sequence[float], margin: float = 0.08) -> np.ndarray:
    """The part of a uint8 picture inside ``box`` (xyxy in 0..1, widened by ``margin``), scaled to SIZE x SIZE."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    wider, taller = margin * (x1 - x0), margin * (y1 - y0)
    area = ((x0 - wider) * width, (y0 - taller) * height, (x1 + wider) * width, (y1 + taller) * height)
    area = (max(0, area[0]), max(0, area[1]), min(width, area[2]), min(height, area[3]))
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=area))


def token_labels(scene: Scene) -> np.ndarray:
    """What covers most of each patch: (GRID * GRID, 3) classes of name, colour, texture; last class = nothing."""
    labels = np.tile(np.array([c - 1 for c in CLASSES]), (GRID * GRID, 1))
    covered = masks(scene).reshape(len(scene.things), GRID, PATCH, GRID, PATCH)
    share = covered.mean((2, 4)).reshape(-1, GRID * GRID)
    best = share.argmax(0)
    kinds = np.array([_classes(t) for t in scene.things])
    labels[share.max(0) > 0.15] = kinds[best[share.max(0) > 0.15]]
    return labels


def _classes(thing: Thing) -> tuple[int, int, int]:
    return OBJECTS.index(thing.name), list(COLOURS).index(thing.colour), TEXTURES.index(thing.texture)


class ClipWithHeads(nn.Module):
    """CLIP with heads that are thrown away after training: what is in a patch, and what is in a picture.

    Supervision of every patch (as in token labelling, Jiang et al. 2021) makes a small vision transformer
    learn in minutes what the contrastive loss alone needs hours for.
    """

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip
        width = clip.config.vision_config.hidden_size
        self.patch = nn.Linear(width, sum(CLASSES))
        self.crop = nn.Linear(width, sum(CLASSES))
        self.scene = nn.Linear(width, sum(SCENE_CLASSES))


def contrastive(image: Tensor, text: Tensor, scale: Tensor, texts: list[str]) -> Tensor:
    """Symmetric cross-entropy of CLIP; pairs of equal texts all count as right."""
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = scale.exp().clamp(max=100) * image @ text.T
    same = torch.tensor([[a == b for b in texts] for a in texts], device=logits.device).float()
    wanted = same / same.sum(1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted))


def classes_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the three attributes; logits (..., sum of classes), labels (..., 3)."""
    parts = logits.flatten(0, -2).float().split(CLASSES, dim=-1)
    return torch.stack([F.cross_entropy(p, labels.flatten(0, -2)[:, i]) for i, p in enumerate(parts)]).sum()


def patch_loss(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """How wrong a head (batch, patches, sum of classes) is about what covers the patches of ``scenes``."""
    labels = torch.from_numpy(np.stack([token_labels(scene) for scene in scenes]))
    return classes_loss(logits, labels.to(logits.device))


def _examples(step: int, batch: int) -> tuple[list[Scene], np.ndarray, list[Thing], np.ndarray]:
    """Scenes, their pictures, one thing of each, and its crop with a jittered box."""
    rng = np.random.default_rng([11, step])
    scenes = [make_scene("train", int(rng.integers(1_000_000))) for _ in range(batch)]
    pictures = np.stack([render(s) for s in scenes])
    things = [s.things[int(rng.integers(len(s.things)))] for s in scenes]
    crops = []
    for picture, thing in zip(pictures, things, strict=True):
        jittered = np.clip(np.array(thing.box) + rng.uniform(-0.03, 0.03, 4), 0, 1)
        crops.append(crop_box(picture, jittered.tolist(), rng.uniform(0, 0.15)))
    return scenes, pictures, things, np.stack(crops)


def train_clip(
    folder: Path,
    tower: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    settings: StageSettings,
    device: torch.device,
) -> Fitting:
    """Train the vision tower and both projections; the text tower stays as it is (locked, as in LiT)."""
    torch.manual_seed(6)
    net = ClipWithHeads(make_clip(tower)).to(device)
    net.clip.text_model.requires_grad_(False)

    def loss(step: int, generator: torch.Generator) -> Losses:
        scenes, pictures, things, crops = _examples(step, settings.batch // 2)
        said = [caption(s, step % 6) for s in scenes]
        texts = [c.text for c in said] + [t.phrase for t in things]
        pixels = to_tensor(np.concatenate([pictures, crops])).to(device)
        ids = tokenize(tokenizer, texts).input_ids
        half = len(scenes)
        with autocast(device):
            with torch.no_grad():
                read = net.clip.text_model(ids.to(device)).pooler_output
            states = net.clip.vision_model(pixels)
            image, text = net.clip.visual_projection(states.pooler_output), net.clip.text_projection(read)
            patches = net.patch(states.last_hidden_state[:half, 1:])
            crop, scene = net.crop(states.pooler_output[half:]), net.scene(states.pooler_output[:half])
        scale = net.clip.logit_scale
        whole = contrastive(image[:half], text[:half], scale, texts[:half])
        region = contrastive(image[half:], text[half:], scale, texts[half:])
        tokens = patch_loss(patches, scenes)
        kinds = classes_loss(crop, torch.tensor([_classes(t) for t in things], device=device))
        content = scene_loss(scene, targets(said, [[] for _ in said]))  # asked of the text tower, too
        total = whole + region + tokens + 0.5 * kinds + 0.1 * content
        parts = {"whole": whole, "region": region, "tokens": tokens, "kinds": kinds, "content": content}
        return {"total": total} | parts

    return fit(folder, net, settings, loss, seed=6)


@torch.no_grad()
def embed_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(texts, PROJECTION), not of unit length."""
    ids = tokenize(tokenizer, texts).input_ids
    return clip.text_projection(clip.text_model(ids).pooler_output)


@torch.no_grad()
def embed_pictures(clip: CLIPModel, pictures: np.ndarray) -> Tensor:
    """(pictures, PROJECTION) of uint8 (pictures, SIZE, SIZE, 3), not of unit length."""
    return clip.visual_projection(clip.vision_model(to_tensor(pictures)).pooler_output)


def retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: np.ndarray, texts: list[str], candidates: list[str]
) -> np.ndarray:
    """Whether the text of each picture (uint8, SIZE x SIZE) is the nearest of ``candidates``: bool (pictures,)."""
    text, image = embed_texts(clip, tokenizer, candidates), embed_pictures(clip, pictures)
    nearest = (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(1)
    return np.array([candidates[int(n)] == text for n, text in zip(nearest, texts, strict=True)])


def scene_retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, scenes: Sequence[Scene], others: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``retrieval`` of each scene's caption, and of its first thing's phrase by the picture's part in the box.

    Among the captions of all the scenes; the phrases among theirs, or among ``others``.
    """
    pictures, captions = np.stack([render(s) for s in scenes]), [caption(s).text for s in scenes]
    crops = np.stack([crop_box(p, s.things[0].box) for p, s in zip(pictures, scenes, strict=True)])
    phrases = [s.things[0].phrase for s in scenes]
    whole = retrieval(clip, tokenizer, pictures, captions, captions)
    return whole, retrieval(clip, tokenizer, crops, phrases, others or phrases)
