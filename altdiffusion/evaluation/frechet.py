"""The Fréchet distance of two sets of images as wholes, of AltCLIP's features or as FID. Needs torchmetrics.

It has no bootstrap interval: a resampled set holds images twice, which alone moves it away from the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.images import image_files, open_image


def frechet_distance(
    images: Sequence[Image.Image],
    reference: Sequence[Image.Image],
    scorer: PromptScorer,
    inception: str | Path | None = None,
) -> float:
    """The Fréchet distance of two sets of images, of AltCLIP's image features, or FID where Inception's weights are given.

    Raises InputError without torchmetrics (and, for FID, torch-fidelity), or with fewer than two images in a set.
    """
    if min(len(images), len(reference)) < 2:
        raise InputError(f"{len(images)} and {len(reference)} images: a Fréchet distance needs at least 2 of each")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        if inception is None:
            metric = FrechetInceptionDistance(_Features(scorer))
        else:
            metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception))
    except ImportError as error:
        raise InputError(f"a Fréchet distance needs torchmetrics, and FID torch-fidelity too ({error})") from None
    metric.set_dtype(torch.float64)
    for group, real in ((images, False), (reference, True)):
        for image in group:
            metric.update(_tensor(image)[None], real=real)
    return float(metric.compute())


def read_reference(folder: str | Path) -> list[Image.Image]:
    """All images in a folder and below it. Raises InputError where there are none, or one can't be read."""
    root = local_path(folder)
    paths = image_files(root, deep=True)
    if not paths:
        raise InputError(f"no images in {root}: expected a folder of them to compare with")
    return [open_image(path) for path in paths]


class _Features(nn.Module):
    """AltCLIP's image features in the form that torchmetrics asks for: uint8 (images, 3, height, width) in."""

    def __init__(self, scorer: PromptScorer) -> None:
        super().__init__()
        self._scorer = scorer
        self.num_features = int(scorer.model.config.projection_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self._scorer.image_features(images)


def _tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
