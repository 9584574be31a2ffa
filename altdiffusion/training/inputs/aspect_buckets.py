"""Batches of one shape each: images of any aspect ratio, cut as little as possible."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from altdiffusion.errors import InputError
from altdiffusion.images import BadImage, image_size
from altdiffusion.prefetch import prefetch
from altdiffusion.training.inputs.captioned_images import CaptionedImages
from altdiffusion.training.inputs.sampling import Interleave, Mixture, Sample, micro_batch

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
        self, data: CaptionedImages, resolution: int, max_aspect: float, multiple: int, batch_size: int, seed: int
    ) -> None:
        self.sizes = bucket_sizes(resolution, max_aspect, multiple)
        self._batch_size = batch_size
        self._bucket_of: dict[int, int] = {}  # record -> bucket; empty with one bucket
        if len(self.sizes) == 1:
            self._mixtures = {0: Mixture(data.records, data.languages, seed)}
            weights: Mapping[int, float] = {0: 1.0}
        else:
            self._bucket_of = _assign(data, self.sizes)
            self._mixtures, weights = {}, {}
            for bucket in sorted(set(self._bucket_of.values())):
                among = {
                    name: [i for i in chain(*data.records.ranges(name)) if self._bucket_of.get(i) == bucket]
                    for name in data.languages
                }
                among = {name: records for name, records in among.items() if records}
                languages = {name: data.languages[name] for name in among}
                self._mixtures[bucket] = Mixture(data.records, languages, seed, 10 + bucket, among=among)
                weights = {**weights, bucket: float(sum(map(len, among.values())))}
        self._buckets = list(weights)
        self._interleave = Interleave(list(weights.values()), seed, 6)

    def batch(self, step: int, index: int, count: int) -> tuple[Size, list[tuple[int, Sample]]]:
        """(size, [(index over all steps, sample)]) of micro-batch `index` of `count` of the step's batch."""
        stream, rank = self._interleave.deal(step)
        bucket = self._buckets[stream]
        mixture, before = self._mixtures[bucket], rank * self._batch_size
        places = micro_batch(range(self._batch_size), index, count)
        return self.sizes[bucket], [(step * self._batch_size + place, mixture[before + place]) for place in places]

    def size_of(self, record: int) -> Size:
        """The size that a record's image is cut to."""
        return self.sizes[self._bucket_of.get(record, 0)]


def _assign(data: CaptionedImages, sizes: list[Size]) -> dict[int, int]:
    """Record -> the bucket of the nearest aspect ratio; bad images are counted, and are in none."""

    def nearest(record: int) -> int | BadImage:
        try:
            width, height = image_size(data.source(record))
        except BadImage as error:
            return error
        # compare as ratios: 1:2 is as far from the square as 2:1
        return min(range(len(sizes)), key=lambda i: max(sizes[i][0] * height, sizes[i][1] * width)
                   / min(sizes[i][0] * height, sizes[i][1] * width))  # fmt: skip

    bucket_of: dict[int, int] = {}
    for record, bucket in enumerate(prefetch(nearest, range(len(data)), ahead=64, workers=8)):
        if isinstance(bucket, BadImage):
            data.skip(record, str(bucket))
        else:
            bucket_of[record] = bucket
    if not bucket_of:
        raise InputError("none of the images can be used: mend the data")
    return bucket_of
