"""How well mini does, by a judge that was trained apart.

altdiffusion evaluate mini                          the model inside the package
altdiffusion evaluate mini --build mini-build       its stages too: teacher, phases, bridges, the roads not taken
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from altdiffusion.altclip.model import image_features, load_similarity, text_features
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.generation.settings import MINI_GUIDANCE_SCALE
from altdiffusion.metrics import recall_at_k
from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.pipelines.swap import swap_text_encoder
from altdiffusion.speed.optimize import optimize
from altdiffusion.text_encoder.bridge import Bridge
from altdiffusion.text_encoder.tokenizer import pad, tokens
from altdiffusion.toy.glyphs import (
    BACKGROUNDS,
    COLOUR_NAMES,
    COLOURS,
    CONCEPTS,
    FREE_PROMPTS,
    LANGUAGES,
    concept_names,
    fill,
    held_out,
    render,
)
from altdiffusion.toy.judge import (
    Judge,
    judge_background,
    judge_concepts,
    judge_framed,
    own_accuracy,
    train_judge,
    unframed,
)

# The options of `optimize` by name. Its other approximate ones need models made for mini, and there are none.
APPROXIMATE: dict[str, dict[str, Any]] = {"int8": {"int8": True}, "bfloat16": {"dtype": torch.bfloat16}}
_LESSER_BRIDGES = {
    "bridge-kv": "SD-mini + a bridge trained as long as K and V",
    "bridge-states": "SD-mini + a bridge that learnt the states alone",
}


@dataclass(frozen=True)
class Metric:
    """One line of the result. value, target: per cent; target is None for what is shown for comparison."""

    what: str
    language: str
    value: float
    target: float | None = None


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt, and what a right image shows: indices in CONCEPTS and COLOURS, white if the prompt names no colour."""

    text: str
    concept: int
    colour: int


def evaluate_mini(
    build: Path | None = None,
    languages: Sequence[str] = LANGUAGES,
    every: int = 1,
    steps: int = 20,
    approximate: Sequence[str] = (),
) -> Iterator[Metric]:
    """Metrics of the embedded mini; with the folder of a build, of each of its stages as well.

    every: take every n-th concept only, for a quick look. steps: denoising steps of an image.
    approximate: names in APPROXIMATE that mini is evaluated with as well.
    The judge is trained first, which takes a minute or two. Raises InputError where the font is missing.
    """
    judge = train_judge()
    yield Metric("the judge itself, unseen renderings", "-", 100 * own_accuracy(judge))
    if build is not None:
        for stage, target in (("teacher", 95.0), ("phase-1", None), ("phase-2", 96.0)):
            if (build / stage / "model").is_dir():
                yield from similarity_metrics(build / stage / "model", stage, languages, target)
    final = build / "mini" if build is not None and (build / "mini").is_dir() else None
    if build is None or final is not None:
        pipe = AltDiffusionPipeline.from_pretrained(final)
        yield from image_metrics("mini", pipe, judge, languages, every, steps)
        for name in approximate:
            faster = optimize(AltDiffusionPipeline.from_pretrained(final), exact=False, **APPROXIMATE[name])
            yield from image_metrics(f"mini, {name}", faster, judge, languages, every, steps)
    if build is not None and (build / "kv/model").is_dir():
        some = [language for language in ("en", "zh") if language in languages]
        pipe = AltDiffusionPipeline.from_pretrained(build / "kv/model")
        scorer = PromptScorer.from_pretrained(build / "phase-2/model", device="cpu")
        yield from best_of_metrics(pipe, scorer, judge, some, 2 * every)
    if build is not None and (build / "bridge/model").is_dir():
        yield from bridge_metrics(build, judge, languages, every, steps)


def similarity_metrics(model: Path, stage: str, languages: Sequence[str], target: float | None) -> Iterator[Metric]:
    """R@1 in both directions between all concepts, each rendered on white, and their names."""
    clip, tokenizer, processor = load_similarity(model)
    clip.eval()
    with torch.no_grad():
        pixels = processor([render(i, 0) for i in range(len(CONCEPTS))], return_tensors="pt")["pixel_values"]
        images = F.normalize(torch.cat([image_features(clip, part) for part in pixels.split(64)]), dim=-1)
        same = torch.eye(len(CONCEPTS), dtype=torch.bool)
        for language in languages:
            ids, mask = pad(tokens(tokenizer, concept_names(language)), tokenizer.pad_token_id)
            texts = F.normalize(text_features(clip, ids, mask), dim=-1)
            similarity = texts @ images.T
            expected = target if stage != "teacher" or language == "en" else None
            yield Metric(f"{stage}: text to image R@1", language, 100 * recall_at_k(similarity, same, 1), expected)
            yield Metric(f"{stage}: image to text R@1", language, 100 * recall_at_k(similarity.T, same, 1), expected)


def image_metrics(
    name: str,
    pipe: Any,
    judge: Judge,
    languages: Sequence[str],
    every: int,
    steps: int,
    in_frame: bool = False,
    kinds: Sequence[str] = ("names", "pairs never seen together", "free prompts"),
) -> Iterator[Metric]:
    """How often a pipeline shows the right thing on the right background. in_frame: its style is that of `framed`."""
    pipe.set_progress_bar_config(disable=True)
    for language in languages:
        for kind in kinds:
            prompts = PROMPT_KINDS[kind](language, every)
            images = generate_images(pipe, [prompt.text for prompt in prompts], steps)
            if in_frame:
                kept = [judge_framed(image, prompt.colour) for image, prompt in zip(images, prompts, strict=True)]
                yield Metric(f"{name}: {kind}, style kept", language, 100 * sum(kept) / len(kept), 98.0)
                images = [unframed(image) for image in images]
            concepts = judge_concepts(judge, images)
            right = [shown == prompt.concept for shown, prompt in zip(concepts, prompts, strict=True)]
            target = 80.0 if kind == "free prompts" else 97.0 if language in ("en", "zh") else 95.0
            yield Metric(f"{name}: {kind}, right thing", language, 100 * sum(right) / len(right), target)
            if kind != "free prompts":
                colours = [judge_background(image) for image in images]
                backgrounds = [shown == prompt.colour for shown, prompt in zip(colours, prompts, strict=True)]
                yield Metric(f"{name}: {kind}, right background", language, 100 * sum(backgrounds) / len(right), 98.0)


def bridge_metrics(build: Path, judge: Judge, languages: Sequence[str], every: int, steps: int) -> Iterator[Metric]:
    """SD-mini's UNet untouched, with its own encoder, with AltCLIP alone, and with AltCLIP through the bridge."""
    some = [language for language in ("en", "zh") if language in languages]

    def measure(name: str, pipe: Any, languages: Sequence[str], in_frame: bool = False) -> Iterator[Metric]:
        kinds = ("names", "pairs never seen together")
        return image_metrics(name, pipe, judge, languages, every, steps, in_frame, kinds)

    def bridged(pipe: Any, bridge: Bridge | Path | None) -> Any:
        return swap_text_encoder(pipe, build / "phase-2/model", bridge=bridge)

    own = load_diffusion(str(build / "sd-mini/model"))
    yield from _without_targets(measure("SD-mini, its own encoder", own, some))
    yield from _without_targets(measure("SD-mini, swapped, no bridge", bridged(copy.deepcopy(own), None), some))
    if (build / "kv/model").is_dir():
        aligned = AltDiffusionPipeline.from_pretrained(build / "kv/model")
        yield from _without_targets(measure("SD-mini, K and V aligned", aligned, some))
    for stage, name in _LESSER_BRIDGES.items():
        if (build / stage / "model").is_dir():
            lesser = bridged(copy.deepcopy(own), build / stage / "model")
            yield from _without_targets(measure(name, lesser, languages if stage == "bridge-states" else some))
    bridge = Bridge.from_pretrained(build / "bridge/model")
    yield from measure("SD-mini + bridge", bridged(copy.deepcopy(own), bridge), languages)
    for style in ("fine-tune", "lora"):
        if not (build / style / "model").is_dir():
            continue
        styled = load_diffusion(str(build / (style if style == "fine-tune" else "sd-mini") / "model"))
        if style == "lora":
            styled.load_lora_weights(build / "lora/model")
        reached = {}  # by its own encoder; the bridge may lose 2 %
        for metric in _without_targets(measure(f"{style} in a frame, own encoder", styled, ["en"], in_frame=True)):
            reached[metric.what.partition(": ")[2]] = metric.value
            yield metric
        for metric in measure(f"{style} in a frame + bridge", bridged(styled, bridge), languages, in_frame=True):
            target = metric.target if "style" in metric.what else reached[metric.what.partition(": ")[2]] - 2
            yield replace(metric, target=target)


def best_of_metrics(
    pipe: Any, scorer: PromptScorer, judge: Judge, languages: Sequence[str], every: int, most: int = 8
) -> Iterator[Metric]:
    """Does choosing help a model that is often wrong? The first image, then the best of 4 and of 8 by the scorer.

    Pairs never seen together, 8 steps, no guidance, by the pipeline whose K and V alone are aligned. (mini itself leaves
    nothing to choose.) The judge, which was trained apart, says which images show the right thing.
    """
    pipe.set_progress_bar_config(disable=True)
    for language in languages:
        prompts = unseen_pair_prompts(language, every)
        repeated = [prompt.text for prompt in prompts for _ in range(most)]
        images = generate_images(pipe, repeated, steps=8, guidance_scale=1.0)
        concepts = judge_concepts(judge, images)
        for count in (1, 4, most):
            right = 0
            for first, prompt in zip(range(0, len(images), most), prompts, strict=True):
                best, _ = scorer.rank(images[first : first + count], prompt.text)[0]
                right += concepts[first + best] == prompt.concept
            yield Metric(
                f"K and V aligned, no guidance, best of {count}: right thing", language, 100 * right / len(prompts)
            )


def generate_images(
    pipe: Any, prompts: Sequence[str], steps: int, batch: int = 32, guidance_scale: float = MINI_GUIDANCE_SCALE
) -> list[Any]:
    """An image for each prompt, always from the same noise."""
    images: list[Any] = []
    for start in tqdm(range(0, len(prompts), batch), "images", leave=False, mininterval=5):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(some))]
        options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        images += pipe(some, generator=generators, **options).images
    return images


def as_json(metrics: Sequence[Metric]) -> dict[str, Any]:
    """One JSON document of the metrics."""
    return {"figures": [asdict(metric) for metric in metrics]}


def name_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """The bare name of each concept, on white."""
    return [JudgedPrompt(name, i, 0) for i, name in enumerate(concept_names(language))][::every]


def unseen_pair_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """The concepts with the backgrounds that `held_out` keeps out of training."""
    names, colours = concept_names(language), COLOUR_NAMES[language]
    return [
        JudgedPrompt(BACKGROUNDS[language][0].format(x=names[i], c=colours[c]), i, c)
        for i in range(len(CONCEPTS))
        for c in range(len(COLOURS))
        if held_out(i, c)
    ][::every]


def free_prompts(language: str, every: int) -> list[JudgedPrompt]:
    """Sentences that no caption is made of, one for each concept."""
    rng = random.Random(0)
    names = concept_names(language)
    return [JudgedPrompt(fill(rng.choice(FREE_PROMPTS[language]), name), i, 0) for i, name in enumerate(names)][::every]


PROMPT_KINDS: dict[str, Callable[[str, int], list[JudgedPrompt]]] = {
    "names": name_prompts,
    "pairs never seen together": unseen_pair_prompts,
    "free prompts": free_prompts,
}


def _without_targets(metrics: Iterator[Metric]) -> Iterator[Metric]:
    return (replace(metric, target=None) for metric in metrics)
