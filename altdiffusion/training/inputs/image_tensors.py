"""Images as tensors: cut to size, scaled to -1..1, kept in memory where all of them fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from altdiffusion.images import ImageSource, decode_image, image_key


def fit_to(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled to cover (width, height) pixels and cut at the centre."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, as diffusion models take images."""
    return pixels.float() / 127.5 - 1


class ImageCache:
    """Images after `prepare`, kept in memory while there is room: those of a small set are decoded only once.

    prepare: takes an image and the further arguments of `__call__`. room: in bytes.
    """

    def __init__(self, prepare: Callable[..., Tensor], room: int = 512 * 2**20) -> None:
        self._prepare, self._room = prepare, room
        self._cached: dict[Any, Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, source: ImageSource, *arguments: Any) -> Tensor:
        """Raises BadImage."""
        key = (image_key(source), *arguments)
        tensor = self._cached.get(key)
        if tensor is None:
            tensor = self._prepare(decode_image(source), *arguments)
            with self._lock:
                if key not in self._cached and self._room >= tensor.nbytes:
                    self._room -= tensor.nbytes
                    self._cached[key] = tensor
        return tensor
