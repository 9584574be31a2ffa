"""The data that trainers read: tables of text, with or without images, with random access to their records.

    skipped = SkipLog(limit=0.01)
    tables = open_tables(["pairs.tsv", "shards/{000..012}.tar"], ["en", "zh"], images=False, skipped=skipped)
    tables[0][17]  # {"en": "a cat", "zh": "一只猫"}

What is read, and how, is in docs/training.md, in the table of readers.

Everything is checked when it is opened, before the first training step. What can't be used is skipped and counted; the
good records are numbered from 0, so the position of a training in its data is one integer.
"""

from __future__ import annotations

import glob
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from altdiffusion.data import hub_datasets
from altdiffusion.data.arrow_tables import ArrowTable
from altdiffusion.data.image_folder import CaptionFolder, ImageFolder, has_captions
from altdiffusion.data.table import Skip, SkipLog, Table
from altdiffusion.data.tar_shards import TarTable
from altdiffusion.data.text_lines import LineTable
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path

MAX_NAMES = 100_000  # that the braces of one name may stand for
FORMATS = (
    "what is read is .tsv, .txt, .csv, .jsonl, .parquet, .tar, and folders with metadata.jsonl, .csv, .tsv or .parquet, "
    "by datasets.save_to_disk, or with a .txt or .caption beside each image, and data sets of the hub, "
    f"{hub_datasets.FORM}"
)
FOLDER_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
READERS: dict[str, type[LineTable] | type[ArrowTable] | type[TarTable]] = {
    ".tsv": LineTable,
    ".txt": LineTable,
    ".csv": LineTable,
    ".jsonl": LineTable,
    ".parquet": ArrowTable,
    ".tar": TarTable,
}
COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


def open_tables(
    paths: Sequence[str | Path], columns: Sequence[str] | None, *, images: bool, skipped: SkipLog
) -> list[Table]:
    """Open and check tables, in the order given, a pattern's matches sorted by name.

    paths: files and folders; patterns (`data/*.tsv`) and braces (`part-{000..012}.tsv`, `{a,b}.tsv`) are expanded.
        `hub:OWNER/NAME/CONFIG:SPLIT`: a data set of the hub.
    columns: the text columns to read, of which each table must have at least one; empty: see `default_columns`;
        None: no text is wanted.
    images: whether every record must come with an image. skipped: told about the records that can't be used.
    Raises InputError: nothing there, unknown format, a column that no table has, no images, too many bad records.
    """
    before = skipped.count
    tables: list[Table] = []
    for path in chain.from_iterable(map(_expand, paths)):
        try:
            table = open_table(path, columns, images=images, skip=skipped.add)
        except OSError as error:
            raise InputError(f"{path} can't be read: {first_line(error)}") from None
        if not len(table):
            skipped.check(skipped.count)
            raise InputError(f"{path} has no record that can be used")
        tables.append(table)
    if not tables:
        raise InputError(f"no data given: {FORMATS}")
    if missing := [column for column in columns or () if not any(column in table.columns for table in tables)]:
        present = sorted({column for table in tables for column in table.present})
        raise InputError(f"no table has the column {', '.join(missing)}: found {', '.join(present)}")
    skipped.check(sum(map(len, tables)) + skipped.count - before)
    return tables


def check_there(paths: Sequence[str | Path], download: bool = False) -> None:
    """Raise InputError where one of these paths, patterns and braces stands for nothing.

    download: get those of the hub as well, so that what is wrong with them comes before models are loaded.
    """
    for path in chain.from_iterable(map(_expand, paths)):
        if download and hub_datasets.is_hub_name(path):
            hub_datasets.load(hub_datasets.parse(path))


def describe_data(paths: Sequence[str | Path]) -> list[list[int]]:
    """What the data is, wherever it lies: of each file its bytes and a checksum of its beginning and end.

    Of a folder that holds a table the table is described, not the images beside it; of a data set of the hub its records and
    revision. Raises InputError where it isn't there.
    """
    described = []
    for path in chain.from_iterable(map(_expand, paths)):
        if hub_datasets.is_hub_name(path):
            described.append(hub_datasets.describe(path))
            continue
        table = next((path / name for name in FOLDER_TABLES if (path / name).is_file()), path)
        files = sorted(file for file in table.rglob("*") if file.is_file()) if table.is_dir() else [table]
        for file in files:
            with file.open("rb") as content:
                size, crc = file.stat().st_size, zlib.crc32(content.read(4096))
                content.seek(max(0, size - 4096))
                described.append([size, zlib.crc32(content.read(), crc)])
    return described


def open_table(path: Path, columns: Sequence[str] | None, *, images: bool, skip: Skip) -> Table:
    """One of the tables of `open_tables`. Raises InputError, but not for the number of bad records."""
    if hub_datasets.is_hub_name(path):
        return ArrowTable(path, columns, images=images, skip=skip)
    if path.is_dir():
        inside = table_in(path)
        if inside is not None:
            path = inside
        elif columns is None:
            return ImageFolder(path)
        elif has_captions(path):
            return CaptionFolder(path, columns, skip)
        elif any(has_captions(folder) for folder in path.iterdir() if folder.is_dir()):
            raise InputError(f"{path} holds folders of images with captions: name them, {path}/*")
        else:
            raise InputError(f"{path} is no folder of training data: {FORMATS}")
    reader = ArrowTable if path.is_dir() else READERS.get(path.suffix.lower())
    if reader is not None:
        return reader(path, columns, images=images, skip=skip)
    if path.suffix.lower() in COMPRESSED:
        raise InputError(f"{path} is compressed, but records are read from anywhere in a file: unpack it")
    raise InputError(f"{path} is in no format for training data: {FORMATS}")


def table_in(folder: Path, split: str = "train") -> Path | None:
    """The table that a folder means: its metadata file, or the folder that save_to_disk wrote, of several splits one.

    Raises InputError where there are splits, but not this one.
    """
    for name in FOLDER_TABLES:
        if (folder / name).is_file():
            return folder / name
    if (folder / "dataset_dict.json").is_file():  # a folder of splits, each by save_to_disk
        if not (folder / split / "state.json").is_file():
            splits = ", ".join(sorted(state.parent.name for state in folder.glob("*/state.json")))
            raise InputError(f"{folder} has no split {split}: name the folder of one of its splits, {splits or 'none'}")
        return folder / split
    return folder if (folder / "state.json").is_file() else None


def _expand(name: str | Path) -> Iterator[Path]:
    """The existing paths that a name stands for. Raises InputError if there are none, and for a data set's bad name."""
    if hub_datasets.is_hub_name(name):
        hub_datasets.parse(name)
        yield Path(name)
        return
    if local_path(name).exists():  # first, for names that hold brackets themselves
        yield local_path(name)
        return
    seen: set[Path] = set()
    for pattern in expand_braces(str(name)):
        path = local_path(pattern)
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise InputError(f"there is no {pattern}: {FORMATS}")
        yield from (match for match in matches if match not in seen)
        seen.update(matches)


def expand_braces(pattern: str) -> list[str]:
    """Expand {a,b} and {000..012} as a shell does; the latter keeps its leading zeros."""
    if "{" not in pattern:  # most names, for which bracex isn't imported
        return [pattern]
    import bracex

    try:
        return bracex.expand(pattern, keep_escapes=True, limit=MAX_NAMES)
    except (bracex.ExpansionLimitException, RecursionError):
        raise InputError(
            f"{pattern} stands for more than {MAX_NAMES:,} names: expected fewer, or a pattern with *"
        ) from None
