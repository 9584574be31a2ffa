"""Images by their places as `altdiffusion batch` writes them: a file, `shard.tar:0001.png`, `rows.parquet:group 0 row 7`."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from PIL import Image

from altdiffusion.data.columns import image_column
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.errors import InputError
from altdiffusion.files import on_disk
from altdiffusion.images import BadImage, ImageSource, decode_image, image_file

_IN_TAR = re.compile(r"(.+?\.tar):(.+)", re.DOTALL | re.IGNORECASE)
_IN_PARQUET = re.compile(r"(.+\.parquet):group (\d+) row (\d+)", re.DOTALL | re.IGNORECASE)
_TARS = 16  # whose members are kept in mind
_ROWS = 16  # of parquet, decoded at a time


def image_at(place: str, root: Path) -> ImageSource:
    """The image at a place, which isn't read yet. root: the folder that relative paths start from.

    Raises BadImage: nothing there, a place on the web, which isn't fetched.
    """
    if "://" in place:
        raise BadImage("lies at a URL, which isn't fetched")
    path = root / on_disk(place)
    if _is_file(path):
        return image_file(path)
    if (match := _IN_TAR.fullmatch(place)) and _is_file(tar := root / on_disk(match[1])):
        found = os.stat(tar)
        if (source := _members(tar, found.st_size, found.st_mtime_ns).get(match[2])) is None:
            raise BadImage("isn't in its tar any more")
        return source
    if (match := _IN_PARQUET.fullmatch(place)) and _is_file(table := root / on_disk(match[1])):
        group, row = int(match[2]), int(match[3])
        return ImageSource(table, f"group {group} row {row}", lambda: _in_parquet(table, group, row))
    raise BadImage("isn't there any more")


def thumbnail(place: str, root: Path, side: int) -> Image.Image:
    """The image at a place in RGB, both sides at most `side` pixels. Raises BadImage."""
    image = decode_image(image_at(place, root))
    image.thumbnail((side, side))
    return image


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # what no file could be called
        return False


@lru_cache(maxsize=_TARS)
def _members(tar: Path, size: int, changed: int) -> dict[str, ImageSource]:
    """The images of a tar by their members' names. size, changed: so that another tar of that name is read anew."""
    try:
        table = TarTable(tar, None, images=True, skip=lambda where, reason: None)
    except (InputError, OSError):
        raise BadImage("its tar can't be read") from None
    images = (table[index]["image"] for index in range(len(table)))
    return {image.member: image for image in images}


def _in_parquet(path: Path, group: int, row: int) -> bytes:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise BadImage("its table is read by pyarrow, which is missing") from None
    try:
        with parquet.ParquetFile(path) as file:
            if (column := image_column(file.schema_arrow.names)) is None or group >= file.num_row_groups:
                raise BadImage("isn't in its table any more")
            for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
                if row < len(batch):
                    value = batch.column(0)[row].as_py()
                    content = value.get("bytes") if isinstance(value, dict) else value
                    if isinstance(content, bytes):
                        return content
                    break
                row -= len(batch)
    except ArrowException:
        raise BadImage("its table can't be read") from None
    raise BadImage("isn't in its table any more")
