"""Best of N: generate several images of a prompt, let AltCLIP say which fits it best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

from altdiffusion.altclip.score_kinds import ScoreAs
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.checkpoints import hub
from altdiffusion.errors import GenerationFailed, InputError
from altdiffusion.pipeline_calls.finite_images import ADVICE, watch_finite
from altdiffusion.pipeline_calls.more_arguments import with_arguments
from altdiffusion.prompt_syntax import plain_text

# The AltCLIP that belongs to a published AltDiffusion; mini's also to SD-mini.
_SCORERS = {name: name.replace("AltDiffusion", "AltCLIP") for name in hub.PUBLISHED}
_SCORERS |= {hub.MINI: hub.MINI, hub.SD_MINI: hub.MINI}


@dataclass
class RankedOutput(StableDiffusionPipelineOutput):
    """What a pipeline returns with `best_of`: each prompt's images together, best first.

    scores: cosine of each image and its prompt, -1 to 1, in the order of `images`.
    """

    scores: list[float]


def load_scorer(scorer: str | Path | PromptScorer | None, model: str, device: Any) -> PromptScorer:
    """The scorer that was asked for, or the one that belongs to a model. Raises InputError where none is known."""
    if isinstance(scorer, PromptScorer):
        return scorer
    name = _SCORERS.get(model) if scorer is None else str(scorer)
    if name is None:
        raise InputError(
            f"no scorer is known for {model}: name an AltCLIP, such as BAAI/AltCLIP-m9 (--scorer M, scorer=M)"
        )
    return _load_scorer(name, str(device))


@functools.lru_cache(maxsize=1)  # one call scores many batches
def _load_scorer(name: str, device: str) -> PromptScorer:
    return PromptScorer.from_pretrained(name, device=device)


def rank(
    scorer: PromptScorer, images: Sequence[Any], prompt: str, filtered: Sequence[bool], score_as: ScoreAs = "cosine"
) -> list[tuple[int, float]]:
    """(index, score) of one prompt's images, best first; what the safety checker blackened comes last.

    score_as: as in `PromptScorer.score`.
    """
    ranked = scorer.rank(images, prompt) if score_as == "cosine" else scorer.rank(images, prompt, as_=score_as)
    return sorted(ranked, key=lambda pair: bool(filtered[pair[0]]))


def with_best_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's `__call__` with two more arguments, `best_of` and `scorer`."""
    return with_arguments(call, {"best_of": None, "scorer": None}, _DOCUMENTATION, _generate_ranked)


_DOCUMENTATION = """
best_of: generate so many images of each prompt; a `RankedOutput` has them best first, with their `scores`.
scorer: the AltCLIP that compares them, a `PromptScorer` or its model; by default the one that belongs to this model,
    where that is known. Raises InputError, and GenerationFailed where images are NaN.
"""


def _generate_ranked(
    pipe: Any,
    call: Callable[..., Any],
    arguments: dict[str, Any],
    best_of: int | None,
    scorer: str | Path | PromptScorer | None,
) -> Any:
    if best_of is None:
        return call(pipe, **arguments)
    prompts = arguments.get("prompt")
    if prompts is None:
        raise InputError("best_of compares images with the prompt's words: pass prompt, not prompt_embeds")
    if isinstance(best_of, bool) or not isinstance(best_of, int) or best_of < 1:
        raise InputError(f"best_of={best_of!r}: expected a number of images, at least 1")
    if arguments.get("num_images_per_prompt", 1) not in (None, 1):
        raise InputError("best_of and num_images_per_prompt both say how many images to generate: pass one of them")
    if arguments.get("output_type", "pil") == "latent":
        raise InputError('best_of compares images, output_type="latent" gives none: expected "pil", "np" or "pt"')
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if syntax := arguments.get("prompt_syntax"):
        prompts = [plain_text(prompt, syntax) for prompt in prompts]
    loaded = load_scorer(scorer, str(pipe.name_or_path), pipe.device)
    as_dict = arguments.pop("return_dict", True)
    arguments["num_images_per_prompt"] = best_of
    with watch_finite(pipe) as finite:
        output = call(pipe, **arguments)
    if not all(finite):
        dtype = str(pipe.dtype).removeprefix("torch.")
        raise GenerationFailed(f"{finite.count(False)} of {len(finite)} images came out as NaN in {dtype}: {ADVICE}")
    flags = list(output.nsfw_content_detected or [False] * len(output.images))
    order: list[int] = []
    scores: list[float] = []
    for prompt_index, prompt in enumerate(prompts):
        first, last = prompt_index * best_of, (prompt_index + 1) * best_of
        for index, score in rank(loaded, output.images[first:last], prompt, flags[first:last]):
            order.append(first + index)
            scores.append(score)
    is_array = isinstance(output.images, np.ndarray | torch.Tensor)
    ranked = RankedOutput(
        images=output.images[order] if is_array else [output.images[index] for index in order],
        nsfw_content_detected=None if output.nsfw_content_detected is None else [flags[index] for index in order],
        scores=scores,
    )
    return ranked if as_dict else (ranked.images, ranked.nsfw_content_detected, ranked.scores)
