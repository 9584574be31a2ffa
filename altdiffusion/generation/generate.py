"""Images from prompts, with settings that draw the same image again. The command line and the demo call this."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
)
from PIL import Image

from altdiffusion import images
from altdiffusion.altclip import best_of as best_of_n
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.checkpoints import hub
from altdiffusion.devices import dtype_name
from altdiffusion.errors import InputError
from altdiffusion.generation.auto_batch import MAX_SIZE, Size, in_batches
from altdiffusion.generation.load import load_pipeline, pipeline_of_kind, source_name
from altdiffusion.generation.result import GeneratedImage
from altdiffusion.generation.schedulers import build_scheduler, scheduler_class
from altdiffusion.generation.settings import DEFAULT_STEPS, DEFAULT_STRENGTH, Settings, _check, default_guidance_scale


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
) -> Iterator[GeneratedImage]:
    """Draw `num_images` images of each prompt, one after the other; each is yielded as soon as it is there.

    best_of: draw so many of each prompt, at least `num_images`, and yield only the `num_images` that fit it best, best
        first, with their scores. scorer: the AltCLIP that says so; by default the one that belongs to the model.
    batch_size: images drawn together, 1 to 64, each the same as alone but for rounding; "auto": as many as pay off and
        fit into memory, see `in_batches`.

    model: as in `AltDiffusionPipeline.from_pretrained`, or a pipeline that is loaded already.
    seed: of the first image of each prompt, 0 to 2**63 - 1; image i has seed + i, and alone it comes out the same.
        None draws one at random. steps: 1 to 999, by default 25. guidance_scale: at least 0, by default 7.5, for
        the embedded models 4; 0 or 1 is none. size: (width, height) in pixels, multiples of 8; by default the model's own.
    init_image: image to start from, changed by `strength` (above 0, to 1, by default
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
        pipe, model_name = pipeline_of_kind(model, start is not None, hole is not None), model.name_or_path
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
        init_image=source_name(init_image),
        mask=source_name(mask),
        lora=None if lora is None else str(lora),
        text_encoder=None if text_encoder is None else str(text_encoder),
        bridge=None if bridge is None else str(bridge),
        dtype=None if pipe.unet.dtype == torch.float32 else dtype_name(pipe.unet.dtype),
        allow_pickle=allow_pickle or None,
    )
    judge = None if best_of is None else best_of_n.load_scorer(scorer, model_name, pipe.device)

    def draw(jobs: Sequence[tuple[str, int]]) -> list[GeneratedImage]:
        """Of prompts and seeds. One alone is drawn as it always was, to the last bit."""
        texts = [prompt for prompt, _ in jobs]
        # a generator of its own, on the CPU: the same image alone, in any order, on any device
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
            GeneratedImage(image, replace(settings, prompt=prompt, seed=number), bool(filtered))
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


def _picture(source: str | Path | Image.Image, mode: str) -> Image.Image:
    return source.convert(mode) if isinstance(source, Image.Image) else images.open_image(source, mode)
