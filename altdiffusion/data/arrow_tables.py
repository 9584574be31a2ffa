"""Parquet files and folders of Hugging Face's `datasets`, read by that library: Arrow tables, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import IMAGE_COLUMNS, choose_columns, image_column
from altdiffusion.data.table import BadRecord, Skip, Table, texts
from altdiffusion.errors import InputError, first_line
from altdiffusion.images import ImageSource, image_file

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")  # of plain bytes; with the feature Image, any name will do
_TEXT_TYPES = ("string", "large_string", "string_view")


class ArrowTable(Table):
    """A row a record; rows are numbered from 0, as the library does.

    Raises InputError: the library isn't installed, nothing that it can read, none of the columns asked for, no images.
    A parquet file is copied into the library's cache first (HF_DATASETS_CACHE), in a form that can be memory-mapped.
    """

    def __init__(self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip) -> None:
        self.path = path
        data = _load(path)
        strings = [name for name, feature in data.features.items() if getattr(feature, "dtype", None) in _TEXT_TYPES]
        text = [name for name in strings if name.lower() not in IMAGE_COLUMNS]
        self.present = tuple(data.column_names)
        self.columns = choose_columns(path, asked, data.column_names, text)
        self.image_column = _find_image_column(data.features, strings) if images else None
        if images and self.image_column is None:
            raise InputError(f"{path} has no images: expected a column image, got {', '.join(data.column_names)}")
        self._holds_paths = self.image_column in strings
        self._whole = data
        columns = dict.fromkeys([*self.columns, *filter(None, [self.image_column])])
        self._data = data.select_columns(list(columns)).with_format("arrow")  # slices of the map: nothing is copied
        self._check(self._rows(), lambda row: self._record(*row), skip)

    def labels(self, column: str) -> tuple[list[Any], list[str]]:
        """A column's value in each record, and the names that a ClassLabel gives to its numbers, else none."""
        batches = self._whole.select_columns([column]).with_format("arrow").iter(batch_size=1000)
        values = [value for batch in batches for value in batch.column(0).to_pylist()]
        names = getattr(self._whole.features[column], "names", None) or []
        return [values[self._position(index)] for index in range(len(self))], list(names)

    def _rows(self) -> Iterator[tuple[Any, int, int]]:
        """(a batch of rows, a row's place in it, its place in the table)."""
        row = 0
        for batch in self._data.iter(batch_size=1000):
            for place in range(len(batch)):
                yield batch, place, row
                row += 1

    def _read(self, position: int) -> dict[str, Any]:
        return self._record(self._data[position], 0, position)

    def _where(self, position: int) -> str:
        return f"{self.path}:{position}"

    def _record(self, batch: Any, place: int, row: int) -> dict[str, Any]:
        """The record at `place` of a batch of rows, which is `row` of the whole table."""
        try:
            raw = {column: batch.column(column)[place].as_py() for column in self.columns}
        except UnicodeDecodeError:
            raise BadRecord("not UTF-8") from None
        record: dict[str, Any] = texts(raw, self.columns)
        if self.image_column:
            record["image"] = self._image(batch.column(self.image_column)[place], row)
        return record

    def _image(self, cell: Any, row: int) -> ImageSource:
        """cell: an Arrow scalar, bytes, a path, or a struct {bytes, path} of which one is given."""
        if not cell.is_valid:
            raise BadRecord("no image")
        if hasattr(cell, "keys"):
            if cell["bytes"].is_valid:
                return ImageSource(self.path, str(row), cell["bytes"].as_py)
            name = cell["path"].as_py() if "path" in cell else None
        elif self._holds_paths:
            name = cell.as_py()
        else:
            return ImageSource(self.path, str(row), cell.as_py)
        if not name:
            raise BadRecord("no image")
        for folder in (self.path.parent, self.path):  # beside the file, or in the folder that save_to_disk wrote
            if (folder / name).is_file():
                return image_file(folder / name)
        raise BadRecord("no such image")


def _find_image_column(features: Any, strings: Sequence[str]) -> str | None:
    """The first with the feature Image, else of bytes, else of paths."""
    typed = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    plain = [name for name in _IMAGE_COLUMNS if name in features and _may_hold_image(features[name])]
    return next(iter([*typed, *plain]), image_column(strings))


def _may_hold_image(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _load(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(f'{path} needs the library datasets to be read: pip install "altdiffusion[train]"') from None
    showed_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # the library wraps whatever its readers raise
        what = "folder by save_to_disk" if path.is_dir() else "parquet file"
        raise InputError(
            f"{path} can't be read, no {what} that is whole: {first_line(error.__cause__ or error)}"
        ) from None
    finally:
        if showed_bars:
            datasets.enable_progress_bars()
