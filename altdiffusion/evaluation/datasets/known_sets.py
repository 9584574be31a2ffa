"""Which published set a data set is, by its shape: so many images, named as there, with so many captions."""

from __future__ import annotations

import re
from collections import Counter

from altdiffusion.evaluation.datasets.caption_languages import has_flores_code
from altdiffusion.evaluation.datasets.captioned import COCO_TRAINING, CaptionedImages
from altdiffusion.evaluation.datasets.image_stores import stem

# How images are named. Flickr's numbers have up to 11 digits, XM3600's keys 16.
_KINDS = {
    "digits": r"\d{1,15}",
    "hex": r"[0-9a-f]{16}",
    "training": rf"{COCO_TRAINING}_\d+",
    "validation": r"COCO_val2014_\d+",
}


def known_set(data: CaptionedImages) -> str | None:
    """Flickr30k's test set, COCO's 5000, XM3600, XTD10, xFlickr&CO, under the names of published_results.toml; else None.

    XTD200 and Flickr30k-200 are translations of others by a machine, known by their languages' codes: no set of these.
    """
    if has_flores_code(data.name):
        return None
    if data.is_flickr30k_test:
        return "flickr30k"
    per_image = Counter(image for images in data.positives for image in images)
    if len(per_image) != len(data.images):
        return None
    names = Counter(_kind(stem(name)) for name in data.image_names)
    one_each = set(per_image.values()) == {1}
    if (
        names == {"hex": 3600} and data.used == "all" and len(data.captions) > 1.5 * 3600
    ):  # not CLIP_benchmark's, the first
        return "xm3600"
    if names == {"training": 800, "validation": 200} and one_each:
        return "xtd10"
    if names == {"digits": 1000, "validation": 1000} and one_each:
        return "xflickrco"
    return "coco-5k" if names == {"validation": 5000} and min(per_image.values()) >= 5 else None


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if re.fullmatch(pattern, name)), "other")
