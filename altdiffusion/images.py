"""Images from files that may be anything: checked, upright, RGB. Every reader of images in this package is built on it."""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from altdiffusion.errors import InputError
from altdiffusion.files import local_path

MAX_PIXELS = 64 * 10**6  # an image of 8000 x 8000; more is an accident or an attack
MAX_RATIO = (
    100  # of the sides of a scored one: the shorter is scaled to 224, so that a line of pixels would fill the memory
)
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


# The formats that generated images are written in, by their files' endings; other formats' endings are refused.
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
NOT_WRITTEN = (
    *(ending for ending in ENDINGS if ending not in WRITTEN),
    *(".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".ico", ".ppm", ".eps", ".pdf", ".apng", ".exr"),
)


class BadImage(ValueError):
    """An image can't be used. Its text is the reason, the same for every image with the same defect."""


class TooManyPixels(BadImage):
    """An image is larger than what is read."""


def open_image(image: str | Path | Image.Image, mode: str = "RGB") -> Image.Image:
    """An image from a file or from memory, the same from either, see `read_image`.

    Raises InputError, which names the file: not there, or a BadImage.
    """
    if not isinstance(image, Image.Image):
        with opened_image(image) as opened:
            return upright(opened, mode)
    try:
        with _defects_named():
            return upright(image, mode)
    except BadImage as error:
        raise InputError(f"the image in memory: {error}") from None


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

    A colour profile changes no value, as in diffusers and the web UIs; it stays in `info` where it still describes them.
    mode: "RGB", or "L" for masks, whose transparency is left aside. Safe to call from threads.
    Raises BadImage: no image, damaged, cut off, floats beyond 0 to 1; TooManyPixels for more than `max_pixels`.
    """
    with _decoded(file, max_pixels) as image:
        return upright(image, mode)


def decode_image(source: ImageSource) -> Image.Image:
    """The image of a data set, see `read_image`. Raises BadImage. Safe to call from threads."""
    return read_image(_stream(source))


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of `decode_image(source)`, of which only the header is read. Raises BadImage. Safe in threads."""
    with _decoded(_stream(source), MAX_PIXELS, header_only=True) as image:
        # Pillow swaps the sides of a TIFF by itself
        across = image.format != "TIFF" and _orientation(image) >= 5
        return (image.height, image.width) if across else (image.width, image.height)


def _stream(source: ImageSource) -> IO[bytes]:
    try:
        return io.BytesIO(source.read())
    except OSError:
        raise BadImage("the image can't be read from its file") from None


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
def _decoded(file: Path | IO[bytes], max_pixels: int, header_only: bool = False) -> Iterator[Image.Image]:
    """An image whose every defect is a BadImage."""
    # From a stream, as Pillow maps an uncompressed TIFF of a path into memory, and turns it wrongly then.
    with _defects_named(max_pixels), file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        try:
            image = _load(stream, max_pixels, header_only)
        except (BadImage, UnicodeError):
            raise
        except ValueError:  # Pillow's of large texts, among others
            image = _load(_without_large_texts(stream), max_pixels, header_only)
        with image:
            yield image


def _load(file: IO[bytes], max_pixels: int, header_only: bool) -> Image.Image:
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(file, formats=FORMATS)
    try:
        if image.width * image.height > max_pixels:
            raise TooManyPixels(_too_many(max_pixels))
        if not header_only:
            image.load()
    except BaseException:
        image.close()
        raise
    return image


@contextmanager
def _defects_named(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Whatever Pillow raises, as a BadImage."""
    try:
        yield
    except (BadImage, InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise TooManyPixels(_too_many(max_pixels)) from None
    except UnidentifiedImageError:
        raise BadImage("no image that can be read: expected JPEG, PNG, WebP or the like") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the file system's, not a decoder's
            raise BadImage(f"the image can't be read from its file ({error.strerror})") from None
        # on damaged files, decoders raise whatever they stumble over
        raise BadImage("the image is damaged or cut off: is it whole?") from error


def _too_many(max_pixels: int) -> str:
    return f"more than {max_pixels:,} pixels: make it smaller"


def _without_large_texts(file: IO[bytes]) -> IO[bytes]:
    """A PNG without the texts and colour profiles over 1 MB, which Pillow refuses; any other file as it is.

    Raises BadImage where they are over 64 MB in all.
    """
    file.seek(0)
    content = file.read()
    if not content.startswith(b"\x89PNG"):
        return io.BytesIO(content)
    kept, place, total = [content[:8]], 8, 0
    while place < len(content):  # a chunk: length, name, data, checksum
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        size = _text_size(content[place + 4 : place + 8], content[place + 8 : end - 4])
        if size <= PngImagePlugin.MAX_TEXT_CHUNK:
            kept.append(content[place:end])
        place, total = end, total + size
        if total > PngImagePlugin.MAX_TEXT_MEMORY:
            raise BadImage("the texts in the image are too large: expected at most 64 MB")
    return io.BytesIO(b"".join(kept))


def _text_size(chunk: bytes, data: bytes) -> int:
    """Bytes of a PNG chunk's text or colour profile, unpacked; 0 for any other chunk."""
    if chunk not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
        return 0
    rest = data.partition(b"\0")[2]
    if chunk == b"tEXt" or (chunk == b"iTXt" and rest[:1] == b"\0"):
        return len(rest)
    packed = rest[2:].split(b"\0", 2)[-1] if chunk == b"iTXt" else rest[1:]
    unpacker, size = zlib.decompressobj(), 0
    try:
        while packed and size <= PngImagePlugin.MAX_TEXT_MEMORY:  # a few kilobytes may hold gigabytes
            size += len(unpacker.decompress(packed, 2**20))
            packed = unpacker.unconsumed_tail
    except zlib.error:  # Pillow leaves it out
        return 0
    return size


def upright(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """Any image of PIL as `read_image` gives it. Raises BadImage for floats beyond 0 to 1."""
    image = turned(image)
    if mode == "RGB":
        return as_rgb(image)
    image = _common_mode(image)
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def turned(image: Image.Image) -> Image.Image:
    """The image as its EXIF says. Pillow's exif_transpose writes EXIF again, and fails where a camera's can't be written."""
    image.load()  # which turns a TIFF
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    for name in _WITH_ORIENTATION:  # else who reads it again turns it twice
        image.info.pop(name, None)
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF has it."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # on damaged EXIF, Pillow raises whatever it stumbles over; the image is whole
        return 1
    return orientation if orientation in _TURNS else 1


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode of PIL to RGB: 16 bits and floats in [0, 1] scaled, transparency on white. Raises BadImage for other floats.

    Of `info`, only a colour profile of RGB values is kept.
    """
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "RGBa", "P", "PA") else None
    image = _common_mode(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {"icc_profile": profile} if profile else {}
    return image


def _common_mode(image: Image.Image) -> Image.Image:
    """16 bits a channel, or floats: Pillow would cut them off, not scale them. Premultiplied alpha: it converts only to this."""
    if image.mode in ("RGBa", "La"):
        return image.convert(image.mode.upper())
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


def image_files(folder: Path, deep: bool = False) -> list[Path]:
    """The images in a folder, sorted by name; hidden files are left alone. [] where there is no folder.

    deep: those in its subfolders, too, but for hidden ones; each folder once, wherever links lead.
    """
    paths = _files_below(folder) if deep else folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS and path.name[0] != "." and path.is_file())


def _files_below(folder: Path) -> Iterator[Path]:
    seen = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, followlinks=True):
        places = {os.path.realpath(os.path.join(root, name)): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(name for place, name in places.items() if place not in seen and name[0] != ".")
        seen.update(places)
        yield from (Path(root, name) for name in names)


def fit(image: Image.Image, native: int, multiple: int = 8) -> Image.Image:
    """Scaled to `fitting_size`."""
    return image.resize(fitting_size(image.size, native, multiple), Image.Resampling.LANCZOS)


def fitting_size(size: tuple[int, int], native: int, multiple: int = 8) -> tuple[int, int]:
    """About native x native pixels of area in the proportions of `size`, both sides multiples of `multiple`."""
    scale = native / (size[0] * size[1]) ** 0.5
    width, height = (round(side * scale / multiple) * multiple for side in size)
    return min(MAX_SIDE, max(multiple, width)), min(MAX_SIDE, max(multiple, height))


def grid(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Images of one size in rows."""
    columns = min(columns, len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
