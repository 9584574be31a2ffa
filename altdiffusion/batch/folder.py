"""The folder of a run: what it was asked for, which partitions are done, and what could not be used.

    OUT/manifest.json            the task, its settings, the number of partitions
    OUT/partitions/00017.json    partition 17 is done: written last, when all its files are there
    OUT/errors/00017.jsonl       the items of it that can't be used, with their reasons; none, no file

Killed at any moment and begun again, a run ends with the files of one that wasn't. No torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altdiffusion import files
from altdiffusion.batch.partitions import Partition
from altdiffusion.errors import InputError, first_line

MANIFEST, DONE, ERRORS, LOCK = "manifest.json", "partitions", "errors", ".lock"
FORMAT = 1  # of the manifest


class Unwritable(InputError):
    """Nothing more can be written into the folder of a run: the disk is full, say."""


@dataclass(frozen=True)
class Done:
    """What became of a partition. items: that were done. failed: how many could not be used, by reason. files: its own."""

    items: int
    failed: Mapping[str, int] = field(default_factory=dict)
    files: Sequence[str] = ()


class OutputFolder:
    """OUT. Every write is whole or not there, and raises Unwritable where it can't be made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """As long as a run writes. Raises InputError where another run does."""
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / LOCK, timeout=0):
                yield
        except Timeout:
            raise InputError(f"another run is writing into {self.path}: wait for it, or give another OUT") from None
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{self.path} is no folder: expected one, which may be there or not") from None
        except OSError as error:
            raise self._unwritable(error) from None

    def begin(self, task: str, settings: Mapping[str, Any], partitions: int) -> bool:
        """Note what is asked for; whether it goes on with an earlier run.

        Raises InputError where the folder holds something else: another task, other settings, more partitions.
        """
        asked = {"format": FORMAT, "task": task, "settings": dict(settings), "partitions": partitions}
        found = read_manifest(self.path) if (self.path / MANIFEST).exists() else None
        if found is None and any(path.name != LOCK for path in self.path.iterdir()):
            raise InputError(f"{self.path} holds other files: expected an empty folder, or one of an earlier run")
        if found is not None:
            _check_same(self.path, found, asked)
            self._remove_partial()
        self._write(self.path / MANIFEST, files.as_json(asked) + "\n")
        return found is not None

    def done(self, partition: Partition) -> Done | None:
        """What became of it; None where it isn't done, or its input has changed since."""
        try:
            mark = json.loads((self.path / DONE / f"{partition.number:05}.json").read_text(encoding="utf-8"))
            found = Done(mark["items"], mark["failed"], mark["files"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        is_whole = all((self.path / name).is_file() for name in found.files)
        return found if is_whole and mark.get("input") == partition.key else None

    def was_done(self, partition: Partition) -> bool:
        """Whether it was done once, maybe of an input that has changed since."""
        return (self.path / DONE / f"{partition.number:05}.json").exists()

    def finish(
        self, partition: Partition, names: Iterable[str], items: int, errors: Sequence[Mapping[str, str]]
    ) -> Done:
        """Mark a partition as done, whose files are there. errors: {"id", "where", "reason"} of each bad item."""
        path, names = self.path / ERRORS / f"{partition.number:05}.jsonl", list(names)
        if errors:
            self._write(path, "".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors))
            names.append(f"{ERRORS}/{path.name}")
        else:
            path.unlink(missing_ok=True)
        reasons = Counter(error["reason"] for error in errors)
        done = Done(items, dict(reasons.most_common()), names)
        mark = {"input": partition.key, "items": items, "failed": done.failed, "files": names}
        self._write(self.path / DONE / f"{partition.number:05}.json", files.as_json(mark) + "\n")
        return done

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A file to write, which becomes OUT/`name` when it is whole."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.new_file(path) as aside:
                yield aside
        except OSError as error:
            raise self._unwritable(error) from None

    def _write(self, path: Path, content: str) -> None:
        with self.new_file(str(path.relative_to(self.path))) as aside:
            aside.write_bytes(content.encode("utf-8", "backslashreplace"))

    def _remove_partial(self) -> None:
        """What killed workers left of files that they were writing."""
        for path in list(self.path.rglob(".*")):
            if path.is_file() and path.name != LOCK:
                path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> Unwritable:
        reason = error.strerror or first_line(error)
        return Unwritable(f"{self.path} can't be written ({reason}): make room, then the same command goes on")


def read_manifest(folder: Path) -> dict[str, Any]:
    """A run's. Raises InputError where there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found["task"], found["settings"], found["partitions"]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{folder} has no {MANIFEST} of a batch run: expected the OUT of one") from None
    return found


def count_done(folder: Path) -> int:
    """The partitions of a run that are done."""
    return sum(1 for _ in (folder / DONE).glob("*.json"))


def _check_same(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if found["task"] != asked["task"]:
        raise InputError(f"{folder} is of `batch {found['task']}`: give another OUT")
    names = [name for name, value in asked["settings"].items() if found["settings"].get(name) != value]
    if names:
        was = ", ".join(f"{name} was {found['settings'].get(name)!r}" for name in names)
        raise InputError(f"{folder} was begun with other settings ({was}): give the same ones, or another OUT")
    if found["partitions"] > asked["partitions"]:
        raise InputError(
            f"{folder} has {found['partitions']} partitions, the input now {asked['partitions']}: give another OUT"
        )
