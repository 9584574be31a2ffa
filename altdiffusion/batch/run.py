"""A batch run: the input is cut, what is done is left out, an engine runs the rest, and the whole is summed up. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from altdiffusion.batch.folder import Done, OutputFolder
from altdiffusion.batch.partitions import Partition, plan
from altdiffusion.batch.settings import BatchSettings
from altdiffusion.batch.tasks.base import Counting, Task
from altdiffusion.batch.tasks.load import PROMPTS, WITHOUT_MODEL, task_class
from altdiffusion.batch.worker import Job, Outcome
from altdiffusion.cpu import usable_cores


@dataclass
class Summary:
    """Of a whole run, with what earlier ones did of it.

    items: that were done. failed: items that could not be used, by reason. unread: partitions that could not be read, which
    the next run tries again. files: of the whole, beside the partitions' own.
    """

    partitions: int
    items: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.items += done.items
        self.failed.update(done.failed)


def run_batch(task: str, settings: BatchSettings, *, counting: Counting, say: Callable[[str], object]) -> Summary:
    """Do what isn't done yet. counting: shows progress. say: told what a person should know.

    Raises InputError: nothing to read, a folder of something else, another run in it, a model that can't be loaded, a disk
    that is full. What was done until then is kept.
    """
    partitions = plan(settings.source, settings.partition_size, prompts=task in PROMPTS)
    folder = OutputFolder(settings.out)
    with folder.locked():
        # a task with a model needs nothing of the whole; its module, and torch, are the workers' alone
        cls = task_class(task) if task in WITHOUT_MODEL else Task
        prepared = cls.prepared(settings)
        goes_on = folder.begin(task, settings.result, len(partitions))
        summary = Summary(len(partitions))
        rest = _left(folder, partitions, summary)
        if goes_on:
            say(f"{settings.out}: {len(partitions) - len(rest):,} of {len(partitions):,} partitions are done already")
        if changed := sum(folder.was_done(partition) for partition in rest):
            say(f"{changed:,} partitions are made anew, as their input has changed or their files are gone")
        _run(Job(task, prepared), rest, summary, counting, say)
        if not summary.unread:
            summary.files = cls.finish(prepared, folder, len(partitions))
    return summary


def _left(folder: OutputFolder, partitions: list[Partition], summary: Summary) -> list[Partition]:
    """Those that aren't done; the others are counted."""
    rest = []
    for partition in partitions:
        if (done := folder.done(partition)) is None:
            rest.append(partition)
        else:
            summary.add(done)
    return rest


def _run(job: Job, rest: list[Partition], summary: Summary, counting: Counting, say: Callable[[str], object]) -> None:
    if not rest:
        return
    counts = [partition.items for partition in rest]
    total = sum(count for count in counts if count is not None)
    in_items = None not in counts  # how many a tar holds is known when it is read
    with counting(total if in_items else len(rest), "items" if in_items else "partitions") as done:
        for outcome in _engine(job, rest, done if in_items else lambda count: None):
            if not in_items:
                done(1)
            if outcome.failed:
                say(f"left out, and tried again by the next run: {outcome.failed}")
                summary.unread.append(outcome.failed)
            else:
                summary.add(outcome.done)


def _engine(job: Job, rest: list[Partition], on_done: Callable[[int], object]) -> Iterator[Outcome]:
    settings = job.settings
    if settings.engine == "ray":
        from altdiffusion.batch.engines.ray import run_ray

        return run_ray(job, rest, settings.workers, on_done)
    from altdiffusion.batch.engines.local import run_local

    devices = _devices(job.task, settings)
    workers = settings.workers or len(devices)
    threads = settings.threads or max(1, usable_cores() // workers)
    return run_local(replace(job, threads=threads), rest, workers, devices, on_done)


def _devices(task: str, settings: BatchSettings) -> list[str | None]:
    """A worker each: the GPUs, or what was asked for."""
    if settings.device is not None or task in WITHOUT_MODEL:
        return [settings.device]
    from altdiffusion.devices import available_devices

    gpus = [device for device in available_devices() if device.startswith("cuda")]
    return [*gpus] or [None]
