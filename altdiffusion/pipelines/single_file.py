"""A whole Stable Diffusion in one file, as FlagAI, the web UIs and the communities keep it: the parts of a pipeline."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from altdiffusion.checkpoints import hub, layouts, single_files, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.encoder import build_text_encoder
from altdiffusion.text_encoder.tokenizer import choose_clip_tokenizer, choose_tokenizer, clip_folder

logger = logging.getLogger(__name__)

XL_SCALING = 0.13025  # of XL's latents, from its published config; the others' is in `ldm_vae_config`
_XL_SIDE, _V_SIDE = 128, 96  # latent sides: of 1024 pixels, and of 768, as 2.x with v-prediction was trained
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
# The schedulers that the kinds were published with.
_SCHEDULERS: dict[single_files.Kind, tuple[str, dict[str, Any]]] = {
    "altdiffusion": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sd1": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sd2": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "xl": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
}


def build_pipeline(
    kind: type[Any], path: Path, *, config: str | Path | None = None, dtype: Any = None, **kwargs: Any
) -> Any:
    """A diffusers pipeline of this class from a single file; components that are passed take the place of the file's.

    config: a folder, or its name. The others: of `load_single_file`. Raises InputError.
    """
    given = {name: kwargs.pop(name) for name in inspect.signature(kind.__init__).parameters
             if name in kwargs and name != "tokenizer"}  # fmt: skip
    ours = {name: kwargs.pop(name) for name in _OURS if name in kwargs}
    if unknown := sorted(set(kwargs) - {"use_safetensors", "low_cpu_mem_usage", *hub.HUB_OPTIONS}):
        raise InputError(f"{unknown[0]}= can't be used with a single file: convert it to a folder first")
    folder = None if config is None else hub.resolve(config, ["*.json", "*/*.json", "*/*.txt"])
    vae = {"vae": given["vae"]} if "vae" in given else {}
    hub_options: dict[str, Any] = {
        name: kwargs[name] for name in ("cache_dir", "token", "local_files_only") if name in kwargs
    }
    parts = load_single_file(path, dtype=dtype, config=folder, hub_options=hub_options, **ours, **vae)
    pipeline = kind(**(parts | given))
    pipeline.register_to_config(_name_or_path=str(path))
    return pipeline


_OURS = ("ema", "allow_pickle", "tokenizer", "fallback_tokenizer")


def load_single_file(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
    fallback_tokenizer: Path | None = None,
    config: Path | None = None,
    vae: Any = ...,
    hub_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The parts of a Stable Diffusion pipeline from a .safetensors or .ckpt file in latent diffusion's names.

    ema: take the UNet's moving average, where the file has one.
    tokenizer: XLM-R's for AltDiffusion, see `load_text_encoder`; else CLIP's, see `choose_clip_tokenizer`, which takes
        `fallback_tokenizer`, too.
    config: a folder in diffusers' layout whose settings are taken, for a model of unusual sizes. Without one they are read
        from the tensors' shapes, and what no shape tells is as published. Its tokenizer comes before the fallback.
    vae: in place of the file's own, None for none yet. hub_options: for the tokenizer.
    Such files have no safety checker. Raises InputError for a file of another kind, and for tensors that are missing or left
    over.
    """
    found = single_files.read_kind(path, allow_pickle)
    if vae is ... and not found.has_vae:
        raise InputError(f"{path} holds no VAE: name one with --vae (in Python vae=), which fits this kind of model")
    if found.kind == "altdiffusion":
        tokenizer = choose_tokenizer(tokenizer, path, **(hub_options or {}))
    else:
        own = config if config is not None and clip_folder(config) is not None else fallback_tokenizer
        tokenizer = choose_clip_tokenizer(tokenizer, own, path, **(hub_options or {}))
    state = tensor_files.read_tensors(
        path,
        allow_pickle=allow_pickle,
        dtype=dtype or torch.float32,
        wanted=lambda key: single_files.is_read(key) or (ema and key.startswith("model_ema.")),
    )
    logger.warning("%s has no safety checker: images are not filtered", path.name)
    parts = _text_parts(found.kind, state, path, config, tokenizer)
    parts |= {"tokenizer": tokenizer} if found.kind == "altdiffusion" else _tokenizers(parts, tokenizer, path)
    parts["scheduler"] = _scheduler(found, state, path, config)
    parts["unet"] = _unet(found.kind, state, ema, config, path, parts)
    parts["vae"] = _vae(state, path, config, found.kind == "xl") if vae is ... else vae
    if found.kind == "xl":
        return parts
    return parts | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _text_parts(
    kind: single_files.Kind, state: layouts.State, path: Path, config: Path | None, tokenizer: Any
) -> dict[str, Any]:
    """The text encoder of a file, XL's two."""
    what = f"the text encoder of {path}"
    if kind == "altdiffusion":
        part = {key: state[key] for key in state if key.startswith(layouts.LDM_TEXT_ENCODER)}
        return {"text_encoder": build_text_encoder(part, what=what)}
    if kind == "sd2":
        state = single_files.without_last_layer(state)
        settings = _text_config(config, "text_encoder", single_files.open_clip_config(state, _OPEN_2), tokenizer)
        return {"text_encoder": _open_clip(CLIPTextModel, state, _OPEN_2, settings, what)}
    prefix = single_files.CLIP_XL if kind == "xl" else single_files.CLIP_1
    settings = _text_config(config, "text_encoder", single_files.clip_config(state, prefix), tokenizer)
    names = convert_ldm_clip_checkpoint({key: state[key] for key in state if key.startswith(prefix)})
    names = {key.removeprefix("text_model."): value for key, value in names.items() if not _UNREAD.search(key)}
    parts = {"text_encoder": _clip(CLIPTextModel, settings, names, what)}
    if kind == "xl":
        settings = _text_config(config, "text_encoder_2", single_files.open_clip_config(state, _OPEN_XL), tokenizer)
        what = f"the second text encoder of {path}"
        parts["text_encoder_2"] = _open_clip(CLIPTextModelWithProjection, state, _OPEN_XL, settings, what)
    return parts


_OPEN_2, _OPEN_XL = single_files.OPEN_CLIP_2, single_files.OPEN_CLIP_XL


def _text_config(config: Path | None, part: str, of_shapes: dict[str, Any], tokenizer: Any) -> CLIPTextConfig:
    """From the folder `config`, or else from the tensors' shapes; the pooled vector is read where the text ends."""
    if config is not None:
        return CLIPTextConfig.from_pretrained(config / part)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(**of_shapes, **ids)


def _open_clip(model_class: Any, state: layouts.State, prefix: str, settings: CLIPTextConfig, what: str) -> Any:
    with torch.device("meta"):
        model = model_class(settings)
    names = convert_open_clip_checkpoint(model, {key: state[key] for key in state if key.startswith(prefix)}, prefix)
    if model_class is CLIPTextModel:
        names = {key.removeprefix("text_model."): value for key, value in names.items()}
    return _clip(model_class, settings, names, what)


# Of CLIP's other uses: merging tools and trainers leave some of it in.
_UNREAD = re.compile(r"^(vision_model|visual_projection|text_projection|logit_scale)\b|position_ids$")


def _clip(model_class: Any, settings: CLIPTextConfig, state: dict[str, torch.Tensor], what: str) -> Any:
    with torch.device("meta"):
        layouts.check_names(state, model_class(settings).state_dict(), what)
    dtype = next(iter(state.values())).dtype
    return model_class.from_pretrained(None, config=settings, state_dict=state, dtype=dtype).eval()


def _tokenizers(parts: dict[str, Any], tokenizer: Any, path: Path) -> dict[str, Any]:
    """A tokenizer for each text encoder. OpenCLIP's texts are padded with token 0, OpenAI's with the end token.

    Raises InputError where the vocabulary is another.
    """
    words = parts["text_encoder"].config.vocab_size
    if len(tokenizer) != words:
        raise InputError(
            f"this tokenizer knows {len(tokenizer)} tokens, the text encoder of {path} {words}: name the one that belongs to it"
        )
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.convert_ids_to_tokens(0)
    if "text_encoder_2" in parts:
        return {"tokenizer": tokenizer, "tokenizer_2": padded}
    return {"tokenizer": padded if parts["text_encoder"].config.hidden_act == "gelu" else tokenizer}


def _unet(
    kind: single_files.Kind, state: layouts.State, ema: bool, config: Path | None, path: Path, parts: dict[str, Any]
) -> UNet2DConditionModel:
    part = {key: state[key] for key in state if key.startswith(layouts.LDM_UNET)}
    if ema:
        part |= layouts.ema_part(state)
    encoders = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
    width = sum(getattr(each.config, "project_dim", each.config.hidden_size) for each in encoders)
    pooled = encoders[1].config.projection_dim if kind == "xl" else 0
    if config is not None:
        settings = tensor_files.read_json(config / "unet" / "config.json")
    else:
        settings = layouts.ldm_unet_config(part, pooled)
        if kind == "xl":
            settings["sample_size"] = _XL_SIDE
        elif kind == "sd2" and parts["scheduler"].config.prediction_type == "v_prediction":
            settings |= {"sample_size": _V_SIDE, "upcast_attention": True}
    if settings["cross_attention_dim"] != width:
        raise InputError(
            f"{path}: the UNet attends to states of width {settings['cross_attention_dim']}, the encoder's are {width}"
        )
    converted = _to_diffusers(convert_ldm_unet_checkpoint, part, settings)
    unet: UNet2DConditionModel = _build(UNet2DConditionModel, settings, converted, path)
    return unet


def _vae(state: layouts.State, path: Path, config: Path | None = None, xl: bool = False) -> AutoencoderKL:
    part = {key: state[key] for key in state if key.startswith(layouts.LDM_VAE)}
    if config is None:
        settings = layouts.ldm_vae_config(part) | ({"scaling_factor": XL_SCALING, "sample_size": 1024} if xl else {})
    else:
        settings = tensor_files.read_json(hub.vae_folder(config) / "config.json")
    vae: AutoencoderKL = _build(
        AutoencoderKL, settings, _to_diffusers(convert_ldm_vae_checkpoint, part, settings), path
    )
    return vae


def _scheduler(found: single_files.SingleFile, state: layouts.State, path: Path, config: Path | None) -> Any:
    """The scheduler that this kind was published with, for what the UNet predicts; a guess of that is told."""
    if config is not None:
        settings = tensor_files.read_json(config / "scheduler" / "scheduler_config.json")
        kind: Any = getattr(diffusers, str(settings.get("_class_name")), None)
        if not hasattr(kind, "set_timesteps"):
            raise InputError(f"{config}: unknown scheduler {settings.get('_class_name')!r} in scheduler_config.json")
        return kind.from_config(settings)
    beside = path.with_suffix(".yaml")
    text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
    told = single_files.prediction(found, state, tensor_files.read_metadata(path), text)
    if told.guess:
        logger.warning(
            "%s: taken for a model that predicts %s (%s); if images are noise, write 'parameterization: %s' into %s, or "
            "pass scheduler=",
            path.name, told.type, told.guess, "eps" if told.type == "v_prediction" else "v", beside.name,
        )  # fmt: skip
    name, settings = _SCHEDULERS[
        found.kind if found.kind == "xl" or not told.zero_snr else "sd2"
    ]  # PNDM has no zero SNR
    settings = _NOISE | settings | {"prediction_type": told.type}
    if told.zero_snr:
        settings |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    return getattr(diffusers, name)(**settings)


def load_vae_file(path: Path, *, dtype: torch.dtype, allow_pickle: bool = False) -> AutoencoderKL:
    """A VAE alone from a file in latent diffusion's names, as the web UIs keep it. Raises InputError for any other."""
    state = tensor_files.read_tensors(path, allow_pickle=allow_pickle, dtype=dtype)
    prefix = layouts.LDM_VAE if any(key.startswith(layouts.LDM_VAE) for key in state) else ""
    state = {
        layouts.LDM_VAE + key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(
            (f"{prefix}encoder.", f"{prefix}decoder.", f"{prefix}quant_conv.", f"{prefix}post_quant_conv.")
        )
    }
    if any(".down_blocks." in key for key in state):
        raise InputError(f"{path} is a VAE in diffusers' names: name its folder, which has its config.json")
    return _vae(state, path)


def _to_diffusers(convert: Any, state: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    try:
        return convert(state, config)
    except (KeyError, IndexError) as error:
        raise InputError(f"incomplete checkpoint: missing {error}") from None


def _build(model_class: Any, config: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> Any:
    with torch.device("meta"):
        model = model_class.from_config(config)
    layouts.check_names(state, model.state_dict(), f"the {model_class.__name__} of {path}")
    model.load_state_dict(state, assign=True)
    return model.eval()
