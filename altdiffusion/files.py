"""Paths from names; files and folders that are whole or not there, as they are written aside, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError, first_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def on_disk(name: str) -> str:
    """The name as this locale spells it to the system: in UTF-8 where its own encoding, such as ASCII, lacks letters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    return name


def as_utf8(text: str) -> str:
    """The text that someone typed or named a file by: where the locale is ASCII, Python keeps its UTF-8 as loose bytes.

    Bytes that are no UTF-8 stay as they are.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return text


def as_json(document: Any, encoding: str = "utf-8") -> str:
    """A JSON document in the letters of an encoding; where it lacks one, all but ASCII is escaped as JSON has it."""
    text = as_utf8(json.dumps(document, ensure_ascii=False, indent=2))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), indent=2)
    return text


def sha256_of(paths: Iterable[Path]) -> str:
    """The first twelve digits of the SHA-256 of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**22):
                digest.update(part)
    return digest.hexdigest()[:12]


def local_path(name: str | Path) -> Path:
    """The path that a name stands for, `~` expanded. Raises InputError for what no file system could hold."""
    try:
        path = Path(on_disk(str(name))).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, no permission to look
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{str(name)[:80]!r} can't be a file or folder here: {reason}") from None
    return path


# What Windows takes for a device whatever folder it is in, with any ending.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    "conin$",
    "conout$",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)),
}


def plain_name(name: Any) -> str:
    """The name of a file that data names, such as a manifest or a list of shards: itself, if it stays in its folder.

    Raises InputError for one that leads out of it, on any system: `..`, a path, a drive, a device; and for a NUL.
    """
    parts = str(name).rstrip(". ").partition(".")[0]
    leads_out = not isinstance(name, str) or name in ("", ".", "..") or any(sign in name for sign in "/\\:\0")
    if leads_out or parts.rstrip(" ").lower() in _DEVICES:
        raise InputError(f"{str(name)[:80]!r} is no name of a file in a folder: expected one without /, \\, : and ..")
    return str(name)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises OSError where it can't be written; nothing partial is left then."""
    with new_file(path) as aside:
        aside.write_bytes(content)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if the block ends well, and is removed if it does not. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Append a line to a UTF-8 file; a process that is killed leaves all of it or a part without its end. Raises OSError."""
    content = line.encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        if file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, content.encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` if the block ends well, and is removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    try:
        yield aside
        os.chmod(aside, 0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()  # callers allow an empty folder only
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_partial(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed process left of files in a folder that it was writing under these names."""
    prefixes = tuple(_prefix(folder / name) for name in names)
    for path in list(folder.iterdir()):
        if path.name.startswith(prefixes) and path.is_file():
            path.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """How the name begins under which a file or folder is written aside."""
    return f".{path.name[:40]}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    return tomllib.loads(text)


def packaged_toml(package: str, name: str) -> dict[str, Any]:
    """What a TOML file holds that lies beside a package's modules."""
    return parse_toml(files(package).joinpath(name).read_text(encoding="utf-8"))
