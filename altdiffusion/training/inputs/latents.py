"""Images as a frozen VAE sees them, for training a UNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from altdiffusion.images import BadImage
from altdiffusion.training.inputs.aspect_buckets import Size
from altdiffusion.training.inputs.captioned_images import ImageRecords
from altdiffusion.training.inputs.feature_cache import FeatureCache, about_data, checksum
from altdiffusion.training.inputs.image_tensors import ImageCache, fit_to, to_tensor, to_unit
from altdiffusion.training.loop import Batch


class Latents:
    """The latents of a batch: computed from its pixels, or sampled from moments that were cached.

    size_of: record -> the (width, height) that its image is cut to. cache: a folder, or None.
    """

    def __init__(
        self, vae: Any, data: ImageRecords, size_of: Callable[[int], Size], cache: Path | None, accelerator: Accelerator
    ) -> None:
        self._vae, self._data, self._size_of = vae, data, size_of
        self._pixels = ImageCache(lambda image, width, height: to_tensor(fit_to(image, width, height)))
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels a latent, each way
        self.channels = int(vae.config.latent_channels)
        self._cache = None
        if cache is not None:
            about = {"what": "latents", "vae": checksum(vae), **about_data(data.records.parts)}
            about["sizes"] = [list(size) for size in sorted({size_of(record) for record in range(len(data))})]
            self._cache = FeatureCache(cache, len(data), self._compute, about, accelerator, batch=8)

    def read(self, record: int, flip: bool = False) -> tuple[int, Tensor]:
        """(its record, pixels uint8 (3, height, width) or cached moments (2 * channels, h, w)).

        In a bad image's place comes the next one that is cut to the same size.
        """
        size = self._size_of(record)
        get = self._cut if self._cache is None else self._cached
        record, image = self._data.first_good(record, get, lambda other: self._size_of(other) == size)
        return record, image.flip(-1) if flip else image

    def shape(self, record: int) -> tuple[int, int, int]:
        """Of its latents: (channels, height, width)."""
        width, height = self._size_of(record)
        return self.channels, height // self.factor, width // self.factor

    def __call__(self, batch: Batch) -> Tensor:
        """batch: "images" as `read` gives them, stacked, and "latent_noise" in the latents' shape."""
        moments = batch["images"] if self._cache is not None else self._moments(batch["images"])
        mean, log_variance = moments.chunk(2, dim=1)
        # diffusers' clamp, see its DiagonalGaussianDistribution
        spread = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return (mean + spread * batch["latent_noise"]) * self._vae.config.scaling_factor

    @torch.no_grad()
    def _moments(self, pixels: Tensor) -> Tensor:
        images = to_unit(pixels).to(self._vae.device, self._vae.dtype)
        return self._vae.encode(images).latent_dist.parameters.float()

    def _cut(self, record: int) -> Tensor:
        return self._pixels(self._data.source(record), *self._size_of(record))

    def _cached(self, record: int) -> Tensor:
        assert self._cache is not None
        moments = self._cache[record]
        if not len(moments):
            raise BadImage("the image could not be read for the cache of latents")
        channels, height, width = self.shape(record)
        return moments.T.reshape(2 * channels, height, width).float()

    def _compute(self, records: Sequence[int]) -> list[Tensor]:
        """What the cache holds: (h * w, 2 * channels) of each image, without rows where it is bad."""
        pixels = self._data.all_good(records, self._cut)
        moments: dict[int, Tensor] = {}
        for shape in {image.shape for image in pixels.values()}:  # the VAE takes images of one size together
            alike = {record: image for record, image in pixels.items() if image.shape == shape}
            moments |= zip(alike, self._moments(torch.stack(list(alike.values()))), strict=True)
        nothing = torch.empty(2 * self.channels, 0)
        return [moments.get(record, nothing).flatten(1).T.contiguous() for record in records]
