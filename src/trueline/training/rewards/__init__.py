"""Rewards by name: one file and one line in this table each. Nothing here imports torch."""

#: Name -> "module:entry" in this package; the entry is a ``RewardKind``.
REWARDS = {
    "caption": "caption:CAPTION",
    "prompt_likelihood": "caption:PROMPT_LIKELIHOOD",
    "clip": "clip:CLIP",
    "blip-itm": "match:BLIP_ITM",
    "blip-itc": "match:BLIP_ITC",
    "blip2-itm": "match:BLIP2_ITM",
    "blip2-itc": "match:BLIP2_ITC",
}
