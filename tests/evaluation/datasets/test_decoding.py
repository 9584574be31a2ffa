"""Images decoded ahead: in order, and a bad one is its reason; batches of good ones."""

import pytest
from PIL import Image

from altdiffusion import InputError
from altdiffusion.data.table import SkipLog
from altdiffusion.evaluation.datasets.decoding import decode_ahead, good_batches
from altdiffusion.images import BadImage, image_file


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_images_come_in_order_and_a_bad_one_as_its_reason(tmp_path, ahead):
    for index in range(10):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes(b"damaged")
    images = list(decode_ahead([image_file(tmp_path / f"{index}.png") for index in range(10)], ahead))
    assert isinstance(images.pop(4), BadImage)
    assert [image.getpixel((0, 0))[0] for image in images] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 9), (4, [4, 4, 1]), (9, [9]), (20, [9])])
def test_batches_of_good_images_are_full_and_know_their_indices(tmp_path, size, sizes):
    for index in range(10):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes(b"damaged")
    images = [image_file(tmp_path / f"{index}.png") for index in range(10)]
    bad: dict[int, str] = {}
    batches = list(good_batches(images, size, SkipLog(0.1), "images", bad))
    assert [len(batch) for batch in batches] == sizes
    assert all(image.getpixel((0, 0))[0] == index for batch in batches for index, image in batch)
    assert list(bad) == [4]
    with pytest.raises(InputError, match=r"1 of 10 images can't be used, more than 5 %.*4\.png"):
        list(good_batches(images, size, SkipLog(0.05, what="images"), "images", {}))
