"""Processes on this machine. One that dies is replaced, and its partition tried again."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from altdiffusion.batch.partitions import Partition
from altdiffusion.batch.worker import Job, Outcome, Worker
from altdiffusion.errors import BatchStopped, InputError

TRIES = 3  # of a partition whose worker dies
READY = None  # said by a worker that has loaded what it needs
_PATIENCE = 10  # seconds, for a worker to end by itself
_TOLD_EVERY = 0.2  # seconds: a message for every item would take a core's seventh


def run_local(
    job: Job,
    partitions: Sequence[Partition],
    workers: int,
    devices: Sequence[str | None],
    on_done: Callable[[int], object],
) -> Iterator[Outcome]:
    """The outcome of each partition as it comes.

    workers: processes. devices: for the first, the second, ... and again from the first.
    Raises InputError: a model that can't be loaded, a folder that can't be written; BatchStopped: a worker that can't begin.
    """
    waiting, tries = deque(partitions), dict[int, int]()
    context = multiprocessing.get_context("spawn")
    running: list[_Process] = []
    try:
        while waiting or any(process.partition for process in running):
            while waiting and len(running) < workers:
                taken = {process.place for process in running}
                place = next(place for place in range(workers) if place not in taken)
                running.append(_Process(context, job, place, devices[place % len(devices)]))
                running[-1].give(waiting.popleft())
            for process in _ready(running):
                is_dead = process.is_dead  # before its last messages are read, so that none is missed
                for message in process.messages():
                    if message is READY:
                        process.is_ready = True
                    elif isinstance(message, int):
                        on_done(message)
                    elif isinstance(message, InputError):
                        raise message
                    else:
                        process.partition = None
                        yield message
                        if waiting:
                            process.give(waiting.popleft())
                if is_dead:
                    running.remove(process)
                    if not process.is_ready:
                        raise BatchStopped(f"a worker ended while it loaded ({process.ended}): what it said is above")
                    if (lost := process.partition) is None:
                        continue
                    tries[lost.number] = tries.get(lost.number, 0) + 1
                    if tries[lost.number] < TRIES:
                        waiting.appendleft(lost)
                    else:
                        yield Outcome(
                            lost.number, failed=f"{lost.where}: its worker died {TRIES} times ({process.ended})"
                        )
    finally:
        for process in running:
            process.stop()


class _Process:
    """A worker's process, and what it works on."""

    def __init__(self, context: Any, job: Job, place: int, device: str | None) -> None:
        self.place = place
        self.partition: Partition | None = None
        self.is_ready = False
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, job, device), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, partition: Partition) -> None:
        self.partition = partition
        with suppress(OSError):  # it died; the caller sees that next
            self.connection.send(partition)

    def messages(self) -> Iterator[Any]:
        """Those that are there."""
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            self.process.join()

    @property
    def is_dead(self) -> bool:
        return not self.process.is_alive()

    @property
    def ended(self) -> str:
        """How, in words."""
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def stop(self) -> None:
        """End it: by a word where it waits for one, so that it can tidy up."""
        if self.partition is None:
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(_PATIENCE)
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _ready(running: Sequence[_Process]) -> list[_Process]:
    """Those that said something, or ended."""
    ready = set(wait([each for process in running for each in (process.connection, process.process.sentinel)]))
    return [process for process in running if {process.connection, process.process.sentinel} & ready]


def _serve(connection: Connection, job: Job, device: str | None) -> None:
    """What runs in a process: partitions come, counts of items and outcomes go."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = Worker(job, device)
        connection.send(READY)
        count = _Counter(connection)
        while (partition := connection.recv()) is not None:
            outcome = worker.run(partition, count)
            count.tell()
            connection.send(outcome)
    except InputError as error:
        connection.send(error)
    except EOFError:
        pass


class _Counter:
    """Tells how many more items are done, now and then."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._count, self._told = connection, 0, time.monotonic()

    def __call__(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._told > _TOLD_EVERY:
            self.tell()

    def tell(self) -> None:
        if self._count:
            self._connection.send(self._count)
        self._count, self._told = 0, time.monotonic()


def _end_with_parent() -> None:
    """A killed main process leaves no worker behind, which would write beside the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
