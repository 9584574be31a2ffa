"""Images from prompts, with settings that generate the same image again. The command line calls this."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from altdiffusion import images
from altdiffusion.altclip import best_of as best_of_n
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.generation.auto_batch import MAX_SIZE, Size, in_batches
from altdiffusion.generation.draw import GenerateRequest, draw_batch
from altdiffusion.generation.load import load_pipeline, pipeline_of_kind
from altdiffusion.generation.loras import NamedLora, loras_to_load
from altdiffusion.generation.result import GeneratedImage, NotFinite
from altdiffusion.generation.schedulers import find_scheduler
from altdiffusion.generation.settings import IN_MEMORY, ImageSettings, settings_with
from altdiffusion.prompt_syntax import lora_names, plain_text
from altdiffusion.prompts.loras import check_loaded

MAX_IMAGES = 10000  # of one prompt


def generate(
    prompts: str | Sequence[str],
    *,
    model: str | Path | DiffusionPipeline | None = None,
    size: tuple[int, int] | None = None,
    num_images: int = 1,
    batch_size: Size = 1,
    best_of: int | None = None,
    scorer: str | Path | PromptScorer | None = None,
    init_image: str | Path | Image.Image | None = None,
    mask: str | Path | Image.Image | None = None,
    control_image: str | Path | Image.Image | None = None,
    ip_image: str | Path | Image.Image | None = None,
    device: str | None = None,
    low_memory: bool = False,
    optimize: bool = False,
    **settings: Any,
) -> Iterator[GeneratedImage]:
    """Generate `num_images` images of each prompt; each is yielded as soon as it is there.

    model: as in `AltDiffusionPipeline.from_pretrained`, or a pipeline that is loaded already. size: (width, height) in
        pixels, multiples of 8; by default the model's own, and with a mask the init image's own.
    batch_size: images generated together, 1 to 64, each the same as alone but for rounding; "auto": as many as pay off
        and fit into memory, see `in_batches`.
    best_of: generate so many of each prompt, at least `num_images`, and yield only the `num_images` that fit it best, best
        first, with their scores. scorer: the AltCLIP that says so; by default the one that belongs to the model.
    init_image: image to start from. mask: white where it is generated anew, of the same size; elsewhere the init image
        stays as it is, pixel for pixel. The settings mask_blur and only_masked are about it.
    control_image, ip_image: for the ControlNet and the IP-Adapter, which the settings controlnet and ip_adapter name, or
        which the pipeline has.
    device: see `choose_device`. low_memory, optimize: see `save_memory`, `optimize`.
    settings: the other fields of `ImageSettings`, which has their ranges and defaults: negative_prompt, steps, scheduler
        (see `find_scheduler`), guidance_scale (0 or 1 is none), seed (of the first image of each prompt; image i has seed +
        i, and alone it comes out the same), strength, lora (one, or a list; ink.safetensors:0.8 has its
        weight), lora_dir, text_encoder and bridge (see `swap_text_encoder`), dtype, ...
    Everything is checked before the model is loaded, as far as that is possible. Raises InputError; NotFinite after the
    images that are finished, where the model's numbers overflowed.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    count = num_images if best_of is None else best_of
    for name, number in (("num_images", num_images), ("best_of", count)):
        if not 1 <= number <= MAX_IMAGES:
            raise InputError(f"{name}: expected 1 to {MAX_IMAGES}, got {number}")
    if count < num_images:
        raise InputError(
            f"the best {num_images} of {best_of} images: expected to generate at least as many as are kept"
        )
    if batch_size != "auto" and not 1 <= batch_size <= MAX_SIZE:
        raise InputError(f"batch_size: expected 1 to {MAX_SIZE}, or 'auto', got {batch_size}")
    loaded = model if isinstance(model, DiffusionPipeline) else None
    model_name = loaded.name_or_path if loaded is not None else str(model or hub.MINI)
    given = {"init_image": init_image, "mask": mask, "control_image": control_image, "ip_image": ip_image}
    settings |= {"model": model_name} | {name: _source(image) for name, image in given.items()}
    if size is not None:
        settings["width"], settings["height"] = size
    said = {name: value for name, value in settings.items() if value is not None and value is not False}
    base = ImageSettings(prompt=prompts[0] if prompts else "", **said).resolved(model)
    if loaded is None and (problems := base.loading_problems):
        raise InputError("; ".join(problems))
    every = [base.replace(prompt=prompt, seed=(base.seed or 0) + i) for prompt in prompts for i in range(count)]
    if base.scheduler is not None:
        find_scheduler(base.scheduler)
    photo, control, seen = (
        None if image is None else images.open_image(image) for image in (init_image, control_image, ip_image)
    )
    white = None if mask is None else images.open_image(mask, "L")
    first = GenerateRequest(base, photo, white, control_image=control, ip_image=seen)
    kind = init_image is not None, mask is not None

    loras = _loras(base, prompts, loaded)
    of_loading: dict[str, Any] = {name: getattr(base, name) or None for name in settings_with("loading")}
    of_loading |= {"device": device, "low_memory": low_memory, "optimize": optimize}
    if loaded is None:
        of_loading["lora"] = loras
        del of_loading["lora_dir"]
        pipe = load_pipeline(model, init_image=kind[0], mask=kind[1], **of_loading)
    elif refused := [name for name, value in of_loading.items() if value]:
        raise InputError(f"{refused[0]} is for loading: a pipeline that is loaded already takes none")
    else:
        pipe = pipeline_of_kind(loaded, *kind, control_image is not None)
    first = first.resolved(pipe)  # its photo and mask are prepared once for all
    requests = [replace(first, settings=first.settings.replace(prompt=one.prompt, seed=one.seed)) for one in every]
    judge = None if best_of is None else best_of_n.load_scorer(scorer, model_name, pipe.device)

    def batch(some: Sequence[GenerateRequest]) -> list[GeneratedImage | NotFinite]:
        """The error stands for each image that is NaN; after the others, where these are yielded by themselves."""
        try:
            return [generated for generated in draw_batch(pipe, some) if generated is not None]
        except NotFinite as error:
            together = [generated or error for generated in error.images]
            return together if judge else sorted(together, key=lambda generated: isinstance(generated, NotFinite))

    results = _finite(in_batches(requests, batch, pipe.vae.device, batch_size))  # the UNet's weights may lie elsewhere
    if judge is None:
        yield from results
        return
    for prompt in prompts:
        some = list(itertools.islice(results, count))
        words = plain_text(prompt, base.prompt_syntax)
        ranked = best_of_n.rank(judge, [one.image for one in some], words, [one.filtered for one in some])
        for index, score in ranked[:num_images]:
            yield replace(some[index], settings=some[index].settings.replace(score=round(score, 4)))


def _finite(results: Iterator[GeneratedImage | NotFinite]) -> Iterator[GeneratedImage]:
    for generated in results:
        if isinstance(generated, NotFinite):
            raise generated
        yield generated


def _loras(settings: ImageSettings, prompts: Sequence[str], loaded: DiffusionPipeline | None) -> list[NamedLora]:
    """What is to be loaded; for a pipeline that is loaded, nothing. Raises InputError for a prompt's LoRA that isn't there."""
    if loaded is None:
        return loras_to_load(settings.lora, settings.lora_dir, prompts, settings.prompt_syntax)
    check_loaded(loaded, lora_names(prompts, settings.prompt_syntax))
    return []


def _source(image: str | Path | Image.Image | None) -> str | None:
    """What the settings say of an image."""
    return None if image is None else IN_MEMORY if isinstance(image, Image.Image) else str(image)
