"""What can be set of a training run: frozen, every key known, every range checked. No torch.

Numbers without a source are judgement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from trueline.errors import FieldError, Frozen, redacted
from trueline.layout import MAX_SEED

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Part = Literal["none", "fusers", "attention", "fusers+attention", "all"]


class Optimisation(Frozen):
    """How long, how fast and how exactly the loop trains. A step is one update of the weights: ``accumulate``
    batches in each process.

    Args:
        warmup: steps in which the rate rises linearly to ``lr``.
        schedule: after that it stays, or falls to 0 along half a cosine until the last step.
        clip: greatest norm of the gradient; 0 = no clipping.
        ema: decay of the averaged weights that are kept as the result; 0 = the last weights (GLIGEN: its average was
            worse). It begins as a plain average: at most (1 + n) / (10 + n) after n steps.
        precision: numbers of the forward pass; auto = bf16 where the device multiplies in it natively, else
            fp32. The weights themselves are float32.
        save_every: steps between checkpoints, of which the last ``keep`` are kept.
        give_up: steps in a row without a finite loss and gradient after which the run stops; not_finite.jsonl says
            which. Each is skipped.
    """

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    steps: Count = 1000
    batch: Count = 8
    accumulate: Count = 1
    lr: Annotated[float, Field(gt=0)] = 5e-5
    warmup: Annotated[int, Field(ge=0)] = 100
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    log_every: Count = 20
    save_every: Count = 500
    keep: Count = 2
    give_up: Count = 20

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)  #: AdamW's, as in GLIGEN and diffusers' examples

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, from 0 on."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.5 + 0.5 * math.cos(math.pi * done))


class Data(Frozen):
    """Which pictures, which of their boxes, and what of it is left unsaid.

    Args:
        source: "world", a folder with annotations in COCO's format, a ``.jsonl`` of layouts with "image", or, for
            ``realign``, whose pictures are its own, a ``.txt`` of prompts or a ``.jsonl`` of layouts.
        n: the first so many pictures; None = all (of the world's endless series: 30,000).
        split: of the world (default "train"), or of COCO: the X of ``instances_X.json`` (default: the only one).
        share: "train" or "validation": 80 % or 20 % of COCO's pictures, drawn with seed 0 (HCMA's split of
            train2014; the benchmark ``coco`` draws the same).
        min_area: least area of a box, of the crop (GLIGEN: 0.01). ``max_boxes``: the largest are kept (GLIGEN: 30).
        min_boxes: pictures of which fewer are kept are left out. ``crowd``: keep regions that COCO marks as crowds
            (GLIGEN does).
        drop_captions, drop_boxes: shares of the examples that the U-Net sees without (GLIGEN: boxes 0.1, captions 0.5
            in its code, 0.1 in its paper).
        max_broken: share of pictures, and of the lines of a ``.jsonl``, that may be unreadable before the run stops.
        labels: of the world: what the boxes of a picture are called: "phrase", as the caption has it ("a red striped
            apple"), "name", without colour and texture ("an apple"), or "both", one or the other each time. The
            layouts of a ``.jsonl`` bring their own.
        cache: folder of the encoded pictures; None = in the run's own. Runs on the same data can share it.
    """

    source: str = "world"
    n: Count | None = None
    split: str | None = None
    share: Literal["all", "train", "validation"] = "all"
    min_area: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_boxes: Annotated[int, Field(ge=0, le=30)] = 30
    min_boxes: Annotated[int, Field(ge=0, le=30)] = 0
    crowd: bool = False
    drop_captions: Fraction = 0.1
    drop_boxes: Fraction = 0.1
    max_broken: Fraction = 0.05
    labels: Literal["phrase", "name", "both"] = "phrase"
    cache: str | None = None


class Validation(Frozen):
    """Pictures drawn on the way: the same layouts and noise each time. ``every``: steps between them, 0 = none.

    Args:
        layouts: JSON Lines; None = the first ``n`` of the data (the world: of its split "tune").
        guidance_scale: None = the model's own.
        each: pictures of each layout. A diversity of the pictures of one prompt needs two or more.
        patience: validations after which the run stops, where the recipe has a held-out score and it has not risen;
            0 = never. The best step's weights are kept in any case.
        least: by how much the score must rise to be a new best.
    """

    every: Annotated[int, Field(ge=0)] = 0
    layouts: str | None = None
    n: Annotated[int, Field(ge=1, le=64)] = 8
    steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    each: Annotated[int, Field(ge=1, le=16)] = 1
    patience: Annotated[int, Field(ge=0)] = 0
    least: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _validates(self) -> Validation:
        if self.patience and not self.every:
            raise FieldError("patience", "nothing is validated; set validation.every, or patience to 0")
        return self


class Training(Optimisation):
    """What every recipe has besides its own ``objective``.

    Args:
        part: of the U-Net: the fusers with the position net (GLIGEN), its own attention layers, both (GOAL), or all.
        position_net: train it too where the fusers are trained.
        lora: rank of the LoRA that is trained instead of the weights themselves; 0 = the weights. It is on every
            linear layer of the part; gates and null features stay as they are.
        checkpointing: keep only the inputs of the U-Net's blocks and run those again: less memory, more time.
        t_low, t_high: timesteps are drawn uniformly from t_low to below t_high, 0 = cleanest.
        tensorboard: also write TensorBoard's event files.
    """

    model: str = "world"
    revision: str | None = None
    part: Part = "fusers"
    position_net: bool = True
    lora: Annotated[int, Field(ge=0, le=1024)] = 0
    checkpointing: bool = False
    t_low: Annotated[int, Field(ge=0)] = 0
    t_high: Count = 1000
    tensorboard: bool = False
    data: Data = Data()
    validation: Validation = Validation()

    @model_validator(mode="after")
    def _some_timesteps(self) -> Training:
        if self.t_low >= self.t_high:
            raise FieldError("t_low", f"must be below t_high (got {self.t_low} and {self.t_high})")
        return self


#: What may differ when a run goes on: it does not change what is learned.
FREE = (
    "log_every",
    "save_every",
    "keep",
    "give_up",
    "tensorboard",
    "validation",
    "checkpointing",
    "data.cache",
)


def config_file(name: str | Path) -> Path:
    """The file of that name, or the package's own: "goal_world", "goal_world.yaml" or "configs/goal_world.yaml"."""
    path, package = Path(name), Path(str(files("trueline")))
    if path.is_file() or path.parent not in (Path("."), Path("configs")) or path.suffix not in ("", ".yaml"):
        return path
    folders = (package / "configs", package.parents[1] / "configs")  # of a wheel, of a checkout
    return next((file for folder in folders if (file := folder / f"{path.stem}.yaml").is_file()), path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; of one that is not there see ``config_file``.

    Raises:
        ValueError: the file is missing, not YAML, or holds something else.
    """
    import yaml

    path = config_file(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        wrong = _no_text(content)
    except OSError as error:
        raise ValueError(f"config: cannot read {path} ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"config: {path} is not YAML ({problem})") from None
    except RecursionError:
        raise ValueError(f"config: {path} is nested too deeply, or holds itself; write it flat") from None
    if not isinstance(content, dict):
        raise ValueError(f"config: {path} must hold settings as `key: value` lines")
    if wrong:
        raise ValueError(
            f"config: {path} has a key that YAML does not read as text (got {wrong[0]!r}); put it in quotes"
        )
    return content


def _no_text(content: Any) -> list[Any]:
    """Keys that are no text (``on`` is True, ``1`` a number), at any depth."""
    if not isinstance(content, dict):
        return []
    own = [key for key in content if not isinstance(key, str)]
    return own + [key for value in content.values() for key in _no_text(value)]


def put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set ``key``, dotted (``objective.depth``), in nested settings, over what is there.

    Raises:
        ValueError: something on the way is no group of settings.
    """
    *groups, last = key.split(".")
    for depth, name in enumerate(groups):
        if settings.get(name) is None:  # not there, or an empty section of a file
            settings[name] = {}
        settings = settings[name]
        if not isinstance(settings, dict):
            raise ValueError(f"{key}: {'.'.join(groups[: depth + 1])} is a single setting")
    settings[last] = value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def identity(settings: Frozen) -> dict[str, Any]:
    """The settings, with dotted keys and without secrets, that a run must keep when it goes on. Steps may be added at
    a constant rate."""
    free = FREE + (("steps",) if getattr(settings, "schedule", "") == "constant" else ())
    dumped = flat(redacted(settings.model_dump(mode="json")))
    return {key: value for key, value in dumped.items() if not _within(key, free)}


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: Path | str) -> None:
    """Refuse to go on with other settings, data, nets, processes or precision than those a run began with.

    Raises:
        ValueError: naming the first key that differs.
    """
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            was, wanted = (f"{values[key]!r}" if key in values else "nothing" for values in (before, now))
            raise ValueError(
                f"{key}: the run in {where} began with {was}, not {wanted}; set it back, or choose another folder"
            )


def _within(key: str, groups: tuple[str, ...]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)
