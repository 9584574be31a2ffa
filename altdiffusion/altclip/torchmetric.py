"""CLIPScore by AltCLIP, as a torchmetrics metric: in any of its languages, on one machine or on many.

    metric = AltCLIPScore("BAAI/AltCLIP-m9")
    metric.update(images, texts)
    metric.compute()                                                  # 0 to 100

    CLIPScore(model_name_or_path=altclip_for_clip_score("mini"))      # the same by torchmetrics' own class

Wants `pip install altdiffusion[metrics]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altdiffusion.altclip.image_inputs import AnyImages
from altdiffusion.altclip.model import AltCLIP, AltCLIPProcessor, load_with_processor
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError

try:
    from torchmetrics import Metric
except ImportError:
    raise ImportError("AltCLIPScore needs torchmetrics: pip install altdiffusion[metrics]") from None


class AltCLIPScore(Metric):
    """The mean of 100 * cosine over pairs of image and text, not below 0: torchmetrics' CLIPScore, with AltCLIP.

    Images as `PromptScorer` takes them, so floats lie in [0, 1] (torchmetrics' CLIPScore takes 0 to 255 alone).
    The model stays on the scorer's device, whatever device the metric is moved to.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 100.0

    total: Tensor
    pairs: Tensor

    def __init__(self, model: PromptScorer | str | Path | None = None, **kwargs: Any) -> None:
        """model: a scorer, or what `PromptScorer.from_pretrained` takes. kwargs: of `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        self.scorer = model if isinstance(model, PromptScorer) else PromptScorer.from_pretrained(model)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("pairs", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: AnyImages, texts: str | Iterable[str]) -> None:
        """Add pairs: the first image with the first text, ... Raises InputError where their numbers differ."""
        text_features = self.scorer.text_features(texts)
        image_features = self.scorer.image_features(images)
        if len(text_features) != len(image_features):
            raise InputError(
                f"{len(image_features)} images and {len(text_features)} texts, expected a text for each image"
            )
        self.total += 100 * (image_features * text_features).sum().to(self.total.device)
        self.pairs += len(text_features)

    def compute(self) -> Tensor:
        """A scalar in 0 to 100; higher is better. NaN where nothing was added."""
        return (self.total / self.pairs).clamp(min=0)


def altclip_for_clip_score(
    model: str | Path | None = None, **kwargs: Any
) -> Callable[[], tuple[AltCLIP, AltCLIPProcessor]]:
    """What torchmetrics' `CLIPScore(model_name_or_path=...)` and `clip_score` take to score with AltCLIP.

    model, kwargs: as in `AltCLIP.from_pretrained`. It is loaded when torchmetrics asks for it.
    """
    return lambda: load_with_processor(model, **kwargs)
