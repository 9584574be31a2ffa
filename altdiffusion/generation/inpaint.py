"""Inpainting: what the model is given of a photo and its mask, and how its result is pasted back into the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from altdiffusion.images import fitting_size

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
WHITE = 128  # from here on, a mask's value is what the model generates anew
NOISE = 16  # black and white of a JPEG are so far off, at most, but for its edges


@dataclass(frozen=True)
class PasteBack:
    """Pastes what was generated into the photo, which stays as it is where `alpha` is 0.

    photo: RGB. alpha: L, as large, 255 where the photo is replaced. box: the part of the photo that was generated.
    """

    photo: Image.Image
    alpha: Image.Image
    box: Box

    def __call__(self, generated: Image.Image) -> Image.Image:
        left, top, right, bottom = self.box
        result = self.photo.copy()  # with its colour profile, which a PNG is saved with
        fitted = generated.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        result.paste(fitted, self.box, self.alpha.crop(self.box))
        return result


@dataclass(frozen=True)
class Inpainting:
    """What the model is given: the image, and the mask, white where it is generated anew; and what becomes of its result."""

    image: Image.Image
    mask: Image.Image
    paste: PasteBack


def prepare(
    photo: Image.Image,
    mask: Image.Image,
    *,
    native: int,
    latent_pixels: int,
    size: tuple[int, int] | None = None,
    blur: int = 0,
    padding: int | None = None,
) -> Inpainting:
    """The inpainting of an RGB photo where a mask, L and as large, is white, at least in one pixel.

    native: the model's own side, in pixels. latent_pixels: that a latent stands for, along a side.
    size: (width, height) that is asked for: of the result, to which the photo is stretched; else the photo keeps its own.
    blur: radius in pixels by which the mask's edge is softened.
    padding: None to generate the whole photo. Else the masked part alone, and so many pixels around it, in `size` or about
        native x native pixels; the photo keeps its own size.
    """
    white = mask.point(lambda value: 255 * (value >= WHITE))
    mask = mask.point(lambda value: 0 if value < NOISE else 255 if value > 255 - NOISE else value)
    box: Box = (0, 0, photo.width, photo.height)
    if padding is not None:
        box = VaeImageProcessor.get_crop_region(_blurred(white, blur), *(size or (native, native)), pad=padding)
    model_size = size or fitting_size((box[2] - box[0], box[3] - box[1]), native)
    image = photo.crop(box).resize(model_size, Image.Resampling.LANCZOS)
    white = _in_latents(white.crop(box), model_size, latent_pixels)
    if padding is None and size is not None:
        photo, mask, box = image, mask.resize(size, Image.Resampling.BILINEAR), (0, 0, *size)
    return Inpainting(image, white, PasteBack(photo, _blurred(mask, blur), box))


def brightest(mask: Image.Image) -> int:
    """The largest value of a mask."""
    return int(np.asarray(mask).max())


def _blurred(mask: Image.Image, radius: int) -> Image.Image:
    return VaeImageProcessor.blur(mask, radius) if radius else mask


def _in_latents(white: Image.Image, size: tuple[int, int], latent_pixels: int) -> Image.Image:
    """The mask in `size`, where each latent that has any white, by pixels' centres, is white.

    diffusers looks at one pixel of each latent, so that small parts would be lost and stay as they were.
    """
    cells = (size[0] // latent_pixels, size[1] // latent_pixels)
    covered = np.asarray(white.convert("F").resize(cells, Image.Resampling.BOX)) > 0
    return Image.fromarray(np.where(covered, 255, 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
