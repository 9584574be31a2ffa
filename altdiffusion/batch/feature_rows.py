"""The metadata of features as one Arrow file, whose rows are read one by one from the disk. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from altdiffusion.batch.stores import parquet_file
from altdiffusion.errors import InputError

BATCH = 4096  # rows


def write_rows(out: Path, parts: Sequence[tuple[Path, int]]) -> None:
    """parts: (parquet file, how many rows it must have), in order. Raises InputError where one has others.

    Whole numbers, numbers, truth values and text stay what they are, where all files agree; bytes are left out; all else is text.
    """
    import pyarrow

    schema = _schema([path for path, _ in parts])
    with pyarrow.OSFile(str(out), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        for path, count in parts:
            found = 0
            with parquet_file(path) as table:
                for batch in table.iter_batches(batch_size=BATCH):
                    writer.write_batch(pyarrow.record_batch([_column(batch, each) for each in schema], schema=schema))
                    found += len(batch)
            if found != count:
                raise InputError(f"{path} has {found:,} rows, its features {count:,}: they don't belong together")


def _schema(paths: Sequence[Path]) -> Any:
    import pyarrow

    kinds: dict[str, set[Any]] = {}
    for path in paths:
        with parquet_file(path) as table:
            for column in table.schema_arrow:
                kinds.setdefault(column.name, set()).add(_kept(column.type))
    known: dict[str, Any] = {}
    for name, found in kinds.items():
        found = found - {pyarrow.null()}
        if found == {pyarrow.int64(), pyarrow.float64()}:
            found = {pyarrow.float64()}
        if pyarrow.binary() not in found:
            known[name] = found.pop() if len(found) == 1 else pyarrow.string()
    return pyarrow.schema(known.items())


def _kept(kind: Any) -> Any:
    """The type that a column is kept in: one of six, null and bytes among them."""
    import pyarrow
    from pyarrow import types

    if types.is_integer(kind) and kind != pyarrow.uint64():
        return pyarrow.int64()
    if types.is_floating(kind):
        return pyarrow.float64()
    if types.is_boolean(kind) or types.is_null(kind):
        return kind
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return pyarrow.binary() if is_bytes else pyarrow.string()


def _column(batch: Any, column: Any) -> Any:
    import pyarrow

    if column.name not in batch.schema.names:
        return pyarrow.nulls(len(batch), column.type)
    values = batch.column(column.name)
    if column.type != pyarrow.string() or pyarrow.types.is_string(values.type):
        return values.cast(column.type, safe=False)  # whole numbers beyond 2**53 beside others
    return pyarrow.array([as_text(value) for value in values.to_pylist()], pyarrow.string())


def as_text(value: Any) -> str | None:
    """A column's value as a text of its own, JSON where it is none."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
