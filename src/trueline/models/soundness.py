"""What must hold of a checkpoint's files and numbers: said in one sentence before they are used, large ones unread.

A half-copied folder and an edited config load without a word otherwise, and give noise, hang, or take all memory.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from trueline.errors import FieldError, first_line, short
from trueline.layout import MAX_REGIONS, Layout, Region
from trueline.models.devices import out_of_memory
from trueline.models.schedules import check_interval, check_scale, check_schedule

MAX_CONFIG = 64 * 2**20  #: bytes of a JSON file; tokenizers of large vocabularies take 5 million
MAX_TIMESTEPS = 100_000  #: of a training; there are 1000
MAX_SIDE = 1024  #: latents of a picture's side, by a config
SENTENCE = (
    "a red apple to the left of 2 blue cars"  #: comes back from every tokenizer of English, lower case or not
)
_BOXED = Layout("a", [Region("a", (0, 0, 0.5, 0.5))])
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_FLOATS = {"F64", "F32", "F16", "BF16"}
#: Of a net's config: how many layers are built before any weight is read.
_COUNTS = {
    "layers_per_block",
    "num_hidden_layers",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one sentence with the cure."""


# Files


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: missing, no ordinary file (a pipe would be waited for), too large, or no JSON object.
    """
    try:
        check_file(path)
        if path.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{path} is too large ({path.stat().st_size} bytes); it is no config")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the folder is not a whole checkpoint") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def check_file(path: Path) -> None:
    """
    Raises:
        CheckpointError: a pipe, a socket or a device, or a folder.
        OSError: it is not there.
    """
    path.stat()
    if not path.is_file():
        raise CheckpointError(f"{path} is no ordinary file; copy the checkpoint again")


def check_folder(folder: Path) -> None:
    """
    Raises:
        CheckpointError: something in it is neither a file nor a folder, or leads nowhere.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            try:
                check_file(path)
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}; copy it again") from None


# Nets


def check_net(folder: Path, config: Mapping[str, Any], files: Iterable[Path]) -> None:
    """What the config asks to build must be of the weights' size, and these must be floating-point numbers.

    Raises:
        CheckpointError: not so.
    """
    weights = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (not a dictionary)
                    weights += 1
                    kind = file.get_slice(key).get_dtype()
                    if kind not in _FLOATS and not key.endswith("position_ids"):
                        raise CheckpointError(
                            f"the weights in {folder} are no floating-point numbers ({key} is of {kind}); take the "
                            "checkpoint as it was published, not a quantised one"
                        )
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the weights in {folder} cannot be read: {first_line(error)}") from error
    cure = "put back the config that they were saved with"
    for name, value in config.items():
        numbers = _flat(value)
        if not all(_real(each) and abs(each) < 2**31 for each in numbers):
            raise CheckpointError(
                f"{folder}/config.json: {name} is out of range (got {short(value)}); {cure}"
            )
        long = isinstance(value, list) and len(value) > weights
        if long or (name in _COUNTS and not all(1 <= each <= weights for each in numbers)):
            raise CheckpointError(
                f"{folder}/config.json: {name} ({short(value)}) does not fit the {weights} weights beside it; {cure}"
            )


def check_finite(folder: Path, net: nn.Module) -> None:
    """
    Raises:
        CheckpointError: a weight that is NaN or infinite.
    """
    for name, weight in net.named_parameters():
        if weight.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(weight.data)):
            raise CheckpointError(
                f"the weights in {folder} are not finite ({name}, in {str(weight.dtype).removeprefix('torch.')}); "
                "take another copy of the checkpoint, or load it in float32"
            )


# Tokenizer


def check_tokenizer(folder: Path, tokenizer: Any, text: Any, words: Iterable[str] | None) -> None:
    """A CLIP tokenizer must be whole and the text encoder's own.

    Args:
        text: the text encoder's config.
        words: all that the model knows; None: the language.

    Raises:
        CheckpointError: not so; a folder that was copied by half, mostly.
    """
    cure = "copy the tokenizer's files again"
    if len(tokenizer) != text.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, and its text encoder {text.vocab_size}; {cure}"
        )
    most = tokenizer.model_max_length
    if not (isinstance(most, int) and min(most, text.max_position_embeddings) >= 3):
        raise CheckpointError(
            f"{folder}: model_max_length leaves no room for a word (got {short(most)}); {cure}"
        )
    unused = 2  # in configs of before 2023
    if text.eos_token_id not in (unused, tokenizer.eos_token_id):
        raise CheckpointError(
            f"the tokenizer in {folder} ends a text with token {tokenizer.eos_token_id}, and its text encoder "
            f"reads it at token {text.eos_token_id}; {cure}"
        )
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    made = {"".join(pair) for pair in model.get("merges", ())}
    end = model.get("end_of_word_suffix") or ""
    special = set(tokenizer.all_special_tokens)
    pieces = [token for token in model["vocab"] if len(token.removesuffix(end)) > 1 and token not in special]
    if lost := [token for token in pieces if token not in made]:
        raise CheckpointError(
            f"the tokenizer in {folder} is not whole: nothing makes the token {short(lost[0])} (and {len(lost) - 1} "
            f"more); {cure}"
        )
    plain = None if words is None else [word for word in sorted(words) if word.isascii() and word.isalpha()]
    sentence = SENTENCE if plain is None else " ".join(plain[: most // 4])
    ids = tokenizer(sentence).input_ids
    again = tokenizer.decode(ids, skip_special_tokens=True)
    if again.split() != sentence.lower().split() or max(ids) >= text.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} does not give back what it read ({short(sentence)} became {short(again)}); "
            f"{cure}"
        )


# Scheduler, VAE, settings


def check_timesteps(folder: Path, config: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: so many timesteps, or such noise, as no model is trained with.
    """
    where = f"{folder}/scheduler_config.json"
    count = config.get("num_train_timesteps", 1000)
    if not _whole(count, 2, MAX_TIMESTEPS):
        raise CheckpointError(
            f"{where}: num_train_timesteps must be a whole number from 2 to {MAX_TIMESTEPS} (got {short(count)})"
        )
    given = [(name, config[name]) for name in ("beta_start", "beta_end") if name in config]
    betas = config.get("trained_betas")
    given += [("trained_betas", beta) for beta in betas] if isinstance(betas, list) else []
    for name, beta in given:
        if not (_real(beta) and 0 <= beta < 1):
            raise CheckpointError(f"{where}: {name} must be a number in 0..1 (got {short(beta)})")
    if betas is not None and not (isinstance(betas, list) and len(betas) == count):
        raise CheckpointError(f"{where}: trained_betas must be a list of {count} numbers")
    predicts = config.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise CheckpointError(f"{where}: prediction_type must be one of {known} (got {short(predicts)})")


def check_noise(folder: Path, scheduler: Any) -> None:
    """
    Raises:
        CheckpointError: the made scheduler has no falling signal, or cannot make a step.
    """
    signal = scheduler.alphas_cumprod
    try:
        scheduler.set_timesteps(1)
    except Exception as error:  # of a config of another type than diffusers thinks
        raise CheckpointError(f"the scheduler in {folder} cannot be used: {first_line(error)}") from error
    falls = (signal.diff() <= 0).all() and signal[-1] < signal[0] <= 1
    if not (signal.isfinite().all() and falls):
        raise CheckpointError(
            f"the scheduler in {folder} has noise levels that do not rise; put back its config"
        )


def check_pictures(folder: Path, unet: Any, vae: Any) -> None:
    """The two configs, as diffusers read them.

    Raises:
        CheckpointError: sizes or factors that no picture can be made with.
    """
    scale, shift = vae.scaling_factor, vae.shift_factor
    if not (_real(scale) and 1e-6 < abs(scale) < 1e6):
        raise CheckpointError(
            f"{folder}/vae: scaling_factor must be a number other than 0 (got {short(scale)})"
        )
    if shift is not None and not (_real(shift) and abs(shift) < 1e6):
        raise CheckpointError(f"{folder}/vae: shift_factor must be a number or null (got {short(shift)})")
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise CheckpointError(f"{folder}/vae: its pictures must have 3 channels (got {vae.out_channels})")
    sides = unet.sample_size if isinstance(unet.sample_size, list | tuple) else [unet.sample_size] * 2
    if len(sides) != 2 or not all(_whole(side, 1, MAX_SIDE) for side in sides):
        raise CheckpointError(
            f"{folder}/unet: sample_size must be a whole number from 1 to {MAX_SIDE} (got {short(unet.sample_size)})"
        )


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """The "trueline" entry of a model_index.json.

    Raises:
        CheckpointError: a value that is of another kind, or out of range.
    """
    most, words = settings.get("max_regions", 1), settings.get("vocabulary", [])
    try:
        if not _whole(most, 1, MAX_REGIONS):
            raise FieldError("max_regions", f"must be from 1 to {MAX_REGIONS} (got {short(most)})")
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise FieldError("vocabulary", f"must be a list of words (got {short(words)})")
        checks: dict[str, Callable[[Any, str], Any]] = {
            "grounding_schedule": check_schedule,
            "guidance_interval": check_interval,
            "guidance_scale": check_scale,
        }
        for name, check in checks.items():
            if name in settings:
                check(settings[name], name)
    except (FieldError, OverflowError) as error:
        raise CheckpointError(f"{path}: trueline.{first_line(error)}") from None


# All together


@torch.no_grad()
def try_out(backbone: Any) -> Any:
    """The backbone, once all its nets have run on a picture of a few latents.

    A config may ask for what no weight tells of, such as heads or layers of another kind.

    Raises:
        CheckpointError: they do not run together, or give numbers that are not finite.
    """
    where = f"the nets of {backbone.source}"
    side = 8 * 2 ** max(0, len(backbone.denoiser.config.block_out_channels) - 4)
    latents = torch.zeros(1, backbone.denoiser.config.in_channels, side, side, device=backbone.device)
    try:
        text = backbone.encode(["a"])
        grounding = backbone.ground([_BOXED]).to(backbone.device) if backbone.grounded else None
        predicted = backbone.predict(latents, 0, text, grounding)
        decoded = backbone.decode(latents, report=lambda _row, _said: None, partial=True)
    except Exception as error:
        if out_of_memory(error) or re.search(r"CUDA|device|not implemented for|not compiled", str(error)):
            raise  # not the checkpoint's fault
        raise CheckpointError(
            f"{where} do not run together: {first_line(error)}; put back their configs"
        ) from error
    if predicted.shape != latents.shape or decoded.shape[1:] != (3, *(side * backbone.vae_factor,) * 2):
        raise CheckpointError(
            f"{where} give pictures of another size than they should; put back their configs"
        )
    # Half precision may overflow where float32 does not: that is for each picture.
    wide = torch.finfo(backbone.dtype).bits >= 32
    if wide and not all(found.isfinite().all() for found in (text.states, predicted, decoded)):
        raise CheckpointError(f"{where} give numbers that are not finite; take other weights")
    return backbone


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _real(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _flat(value: Any) -> list[int | float]:
    """The numbers in a value, lists within lists included."""
    if isinstance(value, list | tuple):
        return [number for each in value for number in _flat(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
