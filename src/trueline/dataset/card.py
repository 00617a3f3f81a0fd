"""The data card of a set: how it was made, what is in it, what was left out. Markdown, with the Hub's header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
WHY = {
    "missing": "a thing was not found",
    "count": "a thing was found too often or too seldom",
    "relation": "the stated side does not hold",
    "clip": "CLIP's score was too low",
    "broken": "the picture is missing or cannot be read",
}


def card(about: Mapping[str, Any]) -> str:
    """The text of the card; ``about`` is what ``set.json`` says."""
    size = next((name for most, name in SIZES if about["items"] < most), "n>1M")
    licence, made = about["licence"], f"`trueline dataset build` {about['trueline']}"
    return f"""---
license: {json.dumps(licence)}
task_categories: [text-to-image]
size_categories: [{json.dumps(size)}]
---

# {line(about["title"])}

{about["items"]} pictures with a prompt and {about["boxes"]} boxes, made by {made} (build {about["build"]}) after the
construction of GOAL2K.

- **Licence:** {line(licence)}
- **Read it:** `trueline train goal --data data.jsonl`. A line of `data.jsonl` is a layout: `prompt`, `regions` (each
  a `phrase` and its `box`, x0, y0, x1, y1 in 0..1 of the picture), `image`, `id`, and in `meta` its `category`, the
  detector's `scores`, CLIP's cosine (`clip`), at which `try` (from 0) it was drawn, and what a person was shown of it
  (`seen`, a hash of picture and boxes).

## What is in it

{_table(about)}

## How it was made

{_steps(about["settings"], about["review"])}

## What was left out

{_left_out(about["summary"])}

Boxes and agreement are as good as the detector; what it overlooks, and what it finds wrongly but as often as was
asked, stays in unless a person dropped it.
"""


def line(text: object) -> str:
    """On one line, with nothing that Markdown or HTML would read as its own."""
    shown = " ".join(str(text).split())
    return "".join(
        f"\\{c}" if c in "\\`*_[]|#" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in shown
    )


def code(name: str) -> str:
    """As code; of a path only its last part: where things lay is nobody's business."""
    shown = Path(name).name if Path(name).is_absolute() else name
    return f"`{' '.join(shown.replace('`', ' ').split())}`"


def _table(about: Mapping[str, Any]) -> str:
    asked, agreed = about["summary"]["asked"], about["summary"]["agreed"]
    rows = [
        f"| {name} | {asked[name]} | {agreed.get(name, 0)} | {about['categories'].get(name, 0)} |"
        for name in asked
    ]
    total = f"| all | {sum(asked.values())} | {sum(agreed.values())} | {about['items']} |"
    return "\n".join(["| category | prompts | agreed | kept |", "|---|--:|--:|--:|", *rows, total])


def _steps(s: Mapping[str, Any], review: Mapping[str, Any]) -> str:
    if s["images"]:
        source = f"a folder {code(s['images'])}, made elsewhere"
    else:
        scale = "of the model's own" if s["guidance_scale"] is None else f"{s['guidance_scale']:g}"
        source = (
            f"drawn by {code(s['model'])}, {s['steps']} steps of {code(s['scheduler'])}, guidance "
            f"{scale}, {s['dtype']}, seed {s['seed']} (each try adds 1), at most {s['tries']} tries "
            "a prompt"
        )
    captions = f", {s['captions']} natural captions from {code(s['captions_from'])}" if s["captions"] else ""
    detector = f"{code(s['detector'])}, asked for {s['ask']}"
    if s["min_score"] is not None:
        detector += f", score at least {s['min_score']:g}"
    clip = "nobody" if s["clip"] is None else code(s["clip"])
    if s["clip"] is not None and s["min_clip"] is not None:
        clip += f", cosine at least {s['min_clip']:g}"
    rest = f"; those not decided: {review['undecided']}" if review["undecided"] else ""
    return f"""1. **Prompts:** {s["templates"]} of templates (words: {code(s["words"])}, seed {s["seed"]}){captions}.
2. **Pictures:** {source}.
3. **Boxes:** {detector}.
4. **Agreement:** each thing found as often as said, none of its kind besides, a stated side holds; CLIP: {clip}.
5. **Review:** {review["decided"]} items decided by a person, {review["dropped"]} dropped{rest}."""


def _left_out(summary: Mapping[str, Any]) -> str:
    rejected = summary["rejected"]
    lines = [f"- {rejected[name]} because {why}" for name, why in WHY.items() if rejected.get(name)]
    passed = summary["captions passed over"]
    lines += [f"- captions passed over, {line(why)}: {count}" for why, count in passed.items()]
    return "\n".join(lines) or "Nothing."
