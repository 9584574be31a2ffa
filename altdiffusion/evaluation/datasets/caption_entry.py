"""What a reader of captions gives, whatever the format, and how lines of a file become text."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from altdiffusion.data.table import BadRecord, Skip, decode_text, parse_object
from altdiffusion.errors import InputError, first_line

# The formats that can be named where they shouldn't be recognised. Those of PAIRED are read alike.
CaptionForm = Literal[
    "token", "karpathy", "cn-clip", "clip-benchmark", "csv", "jsonl", "xm3600", "xflickrco", "wit", "babel",
    "clip-benchmark-json", "xtd10", "xtd200", "flickr30k-200", "multi30k",
]  # fmt: skip
CaptionsUsed = Literal["all", "first"]  # of each image
PAIRED = ("xtd10", "xtd200", "flickr30k-200", "multi30k")  # a file of captions, and one of image names

_GZIP = b"\x1f\x8b"
MAX_UNPACKED = 2**30  # bytes: a file of captions has less, and a megabyte may hold a gigabyte of zeros


@dataclass(frozen=True)
class Entry:
    """A caption as its file has it, unchecked."""

    where: str  # "captions.txt:17"
    caption: str
    images: tuple[str, ...]  # names or ids, at least one


@dataclass(frozen=True)
class Captions:
    """The captions of a file."""

    form: str
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)  # what should be known of how they were read
    language: str | None = None  # where the format says it


def read_head(path: Path, size: int) -> bytes:
    """The first `size` bytes, of a packed file (.gz) those in it."""
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP:
            return file.read(size)
        try:
            with gzip.open(file) as packed:
                return packed.read(size)
        except (OSError, EOFError, zlib.error):
            return b""


def read_lines(path: Path) -> list[bytes]:
    """Lines without their ends, also of a packed file (.gz); the last newline begins no line."""
    content = path.read_bytes()
    if content.startswith(_GZIP):
        try:
            with gzip.open(path) as packed:
                content = packed.read(MAX_UNPACKED + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is packed and can't be unpacked ({first_line(error)}): is it whole?") from None
        if len(content) > MAX_UNPACKED:
            raise InputError(f"{path} holds more than {MAX_UNPACKED:,} bytes unpacked: expected a file of captions")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def refuse_packed(path: Path) -> None:
    """Raises InputError for a packed file, of a format that is read from the disk as it stands."""
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
    if is_packed:
        raise InputError(f"{path} is packed: unpack it first (gunzip -k {path.name})")


def decoded(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[tuple[str, str]]:
    """(where, text) of lines that aren't empty."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{path}:{number}", decode_text(line)
            except BadRecord as reason:
                skip(f"{path}:{number}", str(reason))


def objects(path: Path, lines: Sequence[bytes], skip: Skip) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, JSON object) of lines that aren't empty."""
    for where, line in decoded(path, lines, skip):
        try:
            yield where, parse_object(line)
        except BadRecord as reason:
            skip(where, str(reason))


def as_text(value: object) -> str:
    """A caption, empty where it is no text."""
    return value if isinstance(value, str) else ""
