"""Images decoded ahead: in order, and a bad one is its reason."""

import pytest
from PIL import Image

from altdiffusion.evaluation.datasets.decoding import decode_ahead
from altdiffusion.images import BadImage, image_file


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_images_come_in_order_and_a_bad_one_as_its_reason(tmp_path, ahead):
    for index in range(10):
        Image.new("RGB", (2, 2), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes(b"damaged")
    images = list(decode_ahead([image_file(tmp_path / f"{index}.png") for index in range(10)], ahead))
    assert isinstance(images.pop(4), BadImage)
    assert [image.getpixel((0, 0))[0] for image in images] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
