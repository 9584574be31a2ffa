"""The items of a partition: an image, a caption, or both, with what else the input says of them, in its order.

An item that can't be used comes all the same, with its defect, so that it is counted and named. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.stores import fetch_image, is_url, local_copy, parquet_file
from altdiffusion.data.columns import IMAGE_COLUMNS, default_columns, image_column
from altdiffusion.data.image_folder import caption_files
from altdiffusion.data.line_file import EMPTY_LINE, LineFile
from altdiffusion.data.table import BadRecord, decode_text, text_of
from altdiffusion.data.tar_shards import OpenFile, TarTable
from altdiffusion.errors import InputError
from altdiffusion.files import on_disk
from altdiffusion.images import ImageSource, image_file

ID_COLUMNS = ("uid", "id", "key")
_ROWS = 256  # of parquet, decoded at a time: with images inside, a few MB


@dataclass
class Item:
    """index: within its partition. where: as a person would look for it. image, text: None where it has none.

    image_path: of an image that is a file of its own, beside its table, or a URL; "" where `where` says it.
    columns: what the input says of it, but for an image's bytes. defect: "" where nothing is wrong with it.
    """

    index: int
    id: str
    where: str
    image: ImageSource | None = None
    image_path: str = ""
    text: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    defect: str = ""


@dataclass(frozen=True)
class Reading:
    """caption, id_column: their columns; None takes those that are known. fetch: the kinds of URLs that are followed."""

    caption: str | None = None
    id_column: str | None = None
    fetch: Sequence[str] = ()


def read_items(partition: Partition, reading: Reading) -> Iterator[Item]:
    """The items. Raises InputError: the file isn't there any more or isn't whole, a column that was named isn't there."""
    readers = {"folder": _of_folder, "tar": _of_tar, "rows": _of_rows, "lines": _of_lines, "parquet": _of_parquet}
    try:
        with local_copy(partition.path) as path:
            yield from readers[partition.kind](partition, path, reading)
    except OSError as error:
        raise InputError(f"{partition.path} can't be read: {error.strerror or error}") from None


def _of_folder(partition: Partition, path: Path, reading: Reading) -> Iterator[Item]:
    for index, name in enumerate(partition.names):
        item = Item(index, name, str(path / name), image_file(path / name), columns={"image": name})
        if texts := caption_files(path / name):
            try:
                item.text = text_of({"caption": decode_text(texts[0].read_bytes())}, "caption")
            except BadRecord as reason:
                item.defect = str(reason)
        yield item


def _of_tar(partition: Partition, path: Path, reading: Reading) -> Iterator[Item]:
    """TarTable's samples; what it can't use is told behind them."""
    defects: list[tuple[str, str]] = []
    table = TarTable(
        path, None, images=True, skip=lambda where, reason: defects.append((where, reason)), read=OpenFile(path)
    )
    for index in range(len(table)):
        image = table[index]["image"]
        item = Item(index, image.member, f"{partition.path}:{image.member}", image)
        try:
            record = table.columns_of(index)
        except BadRecord as reason:
            item.defect = str(reason)
        else:
            _fill(item, record, reading, image.member)
        yield item
    for number, (where, defect) in enumerate(defects, len(table)):
        name = where.removeprefix(f"{path}:")
        yield Item(number, name, f"{partition.path}:{name}", defect=defect)


def _of_rows(partition: Partition, path: Path, reading: Reading) -> Iterator[Item]:
    file, line, folder = LineFile(path), partition.at, folder_of(partition)
    for index, raw in enumerate(file.records(partition.start, partition.stop)):
        item = Item(index, "", f"{partition.path}:{line}")
        line += max(1, raw.count(b"\n"))
        try:
            record = file.parse(raw)
        except BadRecord as reason:
            if str(reason) == EMPTY_LINE:
                continue
            item.id, item.defect = item.where, str(reason)
            yield item
            continue
        yield _of_record(item, record, folder, reading)


def _of_lines(partition: Partition, path: Path, reading: Reading) -> Iterator[Item]:
    """A prompt a line; empty ones and comments, which begin with #, are none."""
    file = LineFile(path, is_json=True)
    for index, raw in enumerate(file.records(partition.start, partition.stop)):
        item = Item(index, f"{partition.path}:{partition.at + index}", f"{partition.path}:{partition.at + index}")
        try:
            item.text = decode_text(raw).strip()
        except BadRecord as reason:
            item.defect = str(reason)
        if item.defect or (item.text and not item.text.startswith("#")):
            item.columns = {"prompt": item.text}
            yield item


def _of_parquet(partition: Partition, path: Path, reading: Reading) -> Iterator[Item]:
    folder, row = folder_of(partition), 0
    with parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[partition.at]):
            wanted = batch.slice(max(0, partition.start - row), max(0, partition.stop - max(row, partition.start)))
            for at, record in enumerate(wanted.to_pylist(), max(row, partition.start)):
                where = f"{partition.path}:group {partition.at} row {at}"
                yield _of_record(Item(at - partition.start, "", where), record, folder, reading)
            row += len(batch)
            if row >= partition.stop:
                return


def folder_of(partition: Partition) -> str:
    """What the paths in a table are relative to."""
    return partition.path.rpartition("/")[0] if is_url(partition.path) else str(Path(partition.path).parent)


def _of_record(item: Item, record: dict[str, Any], folder: str, reading: Reading) -> Item:
    """A row of a table: its image lies inside, beside the table, or at a URL."""
    place = image_column(name for name, value in record.items() if value is not None)
    value = record.get(place) if place else None
    if isinstance(value, dict):  # of the library `datasets`: {"bytes", "path"}
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        content = value
        item.image = ImageSource(Path(item.where), "", lambda: content)
        record = {name: other for name, other in record.items() if name != place}
    elif isinstance(value, str) and value.strip():
        item.image_path = whole_name(value.strip(), folder)
        item.image = _named(item.image_path, reading)
    elif value is not None:
        item.defect = f"{place} is no path and no image"
    _fill(item, record, reading, value if isinstance(value, str) else item.where)
    return item


def whole_name(name: str, folder: str) -> str:
    """A URL, or a path that is no longer relative to its table's folder."""
    if is_url(name):
        return name
    return f"{folder}/{name}" if is_url(folder) else str(Path(folder, on_disk(name)))


def _named(name: str, reading: Reading) -> ImageSource:
    """An image by its path or its URL."""
    if is_url(name):
        return ImageSource(Path(name), "", partial(fetch_image, name, tuple(reading.fetch)))
    return image_file(Path(name))


def _fill(item: Item, record: Mapping[str, Any], reading: Reading, name: str) -> None:
    """The item's id and caption, by the columns of its record."""
    item.columns = record
    wanted = reading.id_column
    column = wanted or next((known for known in ID_COLUMNS if record.get(known) is not None), None)
    item.id = name if column is None or record.get(column) is None else str(record[column])
    if wanted is not None and record.get(wanted) is None:
        item.defect = item.defect or f"no {wanted}"
    text = [key for key, value in record.items() if isinstance(value, str) and key.lower() not in IMAGE_COLUMNS]
    found = reading.caption or next(iter(default_columns(text)), None)
    if found is None:
        return
    try:
        item.text = text_of(record, found)
    except BadRecord as reason:
        item.defect = item.defect or str(reason)
