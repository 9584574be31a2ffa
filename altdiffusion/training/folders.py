"""A plain folder of pictures as a table without text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.training.pictures import image_file

# Of the formats that are decoded, see `pictures.FORMATS`.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class PictureFolder:
    """A record a picture, in the order of their names; other files, hidden ones and subfolders are left alone.

    Raises InputError where there is no such folder, or no picture in it.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = picture_files(path)
        if not self._files:
            what = "holds no pictures" if path.is_dir() else "is no folder"
            raise InputError(f"{path} {what}: expected a folder with files that end in {', '.join(ENDINGS)}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": image_file(self._files[index])}

    def where(self, index: int) -> str:
        return str(self._files[index])


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, sorted by name; none where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(each for each in found if each.suffix.lower() in ENDINGS and each.name[0] != "." and each.is_file())
