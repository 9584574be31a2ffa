"""Parquet files and folders of Hugging Face's `datasets`, through that library: Arrow tables, memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.table import BadRecord, Numbering, Skip, choose_columns, texts
from altdiffusion.errors import InputError, first_line
from altdiffusion.images import ImageSource, image_file

_PICTURE_COLUMNS = ("image", "jpg", "png", "webp")  # of plain bytes; with the feature Image, any name will do
_TEXT_TYPES = ("string", "large_string", "string_view")


class ArrowTable:
    """A row a record; rows are numbered from 0, as the library does.

    Raises InputError: the library isn't installed, nothing that it can read, none of the columns asked for, no images.
    A parquet file is copied into the library's cache first (HF_DATASETS_CACHE), in a form that can be memory-mapped.
    """

    def __init__(self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip) -> None:
        self.path = path
        data = _load(path)
        text = [name for name, feature in data.features.items() if getattr(feature, "dtype", None) in _TEXT_TYPES]
        self.present = tuple(data.column_names)
        self.columns = choose_columns(path, asked, data.column_names, text)
        self._picture = _picture_column(data.features) if images else None
        if images and self._picture is None:
            raise InputError(f"{path} has no pictures: expected a column image, got {', '.join(data.column_names)}")
        columns = dict.fromkeys([*self.columns, *([self._picture] if self._picture else [])])
        self._data = data.select_columns(list(columns)).with_format("arrow")  # slices of the map: nothing is copied
        self._good = Numbering()
        row = 0
        for batch in self._data.iter(batch_size=1000):
            for place in range(len(batch)):
                try:
                    self._record(batch, place, row)
                except BadRecord as reason:
                    skip(f"{path}:{row}", str(reason))
                    self._good.add(False)
                else:
                    self._good.add(True)
                row += 1

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._good.position(index)
        return self._record(self._data[row], 0, row)

    def where(self, index: int) -> str:
        return f"{self.path}:{self._good.position(index)}"

    def _record(self, batch: Any, place: int, row: int) -> dict[str, Any]:
        """The record at `place` of a batch of rows, which is `row` of all."""
        try:
            record = {column: batch.column(column)[place].as_py() for column in self.columns}
        except UnicodeDecodeError:
            raise BadRecord("not UTF-8") from None
        found: dict[str, Any] = texts(record, self.columns)
        if self._picture:
            found["image"] = self._image(batch.column(self._picture)[place], row)
        return found

    def _image(self, cell: Any, row: int) -> ImageSource:
        """cell: an Arrow scalar, bytes or a struct {bytes, path} of which one is given."""
        if not cell.is_valid:
            raise BadRecord("no picture")
        content = cell["bytes"] if hasattr(cell, "keys") else cell
        if content.is_valid:
            return ImageSource(self.path, str(row), content.as_py)
        name = cell["path"].as_py() if hasattr(cell, "keys") and "path" in cell else None
        if not name:
            raise BadRecord("no picture")
        file = self.path.parent / name
        if not file.is_file():
            raise BadRecord("no such picture")
        return image_file(file)


def _picture_column(features: Any) -> str | None:
    named = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    plain = [name for name in _PICTURE_COLUMNS if name in features and _may_hold_picture(features[name])]
    return next(iter([*named, *plain]), None)


def _may_hold_picture(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _load(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(f'{path} needs the library datasets to be read: pip install "altdiffusion[train]"') from None
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # the library wraps whatever its readers raise
        raise InputError(f"{path} can't be read: {first_line(error.__cause__ or error)}") from None
    finally:
        if bars:
            datasets.enable_progress_bars()
