"""What the stages that train a UNet share: what is frozen, what is trained, samples, saving."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor
from tqdm.auto import tqdm

from altdiffusion.errors import InputError
from altdiffusion.images import grid
from altdiffusion.pipeline_calls.finite_images import ADVICE, watch_finite
from altdiffusion.training.loop import export
from altdiffusion.training.models.lora import add_lora, save_lora
from altdiffusion.training.stage_settings import DiffusionSettings

# What AltDiffusion's concept alignment trains, by the ends of the parameters' names.
CROSS_ATTENTION_KV = (".attn2.to_k.weight", ".attn2.to_v.weight")


def freeze(pipe: Any, device: torch.device, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """Move a pipeline to a device, its text encoder and VAE in `dtype` and without gradients.

    Returns these two's weights as they were, for `export_unet`; {} for float32, in which they stay as they are.
    """
    originals = {}
    for name, part in (("text_encoder", pipe.text_encoder), ("vae", pipe.vae)):
        part.requires_grad_(False).eval()
        if dtype != torch.float32:
            originals[name] = part.state_dict()
            part.to(dtype)
    pipe.to(device)
    return originals


def pixel_multiple(pipe: Any) -> int:
    """What the sides of images must be multiples of, so that the UNet's halvings come out even."""
    return int(pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))


def check_resolution(pipe: Any, resolution: int) -> None:
    """Raise InputError where the resolution is no multiple of what the model needs."""
    if resolution % (multiple := pixel_multiple(pipe)):
        raise InputError(f"--resolution {resolution}: this model needs a multiple of {multiple}")


def training_scheduler(pipe: Any) -> Any:
    """The noise of the pipeline's scheduler, as training adds it."""
    return DDPMScheduler.from_config(pipe.scheduler.config)


def select_trainable(unet: Any, trainable: str) -> None:
    """Let gradients into exactly the chosen parameters: "kv", "attn2" or "unet".

    kv is the concept alignment of AltDiffusion: `attn2.to_k` and `attn2.to_v`, nothing else. (Both public codes test
    `'to_k' or 'to_v' in name`, which is always true, and train all of attn2.)
    """
    chosen: Callable[[str], bool] = {
        "kv": lambda name: name.endswith(CROSS_ATTENTION_KV),
        "attn2": lambda name: ".attn2." in name,
        "unet": lambda name: True,
    }[trainable]
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(chosen(name))


def prepare_unet(pipe: Any, settings: DiffusionSettings, lora: Any, trainable: str = "unet") -> None:
    """Let gradients into a new LoRA, or without one into what is chosen, see `select_trainable`."""
    if lora is not None:
        add_lora(pipe.unet, lora, settings.seed)
    else:
        select_trainable(pipe.unet, trainable)
    pipe.unet.to(memory_format=torch.channels_last)
    if settings.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()


def sample_prompts(
    pipe: Any, settings: DiffusionSettings, accelerator: Accelerator
) -> Callable[[int], dict[str, float]] | None:
    """A validation that puts a row of images of `validation_prompts` into output_dir/samples, from the same noise each time.

    Where images are NaN a line says so, and none are saved; the training goes on.
    """
    prompts = settings.validation_prompts
    if not prompts:
        return None

    def validate(step: int) -> dict[str, float]:
        pipe.set_progress_bar_config(disable=True)
        # the UNet is in float32, the others may not be
        with accelerator.autocast(), watch_finite(pipe) as finite:
            images = pipe(
                list(prompts),
                num_inference_steps=settings.validation_inference_steps,
                guidance_scale=settings.validation_guidance_scale,
                height=settings.resolution,
                width=settings.resolution,
                generator=[torch.Generator().manual_seed(settings.seed + i) for i in range(len(prompts))],
            ).images
        if not all(finite):
            dtype = settings.mixed_precision
            lost = f"{finite.count(False)} of {len(finite)} samples came out as NaN with --mixed-precision {dtype}"
            tqdm.write(f"step {step}: {lost}, and none are saved: {ADVICE}", sys.stderr)
            return {}
        folder = settings.output_dir / "samples"
        folder.mkdir(exist_ok=True)
        grid(images).save(folder / f"step-{step:08d}.png")
        return {}

    return validate


def export_unet(
    pipe: Any, settings: DiffusionSettings, accelerator: Accelerator, lora: Any, originals: dict[str, dict[str, Tensor]]
) -> None:
    """Save the LoRA alone, or the whole pipeline in the stock layout, its frozen parts exactly as they came, see `freeze`."""
    with export(settings, accelerator) as folder:
        if folder is not None and lora is not None:
            save_lora(pipe.unet, folder)
        elif folder is not None:
            _save_pipeline(pipe, folder, originals)


def _save_pipeline(pipe: Any, folder: Path, originals: dict[str, dict[str, Tensor]]) -> None:
    for name, state in originals.items():
        part = getattr(pipe, name).to("cpu", torch.float32)
        part.load_state_dict(state)
    pipe.unet.to(memory_format=torch.contiguous_format)
    pipe.to("cpu").save_pretrained(folder)
