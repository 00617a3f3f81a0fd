"""The attention seam: name the attention layers of a U-Net, open some of them for a while, put them back.

A *tapped* layer computes ordinary attention and offers three verbs: **edit** (logits in, logits out, before the
softmax), **record** (the probabilities after it) and **values** (another context for the values than for the keys).
Layers that are not tapped keep their fast fused processor.

    with tapped(unet, lambda site: site.kind == "cross", edits=[boost]) as maps:
        unet(...)
    maps[site]                                   # (rows, heads, queries, keys)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import GatedSelfAttentionDense
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Kind = Literal["self", "cross", "gated"]
Place = Literal["down", "mid", "up"]

_KINDS: dict[str, Kind] = {
    ".attn1.processor": "self",
    ".attn2.processor": "cross",
    ".fuser.attn.processor": "gated",
}
_PLACES: dict[str, Place] = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}
_PLAIN = frozenset({"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor"})


@dataclass(frozen=True)
class Site:
    """One attention layer of a U-Net.

    ``name`` is its module path. ``kind``: ``self`` (attn1), ``cross`` (attn2: keys are text tokens) or
    ``gated`` (the attention inside a GLIGEN fuser: queries and keys are the picture's places followed by the
    grounding tokens). ``scale``: the map's side is the latent's divided by it.
    """

    name: str
    kind: Kind
    place: Place
    scale: int


Edit = Callable[[Site, Float[Tensor, "rows heads queries keys"]], Float[Tensor, "rows heads queries keys"]]
Values = Callable[[Site, Float[Tensor, "rows keys context"]], Float[Tensor, "rows keys context"]]
Maps = dict[Site, Float[Tensor, "rows heads queries keys"]]


def sites(unet: UNet2DConditionModel) -> list[Site]:
    """All attention layers in the U-Net's transformer blocks, in the order in which it registers them."""
    levels = len(unet.config.block_out_channels)
    found = (_site(key, levels) for key in unet.attn_processors)
    return [site for site in found if site is not None]


def _site(key: str, levels: int) -> Site | None:
    """The site behind a key of ``unet.attn_processors``; None for attention outside a transformer block."""
    for suffix, kind in _KINDS.items():
        if key.endswith(suffix):
            block, index, *_ = key.split(".")
            place = _PLACES[block]
            depth = (
                {"down": int(index), "up": levels - 1 - int(index)} if place != "mid" else {"mid": levels - 1}
            )
            return Site(key.removesuffix(".processor"), kind, place, 2 ** depth[place])
    return None


class _Enough(Exception):
    """Every map that was asked for is there: the rest of the U-Net need not run."""


class _Tap:
    """An attention processor that computes softmax(q k / sqrt(d)) v in the open."""

    def __init__(
        self,
        site: Site,
        edits: Sequence[Edit],
        values: Values | None,
        maps: Maps | None,
        skip: int,
        last: int | None,
    ):
        self.site, self.edits, self.values = site, edits, values
        self.maps, self.skip, self.last = maps, skip, last

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "rows queries channels"],
        encoder_hidden_states: Float[Tensor, "rows keys context"] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "rows queries channels"]:
        _refuse_unusual(self.site, attn, attention_mask)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, self._valued(context)),
            )
        )
        logits = self._edited(attn.scale * query @ key.transpose(-1, -2))
        # float32: in half precision a sharp softmax loses the small probabilities that guidance losses look
        # at.
        probs = logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        if self.maps is not None:
            self.maps[self.site] = probs[self.skip :]
            if self.last is not None and len(self.maps) == self.last:
                raise _Enough
        dense, dropout = attn.to_out
        return dropout(dense((probs @ value).transpose(1, 2).flatten(2)))

    def unrecorded(self) -> "_Tap":
        """This tap without its record."""
        return _Tap(self.site, self.edits, self.values, None, self.skip, None)

    def _edited(self, logits: Float[Tensor, "rows heads q k"]) -> Float[Tensor, "rows heads q k"]:
        if not self.edits:
            return logits
        seen = logits[self.skip :]
        for edit in self.edits:
            seen = edit(self.site, seen)
        return torch.cat([logits[: self.skip], seen])

    def _valued(self, context: Float[Tensor, "rows keys context"]) -> Float[Tensor, "rows keys context"]:
        if self.values is None:
            return context
        return torch.cat([context[: self.skip], self.values(self.site, context[self.skip :]).to(context)])


def _refuse_unusual(site: Site, attn: Attention, mask: Tensor | None) -> None:
    """Stable Diffusion's blocks use none of these branches; another net must fail, not come out wrong."""
    unusual = {
        "an attention mask": mask is not None,
        "a group norm": attn.group_norm is not None,
        "a spatial norm": attn.spatial_norm is not None,
        "a norm of its context": bool(attn.norm_cross),
        "a norm of queries or keys": attn.norm_q is not None or attn.norm_k is not None,
        "a residual connection": attn.residual_connection,
        "a rescaled output": attn.rescale_output_factor != 1,
    }
    if found := [what for what, present in unusual.items() if present]:
        raise NotImplementedError(f"{site.name} has {' and '.join(found)}, which a tap cannot compute")


@contextmanager
def tapped(
    unet: UNet2DConditionModel,
    where: Callable[[Site], bool],
    edits: Sequence[Edit] = (),
    *,
    values: Values | None = None,
    record: Callable[[Site], bool] = lambda _site: True,
    skip: int = 0,
    stop: bool = False,
) -> Iterator[Maps]:
    """Open the layers that ``where`` chooses; on leaving, every layer has its former processor again.

    Args:
        edits: functions (site, logits) -> logits, applied in order before the softmax.
        values: function (site, context) -> the context that the values are made of; the keys keep theirs.
        record: which of the chosen layers leave their probabilities in the yielded dict (default: all). They
            carry gradients when the pass does; a later pass overwrites them.
        skip: number of leading batch rows (the unconditional half) that edits and values do not see and maps do
            not hold.
        stop: run one pass only, within ``until_enough``, and no further than to the last recorded map.

    Raises:
        ValueError: ``where`` chooses no layer (the caller's method would have no effect).
        RuntimeError: a chosen layer has a processor that a tap would silently replace (IP-Adapter, another
            tap).

    Never ``yield`` to a consumer inside this context: one who walks away would leave the U-Net open.
    """
    chosen = {f"{site.name}.processor": site for site in sites(unet) if where(site)}
    if not chosen:
        raise ValueError(f"no attention layer matches; this U-Net has {_inventory(unet)}")
    before = dict(unet.attn_processors)
    for key in chosen:
        if type(before[key]).__name__ not in _PLAIN:
            raise RuntimeError(f"{key} is a {type(before[key]).__name__}; a tap would silently switch it off")
    maps: Maps = {}
    last = sum(map(record, chosen.values())) if stop else None
    taps = {
        key: _Tap(site, tuple(edits), values, maps if record(site) else None, skip, last)
        for key, site in chosen.items()
    }
    try:
        unet.set_attn_processor(before | taps)
        yield maps
    finally:
        unet.set_attn_processor(dict(before))  # a copy: diffusers pops from the dict it is given


@contextmanager
def until_enough() -> Iterator[None]:
    """Around a pass in ``tapped(stop=True)``: leaving it early is what was wanted."""
    with suppress(_Enough):
        yield


@contextmanager
def outputs_of(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the named modules give out in the passes within, the last one's, by name.

    Raises:
        ValueError: the net has no such module.
    """
    modules, outputs = dict(net.named_modules()), dict[str, Any]()
    if unknown := [name for name in names if not name or name not in modules]:
        raise ValueError(f"names: the net has no module {unknown[0]!r}")

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.update({name: output})

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def recomputed(unet: UNet2DConditionModel) -> Iterator[None]:
    """Passes that begin within keep the inputs of the net's blocks only; their gradient runs the blocks again.

    Less memory for more time (activation checkpointing, Chen et al. 2016, arXiv 1604.06174), the same gradients.
    diffusers' own ``enable_gradient_checkpointing`` runs a block again as the net is *then*, when taps and grounding
    are off; here it runs as it was, also where the pass ends early. The gradient may be taken after leaving.
    """
    blocks = [module for module in unet.modules() if hasattr(module, "gradient_checkpointing")]
    before = [{name: vars(block)[name] for name in _SWITCHES if name in vars(block)} for block in blocks]
    try:
        unet.enable_gradient_checkpointing(_kept_small)
        yield
    finally:
        for block, former in zip(blocks, before, strict=True):
            for name in _SWITCHES:
                vars(block).pop(name, None)
            vars(block).update(former)


# diffusers gives a block the second when it is first used.
_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")
_Opened = dict[nn.Module, tuple[Any, Any, dict[int, Any]]]


def _kept_small(block: nn.Module, *inputs: Any) -> Any:
    """The block's output; its activations are made again when the gradient asks for them."""
    opened = _opened(block)
    ran = False

    def run(*inputs: Any) -> Any:
        nonlocal ran
        if ran:
            with _reopened(opened):
                return block(*inputs)
        ran = True
        try:
            return block(*inputs)
        except _Enough as enough:  # ``checkpoint`` must see the block end, or it could not run it again
            return enough.with_traceback(None)

    output = checkpoint(run, *inputs, use_reentrant=False)
    if isinstance(output, _Enough):
        raise output
    return output


def _opened(block: nn.Module) -> _Opened:
    """What is changed in a net for a while: its parts' attention processors, fusers' switches and forward hooks."""
    return {
        part: (
            part.processor if isinstance(part, Attention) else None,
            part.enabled if isinstance(part, GatedSelfAttentionDense) else None,
            dict(part._forward_hooks),
        )
        for part in block.modules()
    }


def _reopen(opened: _Opened) -> None:
    for part, (processor, enabled, hooks) in opened.items():
        if processor is not None:
            part.processor = processor
        if enabled is not None:
            part.enabled = enabled
        part._forward_hooks.clear()
        part._forward_hooks.update(hooks)


@contextmanager
def _reopened(opened: _Opened) -> Iterator[None]:
    """As opened as then, except for recording: the maps are there, and would keep the second run in memory."""
    silent = {
        part: (processor.unrecorded() if isinstance(processor, _Tap) else processor, enabled, hooks)
        for part, (processor, enabled, hooks) in opened.items()
    }
    now = _opened(next(iter(opened)))  # the block itself comes first
    try:
        _reopen(silent)
        yield
    finally:
        _reopen(now)


def _inventory(unet: UNet2DConditionModel) -> str:
    kinds = sorted({f"{site.place}/{site.kind}" for site in sites(unet)})
    return ", ".join(kinds) if kinds else "no attention layers in transformer blocks"
