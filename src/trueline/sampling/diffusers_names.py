"""What users of diffusers write, and what it is called here: one sentence instead of "no such option"."""

from collections.abc import Collection, Iterable

_REGIONS = "regions are of the layout: Layout(prompt, regions=[Region(phrase, (x0, y0, x1, y1)), ...])"
_METHOD = "guidance by attention is a method: methods=[AttendAndExcite(...)], see `trueline methods`"
_EMBEDS = "a prompt is text or a Layout here; give that"
_NOT_LOADED = "Trueline does not load it; leave it out"
_FOUND = "it is found by itself, safetensors only; leave it out"
_NEVER = "Trueline runs no code of a checkpoint; leave it out"
_PICTURES = "there is no picture to begin with here; leave it out, or give latents"
_ADAPTERS = "load LoRAs with load_lora(path, adapter_name, weight)"

#: Of a pipeline's call.
OF_CALLS = {
    **dict.fromkeys(("gligen_boxes", "gligen_phrases", "boxes", "phrases", "bboxes", "regions"), _REGIONS),
    **dict.fromkeys(("gligen_images", "gligen_inpaint_image"), "boxes take phrases only; leave it out"),
    "gligen_scheduled_sampling_beta": "it is called grounding_schedule, of three parts: (beta, 0, 1 - beta)",
    "gligen_normalize_constant": "boxes are in 0..1; leave it out",
    **dict.fromkeys(
        ("token_indices", "max_iter_to_alter", "thresholds", "attn_res", "scale_factor"), _METHOD
    ),
    "method": "it is called methods, a list",
    "seed": "it is called seeds: one number, or one for each layout",
    "num_images": "it is called num_images_per_prompt",
    "callback": "it is called callback_on_step_end",
    "callback_steps": "callback_on_step_end is called after every step; leave it out",
    **dict.fromkeys(
        ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "prompt_2", "negative_prompt_2"),
        _EMBEDS,
    ),
    **dict.fromkeys(("image", "mask_image", "strength"), _PICTURES),
    "cross_attention_kwargs": _ADAPTERS,
    "joint_attention_kwargs": _ADAPTERS,
    "timesteps": "it is set by steps and scheduler",
    "sigmas": "it is set by steps and scheduler",
}
#: Of ``from_pretrained``.
OF_LOADING = {
    "torch_dtype": "it is called dtype",
    "device_map": "it is called device, such as cuda; enable_model_cpu_offload() spares memory",
    "max_memory": "there is none; enable_model_cpu_offload() spares memory",
    "variant": _FOUND,
    "use_safetensors": _FOUND,
    "low_cpu_mem_usage": _FOUND,
    **dict.fromkeys(
        ("safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder"), _NOT_LOADED
    ),
    "scheduler": "it is an option of the call: pipe(prompt, scheduler=NAME)",
    **dict.fromkeys(
        ("unet", "transformer", "vae", "text_encoder", "tokenizer"),
        "it is the checkpoint's; save a folder with another one, and give that",
    ),
    **dict.fromkeys(("trust_remote_code", "custom_pipeline", "custom_revision"), _NEVER),
    **dict.fromkeys(("token", "use_auth_token"), "log in with `hf auth login`, or set HF_TOKEN"),
    "local_dir": "it is called cache_dir",
    "force_download": "delete the folder in the cache instead",
    "lora": "load it with load_lora(path)",
}


def refuse_unknown(given: Iterable[str], known: Collection[str], names: dict[str, str]) -> None:
    """
    Raises:
        TypeError: an option that is none; what it is called here, where ``names`` knows it.
    """
    for name in sorted(set(given) - set(known)):
        if name in names:
            raise TypeError(f"{name}: {names[name]}")
        raise TypeError(f"{name}: no such option; the options are {', '.join(sorted(known))}")
