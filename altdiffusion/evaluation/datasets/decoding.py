"""Images of a data set, decoded in threads while a system computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL.Image import Image
from tqdm.auto import tqdm

from altdiffusion.data.table import SkipLog
from altdiffusion.images import BadImage, ImageSource, decode_image
from altdiffusion.prefetch import prefetch


def good_batches(
    images: Sequence[ImageSource], size: int, skipped: SkipLog, title: str, bad: dict[int, str]
) -> Iterator[list[tuple[int, Image]]]:
    """The images that can be read, with their indices, `size` at a time; why the others can't goes into `bad`, by index.

    Raises InputError, after the last, where more are bad than `skipped` allows.
    """
    good: list[tuple[int, Image]] = []
    for index, image in enumerate(tqdm(decode_ahead(images, size), title, len(images), mininterval=5)):
        if isinstance(image, BadImage):
            bad[index] = str(image)
            skipped.add(images[index].where, bad[index])
        else:
            good.append((index, image))
        if len(good) == size:
            yield good
            good = []
    skipped.check(len(images))
    if good:
        yield good


def decode_ahead(images: Sequence[ImageSource], ahead: int) -> Iterator[Image | BadImage]:
    """The images in order, RGB, or why one can't be read; `ahead` of them are decoded while the caller computes."""
    return prefetch(_decode, images, ahead)


def _decode(image: ImageSource) -> Image | BadImage:
    try:
        return decode_image(image)
    except BadImage as error:
        return error
