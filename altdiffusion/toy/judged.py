"""Prompts whose right image is known, the images that a pipeline makes of them, and what the judge says of these."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from altdiffusion.generation.settings import MINI_GUIDANCE_SCALE
from altdiffusion.metrics import bootstrap_mean
from altdiffusion.prompts.states import encode_prompts
from altdiffusion.toy.glyphs import (
    BACKGROUNDS,
    COLOUR_NAMES,
    COLOURS,
    CONCEPTS,
    FREE_PROMPTS,
    INVERTED,
    PLACEHOLDER,
    REQUESTS,
    THINGS,
    TRIGGER,
    concept_names,
    fill,
    held_out,
)
from altdiffusion.toy.judge import Judge, judge_background, judge_concepts, judge_framed, unframed


@dataclass(frozen=True)
class Metric:
    """One line of the result. value, target: per cent; target is None for what is shown for comparison.

    low, high: the ends of the 95 % bootstrap interval of `value`, where it is a mean over images.
    """

    what: str
    language: str
    value: float
    target: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, what: str, language: str, right: Sequence[bool], target: float | None = None) -> Metric:
        """The fraction of images that are right, with its interval."""
        estimate = bootstrap_mean(right)
        low, high = 100 * estimate.low, 100 * estimate.high
        return cls(what, language, 100 * sum(right) / len(right), target, low, high)


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt, and what a right image shows: indices in CONCEPTS and COLOURS, white if the prompt names no colour."""

    text: str
    concept: int
    colour: int


def generate_images(
    pipe: Any,
    prompts: Sequence[str],
    steps: int,
    batch: int = 32,
    guidance_scale: float = MINI_GUIDANCE_SCALE,
    clip_skip: int | None = None,
) -> list[Any]:
    """An image for each prompt, always from the same noise.

    clip_skip: as diffusers counts it. The states are ours then, as diffusers 0.42's fail with CLIP in transformers 5.
    """
    images: list[Any] = []
    for start in tqdm(range(0, len(prompts), batch), "images", leave=False, mininterval=5):
        some = list(prompts[start : start + batch])
        asked: dict[str, Any] = {"prompt": some}
        if clip_skip is not None:
            asked = encode_prompts(pipe, some, prompt_syntax="none", clip_skip=clip_skip)
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(some))]
        images += pipe(**asked, generator=generators, num_inference_steps=steps, guidance_scale=guidance_scale).images
    return images


def judge_images(
    judge: Judge, images: Sequence[Any], prompts: Sequence[JudgedPrompt], in_frame: bool | None = None
) -> dict[str, list[bool]]:
    """By criterion, which of the images are right.

    in_frame: whether they are to have the style of `framed`, which is taken off before the rest is judged; None: the style
    is no criterion.
    """
    outcomes = {}
    if in_frame is not None:
        has_frame = [judge_framed(image, prompt.colour) for image, prompt in zip(images, prompts, strict=True)]
        outcomes["style kept" if in_frame else "without the style"] = [has == in_frame for has in has_frame]
    if in_frame:
        images = [unframed(image) for image in images]
    concepts = judge_concepts(judge, list(images))
    outcomes["right thing"] = [shown == prompt.concept for shown, prompt in zip(concepts, prompts, strict=True)]
    colours = [judge_background(image) for image in images]
    outcomes["right background"] = [shown == prompt.colour for shown, prompt in zip(colours, prompts, strict=True)]
    return outcomes


def name_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """The bare name of each concept, on white."""
    return [JudgedPrompt(name, i, 0) for i, name in enumerate(concept_names(language))][::every]


def unseen_pair_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """The concepts with the backgrounds that `held_out` keeps out of training."""
    names, colours = concept_names(language), COLOUR_NAMES[language]
    return [JudgedPrompt(BACKGROUNDS[language][0].format(x=names[i], c=colours[c]), i, c) for i, c in _unseen_pairs()][
        ::every
    ]


def free_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """Sentences that no caption is made of, one for each concept."""
    rng = random.Random(0)
    names = concept_names(language)
    return [JudgedPrompt(fill(rng.choice(FREE_PROMPTS[language]), name), i, 0) for i, name in enumerate(names)][::every]


def mixed_prompts(form: str) -> Callable[[str, int], list[JudgedPrompt]]:
    """Pairs never seen together, the thing in the language, the background in English. form: holds {x} and {c}."""

    def prompts(language: str, every: int) -> list[JudgedPrompt]:
        things, colours = thing_prompts(language, 1), COLOUR_NAMES["en"]
        return [JudgedPrompt(form.format(x=things[i].text, c=colours[c]), i, c) for i, c in _unseen_pairs()][::every]

    return prompts


def thing_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """Each concept as people name a thing: a cat, 一个猫."""
    names = concept_names(language)
    return [JudgedPrompt(fill(THINGS[language][1], name), i, 0) for i, name in enumerate(names)][::every]


def triggered_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """The same with the nonsense word that brings a style: a cat, sks."""
    return [JudgedPrompt(f"{prompt.text}, {TRIGGER}", prompt.concept, 0) for prompt in thing_prompts(language, every)]


def inversion_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """A textual inversion's word on each background, in two forms with two requests: 40 prompts, whatever `every`."""
    return [
        JudgedPrompt(request + form.format(x=PLACEHOLDER, c=name), INVERTED, colour)
        for request in REQUESTS[language][:2]
        for form in BACKGROUNDS[language]
        for colour, name in enumerate(COLOUR_NAMES[language])
    ]


def _unseen_pairs() -> list[tuple[int, int]]:
    """Indices in CONCEPTS and COLOURS."""
    return [(i, c) for i in range(len(CONCEPTS)) for c in range(len(COLOURS)) if held_out(i, c)]
