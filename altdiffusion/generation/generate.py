"""Images from prompts, with settings that generate the same image again. The command line calls this."""

from __future__ import annotations

import functools
import itertools
import secrets
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from altdiffusion import images
from altdiffusion.altclip import best_of as best_of_n
from altdiffusion.altclip.calibrated_scores import prompt_languages
from altdiffusion.altclip.score_kinds import ScoreAs
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
from altdiffusion.prompt_syntax import PromptSyntax, lora_names, plain_text
from altdiffusion.prompts.loras import check_loaded

MAX_IMAGES = 10000  # of one prompt
_MODES = {"init_image": "RGB", "mask": "L", "control_image": "RGB", "ip_image": "RGB"}  # of Pillow


def generate(
    prompts: str | Sequence[str],
    *,
    model: str | Path | DiffusionPipeline | None = None,
    size: tuple[int, int] | None = None,
    num_images: int = 1,
    batch_size: Size = 1,
    best_of: int | None = None,
    scorer: str | Path | PromptScorer | None = None,
    score_as: ScoreAs = "cosine",
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
        score_as: what a score is given as, see `PromptScorer.score`; for all but cosines the prompt's language is found.
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
    loaded = model if isinstance(model, DiffusionPipeline) else None
    model_name = loaded.name_or_path if loaded is not None else str(model or hub.MINI)
    given = {"init_image": init_image, "mask": mask, "control_image": control_image, "ip_image": ip_image}
    settings |= {"model": model_name} | {name: _source(image) for name, image in given.items()}
    if size is not None:
        settings["width"], settings["height"] = size
    said = {name: value for name, value in settings.items() if value is not None and value is not False}
    base = ImageSettings(prompt=prompts[0] if prompts else "", **said)
    every = [base.replace(prompt=prompt) for prompt in prompts]
    opened = {name: None if image is None else images.open_image(image, _MODES[name]) for name, image in given.items()}
    results = generate_all(
        [_with_images(image_settings, opened) for image_settings in every],
        pipe=loaded,
        num_images=num_images,
        batch_size=batch_size,
        best_of=best_of,
        scorer=scorer,
        score_as=score_as,
        device=device,
        low_memory=low_memory,
        optimize=optimize,
    )
    for _, generated in results:
        yield generated


def generate_all(
    requests: Iterable[GenerateRequest | ImageSettings],
    *,
    pipe: DiffusionPipeline | None = None,
    num_images: int = 1,
    batch_size: Size = 1,
    best_of: int | None = None,
    scorer: str | Path | PromptScorer | None = None,
    score_as: ScoreAs = "cosine",
    device: str | None = None,
    low_memory: bool = False,
    optimize: bool = False,
    failed: dict[int, Exception] | None = None,
) -> Iterator[tuple[int, GeneratedImage]]:
    """Generate `num_images` images of each request; yields (index of the request, an image) as soon as one is there.

    Requests may differ in every setting. Each model is loaded once, and what can share a batch comes together: so requests
    are taken out of their order, but those that differ in prompt, negative prompt and seed alone stay in it.
    requests: settings alone name their images by paths. Requests without a seed share a random one.
    pipe: a pipeline that is loaded already, for all; else each request's model is loaded.
    failed: takes the errors of requests, by index, which then don't stop the others: InputError, NotFinite.
    The others: as in `generate`. Raises InputError, and NotFinite as `generate` does.
    """
    run = _Run(pipe, num_images, batch_size, best_of, scorer, score_as, failed)
    run.check()
    opened: dict[tuple[str, str], Image.Image] = {}
    any_seed = secrets.randbelow(2**32)
    jobs: list[Job] = []
    for index, request in enumerate(requests):
        try:
            first = _request(request, pipe, opened)
            jobs += [(index, first.numbered(number, any_seed, pipe)) for number in range(run.count)]
        except InputError as error:
            run.fail([index], error)
    opened.clear()
    of_loading = {"device": device, "low_memory": low_memory, "optimize": optimize}
    for of_model in _grouped(jobs, lambda request: repr((request.settings.model, _loading(request.settings)))):
        yield from run.with_model(of_model, of_loading)


Job = tuple[int, GenerateRequest]  # one image of a request; which


@dataclass(frozen=True)
class _Run:
    """The arguments of `generate_all`."""

    pipe: DiffusionPipeline | None
    num_images: int
    batch_size: Size
    best_of: int | None
    scorer: str | Path | PromptScorer | None
    score_as: ScoreAs
    failed: dict[int, Exception] | None

    @property
    def count(self) -> int:
        """Images that are generated of each request."""
        return self.num_images if self.best_of is None else self.best_of

    def check(self) -> None:
        """Raise InputError for numbers out of their ranges."""
        for name, number in (("num_images", self.num_images), ("best_of", self.count)):
            if not 1 <= number <= MAX_IMAGES:
                raise InputError(f"{name}: expected 1 to {MAX_IMAGES}, got {number}")
        if self.score_as != "cosine" and self.best_of is None:
            raise InputError(
                f"score_as={self.score_as!r} says how the best of several are scored: expected best_of with it"
            )
        if self.count < self.num_images:
            raise InputError(
                f"the best {self.num_images} of {self.best_of} images: expected to generate at least as many as are kept"
            )
        if self.batch_size != "auto" and not 1 <= self.batch_size <= MAX_SIZE:
            raise InputError(f"batch_size: expected 1 to {MAX_SIZE}, or 'auto', got {self.batch_size}")

    def with_model(self, jobs: Sequence[Job], of_loading: dict[str, Any]) -> Iterator[tuple[int, GeneratedImage]]:
        """The images of jobs that agree in the model and in how it is loaded."""
        settings = jobs[0][1].settings
        try:
            pipe = self._loaded(jobs, _loading(settings) | of_loading)
            name = str(settings.model or pipe.name_or_path)
            judge = None if self.best_of is None else best_of_n.load_scorer(self.scorer, name, pipe.device)
            if judge is not None and self.score_as != "cosine":  # before images are generated that it can't score
                prompt_languages(
                    judge.calibration, list({_words(request): None for _, request in jobs}), self.score_as, None
                )
        except InputError as error:
            self.fail([index for index, _ in jobs], error)
            return
        for alike in _grouped(_prepared(jobs, pipe), lambda request: request.batch_key):
            of_kind = pipeline_of_kind(pipe, *alike[0][1].kind)
            draw = functools.partial(self._draw, of_kind, judge is not None)
            # the UNet's weights may lie elsewhere than the VAE's
            results = in_batches(alike, draw, pipe.vae.device, self.batch_size)
            yield from self._finished(results) if judge is None else self._best(alike, results, judge)

    def _loaded(self, jobs: Sequence[Job], of_loading: dict[str, Any]) -> Any:
        settings = jobs[0][1].settings
        if self.pipe is None:
            kinds = {job.kind[:2] for _, job in jobs}
            has_image, has_mask = kinds.pop() if len(kinds) == 1 else (False, False)
            del of_loading["lora_dir"]
            of_loading["lora"] = _loras(jobs)
            return load_pipeline(settings.model, init_image=has_image, mask=has_mask, **of_loading)
        if given := [name for name, value in of_loading.items() if value]:
            raise InputError(f"{given[0]} is for loading: a pipeline that is loaded already takes none")
        if settings.model not in (None, self.pipe.name_or_path):
            raise InputError(f"model {settings.model}: a pipeline that is loaded already takes none")
        return self.pipe

    def _draw(self, pipe: Any, in_order: bool, some: Sequence[Job]) -> list[tuple[int, GeneratedImage | Exception]]:
        """The error stands for each image that is NaN; after the others, unless the order is asked for."""
        indices = [index for index, _ in some]
        try:
            together: list[Any] = draw_batch(pipe, [request for _, request in some])
        except NotFinite as error:
            together = [generated or error for generated in error.images]
        except InputError as error:
            if self.failed is None:
                raise
            if len(some) > 1:  # it may be one's fault
                return [result for one in some for result in self._draw(pipe, in_order, [one])]
            together = [error]
        results = list(zip(indices, together, strict=True))
        return results if in_order else sorted(results, key=lambda result: isinstance(result[1], Exception))

    def _finished(
        self, results: Iterable[tuple[int, GeneratedImage | Exception]]
    ) -> Iterator[tuple[int, GeneratedImage]]:
        for index, generated in results:
            if isinstance(generated, GeneratedImage):
                yield index, generated
            else:
                self.fail([index], generated)

    def _best(
        self, jobs: Sequence[Job], results: Iterator[tuple[int, GeneratedImage | Exception]], judge: PromptScorer
    ) -> Iterator[tuple[int, GeneratedImage]]:
        for index, request in jobs[:: self.count]:
            every = list(itertools.islice(results, self.count))
            some = list(self._finished(every))
            if len(some) < self.count:
                continue
            images = [one for _, one in some]
            filtered = [one.filtered for one in images]
            try:
                ranked = best_of_n.rank(judge, [one.image for one in images], _words(request), filtered, self.score_as)
            except InputError as error:  # its prompt's language has no calibration
                self.fail([index], error)
                continue
            for place, score in ranked[: self.num_images]:
                yield index, replace(images[place], settings=images[place].settings.replace(score=round(score, 4)))

    def fail(self, indices: Iterable[int], error: Exception) -> None:
        """Note an error for requests, or raise it where nobody takes it."""
        if self.failed is None:
            raise error
        for index in indices:
            self.failed.setdefault(index, error)


def _words(request: GenerateRequest) -> str:
    """What a prompt says, without its syntax."""
    return plain_text(request.settings.prompt, request.settings.prompt_syntax)


def _loras(jobs: Sequence[Job]) -> list[NamedLora]:
    """What is to be loaded for jobs that agree in `lora` and `lora_dir`: these, and what their prompts name."""
    lora, lora_dir = jobs[0][1].settings.lora, jobs[0][1].settings.lora_dir
    prompts: dict[PromptSyntax, dict[str, None]] = {}  # each once: the folder is searched for every call
    for _, job in jobs:
        prompts.setdefault(job.settings.prompt_syntax, {})[job.settings.prompt] = None
    loras: dict[str, NamedLora] = {}
    for syntax, some in prompts.items():
        named = loras_to_load(lora, lora_dir, some, syntax)
        loras |= {each.name: each for each in named}
    return list(loras.values())


def _loading(settings: ImageSettings) -> dict[str, Any]:
    """What a pipeline is loaded with."""
    return {name: getattr(settings, name) or None for name in settings_with("loading")}


def _grouped(jobs: Iterable[Job], key_of: Callable[[GenerateRequest], Hashable]) -> list[list[Job]]:
    """Jobs of equal keys together, in their order, the groups by their first."""
    groups: dict[Hashable, list[Job]] = {}
    for index, request in jobs:
        groups.setdefault(key_of(request), []).append((index, request))
    return list(groups.values())


def _prepared(jobs: Iterable[Job], pipe: DiffusionPipeline) -> Iterator[Job]:
    """With image and mask as the model takes them; those that several jobs share are prepared once."""
    prepared: dict[Hashable, GenerateRequest] = {}
    for index, request in jobs:
        key = id(request.image), id(request.mask), id(request.control_image), request.batch_key
        if key not in prepared:
            prepared[key] = request.resolved(pipe)
        own = {name: getattr(request.settings, name) for name in settings_with("per_image")}
        yield index, replace(prepared[key], settings=prepared[key].settings.replace(**own))


def _request(
    request: GenerateRequest | ImageSettings,
    pipe: DiffusionPipeline | None,
    opened: dict[tuple[str, str], Image.Image],
) -> GenerateRequest:
    """With its model's name and its images. opened: those that are open already, by path and mode."""
    if isinstance(request, ImageSettings):
        paths = {name: getattr(request, name) for name in _MODES}
        for name, path in paths.items():
            if path is not None and (path, _MODES[name]) not in opened:
                opened[path, _MODES[name]] = images.open_image(path, _MODES[name])
        request = _with_images(request, {name: opened.get((path, _MODES[name])) for name, path in paths.items()})
    settings = request.settings
    if settings.scheduler is not None:
        find_scheduler(settings.scheduler)
    if pipe is not None:
        check_loaded(pipe, lora_names([settings.prompt], settings.prompt_syntax))
        return request
    if problems := settings.loading_problems:
        raise InputError("; ".join(problems))
    loras_to_load(settings.lora, settings.lora_dir, [settings.prompt], settings.prompt_syntax)
    return replace(request, settings=settings.replace(model=settings.model or hub.MINI))


def _with_images(settings: ImageSettings, opened: dict[str, Image.Image | None]) -> GenerateRequest:
    """opened: the images by the names of their settings."""
    return GenerateRequest(
        settings,
        opened["init_image"],
        opened["mask"],
        control_image=opened["control_image"],
        ip_image=opened["ip_image"],
    )


def _source(image: str | Path | Image.Image | None) -> str | None:
    """What the settings say of an image."""
    return None if image is None else IN_MEMORY if isinstance(image, Image.Image) else str(image)
