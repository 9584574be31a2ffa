"""Zero-shot classification: which of several labels fits an image, each label put into several sentences.

result = classify(scorer, images, ["猫", "狗"], templates=["一张{}的照片", "一幅{}的画"])
result.labels, result.probabilities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from altdiffusion.altclip.image_inputs import AnyImages
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError

_PLACEHOLDERS = ("{}", "{c}")  # where CLIP's and CLIP_benchmark's templates have the label
TEXTS_AT_ONCE = 4096


class TextFeatures(Protocol):
    """A `PromptScorer`, or anything else that has a vector for a text."""

    def text_features(self, texts: Sequence[str], /) -> Tensor:
        """Unit vectors, float32 (texts, width)."""
        ...


@dataclass(frozen=True)
class Classification:
    """labels: the best one of each image, None for a bad image. logits: float32 (images, classes), NaN for a bad image."""

    labels: list[str | None]
    logits: Tensor

    @property
    def probabilities(self) -> Tensor:
        """float32 (images, classes); each row sums to 1."""
        return self.logits.softmax(dim=1)


def classify(
    scorer: PromptScorer,
    images: AnyImages,
    labels: Sequence[str],
    templates: Sequence[str] = ("{}",),
    bad: dict[int, str] | None = None,
) -> Classification:
    """The label that fits each image best, by the mean of its templates' features.

    logits are cosines times the model's own scale. images, bad: as in `PromptScorer.score`; labels, templates: as in
    `ensemble`. Raises InputError.
    """
    classes = ensemble(scorer, labels, templates)
    logits = scorer.logit_scale * (scorer.image_features(images, bad) @ classes.T)
    unusable = logits.isnan().any(1).tolist()
    best = [None if nan else labels[i] for i, nan in zip(logits.argmax(1).tolist(), unusable, strict=True)]
    return Classification(best, logits)


def ensemble(scorer: TextFeatures, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
    """Unit vectors, float32 (labels, projection_dim): of each label, the mean over the templates of unit text features.

    labels: equal ones are allowed, as ImageNet has two kinds of "crane". templates: "{}" or "{c}" stands for the label.
    Source: CLIP, arXiv 2103.00020, section 3.1.4. Raises InputError for no labels, no templates, or a template without either.
    """
    if isinstance(labels, str) or isinstance(templates, str) or not labels or not templates:
        raise InputError(f"labels {labels!r:.80}, templates {templates!r:.80}: expected a list of at least one of each")
    for index, label in enumerate(labels):
        if not label.strip():
            raise InputError(f"label {index} is empty, expected a name")
    for template in templates:
        if not any(placeholder in template for placeholder in _PLACEHOLDERS):
            raise InputError(f"the template {template!r} has no place for the label: expected '{{}}' or '{{c}}' in it")
    at_once = max(1, TEXTS_AT_ONCE // len(templates))
    classes = []
    for start in range(0, len(labels), at_once):
        chunk = labels[start : start + at_once]
        features = scorer.text_features([fill(template, label) for label in chunk for template in templates])
        classes.append(F.normalize(features.view(len(chunk), len(templates), -1).mean(1), dim=-1))
    return torch.cat(classes)


def fill(template: str, label: str) -> str:
    """The template with the label in its place."""
    for placeholder in _PLACEHOLDERS:
        template = template.replace(placeholder, label)
    return template
