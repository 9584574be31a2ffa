"""The data that trainers read: tables of text, with or without pictures, with random access by record number.

    skipped = Skipped(limit=0.01)
    tables = open_tables(["pairs.tsv", "shards/{000..012}.tar"], ["en", "zh"], images=False, skipped=skipped)
    tables[0][17]  # {"en": "a cat", "zh": "一只猫"}

| read | is |
|---|---|
| `.tsv`, `.txt` | tab-separated text under a line of column names |
| `.csv` | the same, comma-separated, with RFC 4180's quotes |
| `.jsonl` | a JSON object a line |
| `.parquet` | rows; pictures in a column `image` of bytes |
| `.tar` | samples as WebDataset writes them, `.jpg`, `.txt` and `.json`, uncompressed |
| a folder with `metadata.jsonl`, `.csv` or `.tsv` | that file, its pictures beside it (column `file_name` or `image`) |
| a folder by `datasets.save_to_disk` | its rows, or those of its split `train` |
| another folder, where no text is wanted | its pictures |

Everything is checked when it is opened, before the first training step. What can't be used is skipped and counted; the
good records are numbered from 0, so the position of a training in its data is one integer.
"""

from __future__ import annotations

import glob
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from altdiffusion.checkpoints.hub import local_path
from altdiffusion.data.arrow_tables import ArrowTable
from altdiffusion.data.image_folder import PictureFolder
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.data.text_lines import LineTable
from altdiffusion.errors import InputError, first_line
from altdiffusion.training.pictures import BadImage, ImageSource, decode_image, picture_key

__all__ = [
    "BadImage",
    "ImageSource",
    "Skipped",
    "Table",
    "decode_image",
    "open_tables",
    "picture_key",
]

READ = (
    "what is read is .tsv, .txt, .csv, .jsonl, .parquet, .tar, and folders with metadata.jsonl, .csv or .tsv or "
    "by datasets.save_to_disk"
)
FOLDER_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
TABLES: dict[str, type[LineTable] | type[ArrowTable] | type[TarTable]] = {
    ".tsv": LineTable,
    ".txt": LineTable,
    ".csv": LineTable,
    ".jsonl": LineTable,
    ".parquet": ArrowTable,
    ".tar": TarTable,
}
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


class Skipped:
    """Records that can't be used: counted, shown with file and line, and fatal beyond a limit.

    limit: the share of all records that may be skipped, 0 to 1. show: how many are printed on standard error.
    """

    def __init__(self, limit: float = 0.01, show: int = 10) -> None:
        self.limit = limit
        self.show = show
        self.counts: Counter[str] = Counter()  # by reason
        self._examples: dict[str, str] = {}  # reason -> the first record with it
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many different records were skipped."""
        return len(self._seen)

    def add(self, where: str, reason: str) -> None:
        """Count a record; the same one counts once, however often it is met. Safe to call from threads."""
        with self._lock:
            if where in self._seen:
                return
            self._seen.add(where)
            self.counts[reason] += 1
            self._examples.setdefault(reason, where)
            if len(self._seen) <= self.show:  # by tqdm, which puts lines above the bars that are shown
                tqdm.write(f"skipped {where}: {reason}", sys.stderr)
            elif len(self._seen) == self.show + 1:
                tqdm.write("skipped more, which are only counted", sys.stderr)

    def check(self, total: int) -> None:
        """Raise InputError if more than `limit` of `total` records, good and bad together, were skipped."""
        with self._lock:
            if not self._seen or self.count / max(total, 1) <= self.limit:
                return
            ((reason, _),) = self.counts.most_common(1)
            raise InputError(
                f"{self.count} of {total} records can't be used, more than {100 * self.limit:g} %; the commonest reason: "
                f"{reason} ({self._examples[reason]}). Mend the data, or allow a larger share: --max-skipped"
            )


class Table(Protocol):
    """Good records, numbered from 0. Safe to read from threads; `for record in table` works too."""

    path: Path
    columns: tuple[str, ...]  # the text columns that every record has: those asked for, or all
    present: tuple[str, ...]  # all columns that there are

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Each column's text, trimmed; under "image" an ImageSource if opened with images. Raises IndexError."""
        ...

    def where(self, index: int) -> str:
        """The record's place as a person would look for it: "captions.tsv:17"."""
        ...


def open_tables(
    paths: Sequence[str | Path], columns: Sequence[str] | None, *, images: bool, skipped: Skipped
) -> list[Table]:
    """Open and check tables, in the order given, a pattern's matches sorted by name.

    paths: files and folders; patterns (`data/*.tsv`) and braces (`part-{000..012}.tsv`, `{a,b}.tsv`) are expanded.
    columns: the text columns to read, of which each table must have at least one; empty: every text column there is;
        None: no text is wanted.
    images: whether every record must come with a picture. skipped: told about the records that can't be used.
    Raises InputError: nothing there, unknown format, a column that no table has, no pictures, too many bad records.
    """
    before = skipped.count
    tables: list[Table] = []
    for path in (path for name in paths for path in _expand(name)):
        try:
            table = _open(path, columns, images=images, skipped=skipped)
        except OSError as error:
            raise InputError(f"{path} can't be read: {first_line(error)}") from None
        if not len(table):
            skipped.check(skipped.count)
            raise InputError(f"{path} has no record that can be used")
        tables.append(table)
    if not tables:
        raise InputError(f"no data given: {READ}")
    missing = [column for column in columns or () if not any(column in table.columns for table in tables)]
    if missing:
        found = sorted({column for table in tables for column in table.present})
        raise InputError(f"no table has the column {', '.join(missing)}: found {', '.join(found)}")
    skipped.check(sum(map(len, tables)) + skipped.count - before)
    return tables


def check_there(paths: Sequence[str | Path]) -> None:
    """Raise InputError where one of these paths, patterns and braces stands for nothing."""
    for name in paths:
        deque(_expand(name), maxlen=0)


def _open(path: Path, columns: Sequence[str] | None, *, images: bool, skipped: Skipped) -> Table:
    form = TABLES.get(path.suffix.lower())
    if path.is_dir():
        found = _in_folder(path)
        if found is None and columns is None:
            return PictureFolder(path)
        if found is None:
            raise InputError(f"{path} is no folder of training data: {READ}")
        path, form = found
    if form is not None:
        return form(path, columns, images=images, skip=skipped.add)
    if path.suffix.lower() in COMPRESSED:
        raise InputError(f"{path} is compressed, but records are read from anywhere in a file: unpack it")
    raise InputError(f"{path} is in no format for training data: {READ}")


def _in_folder(folder: Path) -> tuple[Path, type[LineTable] | type[ArrowTable]] | None:
    for name in FOLDER_TABLES:
        if (folder / name).is_file():
            return folder / name, LineTable
    if (folder / "dataset_dict.json").is_file():  # a folder of splits, each by save_to_disk
        if not (folder / "train" / "state.json").is_file():
            splits = ", ".join(sorted(state.parent.name for state in folder.glob("*/state.json")))
            raise InputError(f"{folder} has no split train: name the folder of one of its splits, {splits or 'none'}")
        return folder / "train", ArrowTable
    if (folder / "state.json").is_file():
        return folder, ArrowTable
    return None


def _expand(name: str | Path) -> Iterator[Path]:
    """The existing paths that a name stands for. Raises InputError if there are none."""
    if local_path(name).exists():  # first, for names that hold brackets themselves
        yield local_path(name)
        return
    seen: set[Path] = set()
    for pattern in _braces(str(name)):
        path = local_path(pattern)
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise InputError(f"there is no {pattern}: {READ}")
        yield from (match for match in matches if match not in seen)
        seen.update(matches)


def _braces(pattern: str) -> Iterator[str]:
    """Expand {a,b} and {000..012} as a shell does; the latter keeps its leading zeros."""
    brace = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if brace is None:
        yield pattern
        return
    first, last, words = brace.groups()
    width = max(len(first), len(last)) if first and (first[0] == "0" or last[0] == "0") else 0
    choices: Iterator[str]
    if words is not None:
        choices = iter(words.split(","))
    else:
        step = 1 if int(first) <= int(last) else -1
        choices = (f"{number:0{width}}" for number in range(int(first), int(last) + step, step))
    for choice in choices:
        yield from _braces(pattern[: brace.start()] + choice + pattern[brace.end() :])
