"""How well mini does, by a judge that was trained apart.

altdiffusion evaluate mini                          the model inside the package
altdiffusion evaluate mini --build mini-build       its stages too: teacher, phases, bridges, the roads not taken
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from altdiffusion.altclip.model import image_features, load_similarity, text_features
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.metrics import recall_at_k
from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline
from altdiffusion.pipelines.load import load_diffusion
from altdiffusion.pipelines.swap import swap_text_encoder
from altdiffusion.speed.optimize import optimize
from altdiffusion.text_encoder.tokenizer import pad, tokens
from altdiffusion.toy.glyphs import CONCEPTS, LANGUAGES, concept_names, render
from altdiffusion.toy.judge import Judge, judge_concepts, own_accuracy, train_judge
from altdiffusion.toy.judged import (
    JudgedPrompt,
    Metric,
    free_prompts,
    generate_images,
    judge_images,
    name_prompts,
    unseen_pair_prompts,
)
from altdiffusion.toy.parity import Parity, all_right, parity_metrics, subjects

# The options of `optimize` by name. Its other approximate ones need models made for mini, and there are none.
APPROXIMATE: dict[str, dict[str, Any]] = {"int8": {"int8": True}, "bfloat16": {"dtype": torch.bfloat16}}
_LESSER_BRIDGES = {
    "bridge-kv": "SD-mini + a bridge trained as long as K and V",
    "bridge-states": "SD-mini + a bridge that learnt the states alone",
}


def evaluate_mini(
    build: Path | None = None,
    languages: Sequence[str] = LANGUAGES,
    every: int = 1,
    steps: int = 20,
    approximate: Sequence[str] = (),
) -> Iterator[Metric | Parity]:
    """Metrics of the embedded mini and SD-mini; with the folder of a build, of each of its stages instead.

    What a build lacks of AltCLIP, the bridge and SD-mini is the package's.

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
    altclip: Path | None = None  # the package's
    bridge: str | Path = "mini"
    if build is not None and (build / "phase-2/model").is_dir() and (build / "bridge/model").is_dir():
        altclip, bridge = build / "phase-2/model", build / "bridge/model"
        yield from bridge_metrics(build, judge, languages, every, steps)
    for subject in subjects(build):
        yield from parity_metrics(subject, altclip, bridge, judge, languages, every, steps)


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
    kinds: Sequence[str] = ("names", "pairs never seen together", "free prompts"),
) -> Iterator[Metric | Parity]:
    """How often a pipeline shows the right thing on the right background; behind English, its parity with that."""
    pipe.set_progress_bar_config(disable=True)
    in_english: dict[str, list[bool]] = {}
    for language in languages:
        for kind in kinds:
            prompts = PROMPT_KINDS[kind](language, every)
            images = generate_images(pipe, [prompt.text for prompt in prompts], steps)
            outcomes = judge_images(judge, images, prompts)
            if kind == "free prompts":
                del outcomes["right background"]
            thing = 80.0 if kind == "free prompts" else 97.0 if language in ("en", "zh") else 95.0
            for criterion, right in outcomes.items():
                target = thing if criterion == "right thing" else 98.0
                yield Metric.of(f"{name}: {kind}, {criterion}", language, right, target)
            reached = all_right(outcomes)
            if language == "en":
                in_english[kind] = reached
            elif any(in_english.get(kind, [])):
                yield Parity.of(f"{name}: {kind}", language, reached, in_english[kind])


def bridge_metrics(build: Path, judge: Judge, languages: Sequence[str], every: int, steps: int) -> Iterator[Metric]:
    """What a build's bridge is compared with: SD-mini with its own encoder, with AltCLIP alone, and lesser bridges."""
    some = [language for language in ("en", "zh") if language in languages]

    def measure(name: str, pipe: Any, languages: Sequence[str]) -> Iterator[Metric]:
        for metric in image_metrics(name, pipe, judge, languages, every, steps, ("names", "pairs never seen together")):
            if isinstance(metric, Metric):
                yield replace(metric, target=None)

    def swapped(bridge: Path | None) -> Any:
        return swap_text_encoder(copy.deepcopy(own), build / "phase-2/model", bridge=bridge)

    own = load_diffusion(str(build / "sd-mini/model"))
    yield from measure("SD-mini, its own encoder", own, some)
    yield from measure("SD-mini, swapped, no bridge", swapped(None), some)
    if (build / "kv/model").is_dir():
        yield from measure("SD-mini, K and V aligned", AltDiffusionPipeline.from_pretrained(build / "kv/model"), some)
    for stage, name in _LESSER_BRIDGES.items():
        if (build / stage / "model").is_dir():
            lesser = swapped(build / stage / "model")
            yield from measure(name, lesser, languages if stage == "bridge-states" else some)


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


def as_json(results: Sequence[Metric | Parity]) -> dict[str, Any]:
    """One JSON document of the metrics."""
    metrics = [asdict(result) for result in results if isinstance(result, Metric)]
    return {"figures": metrics, "parity": [asdict(result) for result in results if isinstance(result, Parity)]}


def parity_table(results: Sequence[Metric | Parity]) -> list[list[str]]:
    """A row for each kind of prompt, a column for each language: per cent of what English reaches, and its interval."""
    found = [result for result in results if isinstance(result, Parity)]
    kinds, languages = (list(dict.fromkeys(each)) for each in ([p.what for p in found], [p.language for p in found]))
    cells = {(p.what, p.language): f"{100 * p.ratio:.0f} [{100 * p.low:.0f}, {100 * p.high:.0f}]" for p in found}
    rows = [[what, *(cells.get((what, language), "") for language in languages)] for what in kinds]
    return [["of what English reaches, %", *languages], *rows] if rows else []


PROMPT_KINDS: dict[str, Callable[[str, int], list[JudgedPrompt]]] = {
    "names": name_prompts,
    "pairs never seen together": unseen_pair_prompts,
    "free prompts": free_prompts,
}
