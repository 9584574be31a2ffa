"""Images that a visitor sends, decoded within the limits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from PIL import Image

from altdiffusion.images import TooManyPixels, as_rgb, read_image
from altdiffusion.web.limits import Limits
from altdiffusion.web.translations import Refused


def open_upload(path: Any, limits: Limits, mode: str = "RGB") -> Image.Image:
    """An uploaded image, decoded. Raises Refused: none, no image, damaged, too many bytes or pixels."""
    if not path:
        raise Refused("no_image")
    try:
        file = Path(path)
        size = file.stat().st_size
    except Exception as error:  # no path, or nothing there
        raise Refused("bad_image") from error
    return _decoded(file, size, limits, mode)


def open_bytes(content: bytes, limits: Limits, mode: str = "RGB") -> Image.Image:
    """The same for a file in memory."""
    if not content:
        raise Refused("no_image")
    return _decoded(io.BytesIO(content), len(content), limits, mode)


def _decoded(file: Path | IO[bytes], size: int, limits: Limits, mode: str) -> Image.Image:
    if size > limits.upload_bytes:
        raise Refused("large_file", most=limits.upload_bytes // 2**20)
    try:
        image = read_image(file, mode, limits.upload_pixels)
    except TooManyPixels:
        raise Refused("large_image", most=f"{limits.upload_pixels:,}") from None
    except Exception as error:
        raise Refused("bad_image") from error
    _check_pixels(image.size, limits)
    return image


def read_editor(value: Any, limits: Limits) -> tuple[Image.Image, Image.Image | None]:
    """The image of an editor's value, RGB, and what was painted over it, L, white where it was; None if nothing was.

    value: {"background": PIL, "layers": [PIL, ...]}. Raises Refused.
    """
    background = value.get("background") if isinstance(value, dict) else None
    if not isinstance(background, Image.Image):
        raise Refused("no_image")
    _check_pixels(background.size, limits)
    mask = Image.new("L", background.size, 0)
    for layer in value.get("layers") or []:
        if layer.size != background.size:
            raise Refused("mask_size")
        mask.paste(255, mask=layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 * (alpha > 127)))
    return as_rgb(background), mask if mask.getbbox() else None


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    if max(size) > 100 * min(size):
        raise Refused("long_image")
    if size[0] * size[1] > limits.upload_pixels:
        raise Refused("large_image", most=f"{limits.upload_pixels:,}")
