"""The pipeline that `generate` uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from altdiffusion.devices import DTYPES, choose_device, choose_dtype
from altdiffusion.errors import InputError
from altdiffusion.generation.loras import NamedLora, loras_to_load
from altdiffusion.generation.parts import (
    check_peft,
    load_controlnet,
    load_ip_adapter,
    load_loras,
    load_textual_inversion,
    load_vae,
    with_controlnet,
)
from altdiffusion.pipelines.load import load_by_kind
from altdiffusion.pipelines.swap import swap_text_encoder
from altdiffusion.speed.attention import choose_attention
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize as make_fast


def pipeline_of_kind(
    pipe: DiffusionPipeline, has_image: bool, has_mask: bool, has_control: bool = False
) -> DiffusionPipeline:
    """This pipeline, or its relative that takes an init image, a mask or a control image, with the same parts.

    Raises InputError for a control image and no ControlNet, or the other way round, and for inpainting's UNet and no mask.
    """
    if has_control != hasattr(pipe, "controlnet"):
        raise InputError(
            "this pipeline has no ControlNet that would read the control image: name one with controlnet"
            if has_control
            else "this pipeline has a ControlNet: give it a control image"
        )
    if not has_mask and pipe.unet.config.in_channels == 2 * pipe.vae.config.latent_channels + 1:
        raise InputError(f"{pipe.name_or_path} is for inpainting: give it an init image and a mask")
    if has_control:
        kind = StableDiffusionControlNetInpaintPipeline if has_mask else StableDiffusionControlNetImg2ImgPipeline
        return with_controlnet(pipe, pipe.controlnet, kind if has_image else StableDiffusionControlNetPipeline)
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
    lora: str | Path | Sequence[str | NamedLora] = (),
    textual_inversion: Sequence[str | Path] | None = None,
    vae: str | Path | None = None,
    controlnet: str | Path | None = None,
    ip_adapter: str | Path | None = None,
    ip_scale: float | None = None,
    tokenizer: str | Path | None = None,
    settings_from: str | Path | None = None,
    text_encoder: str | Path | None = None,
    bridge: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    optimize: bool = False,
    allow_pickle: bool = False,
) -> DiffusionPipeline:
    """The pipeline for text to image, image to image or inpainting, on its device, with the best attention there.

    model: as in `AltDiffusionPipeline.from_pretrained`, or Stable Diffusion XL, whose pipeline is diffusers' own.
    tokenizer, settings_from: `tokenizer` and `config` of a single file, which carries neither.
    text_encoder, bridge: see `swap_text_encoder`.
    With a ControlNet, it is diffusers' own pipeline for that. ip_scale: how much the IP-Adapter counts, 1 by default.
    lora: one or several, each with its weight as `parse_lora` reads it.
    low_memory, optimize: see `save_memory`, `altdiffusion.optimize`; a dtype that is given stays.
    """
    loras = _named([str(lora)] if isinstance(lora, str | Path) else lora or ())
    if loras:
        check_peft()
    target = choose_device(device)
    pipe = load_by_kind(
        model, init_image=init_image, mask=mask, dtype=choose_dtype(dtype, target), allow_pickle=allow_pickle,
        tokenizer=tokenizer, config=settings_from, bridge=bridge, without_vae=vae is not None,
    )  # fmt: skip
    if controlnet is not None and hasattr(pipe, "text_encoder_2"):
        raise InputError(f"{model} is a Stable Diffusion XL, for which ControlNets aren't supported: leave it out")
    if text_encoder is not None or bridge is not None:
        swap_text_encoder(pipe, text_encoder, bridge=bridge, allow_pickle=allow_pickle)
    if vae is not None:
        load_vae(pipe, vae, allow_pickle)
    for source in textual_inversion or ():
        load_textual_inversion(pipe, source, allow_pickle)
    if loras:
        load_loras(pipe, loras, allow_pickle)
    if ip_adapter is not None:
        load_ip_adapter(pipe, ip_adapter, 1.0 if ip_scale is None else ip_scale, allow_pickle)
    if controlnet is not None:
        pipe = with_controlnet(pipe, load_controlnet(pipe, controlnet, allow_pickle), StableDiffusionControlNetPipeline)
    if low_memory:
        save_memory(pipe, target)
    else:
        pipe.to(target)
    choose_attention(pipe)
    if optimize:
        make_fast(pipe, dtype=None if dtype is None else DTYPES[dtype])
    return pipe


def _named(loras: Sequence[str | NamedLora]) -> list[NamedLora]:
    read = loras_to_load([lora for lora in loras if isinstance(lora, str)], None, (), "none")
    return [*read, *(lora for lora in loras if isinstance(lora, NamedLora))]
