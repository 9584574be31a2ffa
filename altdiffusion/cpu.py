"""How PyTorch uses a CPU: its threads, decided before torch is imported, as OpenMP reads that once, and its memory.

The layers of a small model take microseconds each, and OpenMP's threads wait for each other after every one of them. By
default they spin: beside another program, which has one of their cores, a spinning thread uses up its own time there, and
the one that all wait for comes last: mini takes three to five times as long. A thread that sleeps gets its core back at once.
On an idle machine images and training take up to a fifth longer for it, scoring and large models less long
(`altdiffusion benchmark --cases cpu`, docs/benchmarks.md).

Each layer asks for the memory that the one before it freed. The C library gives it back to the system in between, which
hands it out again page by page: where a heap lies unluckily, that took a fifth of the time of a batch of scores.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Any of these says how threads wait: OpenMP's own variable, GCC's and LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CGROUP = Path("/sys/fs/cgroup")

# Any of these says what glibc's allocator gives back. Its own numbers for that, and ours, in bytes: what it asks the system for
# by itself, at most 32 MB, and how much that is free it may keep.
ALLOCATOR = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_MAX_",
    "GLIBC_TUNABLES",
)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD, _TRIM_THRESHOLD = 2**25, 2**29


def share_cores(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what `thread_variables` chooses for this machine. The commands call it; `import altdiffusion` doesn't."""
    environ.update(thread_variables(environ, usable_cores(), cpu_quota(CGROUP)))


def thread_variables(environ: Mapping[str, str], cores: int, quota: float | None) -> dict[str, str]:
    """The variables to add to an environment; what a user has set there stays.

    cores: that this process may use. quota: how many of them at a time, as `docker run --cpus` limits it, or None. More
    threads than that only use up the quota sooner, and then all of them stand still.
    """
    chosen = {}
    if not any(name in environ for name in WAITING):
        chosen["OMP_WAIT_POLICY"] = "passive"
    if "OMP_NUM_THREADS" not in environ and quota is not None and quota < cores:
        chosen["OMP_NUM_THREADS"] = str(max(1, math.ceil(quota)))
    return chosen


def keep_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep up to 512 MB that it has freed. False: the user has said otherwise, or another C library is used.

    The commands and the workers of a batch call it; `import altdiffusion` doesn't.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name in environ for name in ALLOCATOR):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroup: Path) -> float | None:
    """The cores' worth of time that a container has, by the files of its cgroup (version 2, or 1); None: no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period"))
        except (OSError, ValueError):
            return None
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cores if cores > 0 else None  # -1: no limit
