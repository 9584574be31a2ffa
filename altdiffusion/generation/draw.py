"""Images from requests, several in one pass of the model, each the same as alone; what is no longer wanted leaves the batch.

    requests = [GenerateRequest(ImageSettings(prompt=prompt, seed=1)) for prompt in ("一只猫", "a dog")]
    images = draw_batch(pipe, requests)

`generate` calls this, and so does the demo, whose batches are of several visitors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from altdiffusion import images
from altdiffusion.devices import dtype_name
from altdiffusion.errors import InputError
from altdiffusion.generation import inpaint
from altdiffusion.generation.load import pipeline_of_kind
from altdiffusion.generation.parts import check_shown
from altdiffusion.generation.result import GeneratedImage, NotFinite
from altdiffusion.generation.schedulers import build_scheduler, check_steps, find_scheduler
from altdiffusion.generation.settings import IN_MEMORY, ImageSettings, settings_with
from altdiffusion.pipeline_calls.finite_images import watch_finite
from altdiffusion.prompt_syntax import LoraTag, choose, lora_tags
from altdiffusion.prompts.loras import lora_weights
from altdiffusion.prompts.states import ScheduledStates, encode_schedule
from altdiffusion.settings import about_of

PREVIEW_SIDE = 16  # longest latent side decoded for a preview; an image of 512 pixels has 64
_PER_IMAGE = settings_with("per_image")


@dataclass(frozen=True)
class GenerateRequest:
    """One image to generate. image: RGB, what to start from; mask: L, white where it is generated anew, as large as image.

    control_image, ip_image: RGB, what a ControlNet and an IP-Adapter are shown.
    The settings init_image, mask, ... say where these come from: a path or IN_MEMORY.
    size: width and height that the model generates, and paste: what puts that into the photo, both by `resolved`.
    Raises InputError, where the mask is black, too.
    """

    settings: ImageSettings
    image: Image.Image | None = None
    mask: Image.Image | None = None
    size: tuple[int, int] | None = None
    paste: inpaint.PasteBack | None = None
    control_image: Image.Image | None = None
    ip_image: Image.Image | None = None

    def __post_init__(self) -> None:
        given = {
            "init_image": self.image,
            "mask": self.mask,
            "control_image": self.control_image,
            "ip_image": self.ip_image,
        }
        for name, image in given.items():
            if (image is None) != (getattr(self.settings, name) is None):
                raise InputError(f"{name}: expected both the image and where it comes from, or neither")
        if self.image is not None and self.mask is not None and self.mask.size != self.image.size:
            width, height = self.mask.size
            raise InputError(
                f"the mask is {width} x {height}, the init image {self.image.width} x {self.image.height}: make them equal"
            )
        if self.mask is not None and (brightest := inpaint.brightest(self.mask)) < inpaint.WHITE:
            raise InputError(
                f"the mask is black, so nothing is to be generated: expected white where it is, of 255, got at most {brightest}"
            )

    @property
    def batch_key(self) -> Hashable:
        """Requests of equal keys can be generated together."""
        settings = (_hashable(value) for name, value in self.settings if name not in _PER_IMAGE)
        return self.size, self.loras, id(self.ip_image), *settings

    @property
    def loras(self) -> tuple[LoraTag, ...]:
        """Those that the prompt names, with their weights, in the choices that its seed makes."""
        return lora_tags(_chosen(self.settings.prompt, self.settings), self.settings.prompt_syntax)

    @property
    def known_size(self) -> tuple[int, int]:
        """Width and height that the model generates; zeros where nobody has said and the model isn't known yet."""
        return self.size or (self.settings.width or 0, self.settings.height or 0)

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Whether it has an init image, a mask and a control image."""
        return self.image is not None, self.mask is not None, self.control_image is not None

    def numbered(self, number: int, any_seed: int, model: Any) -> GenerateRequest:
        """Image `number` of a request, from 0: with its seed, and with defaults for what isn't said but the size.

        any_seed: of the first, where the request has none. model: as in `default_guidance_scale`, if the request has none.
        """
        settings = self.settings.resolved(self.settings.model or model)
        first = any_seed if self.settings.seed is None else self.settings.seed
        return replace(self, settings=settings.replace(seed=first + number))

    def resolved(self, pipe: Any) -> GenerateRequest:
        """With the model's defaults for unset settings, and with image and mask as the model takes them.

        A size that is asked for is kept, though the image is stretched to it; else the image keeps its shape. With a mask,
        see `inpaint.prepare`.
        """
        if self.size is not None:
            return self
        settings = self.settings.resolved(self.settings.model or pipe)
        native = pipe.unet.config.sample_size * pipe.vae_scale_factor
        asked = (settings.width, settings.height) if settings.width and settings.height else None
        if self.image is not None and self.mask is not None:
            start = inpaint.prepare(
                self.image, self.mask, native=native, latent_pixels=pipe.vae_scale_factor,
                size=asked, blur=settings.mask_blur or 0, padding=settings.only_masked,
            )  # fmt: skip
            prepared: dict[str, Any] = {
                "image": start.image,
                "mask": start.mask,
                "size": start.image.size,
                "paste": start.paste,
            }
            return replace(self, settings=settings, **prepared)
        image, size = self.image, asked or (native, native)
        if image is not None:
            image = image.resize(asked, Image.Resampling.LANCZOS) if asked else images.fit(image, native)
            size = image.size
        elif self.control_image is not None and not asked:
            size = images.fitting_size(self.control_image.size, native)
        return replace(self, settings=settings.replace(width=size[0], height=size[1]), image=image, size=size)


@dataclass(frozen=True)
class Step:
    """Progress after one denoising step.

    rows: indices of the requests still in the batch. previews: decodes what there is of them, roughly.
    """

    done: int
    total: int
    rows: tuple[int, ...]
    previews: Callable[[], list[Image.Image]]


OnStep = Callable[[Step], Collection[int] | None]


class _AllDropped(Exception):
    """Nobody wants any image of the batch any more."""


def draw_batch(
    pipe: DiffusionPipeline, requests: Sequence[GenerateRequest], on_step: OnStep | None = None
) -> list[GeneratedImage | None]:
    """The image of each request, in order; None for those that were dropped.

    Each is the same as alone but for rounding: a batch is computed by other kernels.
    requests: of one `batch_key`. on_step: called after each step; returns the indices of the requests that are still
        wanted, None for all. The others leave the batch at once, and when none is left it ends. (Requests with
        masks, control or IP images stay until all are dropped: diffusers gives the callback no access to all of these.)
    Raises InputError where requests differ in what a batch has in common; NotFinite, which has the other images, where
    the model's numbers overflowed.
    """
    if not requests:
        return []
    requests = [request.resolved(pipe) for request in requests]
    if len({request.batch_key for request in requests}) > 1:
        raise InputError(f"requests of a batch may differ in {', '.join(_PER_IMAGE)} only, their prompts not in LoRAs")
    with lora_weights(pipe, requests[0].loras):
        if requests[0].settings.hires is None:
            return _draw(pipe, requests, on_step)
        return _in_two_passes(pipe, requests, on_step)


def _in_two_passes(
    pipe: DiffusionPipeline, requests: Sequence[GenerateRequest], on_step: OnStep | None
) -> list[GeneratedImage | None]:
    """`_draw` with `hires`: each image, and out of it a larger one, by image to image. on_step: of the first pass."""
    none = {"hires": None, "hires_strength": None, "hires_steps": None}
    small = [replace(request, settings=request.settings.replace(**none)) for request in requests]
    first, failed = _draw_all(pipe, small, on_step)
    rows = [row for row, generated in enumerate(first) if generated is not None]
    larger = [
        _larger(small[row], requests[row].settings, generated.image) for row, generated in enumerate(first) if generated
    ]
    second, failed_too = _draw_all(pipe, larger, None) if larger else ([], [])
    results: list[GeneratedImage | None] = [None] * len(requests)
    for row, before, after in zip(rows, filter(None, first), second, strict=True):
        if after is not None:
            used = {name: getattr(before.settings, name) for name in ("scheduler", "model", "dtype")}
            image = Image.new("RGB", after.image.size) if before.filtered else after.image
            filtered = before.filtered or after.filtered
            results[row] = GeneratedImage(image, requests[row].settings.replace(**used), filtered)
    if failed or failed_too:
        raise NotFinite(results, [*failed, *failed_too])
    return results


def _larger(request: GenerateRequest, settings: ImageSettings, image: Image.Image) -> GenerateRequest:
    """The second pass of an image. request: of the first; settings: of both."""
    width, height = settings.hires_size or image.size
    strength = settings.hires_strength_or_default
    steps = min(999, max(settings.steps_or_default, math.ceil(1 / strength)))  # one is run at least, as in the web UIs
    if settings.hires_steps is not None:  # which are all run, as the web UIs count them
        steps = min(999, math.ceil(settings.hires_steps / strength))
    changed = {"init_image": IN_MEMORY, "strength": strength, "steps": steps, "width": width, "height": height}
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    return replace(request, settings=request.settings.replace(**changed), image=image, size=image.size)


def _draw_all(
    pipe: DiffusionPipeline, requests: Sequence[GenerateRequest], on_step: OnStep | None
) -> tuple[list[GeneratedImage | None], list[ImageSettings]]:
    """`_draw`, and the settings of the images that are NaN."""
    try:
        return _draw(pipe, requests, on_step), []
    except NotFinite as error:
        return error.images, error.failed


def _draw(
    pipe: DiffusionPipeline, requests: Sequence[GenerateRequest], on_step: OnStep | None
) -> list[GeneratedImage | None]:
    """`draw_batch`, of requests that are resolved and fit together."""
    common = requests[0].settings
    pipe = pipeline_of_kind(
        pipe, common.init_image is not None, common.mask is not None, common.control_image is not None
    )
    check_shown(pipe, common)
    original_scheduler = pipe.scheduler
    scheduler = original_scheduler if common.scheduler is None else build_scheduler(common.scheduler, pipe)
    check_steps(scheduler, common.steps_or_default)
    # one each, on the CPU: the same image alone, in any batch, on any device
    generators = [torch.Generator().manual_seed(request.settings.seed or 0) for request in requests]
    prompts = encode_schedule(
        pipe,
        [_chosen(request.settings.prompt, request.settings) for request in requests],
        [_chosen(request.settings.negative_prompt, request.settings) for request in requests],
        steps=common.steps_run,
        prompt_syntax=common.prompt_syntax,
        weighting=common.weighting,
        long_prompts=common.long_prompts,
        clip_skip=None if common.clip_skip in (None, 1) else common.clip_skip - 1,
        route=common.route,
        literal=common.literal or (),
    )
    shrinks = common.mask is None and common.control_image is None and common.ip_image is None
    batch = _Batch(len(requests), generators, on_step, prompts, shrinks=shrinks)
    arguments = _arguments(pipe, requests) | prompts.first.arguments() | {"generator": generators}
    if on_step is not None or len(prompts.states) > 1:
        arguments["callback_on_step_end"] = batch.after_step
        arguments["callback_on_step_end_tensor_inputs"] = ["latents", *prompts.first.step_tensors(False, [0])]
    pipe.scheduler = scheduler
    try:
        with watch_finite(pipe) as finite_rows:
            output = pipe(**arguments)
    except _AllDropped:
        return [None] * len(requests)
    finally:
        pipe.scheduler = original_scheduler
    used = {
        "scheduler": find_scheduler(common.scheduler).written if common.scheduler else _class_name(original_scheduler),
        "model": common.model or pipe.name_or_path,
        "dtype": None if pipe.unet.dtype == torch.float32 else dtype_name(pipe.unet.dtype),
    }
    results: list[GeneratedImage | None] = [None] * len(requests)
    flags = getattr(output, "nsfw_content_detected", None) or [False] * len(batch.rows)  # XL has no checker
    failed: list[ImageSettings] = []
    for row, image, filtered, finite in zip(batch.rows, output.images, flags, finite_rows, strict=True):
        settings = requests[row].settings.replace(**used)
        if row in batch.wanted and finite:
            results[row] = GeneratedImage(_pasted(image, requests[row], bool(filtered)), settings, bool(filtered))
        elif row in batch.wanted:
            failed.append(settings)
    if failed:
        raise NotFinite(results, failed)
    return results


def _arguments(pipe: Any, requests: Sequence[GenerateRequest]) -> dict[str, Any]:
    """Keyword arguments for `pipe(...)`, from the settings and images of a batch."""
    arguments: dict[str, Any] = {
        "image": [request.image for request in requests if request.image is not None],
        "mask_image": [request.mask for request in requests if request.mask is not None],
        "ip_adapter_image": requests[0].ip_image,
    }
    if control := [request.control_image for request in requests if request.control_image is not None]:
        arguments["control_image" if arguments["image"] else "image"] = control
    for name in settings_with("argument"):
        values = [getattr(request.settings, name) for request in requests]
        argument = about_of(ImageSettings.model_fields[name])["argument"]
        arguments[argument] = values if name in _PER_IMAGE else values[0]
    arguments["width"], arguments["height"] = requests[0].known_size
    taken = inspect.signature(pipe.__call__).parameters  # image to image takes no size: the image has it
    return {name: value for name, value in arguments.items() if name in taken and value not in (None, [])}


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _chosen(prompt: str, settings: ImageSettings) -> str:
    """The prompt with one of its choices {a|b}, by the image's seed."""
    if settings.prompt_syntax == "none":
        return prompt
    return choose(prompt, settings.seed or 0, lenient=settings.prompt_syntax == "lenient")


def _pasted(image: Image.Image, request: GenerateRequest, filtered: bool) -> Image.Image:
    """What was generated, in its photo; all of it black where the safety checker made it so."""
    if request.paste is None:
        return image
    return Image.new("RGB", request.paste.photo.size) if filtered else request.paste(image)


def _class_name(scheduler: Any) -> str:
    return type(scheduler).__name__.removesuffix("Scheduler")


class _Batch:
    """The rows of a batch that are still there, and which of them are wanted."""

    def __init__(
        self,
        count: int,
        generators: list[torch.Generator],
        on_step: OnStep | None,
        prompts: ScheduledStates,
        shrinks: bool,
    ) -> None:
        self.rows = list(range(count))
        self.wanted = set(self.rows)
        self._generators, self._on_step, self._prompts, self._shrinks = generators, on_step, prompts, shrinks

    def after_step(self, pipe: Any, done: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """A pipeline's `callback_on_step_end`: drops rows, and changes the states where the prompt changes."""
        if self._on_step is not None:
            tensors = self._drop(pipe, self._on_step, done, timestep, tensors)
        return self._prompts.after_step(pipe, done, tensors, self.rows)

    def _drop(self, pipe: Any, on_step: OnStep, done: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents: Tensor = tensors["latents"]
        step = Step(done + 1, pipe.num_timesteps, tuple(self.rows), lambda: _previews(pipe, latents, timestep))
        wanted = on_step(step)
        if wanted is None:
            return tensors
        self.wanted &= set(wanted)
        if not self.wanted:
            raise _AllDropped
        keep = [place for place, row in enumerate(self.rows) if row in self.wanted]
        if self._shrinks and len(keep) < len(self.rows):
            count = len(self.rows)
            tensors = tensors | {"latents": latents[keep]}
            for name in tensors.keys() - {"latents"}:  # with guidance, the negative ones come before the others
                both = [place + start for start in range(0, tensors[name].shape[0], count) for place in keep]
                tensors[name] = tensors[name][both]
            _shrink_history(pipe.scheduler, keep, count)
            self._generators[:] = [self._generators[place] for place in keep]  # the scheduler holds the same list
            self.rows = [self.rows[place] for place in keep]
        return tensors


def _shrink_history(scheduler: Any, keep: list[int], count: int) -> None:
    """What multistep schedulers keep of earlier steps: tensors of latents, alone or in lists."""

    def shrunk(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == count:
            return value[keep]
        if isinstance(value, list):
            return [shrunk(item) for item in value]
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor | list):
            setattr(scheduler, name, shrunk(value))


@torch.no_grad()
def _previews(pipe: Any, latents: Tensor, timestep: Any) -> list[Image.Image]:
    """The images so far, from at most 16 latents wide and high: a sixteenth of the work for 512 pixels."""
    latents = pipe.scheduler.scale_model_input(latents, timestep).to(pipe.vae.dtype)
    height, width = latents.shape[-2:]
    if max(height, width) > PREVIEW_SIDE:
        scale = PREVIEW_SIDE / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        latents = F.interpolate(latents, size=size, mode="area")
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    previews: list[Image.Image] = pipe.image_processor.postprocess(decoded, output_type="pil")
    return previews
