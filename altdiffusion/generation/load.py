"""The pipeline that `generate` uses."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from huggingface_hub import constants
from safetensors import SafetensorError

from altdiffusion.checkpoints import hub
from altdiffusion.devices import DTYPES, choose_device, choose_dtype
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.pipelines.alt_diffusion import (
    AltDiffusionImg2ImgPipeline,
    AltDiffusionInpaintPipeline,
    AltDiffusionPipeline,
)
from altdiffusion.pipelines.swap import swap_text_encoder
from altdiffusion.speed.attention import choose_attention
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize as make_fast


def pipeline_of_kind(pipe: DiffusionPipeline, has_image: bool, has_mask: bool) -> DiffusionPipeline:
    """This pipeline, or its relative that takes an init image or a mask, with the same parts."""
    if has_mask:
        return pipe if isinstance(pipe, StableDiffusionInpaintPipeline) else AutoPipelineForInpainting.from_pipe(pipe)
    if has_image:
        return pipe if isinstance(pipe, StableDiffusionImg2ImgPipeline) else AutoPipelineForImage2Image.from_pipe(pipe)
    return pipe if isinstance(pipe, StableDiffusionPipeline) else AutoPipelineForText2Image.from_pipe(pipe)


def load_pipeline(
    model: str | Path | None = None,
    *,
    init_image: bool = False,
    mask: bool = False,
    lora: str | Path | None = None,
    text_encoder: str | Path | None = None,
    bridge: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    optimize: bool = False,
    allow_pickle: bool = False,
) -> DiffusionPipeline:
    """The pipeline for text to image, image to image or inpainting, on its device, with the best attention there.

    low_memory, optimize: see `save_memory`, `altdiffusion.optimize`; a dtype that is given stays.
    """
    if lora is not None:
        _check_lora(lora)
    target = choose_device(device)
    classes = {(True, True): AltDiffusionInpaintPipeline, (True, False): AltDiffusionImg2ImgPipeline}
    pipeline_class = classes.get((init_image, mask), AltDiffusionPipeline)
    pipe = pipeline_class.from_pretrained(model, dtype=choose_dtype(dtype, target), allow_pickle=allow_pickle)
    if text_encoder is not None or bridge is not None:
        swap_text_encoder(pipe, text_encoder, bridge=bridge, allow_pickle=allow_pickle)
    if lora is not None:
        try:
            _load_lora(pipe, lora, allow_pickle)
        except InputError:
            raise
        except ImportError as error:  # of a version that doesn't fit
            raise InputError(f"{_NO_PEFT} ({first_line(error)})") from None
        except (OSError, ValueError, LookupError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
            raise InputError(f"{lora} can't be loaded as a LoRA: {first_line(error)}") from None
    if low_memory:
        save_memory(pipe, target)
    else:
        pipe.to(target)
    choose_attention(pipe)
    if optimize:
        make_fast(pipe, dtype=None if dtype is None else DTYPES[dtype])
    return pipe


_NO_PEFT = 'a LoRA needs peft: pip install "altdiffusion[train]"'


def _check_lora(lora: str | Path) -> None:
    """Raise InputError for a LoRA that can't be there, and without peft, before the model is loaded."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(_NO_PEFT)
    if not local_path(lora).exists() and not hub.is_hub_id(str(lora)):
        raise InputError(f"no such LoRA: {lora}: expected a file, a folder or an id on the hub")


def _load_lora(pipe: DiffusionPipeline, lora: str | Path, allow_pickle: bool) -> None:
    path = local_path(lora)
    use_safetensors = None if allow_pickle else True
    if path.exists() or constants.HF_HUB_OFFLINE:  # offline diffusers wants a file's name, so look into the cache
        patterns = ["*.safetensors", *(["*.bin"] if allow_pickle else [])]
        pipe.load_lora_weights(str(hub.resolve(lora, patterns)), use_safetensors=use_safetensors)
    else:
        hub.on_hub(str(lora), lambda name: pipe.load_lora_weights(name, use_safetensors=use_safetensors))
