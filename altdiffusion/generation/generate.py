"""Pictures from prompts, with settings that draw the same picture again. The command line and the demo call this."""

from __future__ import annotations

import itertools
import math
import pickle
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from safetensors import SafetensorError

from altdiffusion import files, images
from altdiffusion.altclip import best_of as best_of_n
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.checkpoints import hub
from altdiffusion.devices import DTYPES, choose_device, choose_dtype
from altdiffusion.errors import InputError, first_line
from altdiffusion.generation.auto_batch import MAX_SIZE, Size, in_batches
from altdiffusion.generation.infotext import Settings, png_info
from altdiffusion.pipelines.alt_diffusion import (
    AltDiffusionImg2ImgPipeline,
    AltDiffusionInpaintPipeline,
    AltDiffusionPipeline,
    swap_text_encoder,
)
from altdiffusion.speed.attention import choose_attention
from altdiffusion.speed.cpu_timesteps import is_kept, keep_on_cpu
from altdiffusion.speed.low_memory import save_memory
from altdiffusion.speed.optimize import optimize as make_fast

DEFAULT_STEPS = 25
DEFAULT_GUIDANCE_SCALE = 7.5
MINI_GUIDANCE_SCALE = 4.0  # more makes its pictures grainy
DEFAULT_STRENGTH = 0.8
MAX_STEPS = 999  # the models know 1000 moments, and some schedulers skip the first
MAX_SEED = 2**63 - 1

# Names people know, and diffusers' classes. `scheduler_class` takes a class name too.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2-a": "KDPM2AncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# What the web UIs call some of them. Their "Karras" variants space the noise levels differently and are not here.
WEB_UI_NAMES = {
    "euler a": "EulerAncestralDiscreteScheduler",
    "plms": "PNDMScheduler",
    "dpm++ 2m": "DPMSolverMultistepScheduler",
    "dpm2 a": "KDPM2AncestralDiscreteScheduler",
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture. filtered: the safety checker found something and the picture is black."""

    image: Image.Image
    settings: Settings
    filtered: bool


def generate(
    prompts: str | Sequence[str],
    *,
    model: str | Path | DiffusionPipeline | None = None,
    negative_prompt: str = "",
    seed: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    num_images: int = 1,
    batch_size: Size = 1,
    best_of: int | None = None,
    scorer: str | Path | PromptScorer | None = None,
    init_image: str | Path | Image.Image | None = None,
    strength: float | None = None,
    mask: str | Path | Image.Image | None = None,
    scheduler: str | None = None,
    lora: str | Path | None = None,
    text_encoder: str | Path | None = None,
    bridge: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    optimize: bool = False,
    allow_pickle: bool = False,
) -> Iterator[Picture]:
    """Draw `num_images` pictures of each prompt, one after the other; each is yielded as soon as it is there.

    best_of: draw so many of each prompt, at least `num_images`, and yield only the `num_images` that fit it best, best
        first, with their scores. scorer: the AltCLIP that says so; by default the one that belongs to the model.
    batch_size: pictures drawn together, 1 to 64, each the same as alone but for rounding; "auto": as many as pay off and
        fit into memory, see `in_batches`.

    model: as in `AltDiffusionPipeline.from_pretrained`, or a pipeline that is loaded already.
    seed: of the first picture of each prompt, 0 to 2**63 - 1; picture i has seed + i, and alone it comes out the same.
        None draws one at random. steps: 1 to 999, by default 25. guidance_scale: at least 0, by default 7.5, for
        the embedded models 4; 0 or 1 is none. size: (width, height) in pixels, multiples of 8; by default the model's own.
    init_image: picture to start from, changed by `strength` (above 0, to 1, by default
        0.8, with a mask 1).
    mask: white where `init_image` is to be drawn anew, of the same size.
    scheduler: one of SCHEDULERS or a diffusers class name; for this call alone. lora: a file, folder or id for
        `load_lora_weights`. text_encoder, bridge: an AltCLIP that takes the place of the model's own text encoder, and
        what stands between it and a UNet trained with CLIP: see `swap_text_encoder`.
    device, dtype: see `choose_device`, `choose_dtype`. low_memory, optimize: see `save_memory`, `optimize`.
    Everything is checked before the model is loaded, as far as that is possible. Raises InputError.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    steps = DEFAULT_STEPS if steps is None else steps
    guidance_scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    seed = secrets.randbelow(2**32) if seed is None else seed
    if best_of is not None and best_of < num_images:
        raise InputError(f"the best {num_images} of {best_of} pictures: expected to draw at least as many as are kept")
    drawn = best_of or num_images
    _check(prompts, seed, steps, guidance_scale, size, drawn, strength, init_image is not None, mask is not None)
    if batch_size != "auto" and not 1 <= batch_size <= MAX_SIZE:
        raise InputError(f"{batch_size} pictures together: expected 1 to {MAX_SIZE}, or 'auto'")
    if strength is None and init_image is not None:
        strength = DEFAULT_STRENGTH if mask is None else 1.0
    if strength is not None and int(steps * strength) < 1:
        raise InputError(f"strength {strength} of {steps} steps leaves no step to draw: raise either")
    scheduler_name = None if scheduler is None else scheduler_class(scheduler)
    start = None if init_image is None else _picture(init_image, "RGB")
    hole = None if mask is None else _picture(mask, "L")
    if hole is not None and start is not None and hole.size != start.size:
        raise InputError(
            f"the mask is {hole.width} x {hole.height}, the init image {start.width} x {start.height}: make them equal"
        )

    if isinstance(model, DiffusionPipeline):
        for_loading: dict[str, Any] = {"lora": lora, "text_encoder": text_encoder, "bridge": bridge}
        for_loading |= {"device": device, "dtype": dtype, "allow_pickle": allow_pickle}
        for_loading |= {"low_memory": low_memory, "optimize": optimize}
        for name, value in for_loading.items():
            if value:
                raise InputError(f"{name} is for loading: a pipeline that is loaded already takes none")
        pipe, model_name = _of_kind(model, start is not None, hole is not None), model.name_or_path
    else:
        pipe = load_pipeline(
            model,
            mask=hole is not None,
            init_image=start is not None,
            lora=lora,
            text_encoder=text_encoder,
            bridge=bridge,
            device=device,
            dtype=dtype,
            low_memory=low_memory,
            optimize=optimize,
            allow_pickle=allow_pickle,
        )
        model_name = str(model or hub.MINI)

    its_scheduler = pipe.scheduler
    own_scheduler = build_scheduler(scheduler_name, pipe) if scheduler_name else its_scheduler
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    arguments: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    if start is not None:
        start = start.resize(size, Image.Resampling.LANCZOS) if size else images.fit(start, native)
        arguments |= {"image": start, "strength": strength}
        size = start.size
        if hole is not None:
            arguments |= {"mask_image": hole.resize(size), "width": size[0], "height": size[1]}
    else:
        size = size or (native, native)
        arguments |= {"width": size[0], "height": size[1]}
    settings = Settings(
        prompt="",
        negative_prompt=negative_prompt,
        steps=steps,
        scheduler=type(own_scheduler).__name__.removesuffix("Scheduler"),
        guidance_scale=guidance_scale,
        width=size[0],
        height=size[1],
        model=model_name,
        strength=strength,
        init_image=_name(init_image),
        mask=_name(mask),
        lora=None if lora is None else str(lora),
        text_encoder=None if text_encoder is None else str(text_encoder),
        bridge=None if bridge is None else str(bridge),
        dtype=None if pipe.unet.dtype == torch.float32 else _dtype_name(pipe.unet.dtype),
        allow_pickle=allow_pickle or None,
    )
    judge = None if best_of is None else best_of_n.load_scorer(scorer, model_name, pipe.device)

    def draw(jobs: Sequence[tuple[str, int]]) -> list[Picture]:
        """Of prompts and seeds. One alone is drawn as it always was, to the last bit."""
        texts = [prompt for prompt, _ in jobs]
        # a generator of its own, on the CPU: the same picture alone, in any order, on any device
        generators = [torch.Generator().manual_seed(number) for _, number in jobs]
        whole = {name: arguments[name] for name in ("image", "mask_image") if name in arguments and len(jobs) > 1}
        pipe.scheduler = own_scheduler
        try:
            output = pipe(
                texts,
                negative_prompt=[negative_prompt] * len(jobs) if negative_prompt else None,
                generator=generators,
                **(arguments | {name: [image] * len(jobs) for name, image in whole.items()}),
            )
        finally:
            pipe.scheduler = its_scheduler
        return [
            Picture(image, replace(settings, prompt=prompt, seed=number), bool(filtered))
            for (prompt, number), image, filtered in zip(
                jobs, output.images, output.nsfw_content_detected or [False] * len(jobs), strict=True
            )
        ]

    jobs = [(prompt, seed + offset) for prompt in prompts for offset in range(drawn)]
    pictures = in_batches(jobs, draw, pipe.vae.device, batch_size)  # the UNet's weights may lie elsewhere
    if judge is None:
        yield from pictures
        return
    for prompt in prompts:
        some = list(itertools.islice(pictures, drawn))
        ranked = best_of_n.rank(judge, [each.image for each in some], prompt, [each.filtered for each in some])
        for index, score in ranked[:num_images]:
            yield replace(some[index], settings=replace(some[index].settings, score=round(score, 4)))


def _of_kind(pipe: DiffusionPipeline, has_image: bool, has_mask: bool) -> DiffusionPipeline:
    """This pipeline, or its relative that takes an init image or a mask, with the same parts."""
    if has_mask:
        return pipe if isinstance(pipe, StableDiffusionInpaintPipeline) else AutoPipelineForInpainting.from_pipe(pipe)
    if has_image:
        return pipe if isinstance(pipe, StableDiffusionImg2ImgPipeline) else AutoPipelineForImage2Image.from_pipe(pipe)
    return pipe if isinstance(pipe, StableDiffusionPipeline) else AutoPipelineForText2Image.from_pipe(pipe)


def default_guidance_scale(model: str | Path | DiffusionPipeline | None) -> float:
    """7.5; 4 for the embedded models."""
    name = model.name_or_path if isinstance(model, DiffusionPipeline) else model or hub.MINI
    embedded = {hub.MINI, hub.SD_MINI, str(hub.mini_folder()), str(hub.sd_mini_folder())}
    return MINI_GUIDANCE_SCALE if str(name) in embedded else DEFAULT_GUIDANCE_SCALE


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
    """The pipeline that `generate` uses, on its device, with the memory-efficient attention at hand.

    low_memory, optimize: see `save_memory`, `altdiffusion.optimize`; a dtype that is given stays.
    """
    target = choose_device(device)
    classes = {(True, True): AltDiffusionInpaintPipeline, (True, False): AltDiffusionImg2ImgPipeline}
    pipeline_class = classes.get((init_image, mask), AltDiffusionPipeline)
    pipe = pipeline_class.from_pretrained(model, dtype=choose_dtype(dtype, target), allow_pickle=allow_pickle)
    if text_encoder is not None or bridge is not None:
        swap_text_encoder(pipe, text_encoder, bridge=bridge, allow_pickle=allow_pickle)
    if lora is not None:
        try:
            here = hub.local_path(lora)
            source = hub.result_of_training(here) if here.exists() else lora
            pipe.load_lora_weights(str(source), use_safetensors=None if allow_pickle else True)
        except ImportError as error:
            raise InputError(f"LoRA files need the package peft: pip install peft ({error})") from None
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


def scheduler_class(name: str) -> str:
    """diffusers' class name for a short name, a web UI's name or a class name. Raises InputError, which lists the names."""
    known = SCHEDULERS | WEB_UI_NAMES
    if name.lower() in known:
        return known[name.lower()]
    for class_name in (name, f"{name}Scheduler"):
        if class_name.endswith("Scheduler") and hasattr(diffusers, class_name):
            return class_name
    raise InputError(f"unknown scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")


def build_scheduler(class_name: str, pipe: DiffusionPipeline) -> Any:
    """That scheduler with the noise schedule that the model was trained with."""
    try:
        scheduler = getattr(diffusers, class_name).from_config(pipe.scheduler.config)
    except ImportError as error:  # LMS needs scipy
        raise InputError(f"scheduler {class_name}: {' '.join(str(error).split())}") from None
    if is_kept(pipe.scheduler):
        keep_on_cpu(scheduler)
    return scheduler


def save_picture(picture: Picture, path: Path) -> Path:
    """Write a PNG with prompt and settings inside, whole or not at all. Raises InputError where it can't be written."""
    import io

    buffer = io.BytesIO()
    picture.image.save(buffer, format="PNG", pnginfo=png_info(picture.settings))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): pick another --out or make room") from None
    return path


def free_path(folder: Path, settings: Settings) -> Path:
    """A file name from prompt and seed that is not taken yet, e.g. 一只猫-1.png, 一只猫-1-2.png."""
    words = re.sub(r"[^\w]+", "-", settings.prompt)[:40].strip("-") or "picture"
    while len(words.encode()) > 120:  # file systems allow 255 bytes, and Chinese takes three each
        words = words[:-1]
    path, count = folder / f"{words}-{settings.seed}.png", 1
    while path.exists():
        count += 1
        path = folder / f"{words}-{settings.seed}-{count}.png"
    return path


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


def _picture(source: str | Path | Image.Image, mode: str) -> Image.Image:
    return source.convert(mode) if isinstance(source, Image.Image) else images.open_image(source, mode)


def _name(source: str | Path | Image.Image | None) -> str | None:
    return None if source is None else "(in memory)" if isinstance(source, Image.Image) else str(source)


def _dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)
