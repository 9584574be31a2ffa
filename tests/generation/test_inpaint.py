"""What a mask leaves out stays as it is, what it covers comes from the model, and nothing of it is lost on the way."""

import io

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageChops, ImageFilter

from altdiffusion.generation import inpaint

NATIVE, LATENT = 64, 8


def photo_of(size):
    return Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)])


def mask_of(size, *boxes, value=255):
    mask = Image.new("L", size, 0)
    for box in boxes:
        mask.paste(value, box)
    return mask


MASKS = {
    "square": ((64, 64), [(20, 20, 40, 44)]),
    "photo that is scaled": ((300, 200), [(100, 50, 180, 90)]),
    "odd sides": ((91, 37), [(3, 5, 30, 31)]),
    "one pixel": ((500, 400), [(123, 77, 124, 78)]),
    "line": ((400, 300), [(10, 20, 390, 21)]),
    "two corners": ((128, 96), [(0, 0, 9, 9), (120, 90, 128, 96)]),
    "everything": ((80, 40), [(0, 0, 80, 40)]),
}
every_mask = pytest.mark.parametrize(("size", "boxes"), MASKS.values(), ids=MASKS)


def prepared(photo, mask, **options):
    return inpaint.prepare(photo, mask, native=NATIVE, latent_pixels=LATENT, **options)


@every_mask
@pytest.mark.parametrize("padding", [None, 0, 8])
def test_black_is_the_photo_and_white_the_models(size, boxes, padding):
    photo, mask = photo_of(size), mask_of(size, *boxes)
    start = prepared(photo, mask, padding=padding)
    result = start.paste(Image.new("RGB", start.image.size, (1, 2, 3)))
    assert result.size == photo.size
    assert (
        ImageChops.difference(result, photo).convert("L").point(lambda value: 255 * (value > 0)).getbbox() is not None
    )
    black = np.asarray(mask) == 0
    np.testing.assert_array_equal(np.asarray(result)[black], np.asarray(photo)[black])
    assert (np.asarray(result)[~black] == (1, 2, 3)).all()


@every_mask
@pytest.mark.parametrize("padding", [None, 0, 8])
def test_the_model_is_told_of_every_white_pixel_by_whole_latents(size, boxes, padding):
    start = prepared(photo_of(size), mask_of(size, *boxes), padding=padding)
    assert start.mask.size == start.image.size
    assert all(side % 8 == 0 for side in start.image.size)
    told = np.asarray(start.mask)
    assert set(np.unique(told)) <= {0, 255}
    cells = told.reshape(told.shape[0] // LATENT, LATENT, told.shape[1] // LATENT, LATENT)
    assert (cells == cells[:, :1, :, :1]).all()
    left, top, right, bottom = start.paste.box
    across, down = start.image.width / (right - left), start.image.height / (bottom - top)
    for x0, y0, x1, y1 in boxes:
        for x, y in ((x0, y0), (x1 - 1, y0), (x0, y1 - 1), (x1 - 1, y1 - 1)):
            row, column = int((y + 0.5 - top) * down), int((x + 0.5 - left) * across)
            assert told[max(0, row - 1) : row + 1, max(0, column - 1) : column + 1].max() == 255


@pytest.mark.parametrize("blur", [1, 4, 10])
@pytest.mark.parametrize("padding", [None, 32])
def test_blur_softens_the_edge_and_nothing_far_from_it(blur, padding):
    photo, mask = Image.new("RGB", (200, 160), "black"), mask_of((200, 160), (70, 50, 130, 110))
    start = prepared(photo, mask, blur=blur, padding=padding)
    row = np.asarray(start.paste(Image.new("RGB", start.image.size, "white")))[80, :, 0].astype(int)
    assert row[: 70 - 4 * blur].max() == 0
    assert row[70 + min(4 * blur, 29)] > 240
    assert (np.diff(row[:100]) >= 0).all()
    assert 50 < row[69] < row[70]
    assert row[69] + row[70] == pytest.approx(255, abs=3)
    assert len(np.unique(row)) > blur


@pytest.mark.parametrize("padding", [None, 16])
def test_pasting_is_diffusers_own(padding):
    photo, mask = photo_of((64, 64)), mask_of((64, 64), (20, 20, 40, 44))
    start = prepared(photo, mask, blur=3, padding=padding)
    generated = photo_of(start.image.size)
    processor = VaeImageProcessor()
    box = None if padding is None else start.paste.box
    theirs = processor.apply_overlay(processor.blur(mask, 3), photo, generated, box)
    apart = np.abs(np.asarray(start.paste(generated), int) - np.asarray(theirs, int))
    assert apart.max() <= 3  # theirs rounds once more, for premultiplied alpha


@pytest.mark.parametrize(
    ("size", "box", "padding", "expected"),
    [
        ((400, 300), (100, 100, 140, 140), 0, (100, 100, 140, 140)),
        ((400, 300), (100, 100, 140, 140), 20, (80, 80, 160, 160)),
        ((400, 300), (100, 100, 140, 120), 0, (100, 90, 140, 130)),  # the model's square
        ((400, 300), (0, 0, 10, 10), 5, (0, 0, 15, 15)),
        ((400, 20), (0, 0, 400, 5), 32, (0, 0, 400, 20)),
    ],
)
def test_only_masked_is_the_part_around_the_white(size, box, padding, expected):
    start = prepared(photo_of(size), mask_of(size, box), padding=padding)
    assert start.paste.box == expected
    assert start.image.width * start.image.height == pytest.approx(NATIVE**2, rel=0.3)


def test_a_size_is_the_results_or_only_maskeds():
    photo, mask = photo_of((100, 50)), mask_of((100, 50), (10, 10, 40, 40))
    whole = prepared(photo, mask, size=(32, 48))
    assert whole.image.size == whole.paste(whole.image).size == (32, 48)
    black = np.asarray(whole.paste.alpha) == 0
    stretched = photo.resize((32, 48), Image.Resampling.LANCZOS)
    changed = whole.paste(Image.new("RGB", (32, 48)))
    np.testing.assert_array_equal(np.asarray(changed)[black], np.asarray(stretched)[black])
    part = prepared(photo, mask, size=(32, 48), padding=4)
    assert part.image.size == (32, 48)
    assert part.paste(part.image).size == (100, 50)


def test_a_jpegs_black_is_black_enough():
    buffer = io.BytesIO()
    mask = mask_of((128, 128), (40, 40, 60, 60))
    mask.save(buffer, "JPEG", quality=50)
    noisy = Image.open(buffer).convert("L")
    assert np.count_nonzero(noisy) > np.count_nonzero(mask)
    photo = photo_of((128, 128))
    start = prepared(photo, noisy, padding=0)
    assert start.paste.box == pytest.approx((40, 40, 60, 60), abs=1)
    far = np.asarray(mask.filter(ImageFilter.MaxFilter(17))) == 0  # beyond the blocks at the edge
    for paste in (start.paste, prepared(photo, noisy).paste):
        np.testing.assert_array_equal(np.asarray(paste(Image.new("RGB", (64, 64))))[far], np.asarray(photo)[far])


def test_a_soft_mask_blends():
    photo, mask = Image.new("RGB", (64, 64), "black"), mask_of((64, 64), (0, 0, 32, 64), value=200)
    result = prepared(photo, mask).paste(Image.new("RGB", (64, 64), "white"))
    assert (result.getpixel((10, 10))[0], result.getpixel((50, 10))[0]) == (200, 0)


def test_a_colour_profile_stays_with_the_photo(tmp_path):
    photo = photo_of((64, 64))
    photo.info["icc_profile"] = b"a profile"
    result = prepared(photo, mask_of((64, 64), (9, 9, 20, 20)), padding=4).paste(Image.new("RGB", (64, 64)))
    result.save(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").info["icc_profile"] == b"a profile"
