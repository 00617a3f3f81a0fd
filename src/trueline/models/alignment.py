"""HCMA's alignment: how well a noisy latent fits its caption, and the inside of each box its label.

Source: Wang et al., "HCMA: Hierarchical Cross-model Alignment for Grounded Text-to-Image Generation" (arXiv
2505.06512). No code of it can be had, and the text leaves much open. The formulas, as far as they can be made out
(numbered as in our reading of the paper):

    tokens    Z'' = MLP(proj(patches of z_t)),  [Z^G; Z^L] = ViT([CLS; Z''] + pos)                    (4), (5)
    heads     f^G = FC3(Z^G),  f^L_i = MLP(mean over cells of fuse(Z^L, box i))                       (6), (8)-(10)
    losses    L_G = 1 - cos(f^G, f^T(c)),  L_L = 1/M sum_i [1 - cos(f^L_i, f^T(y_i))]                     (7), (11)
    step      z^a = z_t - eta_t grad(lambda_1 L_G + lambda_2 L_L)                                         (12)

Here is the net, (4)-(6) and (8)-(10); ``models.alignment_loss`` has losses and step.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from trueline.errors import first_line
from trueline.models.backbone import Backbone
from trueline.models.checkpoint import CheckpointError

Fusion = Literal["concat", "add", "multiply"]
Pooling = Literal["box", "grid"]
Latents = Float[Tensor, "batch c h w"]
Times = Float[Tensor, " batch"] | Int[Tensor, " batch"]
Boxes = Float[Tensor, "batch regions 4"]  # xyxy in 0..1
Slots = Bool[Tensor, "batch regions"] | Float[Tensor, "batch regions"]  # which hold a region
CELLS = 16
"""Tokens on the shorter side of the grid: the paper's H/32 x W/32 for pictures of 512 pixels."""


class Aligned(NamedTuple):
    """f^G and f^L: what the picture and its boxes show, in the space of the text features; not of unit length."""

    globe: Float[Tensor, "batch d_t"]
    local: Float[Tensor, "batch regions d_t"]


# Boxes on the grid


def fourier_features(boxes: Boxes, frequencies: int = 8) -> Float[Tensor, "batch regions features"]:
    """sin and cos of each corner times 100^(k / frequencies), k = 0, 1, ...: GLIGEN's, 8 x 2 x 4 = 64 numbers a box.

    (GLIGEN's frequencies have no factor 2 pi; the highest of 8 is 56. Here all sines come first, corner by corner.)
    """
    steps = torch.arange(frequencies, device=boxes.device, dtype=boxes.dtype)
    angles = (boxes[..., None] * 100 ** (steps / frequencies)).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def coverage(boxes: Boxes, grid: tuple[int, int]) -> Float[Tensor, "batch regions height width"]:
    """Which share of each cell a box covers, 0..1. A box below one cell covers a little of at least one."""
    height, width = grid
    across = _overlap(boxes[..., 0] * width, boxes[..., 2] * width, width)
    down = _overlap(boxes[..., 1] * height, boxes[..., 3] * height, height)
    return down[..., :, None] * across[..., None, :]


def _overlap(
    low: Float[Tensor, "batch regions"], high: Float[Tensor, "batch regions"], cells: int
) -> Float[Tensor, "batch regions cells"]:
    start = torch.arange(cells, device=low.device, dtype=low.dtype)
    return (torch.minimum(start + 1, high[..., None]) - torch.maximum(start, low[..., None])).clamp(0, 1)


# The net


class _Block(nn.Module):
    """A transformer layer, normalised before attention and before its MLP."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = _mlp(width, hidden, width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        q, k, v = self.qkv(self.before(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)  # b heads tokens width/heads
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.between(tokens))


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers with GELU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class AlignmentNet(ModelMixin, ConfigMixin):
    """Noisy latents and boxes to features in the space of the text encoder's.

    Latents are at the scale of a U-Net's input: alpha x0 + sigma noise, unit variance. ``for_backbone`` configures
    one for a checkpoint; the sizes below are for Stable Diffusion 1.

    What the paper says: patches, linear projection, MLP, [CLS] and positions, ViT, a head of three layers, a local
    head on Fourier-encoded boxes, both heads as wide as the CLIP text features. The boxes' shape H/32 x W/32 x M
    gives the patch: 4 for latents of 64 x 64. All other sizes and operators are judged here, for it does not say:

    Settings:
        in_channels, sample_size: of the latents; sample_size in cells, one number or (height, width).
        text_width: of the text encoder's pooled output. ``text_features``: d_t, of the common space. Between them
            lies the buffer ``text_projection``, which is not trained (the identity unless one is given).
        patch: side of a patch, in cells of the latents.
        width, depth, heads: of the ViT (d_k = d_v = width).
        mlp: hidden width of its layers' MLPs; None = 4 width. ``token_mlp``, ``head_mlp``: of the tokeniser and of
            both heads; None = width.
        frequencies: of the Fourier features of boxes, as in GLIGEN.
        fusion: of a cell's token with its place, a linear map of the box's Fourier features and of the share of the
            cell that the box covers: "concat" (then a linear layer), "add" or "multiply". GELU follows: were it all
            linear, then pooling over the whole grid would say the same of every box.
        pooling: "box", the mean over the box's cells weighted by the shares that it covers, so that a box below one
            patch is the cell it lies in; "grid", the mean over all cells.
        timed: add an embedding of t to all tokens. The paper shows none (False is its letter), but says that t is an
            argument; a net that reads noisy latents has to know how noisy they are.
        timesteps: (first, past the last) of the scheduler's training steps that it is trained for, and guides in.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        sample_size: int | tuple[int, int] = 64,
        text_width: int = 768,
        text_features: int = 768,
        patch: int = 4,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp: int | None = None,
        token_mlp: int | None = None,
        head_mlp: int | None = None,
        frequencies: int = 8,
        fusion: Fusion = "concat",
        pooling: Pooling = "box",
        timed: bool = True,
        timesteps: tuple[int, int] = (0, 1000),
    ):
        super().__init__()
        for name, side in zip(("height", "width"), self.latent, strict=True):
            if patch < 1 or side % patch:
                raise ValueError(f"patch: must divide the latents' {name} of {side} (got {patch})")
        if heads < 1 or width % heads or width % 2:
            raise ValueError(f"width: must be even and a multiple of heads (got {width} and {heads} heads)")
        if fusion not in ("concat", "add", "multiply"):
            raise ValueError(f"fusion: must be concat, add or multiply (got {fusion!r})")
        if pooling not in ("box", "grid"):
            raise ValueError(f"pooling: must be box or grid (got {pooling!r})")
        if not 0 <= timesteps[0] < timesteps[1]:
            raise ValueError(f"timesteps: must be 0 <= first < past the last (got {tuple(timesteps)})")
        head = head_mlp or width
        self.project = nn.Linear(in_channels * patch**2, width)
        self.tokenise = _mlp(width, token_mlp or width, width)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + math.prod(self.grid), width))
        self.time = _mlp(width, width, width) if timed else None
        self.blocks = nn.ModuleList([_Block(width, heads, mlp or 4 * width) for _ in range(depth)])
        self.last = nn.LayerNorm(width)
        self.global_head = _mlp(width, head, head, text_features)
        self.place = nn.Linear(8 * frequencies + 1, width)
        self.join = nn.Linear(width, width, bias=False) if fusion == "concat" else None
        self.local_head = _mlp(width, head, text_features)
        self.register_buffer("text_projection", torch.eye(text_width, text_features))
        for parameter in (self.cls, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    @classmethod
    def for_backbone(
        cls,
        backbone: Backbone,
        text_projection: Float[Tensor, "text_width d_t"] | None = None,
        **settings: Any,
    ) -> AlignmentNet:
        """An untrained net for this checkpoint's latents and text encoder, with 16 tokens on the shorter side.

        ``text_projection``: a CLIP's whose text tower is the checkpoint's (``clip.text_projection.weight.T``; for
        Stable Diffusion 1 openai/clip-vit-large-patch14). None = the pooled output as it is, like GLIGEN's phrases.

        Raises:
            ValueError: a projection of another width, or settings that do not fit.
        """
        channels, *latent = backbone.latent_size()
        width = backbone.phrase_width
        if text_projection is not None and text_projection.shape[0] != width:
            raise ValueError(
                f"text_projection: must have {width} rows, as wide as the text encoder "
                f"(got {tuple(text_projection.shape)}); give clip.text_projection.weight.T"
            )
        sizes = {
            "in_channels": channels,
            "sample_size": tuple(latent),
            "text_width": width,
            "text_features": width if text_projection is None else text_projection.shape[1],
            "patch": max(1, min(latent) // CELLS),
        }
        net = cls(**(sizes | settings))
        if text_projection is not None:
            net.text_projection.copy_(text_projection.detach())
        return net

    @property
    def latent(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return _latent(self.config.sample_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in tokens."""
        height, width = self.latent
        return height // self.config.patch, width // self.config.patch

    def forward(self, z: Latents, t: Times, boxes: Boxes, present: Slots) -> Aligned:
        """``boxes``: xyxy in 0..1. The features of a slot that is not ``present`` are 0, whatever its box holds."""
        whole, cells = self.tokens(z, t)
        return Aligned(self.global_head(whole), self.local(cells, boxes, present))

    def tokens(
        self, z: Latents, t: Times
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch cells width"]]:
        """Z^G and Z^L, cells row by row."""
        patches = F.unfold(z, self.config.patch, stride=self.config.patch).transpose(1, 2)
        tokens = self.tokenise(self.project(patches))
        tokens = torch.cat([self.cls.expand(len(z), -1, -1), tokens], dim=1) + self.positions
        if self.time is not None:
            tokens = tokens + self.time(_sinusoids(t, self.config.width).to(z.dtype))[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.last(tokens)
        return tokens[:, 0], tokens[:, 1:]

    def local(
        self, cells: Float[Tensor, "batch cells width"], boxes: Boxes, present: Slots
    ) -> Float[Tensor, "batch regions d_t"]:
        """f^L: cells and boxes fused, pooled for each box, projected."""
        cover = coverage(boxes, self.grid).flatten(2).to(cells.dtype)
        where = fourier_features(boxes, self.config.frequencies).to(cells.dtype)
        # The linear map of [where; share], of which only the share differs from cell to cell.
        of_box, of_share = self.place.weight.split([where.shape[-1], 1], dim=1)
        place = F.linear(where, of_box, self.place.bias)[:, :, None] + cover[..., None] * of_share[:, 0]
        if self.join is not None:
            fused = self.join(cells)[:, None] + place
        elif self.config.fusion == "add":
            fused = cells[:, None] + place
        else:
            fused = cells[:, None] * place
        weights = cover if self.config.pooling == "box" else torch.ones_like(cover)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)  # an absent box may cover nothing
        pooled = torch.einsum("bmn,bmnd->bmd", weights, F.gelu(fused))
        return self.local_head(pooled) * present[..., None].to(pooled.dtype)

    def text_targets(self, backbone: Backbone, texts: Sequence[str]) -> Float[Tensor, "texts d_t"]:
        """f^T: the backbone's own pooled text features, projected; float32. Each distinct text is read once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        projection = self.text_projection.float()
        with torch.autocast(projection.device.type, enabled=False):
            features = backbone.encode_phrases(list(places)).to(projection) @ projection
        return features[[places[text] for text in texts]]


def _latent(sample_size: int | Sequence[int]) -> tuple[int, int]:
    return (sample_size, sample_size) if isinstance(sample_size, int) else (sample_size[0], sample_size[1])


def _sinusoids(t: Times, width: int) -> Float[Tensor, "batch width"]:
    """Of diffusion's usual frequencies, 1 down to 1/10000; in float32, or in float64 if t is."""
    times = t if t.dtype == torch.float64 else t.float()
    steps = torch.arange(width // 2, device=t.device, dtype=times.dtype)
    angles = times[:, None] * torch.exp(-math.log(10_000) * steps / (width // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


_UNREADABLE = (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


def load_net(folder: str | Path) -> AlignmentNet:
    """The net that ``save_pretrained`` wrote, in float32 on the CPU, for inference.

    Raises:
        CheckpointError: one sentence: not there, of another class, pickled, corrupt, incomplete, or weights and
            config that are not of one net.
    """
    net_config(folder)
    try:
        net, report = AlignmentNet.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )  # fmt: skip
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"the weights in {folder} lack {missing[0]} (and {len(missing) - 1} more) of its config"
        )
    if left := sorted(report["unexpected_keys"]):
        raise CheckpointError(
            f"the weights in {folder} hold {left[0]} (and {len(left) - 1} more), which its config has no place for; "
            "put back the config that they were saved with"
        )
    return net.eval().requires_grad_(False)


def net_config(folder: str | Path) -> dict[str, Any]:
    """The settings of the net in a folder, without its weights.

    Raises:
        CheckpointError: not there, of another class, or with settings that ``AlignmentNet`` does not know.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{folder} is no alignment net: it has no config.json; give the folder that `trueline train hcma` wrote"
        )
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        named = content.get("_class_name")
        if named != AlignmentNet.__name__:
            raise TypeError(f"its config is of class {named!r}, not {AlignmentNet.__name__}")
        known = inspect.signature(AlignmentNet.__init__).parameters
        # diffusers would leave it out with a warning at most: the net would be another than the one meant.
        if strange := [key for key in content if not key.startswith("_") and key not in known]:
            raise TypeError(f"its config has {strange[0]!r}, which {AlignmentNet.__name__} does not know")
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error
    usual = {name: parameter.default for name, parameter in known.items() if name != "self"}
    return usual | content


def _unreadable(folder: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"the alignment net in {folder} cannot be read: {first_line(error)}")


def misfit(config: Mapping[str, Any], backbone: Backbone, latent: tuple[int, int, int]) -> str | None:
    """Why a net of that config cannot align this checkpoint's latents, (channels, height, width); None: it can."""
    own = (config["in_channels"], *_latent(config["sample_size"]))
    if own != latent:
        return f"is for latents of {' x '.join(map(str, own))}, not {' x '.join(map(str, latent))}"
    width = backbone.phrase_width
    if config["text_width"] != width:
        return f"is for text features of width {config['text_width']}, not {width}"
    return None
