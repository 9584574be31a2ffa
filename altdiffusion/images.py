"""Images from files that may be anything: checked, upright, RGB. Every reader of images in this package is built on it."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, UnidentifiedImageError

from altdiffusion.errors import InputError
from altdiffusion.files import local_path

MAX_PIXELS = 64 * 10**6  # an image of 8000 x 8000; more is an accident or an attack
MAX_SIDE = 4096  # of an image to generate, in pixels
# What is decoded. Left to itself, Pillow would also try formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".jpe",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
)  # of their files


class BadImage(ValueError):
    """An image can't be used. Its text is the reason, the same for every image with the same defect."""


class TooManyPixels(BadImage):
    """An image is larger than what is read."""


def open_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Read an image file, see `read_image`. Raises InputError, which names the file: not there, or a BadImage."""
    with opened_image(path) as image:
        return upright(image, mode)


@contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file, decoded, with its metadata. Raises InputError as `open_image`."""
    file = local_path(path)
    if not file.is_file():
        raise InputError(f"no such image: {file}")
    try:
        with _decoded(file, MAX_PIXELS) as image:
            yield image
    except BadImage as error:
        raise InputError(f"{file}: {error}") from None


def read_image(file: Path | IO[bytes], mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as the eye would see it: turned as its EXIF says, transparency on white, first frame.

    mode: "RGB", or "L" for masks, whose transparency is left aside. Safe to call from threads.
    Raises BadImage: no image, damaged, cut off, floats beyond 0 to 1; TooManyPixels for more than `max_pixels`.
    """
    with _decoded(file, max_pixels) as image:
        return upright(image, mode)


def decode_image(source: ImageSource) -> Image.Image:
    """The image of a data set, see `read_image`. Raises BadImage. Safe to call from threads."""
    try:
        content = source.read()
    except OSError:
        raise BadImage("the image can't be read from its file") from None
    return read_image(io.BytesIO(content))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_opening = threading.Lock()  # warnings' filters belong to the whole process


@contextmanager
def _decoded(file: Path | IO[bytes], max_pixels: int) -> Iterator[Image.Image]:
    """An image whose every defect is a BadImage."""
    too_many = f"more than {max_pixels:,} pixels: make it smaller"
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
        with image:
            if image.width * image.height > max_pixels:
                raise TooManyPixels(too_many)
            image.load()
            yield image
    except (BadImage, InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise TooManyPixels(too_many) from None
    except UnidentifiedImageError:
        raise BadImage("no image that can be read: expected JPEG, PNG, WebP or the like") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the file system's, not a decoder's
            raise BadImage(f"the image can't be read from its file ({error.strerror})") from None
        # on damaged files, decoders raise whatever they stumble over
        raise BadImage("the image is damaged or cut off: is it whole?") from error


def upright(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """Any image of PIL as `read_image` gives it. Raises BadImage for floats beyond 0 to 1."""
    image = turned(image)
    if mode == "RGB":
        return as_rgb(image)
    image = _eight_bits(image)
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF says. Pillow's exif_transpose writes EXIF again, and fails where a camera's can't be written."""
    image.load()  # which turns a TIFF
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # on damaged EXIF, Pillow raises whatever it stumbles over; the image is whole
        return image
    if turn is None:
        return image
    image = image.transpose(turn)
    for name in _WITH_ORIENTATION:  # else who reads it again turns it twice
        image.info.pop(name, None)
    return image


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode of PIL to RGB: 16 bits and floats in [0, 1] scaled, transparency on white. Raises BadImage for other floats."""
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits a channel, or floats: Pillow would cut them off, not scale them."""
    if image.mode == "F":
        import numpy as np  # here, as commands that read no image import this module

        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is refused, too
            raise BadImage(f"floating-point values of {values.min():g} to {values.max():g}: expected 0 to 1")
        return Image.fromarray((values * 255).round().astype("uint8"))
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L") if image.mode[0] == "I" else image


@dataclass(frozen=True)
class ImageSource:
    """An image that isn't read yet."""

    path: Path  # the file that holds it, or the folder of the data set
    member: str  # its name or row in there; "" if the file is the image
    read: Callable[[], bytes]  # the encoded image; raises OSError or BadImage

    @property
    def where(self) -> str:
        """Its place as a person would look for it: "shard.tar:0001.jpg"."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)


def image_file(path: Path) -> ImageSource:
    """The image that is a file of its own."""
    return ImageSource(path, "", path.read_bytes)


def image_key(source: ImageSource) -> str:
    """What identifies an image on this machine, from run to run: its file, and its member or row there.

    The same for a file that two records name, however they spell its path.
    """
    path = os.path.realpath(source.path)
    return f"{path}:{source.member}" if source.member else path


def image_files(folder: Path, below: bool = False) -> list[Path]:
    """The images in a folder, or in those below it too, sorted by name; without hidden ones. [] where there is no folder."""
    paths = () if not folder.is_dir() else folder.rglob("*") if below else folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file())


def fit(image: Image.Image, native: int, multiple: int = 8) -> Image.Image:
    """Scale to about native x native pixels of area, keeping the proportions, both sides multiples of `multiple`."""
    scale = native / (image.width * image.height) ** 0.5
    width, height = (round(side * scale / multiple) * multiple for side in image.size)
    width, height = (min(MAX_SIDE, max(multiple, side)) for side in (width, height))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def grid(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Images of one size in rows."""
    columns = min(columns, len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
