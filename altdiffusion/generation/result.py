"""A generated image, and how it is saved."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from altdiffusion import files
from altdiffusion.errors import GenerationFailed, InputError
from altdiffusion.files import local_path
from altdiffusion.generation.infotext import exif_info, png_info
from altdiffusion.generation.label import DEFAULT, PNG_KEY, Label
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.images import WRITTEN


@dataclass(frozen=True)
class GeneratedImage:
    """An image and what it was generated from. filtered: the safety checker found something and the image is black."""

    image: Image.Image
    settings: ImageSettings
    filtered: bool


_QUALITY = 95  # of JPEG and WebP, which lose a little


class NotFinite(GenerationFailed):
    """The model's numbers overflowed, so images of a batch are NaN: black, if they were saved.

    images: the batch's, in order; None for those that are NaN, and for those that were dropped.
    failed: the settings of those that are NaN.
    """

    def __init__(self, images: Sequence[GeneratedImage | None], failed: Sequence[ImageSettings]) -> None:
        first = failed[0]
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        super().__init__(
            f"the image of {first.prompt!r} (seed {first.seed}){others} came out as NaN in {first.dtype or 'float32'} and "
            "isn't saved: the model's numbers overflowed; take --dtype float32 or bfloat16, and where that doesn't help, "
            "another model or LoRA, as these weights are damaged"
        )
        self.images, self.failed = list(images), list(failed)


def save_image(generated: GeneratedImage, path: Path, label: Label = DEFAULT) -> Path:
    """Writes a file with prompt, settings and label inside, whole or not at all: a PNG, or what the path's ending says.

    Raises InputError where it can't be written.
    """
    try:
        content = encoded(generated, WRITTEN.get(path.suffix.lower(), "PNG"), label)
    except ValueError as error:  # JPEG holds 64 KiB of settings
        raise InputError(f"{path} can't hold its settings ({error}): name a .png file") from None
    return _write(path, content)


def encoded(generated: GeneratedImage, form: str = "PNG", label: Label = DEFAULT) -> bytes:
    """The file, settings and label inside. form: PNG, JPEG or WEBP. Raises ValueError where a JPEG can't hold them."""
    buffer, settings = io.BytesIO(), generated.settings
    image, xmp = label.marked(generated.image), label.xmp(settings)
    if form == "PNG":
        info = png_info(settings)
        if xmp is not None:
            info.add_itxt(PNG_KEY, xmp.decode())
        image.save(buffer, format=form, pnginfo=info)
    else:
        image.save(buffer, format=form, quality=_QUALITY, exif=exif_info(settings), **({"xmp": xmp} if xmp else {}))
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path, xmp: bytes | None = None) -> Path:
    """A PNG without settings, whole or not at all. xmp: a `Label`'s. Raises InputError where it can't be written."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    if xmp is not None:
        info.add_itxt(PNG_KEY, xmp.decode())
    image.save(buffer, format="PNG", pnginfo=info)
    return _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, content)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): pick another --out or make room") from None
    return path


def free_path(folder: Path, settings: ImageSettings, suffix: str = "", taken: Collection[str] = ()) -> Path:
    """A file name from prompt and seed that is not taken yet, e.g. 一只猫-1.png, 一只猫-1-2.png.

    suffix: stands after the seed. taken: more names that can't be had.
    """
    stem, count = f"{stem_of(settings.prompt) or 'picture'}-{settings.seed}{suffix}", 1
    path = local_path(folder / f"{stem}.png")
    while path.name in taken or path.exists():
        count += 1
        path = path.with_name(f"{stem}-{count}.png")
    return path


def stem_of(prompt: str) -> str:
    """The first words of a prompt as the begin of a file's name, e.g. 黑暗精灵公主-月光; "" where it has none."""
    words = re.sub(r"[^\w]+", "-", prompt)[:40].strip("-")
    while len(words.encode()) > 120:  # file systems allow 255 bytes, and Chinese takes three each
        words = words[:-1]
    return words
