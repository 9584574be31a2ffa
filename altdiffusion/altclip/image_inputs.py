"""Images in any form that people hold them in, turned into the one that is scored: PIL, RGB, upright."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from altdiffusion.errors import InputError, first_line
from altdiffusion.images import MAX_RATIO, BadImage, ImageSource, as_rgb, decode_image, open_image

AnyImage: TypeAlias = "str | Path | Image.Image | npt.NDArray[Any] | Tensor | ImageSource"
AnyImages: TypeAlias = "AnyImage | Iterable[AnyImage]"  # one, several, or arrays with a first dimension of images


def as_list(images: AnyImages) -> list[AnyImage]:
    """Single images: one is a list of one; an array of four dimensions is split along its first."""
    if isinstance(images, str | Path | Image.Image | ImageSource):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Iterable):
        raise InputError(f"got a {type(images).__name__}, {_EXPECTED}, or a list of them")
    return list(images)


def as_image(image: AnyImage) -> Image.Image:
    """One image in RGB, as the eye would see it: turned as its EXIF says, transparency on white, first frame of a file.

    image: a path, a PIL image, an image of a data set (`ImageSource`), a numpy array (height, width, channels) or a
        tensor (channels, height, width), or each in the other order where only that makes sense; channels 1, 3 or 4
        (transparency). Floats lie in [0, 1] and are rounded to 8 bits, as a saved image would be; integers of any width lie
        in 0 to 255.
    Raises InputError for everything else, in one line.
    """
    try:
        if isinstance(image, str | Path | Image.Image):
            result = open_image(image)
        elif isinstance(image, ImageSource):
            result = decode_image(image)
        elif isinstance(image, Tensor):
            values = image.detach().cpu()  # numpy knows no bfloat16
            array = values.float().numpy() if values.is_floating_point() else values.numpy()
            result = _from_array(array, channels_first=True)
        elif isinstance(image, np.ndarray):
            result = _from_array(image, channels_first=False)
        else:
            raise InputError(f"got a {type(image).__name__}, {_EXPECTED}")
    except (InputError, MemoryError):
        raise
    except BadImage as error:  # of an image in a data set
        raise InputError(str(error)) from None
    except Exception as error:  # on damaged files, decoders raise whatever they stumble over
        raise InputError(f"can't be read as an image ({first_line(error)})") from error
    if min(result.size) < 1 or max(result.size) > MAX_RATIO * min(result.size):
        raise InputError(
            f"{result.width} x {result.height} pixels: expected at most {MAX_RATIO} times wider or higher than the other side"
        )
    return result


_EXPECTED = "expected a path, a PIL image, an array (height, width, channels) or a tensor (channels, height, width)"


def _from_array(values: npt.NDArray[Any], channels_first: bool) -> Image.Image:
    shape = values.shape
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3:
        first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
        if first and (channels_first or not last):
            values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] not in _CHANNELS or 0 in shape:
        order = "(channels, height, width)" if channels_first else "(height, width, channels)"
        raise InputError(f"shape {tuple(shape)}, expected {order} with 1, 3 or 4 channels")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError("has values that are NaN or infinite, expected floats in [0, 1]")
        if low < 0 or high > 1:
            raise InputError(f"values from {low:.4g} to {high:.4g}, expected floats in [0, 1] or integers in 0 to 255")
        values = (values * np.float32(255)).round()
    elif values.dtype.kind not in "iu":
        raise InputError(f"values of type {values.dtype}, expected floats in [0, 1] or integers in 0 to 255")
    elif low < 0 or high > 255:
        raise InputError(f"integers from {low} to {high}, expected 0 to 255, or floats in [0, 1]")
    pixels = np.ascontiguousarray(values.astype(np.uint8))
    return as_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


_CHANNELS = (1, 3, 4)
