"""Images as the systems see them: CLIP's normalisation, with the whole image squashed to a square or its middle cropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# OpenAI's CLIP, and with it every system here.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def squashed_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """float (images, 3, side, side), normalised: scaled to a square whatever their proportions, nothing cut off."""
    return _normalised([image.resize((side, side), Image.Resampling.BICUBIC) for image in images])


def cropped_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """float (images, 3, side, side), normalised: scaled by the shorter side, then the middle, rounded as torchvision does."""
    crops = []
    for image in images:
        short = min(image.size)
        width, height = (int(side * length / short) for length in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        scaled = image.resize((width, height), Image.Resampling.BICUBIC)
        crops.append(scaled.crop((left, top, left + side, top + side)))
    return _normalised(crops)


def _normalised(images: Sequence[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return (pixels.float() / 255 - MEAN) / DEVIATION
