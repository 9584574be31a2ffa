"""Ray Data: workers are actors that hold the model, on a local cluster or a given one; Ray replaces what dies.

A partition is a row, and its outcome another. The files are written by the workers, so OUT must be a folder that all nodes see.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.worker import Job, Outcome, Worker
from altdiffusion.errors import InputError, first_line


class _Actor:
    """Takes a batch of one partition, as Ray Data has it. An InputError is handed on, as it would come wrapped."""

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)  # to which the paths of input and output are relative
        self._error = ""
        self._worker: Worker | None = None
        try:
            self._worker = Worker(job)
        except InputError as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        outcomes = [self._outcome(pickle.loads(partition)) for partition in batch["item"]]  # our own, of a moment ago
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}

    def _outcome(self, partition: Partition) -> Outcome | InputError:
        try:
            return InputError(self._error) if self._worker is None else self._worker.run(partition)
        except InputError as error:
            return error


def run_ray(
    job: Job, partitions: Sequence[Partition], workers: int | None, on_done: Callable[[int], object]
) -> Iterator[Outcome]:
    """The outcome of each partition as it comes. workers: actors; None: as many as the cluster has room for.

    Raises InputError: Ray isn't installed, no such cluster, a model that can't be loaded, a folder that can't be written.
    """
    settings = job.settings
    try:
        import ray
    except ImportError:
        raise InputError('--engine ray needs Ray: pip install "altdiffusion[batch]"') from None
    try:
        ray.init(
            address=settings.ray_address,
            include_dashboard=False,  # of a cluster of our own; a given one has what it has
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray-address {settings.ray_address}: {first_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = False
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = settings.gpus if settings.gpus is not None else float(min(1, resources.get("GPU", 0)))
    cpus = settings.threads or 1
    job = replace(job, threads=cpus)
    room = int(resources.get("GPU", 0) / gpus) if gpus else int(resources.get("CPU", 1)) // cpus
    most = min(len(partitions), workers or max(1, room))
    rows = [pickle.dumps(partition) for partition in partitions]
    outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(job, os.getcwd()),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in outcomes.iter_rows():
        outcome = pickle.loads(row["outcome"])
        if isinstance(outcome, InputError):
            raise outcome
        on_done(outcome.done.items + sum(outcome.done.failed.values()))
        yield outcome
