"""Tables with a record a line: tab-separated, comma-separated and JSON.

A table is checked whole when it is opened, and never held in memory: a record is read when it is asked for.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import HEADER_HINT, IMAGE_COLUMNS, choose_columns, find_columns, image_column
from altdiffusion.data.line_file import LineFile
from altdiffusion.data.table import BadRecord, Skip, Table, text_of, texts
from altdiffusion.errors import InputError
from altdiffusion.files import on_disk
from altdiffusion.images import image_file


class LineTable(Table):
    """A record a line, or several where a field in quotes holds line breaks: see `LineFile`.

    Raises InputError: empty, no UTF-8 in its header, none of the columns asked for, no column of images.
    """

    def __init__(self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip) -> None:
        self.path = path
        self._file = LineFile(path)
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts = array("q", [self._file.start])  # of the records in bytes, good and bad, and the end of the last
        self._breaks = array("q", [0])  # how many line breaks come before each record
        present, text = self._columns(asked)
        self._image_column = image_column(present) if images else None
        if images and self._image_column is None and (present or asked is None):
            columns = ", ".join(present) or "none"
            raise InputError(
                f"{path} has no images: expected a column image or file_name, got {columns}; {HEADER_HINT}"
            )
        self.present = tuple(present)
        self.columns = choose_columns(path, asked, present, text) if present else ()
        self._needs_text = asked is not None
        self._check(self._raw(), self._check_record, skip)

    def _raw(self) -> Iterator[bytes]:
        """The records, good and bad; notes where each begins."""
        for raw in self._file.records():
            self._starts.append(self._starts[-1] + len(raw))
            self._breaks.append(self._breaks[-1] + raw.count(b"\n"))
            yield raw

    def _check_record(self, raw: bytes) -> None:
        record = self._file.parse(raw)
        if self._needs_text and not self.columns:
            raise BadRecord("no text")
        texts(record, self.columns)
        if self._image_column and not os.path.isfile(self._image_path(record)):
            raise BadRecord("no such image")

    def _read(self, position: int) -> dict[str, Any]:
        raw = self._parsed(position)
        record: dict[str, Any] = texts(raw, self.columns)
        if self._image_column:
            record["image"] = image_file(self._image_path(raw))
        return record

    def source_row(self, index: int) -> dict[str, Any]:
        return self._parsed(self._position(index))

    def _parsed(self, position: int) -> dict[str, Any]:
        return self._file.parse(self._bytes[self._starts[position] : self._starts[position + 1]])

    def _where(self, position: int) -> str:
        return f"{self.path}:{self._breaks[position] + self._file.first_line}"

    def _columns(self, asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
        if self._file.names is None:
            return find_columns(self._readable(), asked)
        return self._file.names, [name for name in self._file.names if name.lower() not in IMAGE_COLUMNS]

    def _readable(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self._file.rows(lambda where, reason: None))

    def _image_path(self, record: Mapping[str, Any]) -> Path:
        assert self._image_column is not None
        return self.path.parent / on_disk(text_of(record, self._image_column))
