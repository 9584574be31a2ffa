"""Test sets whose figures were published are known by their shape."""

from dataclasses import replace

import pytest

from altdiffusion.evaluation.datasets.captioned import CaptionedImages
from altdiffusion.evaluation.datasets.known_sets import known_set
from altdiffusion.images import ImageSource

SOURCE = ImageSource(None, "", lambda: b"")
FLICKR, HEX = "{}.jpg", "{:016x}.jpg"
TRAINING, VALIDATION = "COCO_train2014_{:012}.jpg", "COCO_val2014_{:012}.jpg"


def data(*parts, captions=1, name="x.json", used="all"):
    """parts: (how images are named, how many)."""
    names = [form.format(10_000 + number) for form, count in parts for number in range(count)]
    positives = [(image,) for image in range(len(names)) for _ in range(captions)]
    images, texts = [SOURCE] * len(names), ["a"] * len(positives)
    return CaptionedImages(name, "babel", "en", names, images, texts, positives, [], used=used)


@pytest.mark.parametrize(
    ("known", "parts", "captions"),
    [
        ("flickr30k", [(FLICKR, 1000)], 5), ("coco-5k", [(VALIDATION, 5000)], 5), ("xm3600", [(HEX, 3600)], 2),
        ("xtd10", [(TRAINING, 800), (VALIDATION, 200)], 1), ("xflickrco", [(FLICKR, 1000), (VALIDATION, 1000)], 1),
    ],
)  # fmt: skip
def test_a_set_is_known_by_its_shape(known, parts, captions):
    whole = data(*parts, captions=captions)
    assert known_set(whole) == known
    assert known_set(whole.without([3], [])) is None
    assert known_set(replace(whole, name="xtd200-deu_Latn.json")) is None
    assert known_set(replace(whole, image_names=[f"x{name}" for name in whole.image_names])) is None


def test_other_captions_of_the_same_images_are_no_known_set():
    assert known_set(data((HEX, 3600), captions=2, used="first")) is None
    assert known_set(data((HEX, 3600))) is None  # a file that has the first alone
    assert known_set(data((TRAINING, 800), (VALIDATION, 200), captions=2)) is None
    assert known_set(data((TRAINING, 200), (VALIDATION, 800))) is None
    assert known_set(data((FLICKR, 1000))) is None
