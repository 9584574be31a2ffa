"""Tables with a record a line: tab-separated, comma-separated and JSON.

A table is checked whole when it is opened, and never held in memory: a record is read when it is asked for.
"""

from __future__ import annotations

import csv
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from altdiffusion.data.table import (
    IMAGE_COLUMNS,
    BadRecord,
    GoodRecords,
    Skip,
    choose_columns,
    decode_text,
    find_columns,
    parse_object,
    text_of,
    texts,
)
from altdiffusion.errors import InputError
from altdiffusion.images import image_file


class LineTable:
    """A record a line, in UTF-8: tab-separated or, in `.csv`, comma-separated under a header line, or JSON (`.jsonl`).

    In quotes, a CSV's field may go on over several lines.

    Raises InputError: empty, no UTF-8 in its header, none of the columns asked for, no column of images.
    """

    def __init__(self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip) -> None:
        self.path = path
        self._is_csv = path.suffix.lower() == ".csv"
        with path.open("rb") as file:
            start = file.read(3)
            if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{path} is UTF-16, expected UTF-8: iconv -f UTF-16 -t UTF-8")
            start_at = 3 if start == b"\xef\xbb\xbf" else 0
            if os.fstat(file.fileno()).st_size == start_at:
                raise InputError(f"{path} is empty")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._names: list[str] | None = None  # of the fields; None in JSON, where every record has its own
        self._starts = array("q", [start_at])  # of the lines in bytes, good and bad, and the end of the last
        self._breaks = array("q", [0])  # in a CSV: how many line breaks come before each record
        if path.suffix.lower() != ".jsonl":
            header = self._line(start_at)
            self._names = self._header(header)
            self._starts[0] += len(header)
            if self._starts[0] == len(self._bytes):
                raise InputError(f"{path} holds a header line and nothing else")
        present, text = self._columns()
        self._image_column = next((column for column in IMAGE_COLUMNS if column in present), None) if images else None
        if images and self._image_column is None and (present or asked is None):
            columns = ", ".join(present) or "none"
            raise InputError(f"{path} has no images: expected a column image or file_name, got {columns}")
        self.present = tuple(present)
        self.columns = choose_columns(path, asked, present, text) if present else ()
        self._good = GoodRecords()
        self._check(needs_text=asked is not None, skip=skip)

    def _check(self, needs_text: bool, skip: Skip) -> None:
        """Read every line once, to find where it begins and whether it can be used."""
        for line in self._lines():
            self._starts.append(self._starts[-1] + len(line))
            if self._is_csv:
                self._breaks.append(self._breaks[-1] + line.count(b"\n"))
            try:
                record = self._parse(line)
                if needs_text and not self.columns:
                    raise BadRecord("no text")
                texts(record, self.columns)
                if self._image_column and not os.path.isfile(self._image_path(record)):
                    raise BadRecord("no such image")
            except BadRecord as reason:
                skip(self._where(len(self._starts) - 2), str(reason))
                self._good.add(False)
            else:
                self._good.add(True)

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = self._good.position(index)
        raw = self._parse(self._bytes[self._starts[position] : self._starts[position + 1]])
        record: dict[str, Any] = texts(raw, self.columns)
        if self._image_column:
            record["image"] = image_file(self._image_path(raw))
        return record

    def where(self, index: int) -> str:
        return self._where(self._good.position(index))

    def _where(self, position: int) -> str:
        if self._is_csv:
            position = self._breaks[position]
        return f"{self.path}:{position + (1 if self._names is None else 2)}"

    def _line(self, start: int) -> bytes:
        end = self._bytes.find(b"\n", start)
        return self._bytes[start : end + 1] if end >= 0 else self._bytes[start:]

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:  # faster than the map when all are read in turn
            file.seek(self._starts[0])
            yield from _whole_records(file) if self._is_csv else file

    def _header(self, line: bytes) -> list[str]:
        try:
            names = [name.strip() for name in self._fields(_decode(line))]
        except BadRecord as reason:
            between = "commas" if self._is_csv else "tabs"
            raise InputError(
                f"{self.path} begins with no line of column names ({reason}): expected UTF-8 and {between} between them"
            ) from None
        if not all(names) or len(set(names)) < len(names):
            raise InputError(f"{self.path} begins with column names that are empty or double: {', '.join(names)}")
        return names

    def _columns(self) -> tuple[list[str], list[str]]:
        if self._names is None:
            return find_columns(self._readable())
        return self._names, [name for name in self._names if name not in IMAGE_COLUMNS]

    def _readable(self) -> Iterator[dict[str, Any]]:
        for line in self._lines():
            try:
                yield self._parse(line)
            except BadRecord:
                continue

    def _parse(self, line: bytes) -> dict[str, Any]:
        content = _decode(line)
        if self._names is None:
            return parse_object(content)
        fields = self._fields(content)
        if len(fields) != len(self._names):
            raise BadRecord(f"{len(fields)} fields where the header has {len(self._names)}")
        return dict(zip(self._names, fields, strict=True))

    def _fields(self, content: str) -> list[str]:
        if not self._is_csv:
            return content.split("\t")
        try:
            return next(csv.reader([content], strict=True))
        except csv.Error:
            raise BadRecord("a quote that doesn't close") from None

    def _image_path(self, record: Mapping[str, Any]) -> Path:
        assert self._image_column is not None
        return self.path.parent / text_of(record, self._image_column)


def _whole_records(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The records of a CSV: lines, joined while a quote is open."""
    record: list[bytes] = []
    is_open = False
    for line in lines:
        record.append(line)
        is_open ^= bool(line.count(b'"') % 2)
        if not is_open:
            yield b"".join(record)
            record.clear()
    if record:
        yield b"".join(record)


def _decode(line: bytes) -> str:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if not line.strip():
        raise BadRecord("an empty line")
    return decode_text(line)
