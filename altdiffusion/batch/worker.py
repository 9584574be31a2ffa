"""A worker: holds a task with its model, and makes the files of one partition after the other. Every engine runs this."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import dataclass, field

from altdiffusion.batch.folder import Done, OutputFolder, Unwritable
from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.settings import BatchSettings
from altdiffusion.batch.tasks.base import OnDone
from altdiffusion.batch.tasks.load import task_class
from altdiffusion.cpu import keep_memory
from altdiffusion.errors import InputError, first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a worker is to do. It is pickled. threads: of each worker, on a CPU."""

    task: str
    settings: BatchSettings
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a partition. failed: "", or why it could not be read as a whole, so that the next run tries it again."""

    number: int
    done: Done = field(default_factory=lambda: Done(0))
    failed: str = ""


class Worker:
    """device: as in `Task`. Raises InputError where the model can't be loaded."""

    def __init__(self, job: Job, device: str | None = None) -> None:
        self._folder = OutputFolder(job.settings.out)
        cls = task_class(job.task)
        if job.threads is not None and "torch" in sys.modules:
            importlib.import_module("torch").set_num_threads(job.threads)
        _hide_bars()
        keep_memory()
        self._task = cls(job.settings, device or job.settings.device)

    def run(self, partition: Partition, on_done: OnDone = lambda count: None) -> Outcome:
        """Raises Unwritable where the folder can't be written. Whatever else is wrong with a partition is in the outcome."""
        try:
            made = self._task.run(partition, self._folder, on_done)
        except Unwritable:
            raise
        except InputError as error:
            return Outcome(partition.number, failed=str(error))
        except Exception as error:  # one partition must not end a run of thousands
            logger.exception("partition %d, %s", partition.number, partition.where)
            return Outcome(partition.number, failed=f"{partition.where}: {type(error).__name__}: {first_line(error)}")
        errors = [{"id": item.id, "where": item.where, "reason": reason} for item, reason in made.bad]
        return Outcome(partition.number, self._folder.finish(partition, made.files, made.items, errors))


def _hide_bars() -> None:
    """Those that the libraries show while they load: several workers would write over each other."""
    for name in ("transformers", "diffusers"):
        if name in sys.modules:
            importlib.import_module(f"{name}.utils.logging").disable_progress_bar()
