"""Many images, several together: as many as pay off and fit into memory, found out on the way.

    for image in in_batches(requests, run, device): ...        # run: some of the requests -> their images

1, then 2, 4, 8, ... together, for as long as a doubling makes each image at least 5 % cheaper, and what the next one
will need, by what the last ones took, is free. Where memory runs out all the same, half as many.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import psutil
import torch

from altdiffusion.errors import InputError

logger = logging.getLogger(__name__)

GAIN = 0.95  # a doubling must bring the time of an image below this fraction
RESERVE = 0.9  # of the free memory may be used
MAX_SIZE = 64
SAMPLED = 0.005  # seconds between two looks at the memory of a CPU

T = TypeVar("T")
U = TypeVar("U")
Size = int | Literal["auto"]


def in_batches(
    requests: Sequence[T], run: Callable[[Sequence[T]], Sequence[U]], device: torch.device, size: Size = "auto"
) -> Iterator[U]:
    """What `run` makes of the requests, in order, each batch as soon as it is done.

    size: of a batch; "auto" finds it out. Where memory runs out, a batch is run again in halves, and a warning says so.
    Raises InputError where one alone is too many.
    """
    planned, memory = BatchSize(size), Memory(device)
    waiting = list(requests)
    while waiting:
        some = waiting[: planned.size]
        growing = planned.growing  # else nobody asks what it took
        free, begun = memory.free() if growing else 0, time.perf_counter()
        try:
            with memory if growing else contextlib.nullcontext():
                done = run(some)
        except RuntimeError as error:  # PyTorch raises a plain one where a CPU's memory runs out
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
            planned.halve(len(some))
            continue
        planned.learn(len(some), time.perf_counter() - begun, memory.taken, free)
        waiting = waiting[len(some) :]
        yield from done


class BatchSize:
    """`size` is the number of images of the next batch. While it is `growing`, it does so by what `learn` is told."""

    def __init__(self, size: Size = "auto") -> None:
        self.size = 1 if size == "auto" else size
        self.growing = size == "auto"
        self._fastest = float("inf")  # seconds an image
        self._taken: dict[int, int] = {}  # bytes, by the number of images

    def learn(self, count: int, seconds: float, taken: int, free: int) -> None:
        """What `count` images took together: seconds, and bytes of the `free` ones."""
        if not self.growing or count < self.size:  # the last batch, which is smaller
            return
        self._taken[count] = taken
        if seconds / count > GAIN * self._fastest:
            self.size, self.growing = max(1, count // 2), False
            return
        self._fastest = seconds / count
        if 2 * count > MAX_SIZE or self._expected(2 * count) > RESERVE * free:
            self.growing = False
        else:
            self.size = 2 * count

    def halve(self, count: int) -> None:
        """Memory ran out at `count` images. Raises InputError for one."""
        if count == 1:
            raise InputError(
                "memory ran out at one image: take a smaller size, low_memory, or float16 on a GPU, or free some"
            )
        self.size, self.growing = count // 2, False
        logger.warning("memory ran out at %d images together: going on with %d", count, self.size)

    def _expected(self, count: int) -> float:
        """Bytes for a number of images: along the line through the last two measurements, or in proportion."""
        (most, high), *others = sorted(self._taken.items(), reverse=True)
        if not others:
            return high * count / most
        fewer, low = others[0]
        return high + max(0, high - low) / (most - fewer) * (count - most)


class Memory:
    """A device's memory, counted from what this process holds at `first`: what is freed later may stay with the process.

    `with memory: ...` watches the peak; afterwards `taken` is how many bytes more than `first` there were.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self._process = psutil.Process()
        self.first = self._held()
        self.taken = 0

    def free(self) -> int:
        """Bytes to be had on top of what was held at first."""
        if self._gpu is None:
            return psutil.virtual_memory().available + max(0, self._held() - self.first)
        return torch.cuda.mem_get_info(self._gpu)[0] + torch.cuda.memory_reserved(self._gpu) - self.first

    def __enter__(self) -> None:
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)
            return
        self._peak, self._done = self._held(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        if self._gpu is not None:
            self.taken = torch.cuda.max_memory_allocated(self._gpu) - self.first
            return
        self._done.set()
        self._thread.join()
        self.taken = self._peak - self.first

    def _held(self) -> int:
        return int(self._process.memory_info().rss if self._gpu is None else torch.cuda.memory_allocated(self._gpu))

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._held())
            if self._done.wait(SAMPLED):
                return
