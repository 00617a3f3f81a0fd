"""What surrounds the training loop: settings, data, checkpoints, and one module per recipe of `trueline train`."""

#: Recipe -> what it trains. The module of its name here has ``Settings`` and ``prepare``. Help imports none of them.
RECIPES = {
    "hcma": "alignment of noisy latents with caption and boxes (HCMA): the alignment net, then the U-Net after it",
}
