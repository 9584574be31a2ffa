"""How alike the images of one prompt are, in one language and across languages: pure functions of image features.

CoCo-CroLa's three figures (Saxon and Wang 2023) are means over pairs of images, as its cococrola/analyze/evaluate_model.py
computes them, but by the features that are given, where it takes CLIP ViT-B/32's before their projection. So they compare
with others by the same features alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

ENGLISH = "en"
Figures: TypeAlias = "dict[str, Tensor]"  # by name, float (prompts, images) each


def image_figures(features: Mapping[str, Tensor]) -> dict[str, Figures]:
    """The figures of each image, by language; a language's own are their means.

    features: by language, unit vectors (prompts, images, width); image n of prompt i was generated from the same noise in each.
    consistency: mean cosine with the images from the same noise in the other languages. other_prompts: with the images of other
        prompts in the other languages, for comparison. like_english: cosine with the English image from the same noise.
        english_first: 1 where that one is nearer than those of all other prompts, else 0; a tie is lost.
    CoCo-CroLa's: self_consistency: mean cosine with the other images of the prompt. correctness: with the English images of
        it, but itself. distinctiveness: 1 less the mean cosine with images of other prompts in the language.
    A figure that can't be told, as there is no second image, prompt or language, is left out.
    """
    return {language: _figures(language, own, features) for language, own in features.items()}


def _figures(language: str, own: Tensor, features: Mapping[str, Tensor]) -> Figures:
    found: Figures = {}
    prompts, images, _ = own.shape
    others = [each for name, each in features.items() if name != language]
    if others:
        found["consistency"] = torch.stack([(own * each).sum(-1) for each in others]).mean(0)
        if prompts > 1:
            found["other_prompts"] = torch.stack([_to_other_prompts(own, each) for each in others]).mean(0)
    if ENGLISH in features and language != ENGLISH:
        english = features[ENGLISH]
        found["like_english"] = (own * english).sum(-1)
        if prompts > 1:
            found["english_first"] = _own_prompt_nearest(own, english)
        found["correctness"] = _to_prompt(own, english)
    if images > 1:
        found["self_consistency"] = (_to_prompt(own, own) * images - 1) / (images - 1)
        if language == ENGLISH:
            found["correctness"] = found["self_consistency"]
    if prompts > 1:
        found["distinctiveness"] = 1 - _to_other_prompts(own, own)
    return found


def _to_prompt(own: Tensor, other: Tensor) -> Tensor:
    """The mean cosine of each image with all of the same prompt in the other set: (prompts, images)."""
    return (own * other.mean(1, keepdim=True)).sum(-1)


def _to_other_prompts(own: Tensor, other: Tensor) -> Tensor:
    """The mean cosine of each image with all of other prompts in the other set: (prompts, images)."""
    prompts = len(other)
    means = other.mean(1, keepdim=True)  # of each prompt
    return (own * (means.sum(0, keepdim=True) - means)).sum(-1) / (prompts - 1)


def _own_prompt_nearest(own: Tensor, english: Tensor) -> Tensor:
    nearest = []
    for number in range(own.shape[1]):
        cosines = own[:, number] @ english[:, number].T
        rivals = cosines.clone().fill_diagonal_(-torch.inf).max(1).values
        nearest.append(cosines.diagonal() > rivals)
    return torch.stack(nearest, 1).float()
