"""What several processes of one training must agree on, on one host or on many, and what is said where one is lost."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from altdiffusion.errors import InputError, TrainingStopped, first_line


def check_shared(folder: Path, accelerator: Accelerator) -> None:
    """Raise InputError, in every process, where hosts have output folders of their own: only one would have checkpoints."""
    if accelerator.num_processes == 1:
        return
    names = [f".shared.{secrets.token_hex(4)}"]
    dist.broadcast_object_list(names, 0)
    mark = folder / names[0]
    if accelerator.is_main_process:
        mark.touch()
    accelerator.wait_for_everyone()
    ends = time.monotonic() + 10  # NFS may show a new file late
    while not (seen := mark.exists()) and time.monotonic() < ends:
        time.sleep(0.1)
    blind = accelerator.reduce(torch.tensor(float(not seen), device=accelerator.device), "sum").item()
    if accelerator.is_main_process:
        mark.unlink()
    if blind:
        raise InputError(f"--output-dir {folder} isn't one folder for all processes: expected one that all hosts share")


def check_same_step(step: int, folder: Path, accelerator: Accelerator) -> None:
    """Raise InputError, in every process, where they don't all go on from one checkpoint."""
    steps = set(accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist())
    if len(steps) > 1:
        raise InputError(
            f"the processes read checkpoints of the steps {sorted(steps)} in {folder}: expected one for all hosts"
        )


@contextmanager
def told_of_lost_processes(accelerator: Accelerator) -> Iterator[None]:
    """Raise TrainingStopped where another process, or the way to it, is lost."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        raise TrainingStopped(
            f"process {accelerator.process_index} of {accelerator.num_processes} lost another one ({first_line(error)}): begin "
            "all again with --resume, as torchrun does by itself with --max-restarts"
        ) from error
