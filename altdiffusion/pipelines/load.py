"""A Stable Diffusion of any kind: its pipeline by its name, or its parts to train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from altdiffusion.checkpoints import bridge_folder, hub, single_files, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.pipelines import adapters
from altdiffusion.pipelines.alt_diffusion import (
    AltDiffusionImg2ImgPipeline,
    AltDiffusionInpaintPipeline,
    AltDiffusionPipeline,
    as_input_error,
    load_checked,
)
from altdiffusion.pipelines.single_file import build_pipeline
from altdiffusion.pipelines.swap import swap_text_encoder

_CLASSES = (AltDiffusionPipeline, AltDiffusionImg2ImgPipeline, AltDiffusionInpaintPipeline)
_XL_CLASSES = (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline)


def load_by_kind(
    model: str | Path | None,
    *,
    init_image: bool = False,
    mask: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
    config: str | Path | None = None,
    bridge: str | Path | None = None,
    without_vae: bool = False,
    **kwargs: Any,
) -> Any:
    """The pipeline of a folder or a single file, an AltDiffusion's or a plain Stable Diffusion's 1.x, 2.x or XL.

    init_image, mask: for image to image, for inpainting. An inpainting model is loaded for inpainting in any case.
    tokenizer, config: for single files; CLIP's tokenizer may also come with a bridge, see `choose_clip_tokenizer`.
    without_vae: a single file that has none is loaded with None. kwargs: of `from_pretrained`. Raises InputError.
    """
    name = hub.MINI if model is None else model
    options: dict[str, Any] = {"allow_pickle": allow_pickle, **kwargs, **({} if config is None else {"config": config})}
    with as_input_error(name):
        path = AltDiffusionPipeline.fetch(name, **options)
        found = single_files.read_kind(path, allow_pickle) if path.is_file() else None
    if found is not None:
        options["fallback_tokenizer"] = None if bridge is None else bridge_folder.with_tokenizer(bridge)
        if without_vae and not found.has_vae:
            options["vae"] = None
    index = 2 if mask or (found is not None and found.inpaints) else 1 if init_image else 0
    if not (_is_xl_folder(path) if found is None else found.kind == "xl"):
        return _CLASSES[index].from_path(path, str(name), tokenizer=tokenizer, **options)
    with as_input_error(name):
        if found is None:
            pipeline = _load_xl_folder(_XL_CLASSES[index], path, str(name), **options)
        else:
            pipeline = build_pipeline(_XL_CLASSES[index], path, tokenizer=tokenizer, **options)
    # On this instance: its class stays stock.
    pipeline.load_lora_into_text_encoder = adapters.load_lora_into_text_encoder
    pipeline.lora_state_dict = partial(_lora_state_dict, type(pipeline))
    return pipeline


def _lora_state_dict(kind: Any, *args: Any, **kwargs: Any) -> Any:
    return adapters.with_alphas_in_weights(*kind.lora_state_dict(*args, **kwargs))


def _is_xl_folder(path: Path) -> bool:
    index = path / "model_index.json"
    return index.is_file() and str(tensor_files.read_json(index).get("_class_name")).startswith("StableDiffusionXL")


def _load_xl_folder(kind: Any, path: Path, name: str, *, allow_pickle: bool, **kwargs: Any) -> Any:
    if not allow_pickle:
        for part in sorted(part for part in path.iterdir() if part.is_dir() and part.name not in kwargs):
            tensor_files.refuse_pickles(part)
    kwargs.setdefault("use_safetensors", None if allow_pickle else True)
    kwargs["dtype"] = kwargs.get("dtype") or torch.float32
    pipeline = kind.from_pretrained(str(path), **load_checked(path, None, kwargs))
    pipeline.register_to_config(_name_or_path=name)
    return pipeline


def load_diffusion(model: str, text_encoder: str | None = None) -> Any:
    """A Stable Diffusion to train, in float32: AltDiffusion in any layout, or plain with CLIP.

    text_encoder: an AltCLIP to swap in. Raises InputError for what can't be found, or where the widths differ, and for
    UNets that take more than an image and a text.
    """
    root = AltDiffusionPipeline.fetch(model)
    index = tensor_files.read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    plain = (index.get("text_encoder") or [None])[-1] == "CLIPTextModel" and "text_encoder_2" not in index
    if plain and root != hub.sd_mini_folder():  # whose VAE lies elsewhere
        checked = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts = {name: tensor_files.load_strict(kind, root / name) for name, kind in checked.items()}
        pipe: Any = StableDiffusionPipeline.from_pretrained(str(root), dtype=torch.float32, **parts)
    else:
        pipe = AltDiffusionPipeline.from_path(root, model)
    takes, gives = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != gives:
        raise InputError(
            f"the UNet of {model} takes {takes} channels where the VAE gives {gives}, as inpainting's does: "
            "expected one that generates from text alone"
        )
    return swap_text_encoder(pipe, text_encoder) if text_encoder is not None else pipe
