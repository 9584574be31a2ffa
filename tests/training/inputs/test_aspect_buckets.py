"""Images of any aspect ratio in batches of one shape."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers.small_diffusion import add_captions, save_pictures
from PIL import Image

from altdiffusion.training.inputs.aspect_buckets import Buckets, bucket_sizes
from altdiffusion.training.inputs.captioned_images import CaptionedImages

SHAPES = [(8, 8), (16, 8), (8, 16), (12, 12), (9, 8), (20, 8)]  # squares, wide and high ones


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return add_captions(save_pictures(tmp_path_factory.mktemp("buckets") / "pictures", SHAPES))


def buckets(data: CaptionedImages, batch_size: int = 2, resolution: int = 16, multiple: int = 4) -> Buckets:
    return Buckets(data, resolution, 2.0, multiple, batch_size, seed=0)


def test_bucket_sizes_keep_to_area_aspect_and_multiple():
    sizes = bucket_sizes(512, 2.0, 64)
    assert (512, 512) in sizes
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert width * height <= 512**2
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in sizes
        assert width * height > 0.7 * 512**2  # nor far below


def test_every_record_is_in_the_bucket_of_the_nearest_ratio(pictures):
    data = CaptionedImages([str(pictures)], ["en"], 0.0)
    found = buckets(data)
    assert len(found.sizes) > 1
    for number, (width, height) in enumerate(SHAPES):
        distance = [abs(math.log(width / height) - math.log(w / h)) for w, h in found.sizes]
        w, h = found.size_of(number)
        assert abs(math.log(width / height) - math.log(w / h)) == pytest.approx(min(distance))


def test_a_turned_picture_counts_as_the_eye_sees_it(tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(folder / "0.png", exif=exif)
    width, height = buckets(CaptionedImages([str(add_captions(folder))], ["en"], 0.0)).size_of(0)
    assert width < height


def test_every_batch_has_one_shape_and_every_record_comes(pictures):
    data = CaptionedImages([str(pictures)], [], 0.0)
    found = buckets(data)
    drawn = set()
    for step in range(200):
        size, draws = found.batch(step, 0, 1)
        assert {found.size_of(draw.record) for _, draw in draws} == {size}
        drawn |= {(draw.record, draw.language) for _, draw in draws}
    assert drawn == {(record, language) for record in range(len(SHAPES)) for language in ("en", "zh")}
