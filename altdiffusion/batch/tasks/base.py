"""What a task is: a class that holds the model, and turns the items of a partition into files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.items import Item, Reading, read_items
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import BatchSettings, ReadSettings

OnDone = Callable[[int], object]  # told how many more items are done
Counting = Callable[[int, str], AbstractContextManager[OnDone]]  # shows progress; of a total, and what is counted


class Made(NamedTuple):
    """Of a partition: the files that were written, how many items are in them, and those that aren't, with their reasons."""

    files: list[str]
    items: int
    bad: list[tuple[Item, str]]


class Task(ABC):
    """Made once in each worker: loads what it needs. device: for the model, such as "cuda:1"; None: the best there is."""

    def __init__(self, settings: Any, device: str | None) -> None:
        self.settings = settings

    @abstractmethod
    def run(self, partition: Partition, folder: OutputFolder, on_done: OnDone) -> Made:
        """Write a partition's files into a folder. Raises InputError where its input can't be read."""

    @classmethod
    def prepared(cls, settings: Any) -> Any:
        """The settings that workers get, once for a run: with what is to be known of the whole input."""
        return settings

    @classmethod
    def finish(cls, settings: Any, folder: OutputFolder, partitions: int) -> list[str]:
        """When all partitions are done: files of the whole, by their names in the folder."""
        return []

    def read(self, partition: Partition) -> Iterator[Item]:
        """Its items, in order."""
        settings: BatchSettings = self.settings
        if isinstance(settings, ReadSettings):
            return read_items(partition, Reading(settings.caption, settings.id_column, tuple(settings.fetch)))
        return read_items(partition, Reading())


def write_parquet(path: Path, columns: Mapping[str, Any], about: Mapping[str, str] | None = None) -> None:
    """A table, the same bytes for the same columns. about: kept beside its schema."""
    import pyarrow
    from pyarrow import parquet

    arrays = {name: _typed(values) for name, values in columns.items()}
    table = pyarrow.table(arrays)
    if about:
        table = table.replace_schema_metadata({key: value.encode() for key, value in about.items()})
    parquet.write_table(table, path, compression="zstd")


def _typed(values: Any) -> Any:
    """A list of texts as such, also where all of them are None: a column has the same type in every partition."""
    import pyarrow

    is_text = isinstance(values, list) and all(value is None or isinstance(value, str) for value in values)
    return pyarrow.array(values, pyarrow.string()) if is_text else values
