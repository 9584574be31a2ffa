"""Images from files that may be anything: checked, upright, RGB."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from altdiffusion.errors import InputError
from altdiffusion.files import local_path

MAX_PIXELS = 64 * 10**6  # an image of 8000 x 8000; more is an accident or an attack
MAX_SIDE = 4096  # of an image to draw, in pixels
# What is decoded. Left to itself, Pillow would also try formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")  # of their files


def open_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Read an image as the eye would see it: turned as its EXIF says, transparency on white, first frame.

    mode: "RGB", or "L" for masks. Raises InputError: no file, no image, truncated, more than 64 million pixels.
    """
    with opened_image(local_path(path)) as file:
        image = ImageOps.exif_transpose(file)
    return as_rgb(image) if mode == "RGB" else _eight_bits(image).convert(mode)


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode of PIL to RGB: 16 bits and floats in [0, 1] scaled, transparency on white. Raises InputError for other floats."""
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits a channel, or floats: Pillow would cut them off, not scale them."""
    if image.mode == "F":
        import numpy as np  # here, as this module is read by commands that draw nothing

        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is refused, too
            raise InputError(f"floating-point values of {values.min():g} to {values.max():g}: expected 0 to 1")
        return Image.fromarray((values * 255).round().astype("uint8"))
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L") if image.mode[0] == "I" else image


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name; hidden files and subfolders are left alone. [] where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(each for each in found if each.suffix.lower() in ENDINGS and each.name[0] != "." and each.is_file())


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file, decoded, whose every defect is an InputError."""
    if not path.is_file():
        raise InputError(f"no such picture: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise InputError(
                        f"{path} has {file.width} x {file.height} pixels, at most {MAX_PIXELS:,} are read: make it smaller"
                    )
                file.load()
                yield file
    except Image.DecompressionBombError:
        raise InputError(f"{path} has far more than {MAX_PIXELS:,} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} is no picture that can be read: expected PNG, JPEG, WebP or the like") from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path} can't be read as a picture ({error}): is it whole?") from None


def fit(image: Image.Image, native: int, multiple: int = 8) -> Image.Image:
    """Scale to about native x native pixels of area, keeping the proportions, both sides multiples of `multiple`."""
    scale = native / (image.width * image.height) ** 0.5
    width, height = (round(side * scale / multiple) * multiple for side in image.size)
    width, height = (min(MAX_SIDE, max(multiple, side)) for side in (width, height))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """Images of one size in rows."""
    columns = min(columns, len(pictures))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


class BadImage(ValueError):
    """An image can't be used. Its text is the reason, the same for every image with the same defect."""


@dataclass(frozen=True)
class ImageSource:
    """An image that isn't read yet."""

    path: Path  # the file that holds it, or the folder of the data set
    member: str  # its name or row in there; "" if the file is the image
    read: Callable[[], bytes]  # the encoded image; raises OSError or BadImage


def image_file(path: Path) -> ImageSource:
    """The image that is a file of its own."""
    return ImageSource(path, "", path.read_bytes)


def image_key(source: ImageSource) -> str:
    """What identifies an image on this machine, from run to run: its file, and its member or row there.

    The same for a file that two records name, however they spell its path.
    """
    path = os.path.realpath(source.path)
    return f"{path}:{source.member}" if source.member else path


def decode_image(source: ImageSource) -> Image.Image:
    """Read an image in RGB as the eye would see it: turned as its EXIF says, transparency on white, first frame.

    Raises BadImage: not there, no image, damaged, cut off, more than 64 million pixels. Safe to call from threads.
    """
    try:
        content = source.read()
    except OSError:
        raise BadImage("the picture can't be read from its file") from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise BadImage(f"more than {MAX_PIXELS:,} pixels")
            return as_rgb(ImageOps.exif_transpose(file))
    except (BadImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BadImage("no picture that can be read: expected JPEG, PNG, WebP or the like") from None
    except Exception as error:  # on damaged files, decoders raise whatever they stumble over
        raise BadImage("the picture is damaged or cut off") from error
