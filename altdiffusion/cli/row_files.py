"""Rows written one after the other into a table, CSV, TSV, JSON lines or parquet, that is whole or not there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from altdiffusion.cli.terminal import say
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import as_utf8, new_file

Write = Callable[[dict[str, Any]], object]
BATCH = 1000  # rows of parquet in memory


@contextmanager
def row_file(path: Path) -> Iterator[Write]:
    """A function that writes a row. The file is there once the block ends well. Raises InputError where it can't be written."""
    try:
        with new_file(path) as aside, WRITERS[path.suffix.lower()](aside) as write:
            yield write
    except OSError as error:
        raise InputError(f"--out {path} can't be written: {first_line(error)}") from None


@contextmanager
def _jsonl(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: file.write(as_utf8(json.dumps(row, ensure_ascii=False, default=str)) + "\n")


def _separated(delimiter: str) -> Callable[[Path], Any]:
    @contextmanager
    def write_rows(path: Path) -> Iterator[Write]:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            header: list[str] = []
            others = 0

            def write(row: dict[str, Any]) -> None:
                nonlocal others
                if not header:
                    header.extend(row)
                    writer.writerow(header)
                others += not row.keys() <= set(header)
                writer.writerow([_cell(row.get(name)) for name in header])

            yield write
            if others:
                say(f"{others:,} rows have columns that the first one lacks, which are left out: a .jsonl keeps them")

    return write_rows


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """The columns' types are those of the first rows."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError('a .parquet file is written by pyarrow: pip install "altdiffusion[train]"') from None
    rows: list[dict[str, Any]] = []
    writer: Any = None

    def flush() -> None:
        nonlocal writer
        try:
            batch = pyarrow.Table.from_pylist(rows, schema=None if writer is None else writer.schema)
            writer = writer or parquet.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
        except pyarrow.ArrowException as error:
            reason = first_line(error)
            raise InputError(
                f"rows differ in their types, which parquet can't hold ({reason}): write a .jsonl"
            ) from None
        rows.clear()

    def write(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) == BATCH:
            flush()

    try:
        yield write
        if rows or writer is None:
            flush()
    finally:
        if writer is not None:
            writer.close()


WRITERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
