"""Runs cases, and what came out as a table or a document."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from altdiffusion import __version__
from altdiffusion.benchmark.cases import batches, captions, generation, imports, memory, scoring, text
from altdiffusion.benchmark.models import Sizes
from altdiffusion.benchmark.timing import Comparison
from altdiffusion.devices import choose_device
from altdiffusion.errors import InputError
from altdiffusion.speed.optimize import has_amx

CASES: dict[str, Callable[[Sizes, torch.device], Iterator[Comparison]]] = {
    "text": text.measure,
    "captions": captions.measure,
    "generation": generation.measure,
    "batches": batches.measure,
    "memory": memory.measure,
    "scoring": scoring.measure,
    "import": imports.measure,
}


def run(cases: Sequence[str], sizes: Sizes, device: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of some cases and their machine, as one JSON document. Raises InputError where memory runs out."""
    target = choose_device(device)
    found: list[dict[str, Any]] = []
    for case in cases:
        say(f"{case} ...")
        try:
            found += [as_document(each) for each in CASES[case](sizes, target)]
        except (torch.OutOfMemoryError, MemoryError):
            raise InputError(
                f"memory ran out in {case!r}: free some, or take smaller sizes (--layers, --width, --size)"
            ) from None
    return {"machine": machine(target), "sizes": vars(sizes), "comparisons": found}


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
                "name": each.name,
                "median": each.median,
                "values": each.values,
                "ratio": comparison.ratio(each),
                "note": each.note,
            }
            for each in comparison.contenders
        ],
    }


def rows(comparison: dict[str, Any]) -> list[list[str]]:
    """Of a comparison, as a table: medians with the lowest and highest round, and how many times faster, or smaller, ours is."""
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
