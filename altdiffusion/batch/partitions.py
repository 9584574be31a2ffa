"""The input, cut into partitions: what they are depends on the input and the size alone, never on who works on them. No torch.

partitions = plan("data/{000..012}.tar", size=4096)    # one a tar
partitions = plan("captions.csv", size=4096)           # 4096 rows each
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from altdiffusion.batch.stores import is_url, local_copy, parquet_file
from altdiffusion.data.line_file import LineFile
from altdiffusion.data.open_tables import expand_braces
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.images import ENDINGS, image_files

Kind = Literal["folder", "tar", "rows", "lines", "parquet"]
FORMATS = "tars (.tar), tables (.parquet, .jsonl, .csv, .tsv) or a folder of images"
PROMPT_FORMATS = "tables of prompts (.txt, .csv, .tsv, .jsonl, .parquet)"
_KINDS: dict[str, Kind] = {".tar": "tar", ".parquet": "parquet", ".jsonl": "rows", ".csv": "rows", ".tsv": "rows"}


@dataclass(frozen=True)
class Partition:
    """A part of the input.

    number: from 0. path: the file, a URL, or the folder. first: the number of its first item among all, None behind a tar, as
        nobody knows how many items that has.
    start, stop: of a text table the bytes, of parquet the rows of a group. at: the first record's line, or the group.
    items: how many there are, None in a tar. names: of a folder's images.
    stamp: sizes and time of change of its files, None where they are not known.
    """

    number: int
    kind: Kind
    path: str
    first: int | None = None
    start: int = 0
    stop: int = 0
    at: int = 0
    items: int | None = None
    names: tuple[str, ...] = field(default=(), repr=False)
    stamp: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """What it is, and of which file: as long as it stays the same, so does its output."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def where(self) -> str:
        """As a person would look for it."""
        if self.kind == "parquet":
            return f"{self.path}, rows {self.start} to {self.stop} of group {self.at}"
        return f"{self.path}, from {self.names[0]}" if self.names else self.path + f":{self.at}" * (self.kind != "tar")


def plan(source: str, size: int, *, prompts: bool = False) -> list[Partition]:
    """The partitions of an input, in the order of their files' names.

    source: file, folder, pattern, braces, or URL. size: items of one, but of a tar and of a group of rows, which are one each.
    prompts: text files are read, too, and tars and folders not. Raises InputError: nothing there, no format that is read.
    """
    found: list[Partition] = []
    first: int | None = 0
    for path in _files(source):
        for part in _parts(path, size, prompts):
            found.append(replace(part, number=len(found), first=first))
            first = None if first is None or part.items is None else first + part.items
    if not found:
        raise InputError(f"{source} has no items: {PROMPT_FORMATS if prompts else FORMATS} are read")
    return found


def _files(source: str) -> Iterator[str]:
    if not is_url(source) and local_path(source).exists():  # first, for names that hold brackets themselves
        yield source
        return
    for pattern in expand_braces(source):
        if is_url(pattern):
            yield from _urls(pattern)
        elif matches := sorted(glob.glob(str(local_path(pattern)), recursive=True)):
            yield from matches
        else:
            raise InputError(f"there is no {pattern}: {FORMATS} are read")


def _urls(pattern: str) -> list[str]:
    """Those that a pattern of a store's stands for, itself where it is none. They are looked at when their turn comes."""
    if not glob.has_magic(pattern):
        return [pattern]
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(pattern)
        found = sorted(system.glob(path))
    except Exception as error:  # whatever a store's own library raises
        raise InputError(f"{pattern} can't be listed: {first_line(error)}") from None
    if not found:
        raise InputError(f"there is no {pattern}")
    return [system.unstrip_protocol(name) for name in found]


def _parts(path: str, size: int, prompts: bool) -> Iterator[Partition]:
    ending = os.path.splitext(path)[1].lower()
    kind: Kind | None = "lines" if prompts and ending == ".txt" else _KINDS.get(ending)
    formats = PROMPT_FORMATS if prompts else FORMATS
    if not is_url(path) and Path(path).is_dir():
        if prompts:
            raise InputError(f"{path} is a folder: {formats} are read")
        yield from _of_folder(Path(path), size)
    elif kind is None or (prompts and kind == "tar"):
        raise InputError(f"{path} can't be read: {formats} are")
    elif kind == "tar":
        yield Partition(0, kind, path, stamp=None if is_url(path) else _stamp(Path(path)))
    elif is_url(path):
        with local_copy(path) as copy:
            yield from (replace(part, path=path, stamp=None) for part in _of_table(copy, kind, size))
    else:
        yield from _of_table(Path(path), kind, size)


def _of_table(path: Path, kind: Kind, size: int) -> Iterator[Partition]:
    try:
        yield from (_of_parquet(path, size) if kind == "parquet" else _of_lines(path, kind, size))
    except OSError as error:
        raise InputError(f"{path} can't be read: {first_line(error)}") from None


def _of_folder(folder: Path, size: int) -> Iterator[Partition]:
    files = [str(file.relative_to(folder)) for file in image_files(folder, deep=True)]
    if not files:
        raise InputError(f"{folder} holds no images: expected files that end in {', '.join(ENDINGS)}")
    for start in range(0, len(files), size):
        names = tuple(files[start : start + size])
        yield Partition(0, "folder", str(folder), items=len(names), names=names, stamp=_stamp(folder, names))


def _of_lines(path: Path, kind: Kind, size: int) -> Iterator[Partition]:
    file = LineFile(path, is_json=True if kind == "lines" else None)
    start, line, records, stamp = file.start, file.first_line, iter(file.records()), _stamp(path)
    while some := list(islice(records, size)):
        stop = start + sum(map(len, some))
        yield Partition(0, kind, str(path), start=start, stop=stop, at=line, items=len(some), stamp=stamp)
        start, line = stop, line + sum(max(1, record.count(b"\n")) for record in some)


def _of_parquet(path: Path, size: int) -> Iterator[Partition]:
    stamp = _stamp(path)
    with parquet_file(path) as file:
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for start in range(0, rows, size):
                stop = min(rows, start + size)
                yield Partition(
                    0, "parquet", str(path), start=start, stop=stop, at=group, items=stop - start, stamp=stamp
                )


def _stamp(path: Path, names: Iterable[str] = ("",)) -> tuple[int, int]:
    """Sizes in all, and the last time of change in nanoseconds, of files in a folder, or of one."""
    found = [os.stat(path / name) for name in names]
    return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)
