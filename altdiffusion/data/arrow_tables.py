"""Parquet files, folders of Hugging Face's `datasets` and data sets of its hub, read by that library: memory-mapped Arrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data import hub_datasets
from altdiffusion.data.columns import IMAGE_COLUMNS, choose_columns, image_column
from altdiffusion.data.table import BadRecord, Skip, Table, texts
from altdiffusion.errors import InputError, first_line
from altdiffusion.images import ImageSource, image_file

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")  # of plain bytes; with the feature Image, any name will do
_TEXT_TYPES = ("string", "large_string", "string_view")
MAX_UNPACKED, MAX_RATIO = 2**32, 1000  # bytes, and times the file's size: a parquet file that says more is a bomb


class ArrowTable(Table):
    """A row a record; rows are numbered from 0, as the library does. A struct of texts, `translation: {en, zh}`, is read as
    columns of its own, en and zh.

    Raises InputError: the library isn't installed, nothing that it can read, none of the columns asked for, no images.
    A parquet file is copied into the library's cache first (HF_DATASETS_CACHE), in a form that can be memory-mapped.
    """

    def __init__(self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip) -> None:
        self.path = path
        data = _load(path)
        strings = [name for name, feature in data.features.items() if _is_text(feature)]
        nested = {name: _nested_texts(feature) for name, feature in data.features.items()}
        self._inside = {text: name for name, names in nested.items() for text in names if text not in data.features}
        text = [name for name in strings if name.lower() not in IMAGE_COLUMNS]
        self.present = (*(name for name in data.column_names if not nested[name]), *self._inside)
        self.columns = choose_columns(path, asked, self.present, [*text, *self._inside])
        self.image_column = _find_image_column(data.features, strings) if images else None
        if images and self.image_column is None:
            raise InputError(f"{path} has no images: expected a column image, got {', '.join(data.column_names)}")
        self._holds_paths = self.image_column in strings
        self._whole = data
        whole_columns = [self._inside.get(column, column) for column in self.columns]
        columns = dict.fromkeys([*whole_columns, *filter(None, [self.image_column])])
        self._data = data.select_columns(list(columns)).with_format("arrow")  # slices of the map: nothing is copied
        self._check(self._rows(), lambda row: self._record(*row), skip)

    def labels(self, column: str) -> tuple[list[Any], list[str]]:
        """A column's value in each record, and the names that a ClassLabel gives to its numbers, else none."""
        batches = self._whole.select_columns([column]).with_format("arrow").iter(batch_size=1000)
        values = [value for batch in batches for value in batch.column(0).to_pylist()]
        names = getattr(self._whole.features[column], "names", None) or []
        return [values[self._position(index)] for index in range(len(self))], list(names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The good records, a batch of rows at a time, which is faster than one by one."""
        for batch, place, row in self._rows():
            try:
                yield self._record(batch, place, row)
            except BadRecord:
                continue

    def source_row(self, index: int) -> dict[str, Any]:
        position = self._position(index)
        (row,) = self._whole.with_format("arrow")[position].to_pylist()
        image = row.get(self.image_column) if self.image_column else None
        if image is not None and not isinstance(image, str):
            row[self.image_column] = (isinstance(image, dict) and image.get("path")) or self._where(position)
        return row

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
            raw = {column: self._cell(batch, place, column) for column in self.columns}
        except UnicodeDecodeError:
            raise BadRecord("not UTF-8") from None
        record: dict[str, Any] = texts(raw, self.columns)
        if self.image_column:
            record["image"] = self._image(batch.column(self.image_column)[place], row)
        return record

    def _cell(self, batch: Any, place: int, column: str) -> Any:
        """A column's value, or that of a field of a struct, None where there is no struct."""
        if column not in self._inside:
            return batch.column(column)[place].as_py()
        struct = batch.column(self._inside[column])[place]
        return struct[column].as_py() if struct.is_valid else None

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
            if os.path.isfile(folder / name):  # False for a name that no file can have
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


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in _TEXT_TYPES


def _nested_texts(feature: Any) -> list[str]:
    """The fields of a struct that holds texts alone, such as a translation's languages; else none."""
    if type(feature).__name__ == "Translation":
        return sorted(feature.languages)
    if isinstance(feature, dict) and all(map(_is_text, feature.values())):
        return list(feature)
    return []


def _load(path: Path) -> Any:
    if hub_datasets.is_hub_name(path):
        return hub_datasets.load(hub_datasets.parse(path))
    datasets = hub_datasets.import_datasets(path)
    try:
        if path.is_file():
            _check_size(path)
        with hub_datasets.no_progress_bars(datasets):
            return datasets.load_from_disk(str(path)) if path.is_dir() else datasets.Dataset.from_parquet(str(path))
    except InputError:
        raise
    except Exception as error:  # the library wraps whatever its readers raise
        what = "folder by save_to_disk" if path.is_dir() else "parquet file"
        raise InputError(
            f"{path} can't be read, no {what} that is whole: {first_line(error.__cause__ or error)}"
        ) from None


def _check_size(path: Path) -> None:
    """Raise InputError for a parquet file that would fill the disk, by what it says of itself."""
    from pyarrow import parquet

    about = parquet.read_metadata(path)
    unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    if unpacked < 0 or unpacked > max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size):
        raise InputError(
            f"{path} says that it holds {unpacked:,} bytes unpacked, over {MAX_RATIO} times its size: damaged"
        )
