"""Everything that an image is generated from, and what may be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline

from altdiffusion import images
from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE_SCALE = 7.5
MINI_GUIDANCE_SCALE = 4.0  # more makes its images grainy
DEFAULT_STRENGTH = 0.8
MAX_STEPS = 999  # the models know 1000 moments, and some schedulers skip the first
MAX_SEED = 2**63 - 1


def default_guidance_scale(model: str | Path | DiffusionPipeline | None) -> float:
    """7.5; 4 for the embedded models."""
    name = model.name_or_path if isinstance(model, DiffusionPipeline) else model or hub.MINI
    embedded = {hub.MINI, hub.SD_MINI, str(hub.mini_folder()), str(hub.sd_mini_folder())}
    return MINI_GUIDANCE_SCALE if str(name) in embedded else DEFAULT_GUIDANCE_SCALE


def _check(
    prompts: list[str],
    seed: int,
    steps: int,
    guidance_scale: float,
    size: tuple[int, int] | None,
    num_images: int,
    strength: float | None,
    has_image: bool,
    has_mask: bool,
) -> None:
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise InputError('no prompt: expected at least one, none of them empty, such as "一只猫"')
    if not 1 <= steps <= MAX_STEPS:
        raise InputError(f"{steps} steps: expected 1 to {MAX_STEPS}")
    if not 1 <= num_images <= 10000:
        raise InputError(f"{num_images} images a prompt: expected 1 to 10000")
    if not 0 <= seed <= MAX_SEED - num_images:
        raise InputError(f"seed {seed}: expected 0 to {MAX_SEED - num_images}")
    if not math.isfinite(guidance_scale) or guidance_scale < 0:
        raise InputError(
            f"guidance scale {guidance_scale}: expected a number of at least 0, such as {DEFAULT_GUIDANCE_SCALE}"
        )
    if size is not None and any(side % 8 or not 8 <= side <= images.MAX_SIDE for side in size):
        raise InputError(
            f"size {size[0]}x{size[1]}: expected multiples of 8 from 8 to {images.MAX_SIDE}, such as 512x512"
        )
    if strength is not None and not 0 < strength <= 1:
        raise InputError(f"strength {strength}: expected above 0, at most 1")
    if strength is not None and not has_image:
        raise InputError("strength is for an init image: give one, or leave strength out")
    if has_mask and not has_image:
        raise InputError("a mask needs the init image that it covers: give one, or leave the mask out")


@dataclass(frozen=True)
class Settings:
    """Everything that an image is drawn from. None: not used, or not known (images of other programs)."""

    prompt: str
    negative_prompt: str = ""
    steps: int | None = None
    scheduler: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    model: str | None = None
    strength: float | None = None
    init_image: str | None = None
    mask: str | None = None
    lora: str | None = None
    text_encoder: str | None = None
    bridge: str | None = None
    dtype: str | None = None
    allow_pickle: bool | None = None
    score: float | None = None  # what AltCLIP gave it, where the best of several was asked for
