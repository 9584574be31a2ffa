"""A whole AltDiffusion in one file, as FlagAI and the web UIs keep it: the parts of a diffusers pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from transformers import XLMRobertaTokenizer

from altdiffusion.checkpoints import layouts, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.text_encoder.encoder import build_text_encoder
from altdiffusion.text_encoder.tokenizer import choose_tokenizer

logger = logging.getLogger(__name__)


def load_single_file(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
    tokenizer: str | Path | XLMRobertaTokenizer | None = None,
) -> dict[str, Any]:
    """Components for a Stable Diffusion pipeline from a .safetensors or .ckpt file in latent diffusion's names.

    ema: take the UNet's moving average, where the file has one. tokenizer: see `load_text_encoder`.
    The settings are read from the tensors' shapes. Such files have no safety checker; the scheduler is the one that
    AltDiffusion was published with (PNDM, epsilon prediction).
    Raises InputError for a file of another kind, and for tensors that are missing or left over.
    """
    state = tensor_files.read_tensors(
        path,
        allow_pickle=allow_pickle,
        dtype=dtype or torch.float32,
        wanted=lambda key: ema or not key.startswith("model_ema."),
    )
    if not layouts.is_single_file(state):
        raise InputError(f"{path} holds no UNet ('{layouts.LDM_UNET}*'): load its text encoder with load_text_encoder")
    text_encoder = build_text_encoder(
        {key: state[key] for key in state if key.startswith(layouts.LDM_TEXT_ENCODER)},
        what=f"the text encoder of {path}",
    )
    unet_state = {key: state[key] for key in state if key.startswith(layouts.LDM_UNET)}
    if ema:
        unet_state |= layouts.ema_part(state)
    vae_state = {key: state[key] for key in state if key.startswith(layouts.LDM_VAE)}
    unet_config, vae_config = layouts.ldm_unet_config(unet_state), layouts.ldm_vae_config(vae_state)
    width = text_encoder.config.project_dim
    if unet_config["cross_attention_dim"] != width:
        raise InputError(
            f"{path}: the UNet attends to states of width {unet_config['cross_attention_dim']}, the encoder's are {width}"
        )
    logger.warning("%s has no safety checker: images are not filtered", path.name)
    return {
        "unet": _build(
            UNet2DConditionModel, unet_config, _to_diffusers(convert_ldm_unet_checkpoint, unet_state, unet_config), path
        ),
        "vae": _build(
            AutoencoderKL, vae_config, _to_diffusers(convert_ldm_vae_checkpoint, vae_state, vae_config), path
        ),
        "text_encoder": text_encoder,
        "tokenizer": choose_tokenizer(tokenizer, path),
        "scheduler": PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        "safety_checker": None,
        "feature_extractor": None,
    }


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
    config = layouts.ldm_vae_config(state)
    vae: AutoencoderKL = _build(AutoencoderKL, config, _to_diffusers(convert_ldm_vae_checkpoint, state, config), path)
    return vae


def _to_diffusers(convert: Any, state: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    try:
        return convert(state, config)
    except (KeyError, IndexError) as error:
        raise InputError(f"incomplete checkpoint: missing {error}") from None


def _build(model_class: Any, config: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> Any:
    with torch.device("meta"):
        model = model_class(**config)
    layouts.check_names(state, model.state_dict(), f"the {model_class.__name__} of {path}")
    model.load_state_dict(state, assign=True)
    return model.eval()
