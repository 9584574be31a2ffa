"""Pictures as a frozen VAE sees them, for training a UNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from altdiffusion.training.buckets import Size
from altdiffusion.training.cache import FeatureCache, checksum, describe_tables
from altdiffusion.training.loop import Batch
from altdiffusion.training.pixels import CaptionedPictures, Remembered, fit_to, to_tensor, to_unit


class Latents:
    """The latents of a batch: computed from its pixels, or drawn from the moments that were cached.

    size_of: record -> the (width, height) that its picture is cut to. cache: a folder, or None.
    """

    def __init__(
        self,
        vae: Any,
        data: CaptionedPictures,
        size_of: Callable[[int], Size],
        cache: Path | None,
        accelerator: Accelerator,
    ) -> None:
        self._vae, self._data, self._size_of = vae, data, size_of
        self._readers: dict[Size, Remembered] = {}
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels a latent, each way
        self.channels = int(vae.config.latent_channels)
        self._cache = None
        if cache is not None:
            about = {"what": "latents", "vae": checksum(vae), "data": describe_tables(data.records.tables)}
            about["sizes"] = [list(size) for size in sorted({size_of(number) for number in range(len(data))})]
            self._cache = FeatureCache(cache, len(data), self._compute, about, accelerator, batch=8)

    def read(self, record: int, flip: bool = False) -> tuple[int, Tensor]:
        """(the record it is of, pixels uint8 (3, height, width) or cached moments (2 * channels, h, w))."""
        width, height = self._size_of(record)
        if self._cache is not None:
            shape = (2 * self.channels, height // self.factor, width // self.factor)
            return record, self._cache[record].T.reshape(shape).float()
        reader = self._readers.setdefault((width, height), Remembered(_cut(width, height)))
        record, pixels = self._data.picture(record, reader)
        return record, pixels.flip(-1) if flip else pixels

    def shape(self, record: int) -> tuple[int, int, int]:
        """Of its latents: (channels, height, width)."""
        width, height = self._size_of(record)
        return self.channels, height // self.factor, width // self.factor

    def __call__(self, batch: Batch) -> Tensor:
        """batch: "pictures" as `read` gives them, stacked, and "latent_noise" in the latents' shape."""
        moments = batch["pictures"] if self._cache is not None else self._moments(batch["pictures"])
        mean, log_variance = moments.chunk(2, dim=1)
        # diffusers' clamp, see its DiagonalGaussianDistribution
        spread = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return (mean + spread * batch["latent_noise"]) * self._vae.config.scaling_factor

    @torch.no_grad()
    def _moments(self, pixels: Tensor) -> Tensor:
        images = to_unit(pixels).to(self._vae.device, self._vae.dtype)
        return self._vae.encode(images).latent_dist.parameters.float()

    def _compute(self, records: Sequence[int]) -> list[Tensor]:
        """What the cache holds: (h * w, 2 * channels). It is not there yet while it asks for it."""
        return [self._moments(self.read(record)[1][None])[0].flatten(1).T.contiguous() for record in records]


def _cut(width: int, height: int) -> Callable[[Any], Tensor]:
    return lambda image: to_tensor(fit_to(image, width, height))
