"""Images of a data set, decoded in threads while a system computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL.Image import Image

from altdiffusion.images import BadImage, ImageSource, decode_image
from altdiffusion.prefetch import prefetch


def decode_ahead(images: Sequence[ImageSource], ahead: int) -> Iterator[Image | BadImage]:
    """The images in order, RGB, or why one can't be read; `ahead` of them are decoded while the caller computes."""
    return prefetch(_decode, images, ahead)


def _decode(image: ImageSource) -> Image | BadImage:
    try:
        return decode_image(image)
    except BadImage as error:
        return error
