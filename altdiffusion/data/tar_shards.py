"""Tar files as WebDataset writes them: the members that share a key are one sample.

Read by hand, by tarfile's headers: the library `webdataset` reads in sequence, and resuming needs any record at once.
"""

from __future__ import annotations

import tarfile
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, Any, TypeAlias

from altdiffusion.data.columns import choose_columns, find_columns
from altdiffusion.data.table import UNREAD_IMAGES, BadRecord, Skip, Table, decode_text, parse_object, texts
from altdiffusion.errors import InputError, first_line
from altdiffusion.images import ENDINGS, ImageSource

_IMAGE, _TEXT, _JSON = range(3)  # the parts of a sample that are read
_PARTS = {"jpg": _IMAGE, "jpeg": _IMAGE, "png": _IMAGE, "webp": _IMAGE, "txt": _TEXT, "json": _JSON}
# where a sample has none of the above
_SECOND_CHOICE = {"caption": _TEXT} | {ending[1:]: _IMAGE for ending in ENDINGS if ending[1:] not in _PARTS}
_TOLD = (*ENDINGS, *UNREAD_IMAGES, ".txt", ".caption")  # of members that are counted where no sample holds them
_BLOCK = 512
_MAX_HEADER = 2**15  # bytes of a member's long name or attributes: beyond that tarfile's patterns take seconds


ReadAt: TypeAlias = "Callable[[int, int], bytes]"  # where a part of the file begins, and how many bytes it has


def _read_at(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


class OpenFile:
    """Parts of a file that stays open: opening it for each takes longer than to read it. Safe to call from threads."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock = path.open("rb"), Lock()
        weakref.finalize(self, self._file.close)  # whoever holds a part that isn't read yet keeps it open

    def __call__(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)


class TarTable(Table):
    """A sample a record: its image, its caption in `.txt` or `.caption`, more columns in `.json`.

    A member's key is its folder and its name up to the first dot, as webdataset has it; an ending that comes again under
    a key begins another sample. Images and captions that no sample holds are skipped.
    Raises InputError: no whole, uncompressed tar file, none of the columns asked for, no images.
    """

    def __init__(
        self, path: Path, asked: Sequence[str] | None, *, images: bool, skip: Skip, read: ReadAt | None = None
    ) -> None:
        """read: how bytes are read; None opens the file each time, as a training may read thousands of shards."""
        self.path = path
        self._images = images
        self._read_at = read or partial(_read_at, path)
        # Six integers a sample: where its image, text and JSON begin and how many bytes each has; -1 where there is none.
        self._places = array("q")
        # Names of the samples' images, else of their first members, joined: a list would take five times the memory.
        self._names = bytearray()
        self._name_ends = array("q")
        self._index(skip)
        count = len(self._name_ends)
        if images and not any(self._has(position, _IMAGE) for position in range(count)):
            raise InputError(f"{path} has no images: expected members .jpg, .jpeg, .png or .webp")
        if asked is not None:
            present, text = find_columns(self._readable(range(count)), asked)
            self.present = tuple(present)
            if present:
                self.columns = choose_columns(path, asked, present, text)
        self._needs_text = asked is not None
        self._check(range(count), self._check_sample, skip)

    def _check_sample(self, position: int) -> None:
        if self._needs_text:
            record = self._record(position)
            if not self.columns:
                raise BadRecord("no text")
            texts(record, self.columns)
        if self._images and not self._has(position, _IMAGE):
            raise BadRecord("no image")

    def _read(self, position: int) -> dict[str, Any]:
        record: dict[str, Any] = texts(self._record(position), self.columns) if self.columns else {}
        if self._images:
            content = partial(self._content, position, _IMAGE)
            record["image"] = ImageSource(self.path, self._name(position), content)
        return record

    def columns_of(self, index: int) -> dict[str, Any]:
        """All that a sample says in its `.json`, and its caption, whatever columns are read. Raises BadRecord, IndexError."""
        return self._record(self._position(index), whole=True)

    def _where(self, position: int) -> str:
        return f"{self.path}:{self._name(position)}"

    def _index(self, skip: Skip) -> None:
        samples: list[dict[int, tarfile.TarInfo]] = []
        latest: dict[str, int] = {}  # by key
        left_out: dict[str, dict[str, list[str]]] = {}  # by key, and by name without the last ending: the members
        for member in _members(self.path):
            key, ending = split_member(member.name)
            if not key or key.endswith("/"):  # hidden files
                continue
            part = _PARTS.get(ending, _SECOND_CHOICE.get(ending))
            if part is None:
                if member.name.lower().endswith(_TOLD):
                    left_out.setdefault(key, {}).setdefault(member.name.rpartition(".")[0], []).append(member.name)
                continue
            sample = samples[latest[key]] if key in latest else {}
            if part in sample and sample[part].name == member.name:
                sample = {}
            if not sample:
                latest[key] = len(samples)
                samples.append(sample)
            if part not in sample or ending in _PARTS:
                sample[part] = member
        if not samples:
            raise InputError(f"{self.path} holds no samples: expected members such as 0001.jpg and 0001.txt")
        for key, by_name in left_out.items():
            for members in by_name.values():
                # one beside a sample belongs to it, such as 0001.mask.png, unless it is a whole sample
                if key not in latest or len(members) > 1:
                    skip(f"{self.path}:{members[0]}", _why_left_out(members[0]))
        names: Counter[str] = Counter()
        for sample in samples:
            for part in (_IMAGE, _TEXT, _JSON):
                found = sample.get(part)
                self._places.extend((found.offset_data, found.size) if found else (-1, -1))
            name = sample.get(_IMAGE, next(iter(sample.values()))).name
            names[name] += 1
            name += f" ({names[name]})" if names[name] > 1 else ""
            self._names += name.encode(errors="surrogateescape")
            self._name_ends.append(len(self._names))

    def _name(self, position: int) -> str:
        start = self._name_ends[position - 1] if position else 0
        return self._names[start : self._name_ends[position]].decode(errors="replace")

    def _has(self, position: int, part: int) -> bool:
        return self._places[6 * position + 2 * part] >= 0

    def _content(self, position: int, part: int) -> bytes:
        return self._read_at(*self._places[6 * position + 2 * part : 6 * position + 2 * part + 2])

    def _record(self, position: int, whole: bool = False) -> dict[str, Any]:
        """The columns of a sample, good or bad. Raises BadRecord where the text can't be read."""
        record: dict[str, Any] = {}
        caption = self._has(position, _TEXT)
        if self._has(position, _JSON) and (
            whole or not (caption and self.columns == ("caption",))
        ):  # else nobody needs it
            record = parse_object(decode_text(self._content(position, _JSON)))
        if caption:
            record["caption"] = decode_text(self._content(position, _TEXT))
        return record

    def _readable(self, positions: range) -> Iterator[dict[str, Any]]:
        for position in positions:
            try:
                yield self._record(position)
            except BadRecord:
                continue


def split_member(name: str) -> tuple[str, str]:
    """A member's key, which is its folder and its name up to the first dot, and its ending in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def _why_left_out(name: str) -> str:
    _, ending = split_member(name)
    if "." in ending:
        return "a dot in its name: a sample's name ends at the first dot, as webdataset has it"
    return f"images in .{ending} aren't read"


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar. Raises InputError where it isn't whole."""
    with path.open("rb") as file:
        headers: Any = _Headers(file)
        try:
            with tarfile.open(fileobj=headers, mode="r:") as tar:
                for member in tar:
                    if member.size < 0:  # Python before 3.13.6 reads it again for ever
                        raise tarfile.ReadError("a member of negative size")
                    if member.isreg() and not member.issparse():
                        yield member
                file.seek(tar.offset)
        except _DAMAGED as error:
            raise InputError(f"{path} is no whole, uncompressed tar file: {first_line(error)}") from None
        if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes anything else for the end, too
            raise InputError(f"{path} is cut off or damaged at byte {tar.offset}: fetch or pack it again")


# On damaged headers tarfile raises more than its own errors.
_DAMAGED = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)


class _Headers:
    """A file of which tarfile reads headers alone, none of them larger than it should be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)
