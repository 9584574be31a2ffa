"""Text files with a record a line: how they are cut into records, and records into fields.

Read as Python's csv and pandas read and write them. Cut by hand all the same: neither tells where a record begins in its
file, and tables that were written without quotes must be read, too.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from altdiffusion.data.columns import HEADER_HINT, default_columns, image_column
from altdiffusion.data.table import NOT_UTF8, BadRecord, Skip, decode_text, parse_object, utf16_order, way_out
from altdiffusion.errors import InputError

DELIMITERS = (",", "\t", ";", "|")
EMPTY_LINE = "an empty line"  # why a record is skipped


class LineFile:
    """A file of records, in UTF-8: columns under a header line, or JSON objects.

    is_json: by default whether its name ends in `.jsonl`. The delimiter, if not given, is what its name says (`.csv`: commas,
    `.tsv` and `.txt`: tabs), or another of DELIMITERS, if with that the header names columns that are known.
    Raises InputError: empty, UTF-16, no header line or nothing below it.
    """

    def __init__(self, path: Path, is_json: bool | None = None, delimiter: str = "") -> None:
        self.path = path
        self.names: list[str] | None = None  # of the fields; None in JSON, where every record has its own
        self.delimiter = delimiter
        with path.open("rb") as file:
            start = file.read(4096)
            if utf16 := utf16_order(start):
                raise InputError(f"{path} is {utf16}, expected UTF-8: iconv -f {utf16} -t UTF-8 {path.name} > NEW")
            file.seek(3 if start.startswith(b"\xef\xbb\xbf") else 0)
            if not file.peek(1):
                raise InputError(f"{path} is empty")
            if not (path.suffix.lower() == ".jsonl" if is_json is None else is_json):
                self._read_header(file.readline())
                if not file.peek(1):
                    raise InputError(f"{path} holds a header line and nothing else")
            self.start = file.tell()  # of the first record, in bytes

    def _read_header(self, line: bytes) -> None:
        try:
            header = _decode(line)
            usual = "\t" if self.path.suffix.lower() in (".tsv", ".txt") else ","
            self.delimiter = self.delimiter or find_delimiter(header, usual)
            names = split_header(header, self.delimiter)
        except BadRecord as reason:
            wanted = way_out(self.path) if str(reason) == NOT_UTF8 else "expected UTF-8 and commas or tabs between them"
            raise InputError(f"{self.path} begins with no line of column names ({reason}): {wanted}") from None
        if len(names) > 1 and not names[0]:
            names[0] = "Unnamed: 0"  # as pandas calls the index that it writes
        if not all(names) or len(set(names)) < len(names):
            raise InputError(
                f"{self.path} begins with column names that are empty or double: {', '.join(names)}; {HEADER_HINT}"
            )
        self.names = names

    def records(self, start: int | None = None, stop: int | None = None) -> Iterator[bytes]:
        """The records as they stand in the file, good and bad, with their line breaks.

        start, stop: in bytes, where a record begins; by default the first one's, and the end of the file.
        """
        with self.path.open("rb") as file:
            place = file.seek(self.start if start is None else start)
            records: Iterator[bytes] = file
            if self.delimiter == "\t":
                records = _tab_separated(file, len(self.names or ()), cache(self._is_quoted_by_csv))
            elif self.names is not None:
                records = _comma_separated(file, self.delimiter)
            for record in records:
                if stop is not None and place >= stop:
                    return
                place += len(record)
                yield record

    def rows(self, skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where it stands, its columns) of every good record."""
        line = self.first_line
        for record in self.records():
            where = f"{self.path}:{line}"
            line += max(1, record.count(b"\n"))
            try:
                yield where, self.parse(record)
            except BadRecord as reason:
                skip(where, str(reason))

    def _is_quoted_by_csv(self) -> bool:
        """Whether most records of a TSV that hold quotes have them as csv and pandas write them."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            records = (record for record in _comma_separated(file, "\t") if b'"' in record)
            votes = [1 if _is_as_written(record, len(self.names or ())) else -1 for record in records]
        return sum(votes) > 0

    @property
    def first_line(self) -> int:
        """The first record's line, counted from 1."""
        return 1 if self.names is None else 2

    def parse(self, record: bytes) -> dict[str, Any]:
        """The columns of a record. Raises BadRecord."""
        content = _decode(record)
        if self.names is None:
            return parse_object(content)
        fields = _tab_fields(content, len(self.names)) if self.delimiter == "\t" else _fields(content, self.delimiter)
        if len(fields) != len(self.names):
            raise BadRecord(f"{len(fields)} fields where the header has {len(self.names)}")
        return dict(zip(self.names, fields, strict=True))


def find_delimiter(header: str, usual: str = ",") -> str:
    """What stands between the names of a header: the usual delimiter, or another if that parts names that are known."""
    for delimiter in (usual, *DELIMITERS):
        try:
            names = split_header(header, delimiter)
        except BadRecord:
            continue
        if len(names) > 1 and (delimiter == usual or image_column(names) or default_columns(names)):
            return delimiter
    return usual


def split_header(header: str, delimiter: str) -> list[str]:
    """The names in a header line. Raises BadRecord."""
    return [name.strip() for name in _fields(header, delimiter)]


def _fields(content: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([content], strict=True, delimiter=delimiter))
    except csv.Error as error:
        is_open = str(error) == "unexpected end of data"
        raise BadRecord("a quote that doesn't close" if is_open else f"no valid CSV: {error}") from None


def _tab_fields(content: str, count: int) -> list[str]:
    """Quotes are a field's own unless all of them stand as csv and pandas write them."""
    fields = _split(content) if '"' in content else []
    return fields if len(fields) == count else content.split("\t")


def _comma_separated(lines: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    """The records of a CSV: lines, joined where Python's csv goes on reading."""
    record: list[bytes] = []

    def remember() -> Iterator[str]:
        for line in lines:
            record.append(line)
            yield line.decode("latin-1")  # a character a byte: only quotes, delimiters and line breaks matter here

    reader = csv.reader(remember(), delimiter=delimiter)
    while True:
        try:
            next(reader)
        except StopIteration:
            break
        except csv.Error:  # met again, and counted, when the record is parsed
            pass
        yield b"".join(record)
        record.clear()


def _tab_separated(lines: Iterable[bytes], count: int, is_quoted_by_csv: Callable[[], bool]) -> Iterator[bytes]:
    """The records of a TSV with `count` columns: lines, joined where a field in quotes goes on, as csv and pandas write it.

    A quote that opens and never closes so, in a table that was written without quoting, stays a character. Where every
    line has all columns by itself, both can be meant: is_quoted_by_csv says how the rest of the file was written.
    """
    unread, ahead, literal = iter(lines), deque[bytes](), 0
    while line := ahead.popleft() if ahead else next(unread, b""):
        if literal > 0 or not _is_open(line):
            literal -= len(line)
            yield line
            continue
        taken, size, is_open = [line], len(line), True
        while is_open and size < csv.field_size_limit() and (more := ahead.popleft() if ahead else next(unread, b"")):
            taken.append(more)
            size += len(more)
            is_open = b'"' not in more or _is_open(b'"' + more)  # within quotes, all before this line is one field
        record = b"".join(taken)
        has_all_columns = not is_open and len(_split(record.decode("latin-1"))) == count
        if has_all_columns and (any(part.count(b"\t") != count - 1 for part in taken) or is_quoted_by_csv()):
            yield record
        else:
            yield line
            ahead.extendleft(reversed(taken[1:]))
            if is_open:  # no quote closes so in all of these, which needn't be tried line by line
                literal = size - len(line)


def _is_open(record: bytes) -> bool:
    """Whether a field in quotes goes on after the end."""
    if not record.startswith(b'"') and b'\t"' not in record:
        return False
    try:
        _fields(record.decode("latin-1"), "\t")
    except BadRecord as reason:
        return str(reason) == "a quote that doesn't close"
    return False


def _is_as_written(record: bytes, count: int) -> bool:
    """Whether csv writes a record's fields so: in quotes those that need them, or all."""
    text = record.decode("latin-1").removesuffix("\n").removesuffix("\r")
    fields = _split(text)
    all_quoted = ['"' + field.replace('"', '""') + '"' for field in fields]
    needed = [
        quoted if set(field) & set('"\t\r\n') else field for field, quoted in zip(fields, all_quoted, strict=True)
    ]
    return len(fields) == count and text in ("\t".join(needed), "\t".join(all_quoted))


def _split(content: str) -> list[str]:
    """The fields of a record of a TSV as csv reads them; [] where it can't."""
    try:
        return _fields(content, "\t")
    except BadRecord:
        return []


def _decode(line: bytes) -> str:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if not line.strip():
        raise BadRecord(EMPTY_LINE)
    return decode_text(line)
