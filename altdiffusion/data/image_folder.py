"""A plain folder of images as a table without text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.images import ENDINGS, image_file, image_files


class ImageFolder:
    """A record an image, in the order of their names; other files, hidden ones and subfolders are left alone.

    Raises InputError where there is no such folder, or no image in it.
    """

    columns: tuple[str, ...] = ()
    present: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = image_files(path)
        if not self._files:
            what = "holds no images" if path.is_dir() else "is no folder"
            raise InputError(f"{path} {what}: expected a folder with files that end in {', '.join(ENDINGS)}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": image_file(self._files[index])}

    def where(self, index: int) -> str:
        return str(self._files[index])
