"""Kinds of training: one module for each recipe of `trueline train`. Nothing here imports torch."""

#: Recipe -> what it trains. The module of its name here has ``Settings`` and ``prepare``. Help imports none of them.
RECIPES = {
    "hcma": "alignment of noisy latents with caption and boxes (HCMA): the alignment net, then the U-Net after it",
    "goal": "grounded joint layout alignment (GOAL): the U-Net, by what CLIP sees in boxes and by attention in them",
    "gligen": "grounding layers (GLIGEN): boxes for a plain Stable Diffusion checkpoint, whose own weights stay",
    "realign": "reward feedback (RealignDiff's coarse stage): the U-Net, by what a captioner says of its pictures",
}
