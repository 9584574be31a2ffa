"""`altdiffusion batch filter`: what scores high enough, by the scores that `batch score` wrote of the same input.

OUT/kept/00017.parquet   index, id and score of the items that are kept
OUT/data/00017.tar       copies of them: of tars their members; of tables their rows, with images' paths made absolute
OUT/data/...             of a folder its images, under their own names
OUT/uids.npy             --uids: DataComp's subset file, pairs of unsigned 64-bit numbers, sorted
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from altdiffusion.batch.folder import OutputFolder, count_done, read_manifest
from altdiffusion.batch.items import Item, folder_of, whole_name
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import FilterBatch
from altdiffusion.batch.stores import is_url, local_copy, parquet_file
from altdiffusion.batch.tasks.base import Made, OnDone, Task, write_parquet
from altdiffusion.data.columns import image_column
from altdiffusion.data.image_folder import caption_files
from altdiffusion.data.tar_shards import split_member
from altdiffusion.errors import InputError
from altdiffusion.files import as_utf8

UIDS = "uids.npy"
_SAME = ("source", "partition_size", "caption", "id_column")  # settings by which scores and input belong together


class FilterTask(Task):
    settings: FilterBatch

    @classmethod
    def prepared(cls, settings: FilterBatch) -> FilterBatch:
        """With the lowest score that is kept. Of equal ones at that place all are."""
        _check_scores(settings)
        scores, minimum = [], settings.minimum
        for part in sorted((settings.scores / "scores").glob("*.parquet")):
            _, ids, values = _scores_of(part, settings.by)
            scores.append(values[np.isfinite(values)])
            if settings.uids:
                uids(ids)
            elif settings.top is None:
                break  # one tells whether there is such a column
        if settings.top is not None:
            every = np.concatenate(scores)
            if not len(every):
                raise InputError(f"{settings.scores} holds no {settings.by}")
            count = math.ceil(settings.top * len(every))
            minimum = float(np.partition(every, len(every) - count)[len(every) - count])
        return settings.model_copy(update={"minimum": minimum})

    def run(self, partition: Partition, folder: OutputFolder, on_done: OnDone) -> Made:
        settings, number = self.settings, f"{partition.number:05}"
        assert settings.minimum is not None
        indices, ids, scores = _scores_of(settings.scores / "scores" / f"{number}.parquet", settings.by)
        chosen = scores >= settings.minimum
        kept = {int(index) for index in indices[chosen]}
        names = [f"kept/{number}.parquet"]
        with folder.new_file(names[0]) as path:
            some = [name for name, keep in zip(ids, chosen, strict=True) if keep]
            write_parquet(path, {"index": indices[chosen], "id": some, settings.by: scores[chosen]})
        if settings.copy_items and kept:
            names += _COPIES[partition.kind](self, partition, kept, folder)
        on_done(partition.items or len(indices))
        return Made(names, len(kept), [])

    @classmethod
    def finish(cls, settings: FilterBatch, folder: OutputFolder, partitions: int) -> list[str]:
        if not settings.uids:
            return []
        ids = [
            _scores_of(folder.path / "kept" / f"{number:05}.parquet", settings.by)[1] for number in range(partitions)
        ]
        with folder.new_file(UIDS) as path, path.open("wb") as file:
            np.save(file, np.sort(uids([name for some in ids for name in some])))
        return [UIDS]

    def _copy_tar(self, partition: Partition, kept: set[int], folder: OutputFolder) -> list[str]:
        """All members of the samples that are kept, with what stands in the tar beside their images."""
        prefix = f"{partition.path}:"
        wanted = {
            split_member(item.where.removeprefix(prefix))[0] for item in self.read(partition) if item.index in kept
        }
        return _copy_members(partition, wanted, folder)

    def _copy_folder(self, partition: Partition, kept: set[int], folder: OutputFolder) -> list[str]:
        names = []
        for index in sorted(kept):
            image = Path(partition.path, partition.names[index])
            for file in (image, *caption_files(image)):
                names.append("data/" + file.relative_to(partition.path).as_posix())
                with folder.new_file(names[-1]) as path:
                    shutil.copyfile(file, path)
        return names

    def _copy_rows(self, partition: Partition, kept: set[int], folder: OutputFolder) -> list[str]:
        """As JSON lines, whatever they were in."""
        name = f"data/{partition.number:05}.jsonl"
        with folder.new_file(name) as path, path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for item in self.read(partition):
                if item.index in kept:
                    file.write(json.dumps(_with_absolute_image(item, partition), ensure_ascii=False) + "\n")
        return [name]

    def _copy_parquet(self, partition: Partition, kept: set[int], folder: OutputFolder) -> list[str]:
        import pyarrow
        from pyarrow import parquet

        name, row = f"data/{partition.number:05}.parquet", 0
        with local_copy(partition.path) as source, parquet_file(source) as file, folder.new_file(name) as path:
            schema = file.schema_arrow
            with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in file.iter_batches(batch_size=256, row_groups=[partition.at]):
                    rows = [at for at in range(len(batch)) if row + at - partition.start in kept]
                    row += len(batch)
                    if rows:
                        table = pyarrow.Table.from_batches([batch.take(pyarrow.array(rows))])
                        writer.write_table(_with_absolute_paths(table, partition))
        return [name]


_COPIES: dict[str, Any] = {
    "tar": FilterTask._copy_tar,
    "folder": FilterTask._copy_folder,
    "rows": FilterTask._copy_rows,
    "parquet": FilterTask._copy_parquet,
}


def uids(ids: Any) -> npt.NDArray[Any]:
    """DataComp's uids, 32 hexadecimal digits each, as its tools store them. Raises InputError for what is none."""
    pairs = np.empty(len(ids), np.dtype("u8,u8"))
    for index, uid in enumerate(ids):
        try:
            if len(uid) != 32:
                raise ValueError(uid)
            pairs[index] = int(uid[:16], 16), int(uid[16:], 16)
        except ValueError:
            raise InputError(f"--uids: got {uid[:40]!r} as an item's uid, expected 32 hexadecimal digits") from None
    return pairs


def _check_scores(settings: FilterBatch) -> None:
    """Raise InputError: no scores of this input, not all of them, no such column."""
    manifest = read_manifest(settings.scores)
    if manifest["task"] != "score":
        raise InputError(f"--scores {settings.scores} is of `batch {manifest['task']}`, expected `batch score`")
    asked = settings.result
    if other := [name for name in _SAME if manifest["settings"].get(name) != asked[name]]:
        was = ", ".join(f"{name} {manifest['settings'].get(name)!r}" for name in other)
        raise InputError(f"--scores {settings.scores} is of another input ({was}): give the same")
    done = count_done(settings.scores)
    if done < manifest["partitions"]:
        raise InputError(
            f"--scores {settings.scores}: {done} of {manifest['partitions']} partitions are done, finish that first"
        )


def _scores_of(path: Path, by: str) -> tuple[npt.NDArray[Any], list[str], npt.NDArray[Any]]:
    """index, id and score of a partition's items."""
    with parquet_file(path) as file:
        if by not in file.schema_arrow.names:
            columns = ", ".join(name for name in file.schema_arrow.names if name not in ("index", "id", "language"))
            raise InputError(f"--by {by}: {path.parent.parent} has {columns}")
        table = file.read(columns=["index", "id", by])
    return table["index"].to_numpy(), table["id"].to_pylist(), table[by].to_numpy()


def _copy_members(partition: Partition, wanted: set[str], folder: OutputFolder) -> list[str]:
    name = f"data/{partition.number:05}.tar"
    with (
        local_copy(partition.path) as source,
        folder.new_file(name) as path,
        tarfile.open(source, "r:") as tar,
        tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as copy,
    ):
        seen = Counter(member.name for member in tar if member.isreg())
        if twice := next((member for member, count in seen.items() if count > 1), None):
            raise InputError(f"{partition.path} has {twice} twice: it can't be told which of them is kept")
        for member in tar:
            if member.isreg() and split_member(member.name)[0] in wanted:
                copy.addfile(member, tar.extractfile(member))
    return [name]


def _with_absolute_image(item: Item, partition: Partition) -> dict[str, Any]:
    record = dict(item.columns)
    column = image_column(name for name, value in record.items() if value is not None)
    if column is not None and isinstance(record[column], str):
        record[column] = _absolute(record[column], partition)
    return record


def _with_absolute_paths(table: Any, partition: Partition) -> Any:
    import pyarrow

    column = image_column(table.column_names)
    if column is None or not pyarrow.types.is_string(table.schema.field(column).type):
        return table
    paths = [None if path is None else _absolute(path, partition) for path in table[column].to_pylist()]
    return table.set_column(table.column_names.index(column), table.schema.field(column), pyarrow.array(paths))


def _absolute(name: str, partition: Partition) -> str:
    whole = whole_name(name, folder_of(partition))
    return whole if is_url(whole) else as_utf8(os.path.abspath(whole))
