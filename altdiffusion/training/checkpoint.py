"""Checkpoints that survive a kill at any moment: written aside, flushed to the disk, renamed, with a checksum.

    output_dir/checkpoints/step-00000500/state.pt       the step, weights, moving average, optimizer, schedule, settings
                                         complete.json  the size and checksum of state.pt

There is no random state to keep: everything random is made anew at each step from (seed, step, process).
Written by hand: a checkpoint of accelerate or diffusers may be cut short by a kill or a full disk, and nothing notices.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

from altdiffusion.errors import TrainingStopped, first_line

_STEP = re.compile(r"step-(\d+)$")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of `step` under `folder`, and remove all but the newest `keep`.

    state: tensors, numbers, texts, and lists and dictionaries of them.
    Raises TrainingStopped where it can't be written; the checkpoints before it are then as they were.
    """
    final = folder / f"step-{step:08d}"
    aside = folder / f".{final.name}.tmp"
    try:
        for killed in folder.glob(".step-*.tmp"):
            shutil.rmtree(killed, ignore_errors=True)
        aside.mkdir(parents=True)
        torch.save(state, aside / "state.pt")
        flush_to_disk(aside / "state.pt")
        size, crc = _checksum(aside / "state.pt")
        (aside / "complete.json").write_text(json.dumps({"bytes": size, "crc32": crc}), encoding="utf-8")
        flush_to_disk(aside / "complete.json")
        flush_to_disk(aside)
        if final.exists():  # damaged, or the training would not be here again
            shutil.rmtree(final)
        os.replace(aside, final)
        flush_to_disk(folder)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        shutil.rmtree(aside, ignore_errors=True)
        last = next((path for path in _newest_first(folder) if path.name < final.name), None)
        raise TrainingStopped(
            f"the checkpoint of step {step} can't be written to {folder} ({first_line(error)}): make room and go on "
            f"with --resume; the last good checkpoint is {last.name if last else 'none'}"
        ) from error
    checkpoints = _newest_first(folder)
    index = checkpoints.index(final)  # newer ones are damaged, or the training would have gone on from there
    for old in [*checkpoints[:index], *checkpoints[index + keep :]]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in the newest whole checkpoint under `folder`; damaged ones are named on standard error."""
    checkpoints = _newest_first(folder)
    for number, path in enumerate(checkpoints, 1):
        try:
            marker = json.loads((path / "complete.json").read_text(encoding="utf-8"))
            size, crc = _checksum(path / "state.pt")
            if (size, crc) != (marker["bytes"], marker["crc32"]):
                raise ValueError(
                    f"state.pt has {size} bytes, checksum {crc}; expected {marker['bytes']}, {marker['crc32']}"
                )
            state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            return state
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            instead = "taking the one before" if number < len(checkpoints) else "none is left, starting anew"
            print(f"checkpoint {path.name} is damaged ({first_line(error)}): {instead}", file=sys.stderr)
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether any was written there, good or damaged."""
    return bool(_newest_first(folder))


def _newest_first(folder: Path) -> list[Path]:
    checkpoints = [path for path in folder.iterdir() if _STEP.match(path.name)] if folder.is_dir() else []
    return sorted(checkpoints, key=lambda path: path.name, reverse=True)


def _checksum(path: Path) -> tuple[int, int]:
    size, crc = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def flush_to_disk(path: Path) -> None:
    """Wait until the system has written a file, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
