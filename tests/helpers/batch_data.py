"""Images with captions in every layout that `altdiffusion batch` reads, and a batch run within the test's process."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from altdiffusion.batch.folder import OutputFolder
from altdiffusion.batch.partitions import Partition, plan
from altdiffusion.batch.settings import BatchSettings
from altdiffusion.batch.tasks.base import OnDone
from altdiffusion.batch.tasks.load import PROMPTS, task_class
from altdiffusion.batch.worker import Job, Outcome, Worker

COUNT = 10
CAPTIONS = [f"{'a cat' if number % 2 else '一只猫'}, number {number}" for number in range(COUNT)]
UIDS = [f"{number:016x}{number * 7919:016x}" for number in range(COUNT)]
SOURCES = {
    "folder": "images",
    "jsonl": "rows.jsonl",
    "csv": "rows.csv",
    "tars": "{000..001}.tar",
    "parquet": "rows.parquet",
}


def save_data(folder: Path) -> Path:
    """The same ten items as a folder with captions beside the images, tables, two tars, and a parquet file of two groups."""
    import pyarrow
    from pyarrow import parquet

    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, contents = [], []
    for number, (caption, uid) in enumerate(zip(CAPTIONS, UIDS, strict=True)):
        name = f"images/{number:03}.png"
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
        contents.append((folder / name).read_bytes())
        rows.append({"uid": uid, "image": name, "caption": caption})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for shard in range(2):
        members = {}
        for number in range(shard * 5, shard * 5 + 5):
            about = {"uid": UIDS[number], "caption": CAPTIONS[number]}
            members |= {f"{number:03}.png": contents[number], f"{number:03}.json": json.dumps(about).encode()}
        save_tar(folder / f"{shard:03}.tar", members)
    table = pyarrow.table({"uid": UIDS, "image": [{"bytes": content} for content in contents], "caption": CAPTIONS})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=6)
    return folder


def save_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def run_here(task: str, settings: BatchSettings, only: set[int] | None = None) -> list[Outcome]:
    """What `run_batch` does, by one worker in this process. only: the numbers of the partitions that are done."""
    partitions = plan(settings.source, settings.partition_size, prompts=task in PROMPTS)
    folder = OutputFolder(settings.out)
    with folder.locked():
        prepared = task_class(task).prepared(settings)
        folder.begin(task, settings.result, len(partitions))
        worker = Worker(Job(task, prepared), "cpu")
        outcomes = [worker.run(partition) for partition in partitions if only is None or partition.number in only]
        task_class(task).finish(prepared, folder, len(partitions))
    return outcomes


def run_in_process(
    job: Job, partitions: Sequence[Partition], workers: int, devices: Sequence[str | None], on_done: OnDone
) -> Iterator[Outcome]:
    """`run_local` without processes."""
    worker = Worker(job, "cpu")
    return (worker.run(partition, on_done) for partition in partitions)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a run wrote, by name; but for its lock, and the marks, which hold the time at which the input was changed."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: content for name, content in names.items() if not name.startswith("partitions/")}


def read_parquet(path: Path) -> dict[str, list[Any]]:
    from pyarrow import parquet

    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    return columns
