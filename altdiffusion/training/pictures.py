"""Pictures to train on: named when a table is opened, read and decoded when their turn comes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from altdiffusion.images import FORMATS, MAX_PIXELS, as_rgb


class BadImage(ValueError):
    """A picture can't be used. Its text is the reason, the same for every picture with the same defect."""


@dataclass(frozen=True)
class ImageSource:
    """A picture that isn't read yet."""

    path: Path  # the file that holds it, or the folder of the data set
    member: str  # its name or row in there; "" if the file is the picture
    read: Callable[[], bytes]  # the encoded picture; raises OSError or BadImage


def image_file(path: Path) -> ImageSource:
    """The picture that is a file of its own."""
    return ImageSource(path, "", path.read_bytes)


def picture_key(source: ImageSource) -> str:
    """What identifies a picture on this machine, from run to run: its file, and its member or row there.

    The same for a file that two records name, however they spell its path.
    """
    path = os.path.realpath(source.path)
    return f"{path}:{source.member}" if source.member else path


def decode_image(source: ImageSource) -> Image.Image:
    """Read a picture in RGB as the eye would see it: turned as its EXIF says, transparency on white, first frame.

    Raises BadImage: not there, no picture, damaged, cut off, more than 64 million pixels. Safe to call from threads.
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
