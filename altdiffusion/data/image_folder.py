"""A plain folder of images as a table: without text, or with each image's text in a file beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from altdiffusion.data.table import UNREAD_IMAGES, BadRecord, Skip, Table, decode_text, text_of
from altdiffusion.errors import InputError
from altdiffusion.images import ENDINGS, BadImage, image_file, image_files, read_image

CAPTION_ENDINGS = (".txt", ".caption")  # of the text beside an image


class ImageFolder(Table):
    """A record an image, in the order of their names; other files, hidden ones and subfolders are left alone.

    Images with another ending, such as .HEIC, are read if they are JPEG or the like all the same, else counted on
    standard error. Raises InputError where there is no such folder, or no image in it.
    """

    def __init__(self, path: Path, skip: Skip = lambda where, reason: None) -> None:
        self.path = path
        self._files = image_files(path)
        others = [] if not path.is_dir() else sorted(file for file in path.iterdir() if _may_be_image(file))
        if unread := [file for file in others if not _is_readable(file)]:
            names = ", ".join(file.name for file in unread[:5]) + (", ..." if len(unread) > 5 else "")
            tqdm.write(f"{path}: {len(unread)} images aren't read ({names}): convert them to JPEG or PNG", sys.stderr)
        self._files = sorted([*self._files, *(file for file in others if file not in unread)])
        if not self._files:
            what = "holds no images" if path.is_dir() else "is no folder"
            raise InputError(f"{path} {what}: expected a folder with files that end in {', '.join(ENDINGS)}")
        self._check(self._files, self._record, skip)

    def _record(self, file: Path) -> dict[str, Any]:
        return {"image": image_file(file)}

    def _read(self, position: int) -> dict[str, Any]:
        return self._record(self._files[position])

    def _where(self, position: int) -> str:
        return str(self._files[position])


class CaptionFolder(ImageFolder):
    """The same with the text of `0001.txt` or `0001.caption` beside `0001.png`, as kohya's trainer has it.

    Raises InputError: the column `caption` isn't among those asked for.
    """

    columns = present = ("caption",)

    def __init__(self, path: Path, asked: Sequence[str], skip: Skip) -> None:
        if asked and "caption" not in asked:
            raise InputError(f"{path} has no column {' or '.join(asked)}: its columns are caption")
        super().__init__(path, skip)

    def _record(self, file: Path) -> dict[str, Any]:
        return {"caption": self._caption(file), "image": image_file(file)}

    def _caption(self, image: Path) -> str:
        text = next(iter(caption_files(image)), None)
        if text is None:
            raise BadRecord("no caption: expected a .txt or .caption beside the image")
        return text_of({"caption": decode_text(text.read_bytes())}, "caption")


def caption_files(image: Path) -> list[Path]:
    """The texts beside an image, of which the first is read."""
    return [file for ending in CAPTION_ENDINGS if (file := image.with_suffix(ending)).is_file()]


def has_captions(folder: Path) -> bool:
    """Whether any image in a folder has its text beside it."""
    texts = {file.stem for file in folder.iterdir() if file.suffix in CAPTION_ENDINGS}
    return any(image.stem in texts for image in image_files(folder))


def _may_be_image(file: Path) -> bool:
    return file.suffix.lower() in UNREAD_IMAGES and file.name[0] != "." and file.is_file()


def _is_readable(file: Path) -> bool:
    try:
        read_image(file)
    except BadImage:
        return False
    return True
