"""Squashed and cropped images, by hand and as torchvision makes them."""

from __future__ import annotations

import pytest
import torch
from helpers import small_systems as small

from altdiffusion.evaluation.systems.pixels import cropped_pixels, squashed_pixels

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_a_square_keeps_all_of_a_picture_a_crop_its_middle():
    green = (torch.tensor([0, 128, 0]) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    crop = cropped_pixels([small.stripes()], 8)[0]
    torch.testing.assert_close(crop, green[:, None, None].expand(3, 8, 8), atol=1e-5, rtol=0)
    square = squashed_pixels([small.stripes()], 8)[0]
    red = square[0, 4] * DEVIATION[0] + MEAN[0]
    blue = square[2, 4] * DEVIATION[2] + MEAN[2]
    assert red[0] > 0.95
    assert red[-1] < 0.05
    assert blue[-1] > 0.95
    assert blue[0] < 0.05


def test_a_crop_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms")
    own = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )
    pictures = [*small.pictures(), *(small.pictures()[1].resize(size) for size in ((33, 77), (71, 40), (35, 36)))]
    for picture in pictures:
        torch.testing.assert_close(cropped_pixels([picture], 32)[0], own(picture), atol=1e-6, rtol=0)
