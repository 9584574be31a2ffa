"""Batches of one shape each: images of any aspect ratio, cut as little as possible."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from altdiffusion.errors import InputError
from altdiffusion.images import FORMATS, BadImage
from altdiffusion.training.inputs.captioned_images import CaptionedPictures
from altdiffusion.training.inputs.sampling import Draw, Interleave, Mixture, piece_of

Size = tuple[int, int]  # width, height in pixels


def bucket_sizes(resolution: int, max_aspect: float, multiple: int) -> list[Size]:
    """Sizes of about resolution² pixels, sides multiples of `multiple`, one side at most `max_aspect` times the other."""
    sizes = {(resolution, resolution)}
    width = multiple
    while width <= resolution * max_aspect**0.5:
        height = resolution**2 // width // multiple * multiple
        if height and max(width, height) <= max_aspect * min(width, height):
            sizes.add((width, height))
            sizes.add((height, width))
        width += multiple
    return sorted(sizes)


class Buckets:
    """Which records make the batch of a step, and in which size: pure functions of the seed and the step.

    max_aspect 1 means one bucket, the square: nothing is opened then before it is read. Otherwise the sizes of all
    images are read from their headers first. multiple: what the model needs sides to be multiples of, in pixels.
    """

    def __init__(
        self, data: CaptionedPictures, resolution: int, max_aspect: float, multiple: int, batch_size: int, seed: int
    ) -> None:
        self.sizes = bucket_sizes(resolution, max_aspect, multiple)
        self._batch_size = batch_size
        self._of: dict[int, int] = {}  # record -> bucket; empty with one bucket
        if len(self.sizes) == 1:
            self._mixtures = {0: Mixture(data.records, data.languages, seed)}
            weights: Mapping[int, float] = {0: 1.0}
        else:
            self._of = _assign(data, self.sizes)
            self._mixtures, weights = {}, {}
            for bucket in sorted(set(self._of.values())):
                among = {
                    name: [i for each in data.records.ranges(name) for i in each if self._of.get(i) == bucket]
                    for name in data.languages
                }
                among = {name: numbers for name, numbers in among.items() if numbers}
                languages = {name: data.languages[name] for name in among}
                self._mixtures[bucket] = Mixture(data.records, languages, seed, 10 + bucket, among=among)
                weights = {**weights, bucket: float(sum(map(len, among.values())))}
        self._numbers = list(weights)
        self._interleave = Interleave(list(weights.values()), seed, 6)

    def batch(self, step: int, piece: int, pieces: int) -> tuple[Size, list[tuple[int, Draw]]]:
        """(size, [(sample number, what it draws)]) of a piece of the step's batch."""
        stream, rank = self._interleave.deal(step)
        bucket = self._numbers[stream]
        places = piece_of(range(self._batch_size), piece, pieces)
        draws = [(place, self._mixtures[bucket].draw(rank * self._batch_size + place)) for place in places]
        return self.sizes[bucket], [(step * self._batch_size + place, draw) for place, draw in draws]

    def size_of(self, record: int) -> Size:
        """The size that a record's image is cut to."""
        return self.sizes[self._of.get(record, 0)]


def _assign(data: CaptionedPictures, sizes: list[Size]) -> dict[int, int]:
    """Record -> the bucket of the nearest aspect ratio; bad images are counted, and are in none."""

    def look(number: int) -> int | BadImage:
        try:
            with Image.open(io.BytesIO(data.source(number).read()), formats=FORMATS) as image:
                width, height = image.size
                if image.getexif().get(0x0112, 1) >= 5:  # turned by a quarter
                    width, height = height, width
        except BadImage as error:
            return error
        except Exception as error:  # Pillow's decoders raise whatever they stumble over
            return BadImage(f"the picture can't be read: {type(error).__name__}")
        # compare as ratios: 1:2 is as far from the square as 2:1
        return min(range(len(sizes)), key=lambda i: max(sizes[i][0] * height, sizes[i][1] * width)
                   / min(sizes[i][0] * height, sizes[i][1] * width))  # fmt: skip

    found: dict[int, int] = {}
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(data), 1024):  # not all at once: there may be millions, or an early end
            numbers = range(start, min(start + 1024, len(data)))
            for number, bucket in zip(numbers, pool.map(look, numbers), strict=True):
                if isinstance(bucket, BadImage):
                    data.skip(number, str(bucket))
                else:
                    found[number] = bucket
    if not found:
        raise InputError("none of the pictures can be used: mend the data")
    return found
