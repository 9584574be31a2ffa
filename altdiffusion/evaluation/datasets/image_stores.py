"""Where the images of a data set lie: in a folder, in a table, or in CN-CLIP's base64. Each is read when its turn comes."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from altdiffusion.data.table import Skip
from altdiffusion.images import ENDINGS, BadImage, ImageSource, image_file, image_files


class ImagesByName:
    """Images that are files in a folder or in its own folders."""

    def __init__(self, folder: Path) -> None:
        self.place = folder
        self._files: dict[str, Path] = {}  # by name and by stem; the folder itself before those in it
        self._paths: list[str] = []  # of all, in the folder
        folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        for file in chain.from_iterable(map(image_files, (folder, *folders))):
            self._paths.append(file.relative_to(folder).as_posix())
            for key in (file.name, file.stem):
                self._files.setdefault(key, file)

    def find(self, name: str) -> str | None:
        """The path in the folder of the image with that name, with or without extension and folders, or from that URL."""
        if name and os.path.isfile(self.place / name):  # False for a name that no file can have
            return name
        path = self._files.get(Path(name).name)
        if path is None and "://" in name:  # saved under the URL's file name, decoded or not, perhaps in another format
            last = Path(unquote(name)).name
            path = self._files.get(last) or self._files.get(Path(last).stem)
        return None if path is None else path.relative_to(self.place).as_posix()

    def source(self, key: str) -> ImageSource:
        return image_file(self.place / key)

    def distractors(self, named: Collection[str], wanted: Collection[str] | None) -> tuple[list[str], list[str]]:
        """The images that are searched through though no caption names them: here none; and notes."""
        left = [] if wanted is not None else sorted(set(self._paths) - set(named))
        return [], [f"{len(left)} images have no caption here and are left out: {_first_few(left)}"] if left else []


class TableImages:
    """Images of a table that holds them, or their paths beside itself: see `data/`."""

    def __init__(self, place: Path, sources: Mapping[str, ImageSource]) -> None:
        self.place = place
        self._sources = sources

    def find(self, name: str) -> str | None:
        return name if name in self._sources else None

    def source(self, key: str) -> ImageSource:
        return self._sources[key]

    def distractors(self, named: Collection[str], wanted: Collection[str] | None) -> tuple[list[str], list[str]]:
        """As in ImagesByName: none, as each has its caption."""
        return [], []


class Base64Images:
    """CN-CLIP's images: an id, a tab, the image in url-safe base64. Lines are read when their turn comes."""

    def __init__(self, path: Path, skip: Skip) -> None:
        self.place = path
        self._starts: dict[str, int] = {}
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                key, tab, _ = line.partition(b"\t")
                name = key.decode("utf-8", "replace").strip().removeprefix("\ufeff")
                if not tab or not name:
                    skip(f"{path}:{number}", "expected an id, a tab, an image in base64")
                elif name in self._starts:
                    skip(f"{path}:{number}", "the same image id again")
                else:
                    self._starts[name] = start
                start += len(line)

    def find(self, name: str) -> str | None:
        return name if name in self._starts else None

    def source(self, key: str) -> ImageSource:
        return ImageSource(self.place, key, lambda: self._read(key))

    def distractors(self, named: Collection[str], wanted: Collection[str] | None) -> tuple[list[str], list[str]]:
        """As in ImagesByName, but all images are searched through, as by CN-CLIP's scripts."""
        named = set(named)
        left = [name for name in self._starts if name not in named and (wanted is None or name in wanted)]
        return left, [f"{len(left)} images without a caption are searched through: {_first_few(left)}"] if left else []

    def _read(self, key: str) -> bytes:
        with self.place.open("rb") as file:
            file.seek(self._starts[key])
            encoded = file.readline().partition(b"\t")[2].strip()
        try:
            return base64.urlsafe_b64decode(encoded)
        except (binascii.Error, ValueError):
            raise BadImage("its base64 is damaged or cut off") from None


ImageStore = ImagesByName | TableImages | Base64Images


def stem(name: str) -> str:
    """A name without folders, and without the extension if it is one of an image."""
    name = Path(name).name
    return Path(name).stem if name.lower().endswith(ENDINGS) else name


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
