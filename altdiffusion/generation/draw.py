"""Several people's images in one pass of the model, each the same as alone; what is no longer wanted leaves the batch.

    images = draw_together(pipe, [Order("一只猫", seed=1), Order("a dog", seed=7)], Recipe(64, 64))

For servers: `generate` draws one image after the other. Whatever differs between images is an `Order`, whatever a
batch has in common a `Recipe`; orders of equal recipes can be drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from altdiffusion.devices import dtype_name
from altdiffusion.errors import InputError
from altdiffusion.generation.load import pipeline_of_kind
from altdiffusion.generation.result import GeneratedImage
from altdiffusion.generation.schedulers import build_scheduler, scheduler_class
from altdiffusion.generation.settings import DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, Settings

SKETCH_SIDE = 16  # of the latents that a sketch is decoded from; a whole image of 512 pixels has 64


@dataclass(frozen=True)
class Order:
    """One image to draw. image: RGB, what to start from; mask: L, white where it is drawn anew; both as large as the recipe."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    image: Image.Image | None = None
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Recipe:
    """What the images of a batch have in common. width, height: pixels, multiples of 8. strength: above 0, to 1, where
    the orders have an image. scheduler: as in `generate`; None: the model's own."""

    width: int
    height: int
    steps: int = DEFAULT_STEPS
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    scheduler: str | None = None
    strength: float | None = None


@dataclass(frozen=True)
class Step:
    """A step is done. rows: the orders that are being drawn. sketches: decodes what there is of them, quick and rough."""

    done: int
    total: int
    rows: tuple[int, ...]
    sketches: Callable[[], list[Image.Image]]


class _Nobody(Exception):
    """Nobody wants any image of the batch any more."""


def draw_together(
    pipe: DiffusionPipeline,
    orders: Sequence[Order],
    recipe: Recipe,
    on_step: Callable[[Step], Collection[int] | None] | None = None,
) -> list[GeneratedImage | None]:
    """The image of each order, in order; None for those that were dropped.

    Each is what `generate` draws for the same settings, but for rounding: a batch is computed by other kernels.
    on_step: called after each step; returns the numbers of the orders that are still wanted, None for all. The others
        leave the batch at once, and when none is left the drawing ends. (A mask is the exception: diffusers keeps
        what belongs to it out of reach, so these are only drawn to no end until all of the batch are dropped.)
    Raises InputError where orders differ in kind, or for settings that make no sense.
    """
    kinds = {(order.image is not None, order.mask is not None) for order in orders}
    if len(kinds) != 1 or (False, True) in kinds:
        raise InputError("a batch is drawn from prompts alone, from prompts and images, or with masks too: not mixed")
    (has_image, has_mask) = kinds.pop()
    if has_image != (recipe.strength is not None):
        raise InputError("strength is for orders with an image, and these need it")
    pipe = pipeline_of_kind(pipe, has_image, has_mask)
    own = pipe.scheduler
    scheduler = own if recipe.scheduler is None else build_scheduler(scheduler_class(recipe.scheduler), pipe)
    generators = [torch.Generator().manual_seed(order.seed) for order in orders]
    arguments: dict[str, Any] = {
        "prompt": [order.prompt for order in orders],
        "negative_prompt": [order.negative_prompt for order in orders],
        "generator": generators,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.guidance_scale,
    }
    if has_image:
        arguments |= {"image": [order.image for order in orders], "strength": recipe.strength}
    if has_mask:
        arguments |= {"mask_image": [order.mask for order in orders]}
    if has_mask or not has_image:
        arguments |= {"width": recipe.width, "height": recipe.height}
    batch = _Batch(list(range(len(orders))), generators, on_step, shrinks=not has_mask)
    if on_step is not None:
        arguments |= {
            "callback_on_step_end": batch.after_step,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }
    pipe.scheduler = scheduler
    try:
        output = pipe(**arguments)
    except _Nobody:
        return [None] * len(orders)
    finally:
        pipe.scheduler = own
    pictures: list[GeneratedImage | None] = [None] * len(orders)
    flags = output.nsfw_content_detected or [False] * len(batch.rows)
    for row, image, filtered in zip(batch.rows, output.images, flags, strict=True):
        if row in batch.wanted:
            settings = _settings(orders[row], recipe, type(scheduler).__name__.removesuffix("Scheduler"), pipe)
            pictures[row] = GeneratedImage(image, settings, bool(filtered))
    return pictures


class _Batch:
    """The rows of a batch that are still there, and what is wanted of them."""

    def __init__(
        self,
        rows: list[int],
        generators: list[torch.Generator],
        on_step: Callable[[Step], Collection[int] | None] | None,
        shrinks: bool,
    ) -> None:
        self.rows, self.wanted = rows, set(rows)
        self._generators, self._on_step, self._shrinks = generators, on_step, shrinks

    def after_step(self, pipe: Any, done: int, moment: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert self._on_step is not None
        latents: Tensor = tensors["latents"]
        step = Step(done + 1, pipe.num_timesteps, tuple(self.rows), lambda: _sketch(pipe, latents, moment))
        wanted = self._on_step(step)
        if wanted is None:
            return tensors
        self.wanted &= set(wanted)
        if not self.wanted:
            raise _Nobody
        keep = [place for place, row in enumerate(self.rows) if row in self.wanted]
        if self._shrinks and len(keep) < len(self.rows):
            count = len(self.rows)
            embeds = tensors["prompt_embeds"]  # with guidance, the negative ones come before the others
            both = [place + start for start in range(0, embeds.shape[0], count) for place in keep]
            tensors = tensors | {"latents": latents[keep], "prompt_embeds": embeds[both]}
            _shrink_history(pipe.scheduler, keep, count)
            self._generators[:] = [self._generators[place] for place in keep]  # the scheduler holds the same list
            self.rows = [self.rows[place] for place in keep]
        return tensors


def _shrink_history(scheduler: Any, keep: list[int], count: int) -> None:
    """What multistep schedulers remember of earlier steps: tensors of latents, alone or in lists."""

    def shrunk(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == count:
            return value[keep]
        if isinstance(value, list):
            return [shrunk(each) for each in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor | list):
            setattr(scheduler, name, shrunk(value))


@torch.no_grad()
def _sketch(pipe: Any, latents: Tensor, moment: Any) -> list[Image.Image]:
    """The images so far, at most 16 latents wide and high: a sixteenth of the work for 512 pixels."""
    latents = pipe.scheduler.scale_model_input(latents, moment).to(pipe.vae.dtype)
    height, width = latents.shape[-2:]
    if max(height, width) > SKETCH_SIDE:
        scale = SKETCH_SIDE / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        latents = F.interpolate(latents, size=size, mode="area")
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    pictures: list[Image.Image] = pipe.image_processor.postprocess(decoded, output_type="pil")
    return pictures


def _settings(order: Order, recipe: Recipe, scheduler: str, pipe: Any) -> Settings:
    return Settings(
        prompt=order.prompt,
        negative_prompt=order.negative_prompt,
        steps=recipe.steps,
        scheduler=scheduler,
        guidance_scale=recipe.guidance_scale,
        seed=order.seed,
        width=recipe.width,
        height=recipe.height,
        model=pipe.name_or_path,
        strength=recipe.strength,
        init_image=None if order.image is None else "(in memory)",
        mask=None if order.mask is None else "(in memory)",
        dtype=None if pipe.unet.dtype == torch.float32 else dtype_name(pipe.unet.dtype),
    )
