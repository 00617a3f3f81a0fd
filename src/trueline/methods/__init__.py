"""Methods by name: one file and one line in this table each. Nothing here imports torch."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """``home``: "module:class" in this package. ``hooks``: what it uses of the loop. ``needs``: words or boxes."""

    home: str
    paper: str
    hooks: str
    needs: str
    does: str


METHODS: dict[str, Entry] = {
    "attend-and-excite": Entry(
        "attend_and_excite:AttendAndExcite", "Chefer et al. 2023, arXiv 2301.13826", "guide", "words",
        "no subject of the prompt is neglected",
    ),
    "attention-refocusing": Entry(
        "attention_refocusing:AttentionRefocusing", "Phung et al. 2024, arXiv 2306.05427", "guide", "boxes",
        "each word is attended to in its boxes, and a box's places attend to that box",
    ),
    "boxdiff": Entry(
        "boxdiff:BoxDiff", "Xie et al. 2023, arXiv 2307.10816", "guide", "boxes",
        "each subject's attention fills its box",
    ),
    "composable": Entry(
        "composable:Composable", "Liu et al. 2022, arXiv 2206.01714", "combine", "words",
        "the parts of a prompt between | (or the phrases) are predicted apart and added up",
    ),
    "dense-diffusion": Entry(
        "dense_diffusion:DenseDiffusion", "Kim et al. 2023, arXiv 2308.12964", "text, edit", "boxes",
        "attention within each region is raised, across regions lowered",
    ),
    "hcma": Entry(
        "hcma:HCMA", "Wang et al. 2025, arXiv 2505.06512", "guide", "words",
        "a small trained net aligns the latents with the caption and each box with its phrase",
    ),
    "layout-guidance": Entry(
        "layout_guidance:LayoutGuidance", "Chen et al. 2023, arXiv 2304.03373", "guide", "boxes",
        "each phrase's attention is pushed into its boxes",
    ),
    "multidiffusion": Entry(
        "multidiffusion:MultiDiffusion", "Bar-Tal et al. 2023, arXiv 2302.08113", "combine", "boxes",
        "each region is denoised for its own phrase",
    ),
    "paint-with-words": Entry(
        "paint_with_words:PaintWithWords", "Balaji et al. 2022, arXiv 2211.01324", "edit", "boxes",
        "each phrase's words gain attention in its boxes, most at high noise",
    ),
    "perturbed-attention": Entry(
        "perturbed_attention:PerturbedAttention", "Ahn et al. 2024, arXiv 2403.17377", "combine", "words",
        "away from what the net predicts where its places do not look at each other",
    ),
    "realign": Entry(
        "realign:Reweighting", "Fang et al. 2023, arXiv 2305.19599", "edit", "boxes",
        "each phrase's words gain attention in its mask and lose it elsewhere, by how certain it is",
    ),
    "regional-masks": Entry(
        "regional_masks:RegionalMasks", "Zhang et al. 2025, arXiv 2501.01097", "edit", "boxes",
        "each phrase's words are seen from inside its boxes only",
    ),
    "structured": Entry(
        "structured:Structured", "Feng et al. 2023, arXiv 2212.05032", "values", "words",
        "each noun phrase is also read without the rest of the prompt",
    ),
    "token-weights": Entry(
        "token_weights:TokenWeights", "Hertz et al. 2022, arXiv 2208.01626", "edit", "words",
        "words of the prompt count for more, or for less",
    ),
}  # fmt: skip


def method_class(name: str) -> Any:
    """The class of that name.

    Raises:
        ValueError: there is no method of that name.
    """
    if name not in METHODS:
        raise ValueError(f"method: there is no {name!r}; there are {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].home.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def of_record(recorded: list[dict[str, Any]]) -> list[Any]:
    """The methods that a picture's record names.

    Records of before a method had the setting ``official`` do not name it; they were drawn by our own rule.

    Raises:
        ValueError: one of them is not in the table.
    """
    names = {entry.home.partition(":")[2]: name for name, entry in METHODS.items()}
    if unknown := [one["name"] for one in recorded if one["name"] not in names]:
        raise ValueError(f"record: its method {unknown[0]} is none of {', '.join(names)}")
    return [_remade(names[one["name"]], one["settings"]) for one in recorded]


def _remade(name: str, settings: dict[str, Any]) -> Any:
    ours = {"official": False} if "official" in method_class(name).model_fields else {}
    return make(name, ours | settings)


def make(name: str, settings: dict[str, Any]) -> Any:
    """The method with these settings (numbers, or text as on a command line).

    Raises:
        FieldError: "boxdiff.scale: ...", an unknown setting or a value out of its range.
        ValueError: an unknown method.
    """
    from trueline.errors import FieldError  # here, for pydantic would slow down the help of commands

    kind = method_class(name)
    if unknown := [key for key in settings if key not in kind.model_fields]:
        known = ", ".join(kind.model_fields)
        raise FieldError(f"{name}.{unknown[0]}", f"{name} has no such setting; it has {known}")
    try:
        return kind(**settings)
    except FieldError as error:
        raise FieldError(f"{name}.{error.field}", error.problem) from None
