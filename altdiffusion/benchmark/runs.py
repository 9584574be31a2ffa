"""Runs cases; the results as a document or a table."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size

from altdiffusion import __version__
from altdiffusion.benchmark.catalogue import load_case
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.speed.optimize import has_amx


def run(cases: Sequence[str], sizes: Sizes, device: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The measurements of some cases and their machine, as one JSON document. Raises InputError where memory runs out."""
    target = choose_device(device)
    comparisons: list[dict[str, Any]] = []
    for case in cases:
        say(f"{case} ...")
        try:
            comparisons += [as_document(comparison) for comparison in load_case(case)(sizes, target)]
        except (RuntimeError, MemoryError) as error:  # PyTorch raises a plain RuntimeError on a CPU
            if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
                raise
            raise InputError(
                f"memory ran out in {case!r}: free some, or take smaller sizes (--layers, --width, --size)"
            ) from None
    return {"machine": machine(target), "sizes": vars(sizes), "comparisons": comparisons}


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "amx": has_amx(),
        "altdiffusion": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def as_document(comparison: Comparison) -> dict[str, Any]:
    return {
        "work": comparison.work,
        "amount": comparison.amount,
        "unit": comparison.unit,
        "measure": comparison.measure,
        "limits": comparison.limits,
        "contenders": [
            {
                "name": contender.name,
                "median": contender.median,
                "values": contender.values,
                "ratio": comparison.ratio(contender),
                "note": contender.note,
            }
            for contender in comparison.contenders
        ],
    }


def rows(comparison: dict[str, Any]) -> list[list[str]]:
    """A comparison as a table: medians, the lowest and highest round, and how many times faster, or smaller, ours is."""
    table = [[comparison["work"], "median", "rounds", "ours is", ""]]
    for contender in comparison["contenders"]:
        if contender["median"] is None:
            table.append([contender["name"], "-", "-", "-", contender["note"]])
            continue
        median, span = f"{contender['median']:.3f}", f"{min(contender['values']):.3f} to {max(contender['values']):.3f}"
        ratio = f"{contender['ratio']:.2f} x"
        table.append([contender["name"], f"{median} {comparison['measure']}", span, ratio, contender["note"]])
    return table


def write(report: dict[str, Any], path: Path) -> None:
    try:
        path.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {path} can't be written ({error.strerror}): pick another file") from None
