"""Ways timed in turns, and the rows of the tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from gpu.models import Setup, forward

Row = dict[str, Any]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(way: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device is done."""
    wait(device)
    begun = time.perf_counter()
    way()
    wait(device)
    return time.perf_counter() - begun


def in_turns(ways: Mapping[str, Callable[[], Any]], setup: Setup, calls: int = 1) -> dict[str, list[float]]:
    """Seconds of a call, by way and round, in turns: what slows the machine down for a while slows all ways down."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(setup.rounds + 1):
        for name, way in ways.items():
            seconds = timed(lambda way=way: [way() for _ in range(calls)], setup.device) / calls
            if number:  # the first one compiles, loads kernels and fills caches
                found[name].append(seconds)
    return found


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.4g} to {max(seconds):.4g}"


def row(table: str, way: str, **figures: float | int | str | None) -> Row:
    return {"table": table, "way": way, "figures": figures}


def reason(table: str, way: str, why: object) -> Row:
    return {"table": table, "way": way, "reason": (str(why).strip() or type(why).__name__).splitlines()[0][:300]}


def forward_seconds(unet: Any, setup: Setup, batch: int) -> float:
    return statistics.median(in_turns({"": forward(unet, setup, batch)}, setup, 10 if setup.on_gpu else 1)[""])
