"""What a table of training data or captions is, whatever file it lies in, and what all of its readers share.

Kept by hand: no library gives random access by record number together with the file and line of every bad record.
"""

from __future__ import annotations

import json
import sys
import threading
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from altdiffusion.errors import InputError

# Of images that Pillow doesn't read by itself: where no sample takes their place, they are counted.
UNREAD_IMAGES = (
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".svg",
    ".psd",
    ".tga",
    ".ico",
    ".ppm",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
)
NOT_UTF8 = "not UTF-8"  # a bad record's reason
Raw = TypeVar("Raw")  # a record as a reader finds it in its source
Skip = Callable[[str, str], object]  # told where a bad record is and what is wrong with it


class Table(ABC):
    """Good records, numbered from 0. Safe to read from threads.

    A reader checks every record once, when it is opened. Memory grows with the bad ones only.
    """

    path: Path
    columns: tuple[str, ...] = ()  # the text columns that every record has: those asked for, or `default_columns`
    present: tuple[str, ...] = ()  # all columns that there are

    def _check(self, records: Iterable[Raw], check: Callable[[Raw], object], skip: Skip) -> None:
        """Number the good records. records: as they come in the source, of which `check` raises BadRecord for the bad ones."""
        self._count = 0
        self._gaps = array("q")  # for every bad record, the index of the next good one
        for position, record in enumerate(records):
            try:
                check(record)
            except BadRecord as reason:
                skip(self._where(position), str(reason))
                self._gaps.append(self._count)
            else:
                self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Each column's text, trimmed; under "image" an ImageSource if opened with images. Raises IndexError."""
        return self._read(self._position(index))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def source_row(self, index: int) -> dict[str, Any]:
        """All columns of a record as they stand in the source; of an image inside it, its place. Raises IndexError."""
        return {name: value if isinstance(value, str) else value.where for name, value in self[index].items()}

    def where(self, index: int) -> str:
        """The record's place as a person would look for it: "captions.tsv:17"."""
        return self._where(self._position(index))

    def _position(self, index: int) -> int:
        """Where in the source, counted from 0 and with the bad ones, good record `index` is. Raises IndexError."""
        if not 0 <= index < self._count:
            raise IndexError(f"record {index} of {self._count}")
        return index + bisect_right(self._gaps, index)

    @abstractmethod
    def _read(self, position: int) -> dict[str, Any]:
        """The good record at a place in the source."""

    @abstractmethod
    def _where(self, position: int) -> str:
        """The place of a record, good or bad, as `where` has it."""


class BadRecord(ValueError):
    """A record can't be used. Its text is the reason, the same for every record with the same defect."""


class SkipLog:
    """Records that can't be used: counted, shown with file and line, and fatal beyond a limit.

    limit: the fraction of all records that may be skipped, 0 to 1. show: how many are printed on standard error.
    what: they are called in an error.
    """

    def __init__(self, limit: float = 0.01, show: int = 10, what: str = "records") -> None:
        self.limit, self.show, self.what = limit, show, what
        self.counts: Counter[str] = Counter()  # by reason
        self._examples: dict[str, str] = {}  # reason -> the first record with it
        self._skipped: set[str] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many different records were skipped."""
        return len(self._skipped)

    def add(self, where: str, reason: str) -> bool:
        """Count a record; the same one counts once, however often it is met: False then. Safe to call from threads."""
        with self._lock:
            if where in self._skipped:
                return False
            self._skipped.add(where)
            self.counts[reason] += 1
            self._examples.setdefault(reason, where)
            if self.count <= self.show:  # by tqdm, which puts lines above the bars that are shown
                tqdm.write(f"skipped {where}: {reason}", sys.stderr)
            elif self.count == self.show + 1:
                tqdm.write("skipped more, which are only counted", sys.stderr)
            return True

    def check(self, total: int) -> None:
        """Raise InputError if more than `limit` of `total` records, good and bad together, were skipped."""
        with self._lock:
            if not self._skipped or self.count / max(total, 1) <= self.limit:
                return
            ((reason, _),) = self.counts.most_common(1)
            where = self._examples[reason]
            path = Path(where.rpartition(":")[0])
            mend = "mend the data" if reason != NOT_UTF8 else way_out(path) if path.is_file() else _WRITE_ANEW
            raise InputError(
                f"{self.count} of {total} {self.what} can't be used, more than {100 * self.limit:g} %; the commonest reason: "
                f"{reason} ({where}). {mend[0].upper()}{mend[1:]}, or allow a larger fraction: --max-skipped"
            )


def texts(record: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The text of each column, see `text_of`."""
    return {column: text_of(record, column) for column in columns}


def text_of(record: Mapping[str, Any], column: str) -> str:
    """A column's text without white space around it. Raises BadRecord where there is none."""
    text = record.get(column)
    if text is None:
        raise BadRecord(f"no {column}")
    if not isinstance(text, str):
        raise BadRecord(f"{column} is no text")
    text = text.strip()
    if not text:
        raise BadRecord(f"{column} is empty")
    if "\0" in text:
        raise BadRecord(f"a NUL in {column}")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a character: "\ud83d"
        raise BadRecord(f"half a character in {column}") from None
    return text


def decode_text(content: bytes) -> str:
    """UTF-8, with or without a byte order mark. Raises BadRecord."""
    if b"\0" in content:
        raise BadRecord("a NUL byte, no UTF-8 text")
    try:
        return content.decode("utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError:
        raise BadRecord(NOT_UTF8) from None


def way_out(path: Path) -> str:
    """What to do about a file with text that isn't UTF-8, such as "convert it: iconv -f GB18030 -t UTF-8 FILE > NEW"."""
    if path.suffix.lower() == ".tar":
        return _WRITE_ANEW
    if has_utf8_lines(path):
        return "other lines are UTF-8: write these anew in it"
    lines = _beyond_ascii(path)
    characters = [char for char in b"".join(lines).decode("gb18030", "replace") if not char.isascii()]
    common = sum(char.encode("gb2312", "ignore") != b"" for char in characters)
    if common > 0.7 * len(characters):  # what is in another encoding reads as rarer characters
        return f"it may be GBK: iconv -f GB18030 -t UTF-8 {path.name} > NEW"
    return f"convert it: iconv -f ENCODING -t UTF-8 {path.name} > NEW, with its encoding, such as WINDOWS-1252 or BIG5"


_WRITE_ANEW = "write the texts anew in UTF-8"


def has_utf8_lines(path: Path) -> bool:
    """Whether a text file that isn't all UTF-8 is so in part. If not, lines that can be read are so by chance."""
    lines = _beyond_ascii(path)
    texts = [text for line in lines if (text := _utf8(line))]
    # GBK can read as UTF-8 by chance, but seldom as its longer characters: 一只猫 does, as "һֻè"
    return len(texts) > len(lines) / 2 or any(char > "\u07ff" for text in texts for char in text)


def _beyond_ascii(path: Path) -> list[bytes]:
    """The first 1000 lines that aren't ASCII."""
    with path.open("rb") as file:
        return list(islice((line for line in file if not line.isascii()), 1000))


def _utf8(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def utf16_order(start: bytes) -> str | None:
    """The beginning of a file is UTF-16 ("UTF-16"), or without a byte order mark "UTF-16LE", "UTF-16BE"; else None."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    # without a mark it is known by its first letter, if that is ASCII
    return {(False, True): "UTF-16LE", (True, False): "UTF-16BE"}.get((start[:1] == b"\0", start[1:2] == b"\0"))


def parse_object(content: str) -> dict[str, Any]:
    """A JSON object. Raises BadRecord for anything else."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise BadRecord("not valid JSON") from None
    if not isinstance(record, dict):
        raise BadRecord("JSON, but no object")
    return record
