"""What mini can do, in figures: `altdiffusion evaluate mini`.

altdiffusion evaluate mini                          the model inside the package
altdiffusion evaluate mini --build mini-build       besides, what led to it: teacher, phases, bridge, the roads not taken
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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

# By name, what `optimize` is told. Its other approximate switches want models that are made for mini, which there are not.
APPROXIMATE: dict[str, dict[str, Any]] = {"int8": {"int8": True}, "bfloat16": {"dtype": torch.bfloat16}}


@dataclass(frozen=True)
class Figure:
    """One line of the result. value and target: per cent; target is None for what is shown for comparison."""

    what: str
    language: str
    value: float
    target: float | None = None


@dataclass(frozen=True)
class Asked:
    """A prompt, and what a right image shows. colour: number in COLOURS, white if the prompt names none."""

    prompt: str
    concept: int
    colour: int


def evaluate_mini(
    build: Path | None = None,
    languages: Sequence[str] = LANGUAGES,
    every: int = 1,
    steps: int = 20,
    approximate: Sequence[str] = (),
) -> Iterator[Figure]:
    """Figures of the embedded mini; with the folder of a build, of each of its stages too.

    every: draw every n-th concept only, for a quick look. steps: denoising steps of an image.
    approximate: those of APPROXIMATE that mini is drawn with, too.
    The judge is trained first, which takes a minute or two. Raises InputError where the font is missing.
    """
    judge = train_judge()
    yield Figure("the judge itself, unseen renderings", "-", 100 * own_accuracy(judge))
    if build is not None:
        for stage, target in (("teacher", 95.0), ("phase-1", None), ("phase-2", 96.0)):
            if (build / stage / "model").is_dir():
                yield from similarity_figures(build / stage / "model", stage, languages, target)
    final = build / "mini" if build is not None and (build / "mini").is_dir() else None
    if build is None or final is not None:
        pipe = AltDiffusionPipeline.from_pretrained(final)
        yield from drawing_figures("mini", pipe, judge, languages, every, steps)
        for name in approximate:
            faster = optimize(AltDiffusionPipeline.from_pretrained(final), exact=False, **APPROXIMATE[name])
            yield from drawing_figures(f"mini, {name}", faster, judge, languages, every, steps)
    if build is not None and (build / "kv/model").is_dir():
        some = [language for language in ("en", "zh") if language in languages]
        pipe = AltDiffusionPipeline.from_pretrained(build / "kv/model")
        scorer = PromptScorer.from_pretrained(build / "phase-2/model", device="cpu")
        yield from best_of_figures(pipe, scorer, judge, some, 2 * every)
    if build is not None and (build / "bridge/model").is_dir():
        yield from bridge_figures(build, judge, languages, every, steps)


def similarity_figures(model: Path, stage: str, languages: Sequence[str], target: float | None) -> Iterator[Figure]:
    """R@1 in both directions between all concepts, each drawn on white, and their names."""
    clip, tokenizer, processor = load_similarity(model)
    clip.eval()
    with torch.no_grad():
        pixels = processor([render(i, 0) for i in range(len(CONCEPTS))], return_tensors="pt")["pixel_values"]
        images = F.normalize(torch.cat([image_features(clip, part) for part in pixels.split(64)]), dim=-1)
        same = torch.eye(len(CONCEPTS), dtype=torch.bool)
        for language in languages:
            texts = F.normalize(_encode(clip, tokenizer, concept_names(language)), dim=-1)
            similarity = texts @ images.T
            wanted = target if stage != "teacher" or language == "en" else None
            yield Figure(f"{stage}: text to image R@1", language, 100 * recall_at_k(similarity, same, 1), wanted)
            yield Figure(f"{stage}: image to text R@1", language, 100 * recall_at_k(similarity.T, same, 1), wanted)


def drawing_figures(
    name: str,
    pipe: Any,
    judge: Judge,
    languages: Sequence[str],
    every: int,
    steps: int,
    in_frame: bool = False,
    kinds: Sequence[str] = ("names", "pairs never seen together", "free prompts"),
) -> Iterator[Figure]:
    """How often a pipeline draws the right thing on the right background. in_frame: its style is that of `framed`."""
    pipe.set_progress_bar_config(disable=True)
    for language in languages:
        for kind in kinds:
            asked = _ASKED[kind](language, every)
            pictures = draw(pipe, [each.prompt for each in asked], steps)
            if in_frame:
                kept = [judge_framed(p, each.colour) for p, each in zip(pictures, asked, strict=True)]
                yield Figure(f"{name}: {kind}, style kept", language, 100 * sum(kept) / len(kept), 98.0)
                pictures = [unframed(picture) for picture in pictures]
            right = [found == each.concept for found, each in zip(judge_concepts(judge, pictures), asked, strict=True)]
            target = 80.0 if kind == "free prompts" else 97.0 if language in ("en", "zh") else 95.0
            yield Figure(f"{name}: {kind}, right thing", language, 100 * sum(right) / len(right), target)
            if kind != "free prompts":
                backgrounds = [judge_background(p) == each.colour for p, each in zip(pictures, asked, strict=True)]
                yield Figure(f"{name}: {kind}, right background", language, 100 * sum(backgrounds) / len(right), 98.0)


def bridge_figures(build: Path, judge: Judge, languages: Sequence[str], every: int, steps: int) -> Iterator[Figure]:
    """SD-mini's UNet untouched, read by its own encoder, by AltCLIP alone, and by AltCLIP through the bridge."""
    own = load_diffusion(str(build / "sd-mini/model"))
    altclip, kinds = build / "phase-2/model", ("names", "pairs never seen together")
    some = [language for language in ("en", "zh") if language in languages]
    yield from _untargeted(drawing_figures("SD-mini, its own encoder", own, judge, some, every, steps, kinds=kinds))
    swapped = swap_text_encoder(copy.deepcopy(own), altclip)
    yield from _untargeted(
        drawing_figures("SD-mini, swapped, no bridge", swapped, judge, some, every, steps, kinds=kinds)
    )
    if (build / "kv/model").is_dir():
        aligned = AltDiffusionPipeline.from_pretrained(build / "kv/model")
        yield from _untargeted(
            drawing_figures("SD-mini, K and V aligned", aligned, judge, some, every, steps, kinds=kinds)
        )
    for stage, name in _LESSER_BRIDGES.items():
        if (build / stage / "model").is_dir():
            lesser = swap_text_encoder(copy.deepcopy(own), altclip, bridge=build / stage / "model")
            read = languages if stage == "bridge-states" else some
            yield from _untargeted(drawing_figures(name, lesser, judge, read, every, steps, kinds=kinds))
    bridge = Bridge.from_pretrained(build / "bridge/model")
    bridged = swap_text_encoder(copy.deepcopy(own), altclip, bridge=bridge)
    yield from drawing_figures("SD-mini + bridge", bridged, judge, languages, every, steps, kinds=kinds)
    for style in ("fine-tune", "lora"):
        if not (build / style / "model").is_dir():
            continue
        styled = load_diffusion(str(build / (style if style == "fine-tune" else "sd-mini") / "model"))
        if style == "lora":
            styled.load_lora_weights(build / "lora/model")
        name = f"{style} in a frame"
        reached = {}
        before = drawing_figures(
            f"{name}, own encoder", styled, judge, ["en"], every, steps, in_frame=True, kinds=kinds
        )
        for each in _untargeted(before):
            reached[each.what.partition(": ")[2]] = each.value
            yield each
        bridged = swap_text_encoder(styled, altclip, bridge=bridge)
        for each in drawing_figures(f"{name} + bridge", bridged, judge, languages, every, steps, True, kinds):
            within = each.target if "style" in each.what else reached[each.what.partition(": ")[2]] - 2
            yield replace(each, target=within)


def best_of_figures(
    pipe: Any, scorer: PromptScorer, judge: Judge, languages: Sequence[str], every: int, most: int = 8
) -> Iterator[Figure]:
    """Does choosing help a model that is often wrong? The first drawing, then the best of 4 and of 8 by the scorer.

    Pairs never seen together, 8 steps, no guidance, by the pipeline whose K and V alone are aligned. (mini itself leaves
    nothing to choose.) The judge, which was trained apart, says which drawings show the right thing.
    """
    pipe.set_progress_bar_config(disable=True)
    for language in languages:
        asked = _unseen_pairs(language, every)
        drawn = draw(pipe, [each.prompt for each in asked for _ in range(most)], steps=8, guidance_scale=1.0)
        found = judge_concepts(judge, drawn)
        for count in (1, 4, most):
            right = 0
            for number, each in enumerate(asked):
                candidates = drawn[number * most : number * most + count]
                best, _ = scorer.rank(candidates, each.prompt)[0]
                right += found[number * most + best] == each.concept
            yield Figure(
                f"K and V aligned, no guidance, best of {count}: right thing", language, 100 * right / len(asked)
            )


def draw(
    pipe: Any, prompts: Sequence[str], steps: int, batch: int = 32, guidance_scale: float = MINI_GUIDANCE_SCALE
) -> list[Any]:
    """An image for each prompt, always from the same noise."""
    pictures: list[Any] = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(some))]
        options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        pictures += pipe(some, generator=generators, **options).images
        print(f"\r{len(pictures)}/{len(prompts)}", end="", file=sys.stderr, flush=True)
    print("\r", end="", file=sys.stderr)
    return pictures


def as_json(figures: Sequence[Figure]) -> dict[str, Any]:
    """One JSON document of figures."""
    return {"figures": [asdict(each) for each in figures]}


_LESSER_BRIDGES = {
    "bridge-kv": "SD-mini + a bridge trained as long as K and V",
    "bridge-states": "SD-mini + a bridge that learnt the states alone",
}


def _names(language: str, every: int) -> list[Asked]:
    return [Asked(name, i, 0) for i, name in enumerate(concept_names(language))][::every]


def _unseen_pairs(language: str, every: int) -> list[Asked]:
    names, colours = concept_names(language), COLOUR_NAMES[language]
    return [
        Asked(BACKGROUNDS[language][0].format(x=names[i], c=colours[c]), i, c)
        for i in range(len(CONCEPTS))
        for c in range(len(COLOURS))
        if held_out(i, c)
    ][::every]


def _free_prompts(language: str, every: int) -> list[Asked]:
    """Sentences that no caption is made of, one for each concept."""
    rng = random.Random(0)
    names = concept_names(language)
    return [Asked(fill(rng.choice(FREE_PROMPTS[language]), name), i, 0) for i, name in enumerate(names)][::every]


_ASKED: dict[str, Callable[[str, int], list[Asked]]] = {
    "names": _names,
    "pairs never seen together": _unseen_pairs,
    "free prompts": _free_prompts,
}


def _untargeted(figures: Iterator[Figure]) -> Iterator[Figure]:
    return (Figure(each.what, each.language, each.value) for each in figures)


def _encode(clip: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    ids, mask = pad(tokens(tokenizer, texts), tokenizer.pad_token_id)
    return text_features(clip, ids, mask)
