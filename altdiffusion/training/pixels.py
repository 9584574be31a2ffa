"""Pictures with captions, and pictures as tensors: read, cut to a size, kept in memory where all of them fit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from altdiffusion.training.data import BadImage, ImageSource, Skipped, decode_image, open_tables, picture_key
from altdiffusion.training.sampling import Records, language_weights


class CaptionedPictures:
    """The records of tables that have pictures; bad pictures are counted when their turn comes.

    languages: as `language_weights` takes them; None: the captions are of no interest.
    """

    def __init__(self, paths: Sequence[str], languages: Sequence[str] | None, max_skipped: float) -> None:
        self._skipped = Skipped(max_skipped)
        asked = [each.partition("=")[0] for each in languages or []]
        self.records = Records(open_tables(paths, asked, images=True, skipped=self._skipped))
        self.languages = {} if languages is None else language_weights(self.records.tables, languages)

    def __len__(self) -> int:
        return len(self.records)

    def caption(self, number: int, language: str) -> str:
        return str(self.records[number][language])

    def source(self, number: int) -> ImageSource:
        """The picture, not read yet."""
        found: ImageSource = self.records[number]["image"]
        return found

    def identity(self, number: int) -> int:
        """Equal for two records of the same picture."""
        return crc32(picture_key(self.source(number)).encode())

    def picture(self, number: int, read: Callable[[ImageSource], Tensor]) -> tuple[int, Tensor]:
        """(its number, its picture): this record's, or the next one's whose picture can be read.

        Raises InputError when there are more bad pictures than the user puts up with.
        """
        while True:
            try:
                return number, read(self.source(number))
            except BadImage as error:
                self.skip(number, str(error))
                number = (number + 1) % len(self)

    def skip(self, number: int, reason: str) -> None:
        """Count a record whose picture is bad. Raises InputError beyond the limit."""
        self._skipped.add(self.records.where(number), reason)
        self._skipped.check(len(self))


class Remembered:
    """Pictures after `prepare`, kept in memory while there is room: a small set is decoded once only."""

    def __init__(self, prepare: Callable[[Image.Image], Tensor], room: int = 512 * 2**20) -> None:
        self._prepare, self._room = prepare, room
        self._kept: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, source: ImageSource) -> Tensor:
        """Raises BadImage."""
        key = picture_key(source)
        found = self._kept.get(key)
        if found is None:
            found = self._prepare(decode_image(source))
            with self._lock:
                if self._room >= found.nbytes:
                    self._room -= found.nbytes
                    self._kept[key] = found
        return found


def fit_to(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled to cover (width, height) pixels and cut at the centre."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, as diffusion models take pictures."""
    return pixels.float() / 127.5 - 1
