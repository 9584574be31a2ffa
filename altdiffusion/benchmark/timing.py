"""Contenders timed in turns, so that whatever slows the machine down for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Contender:
    """One way to do a work. values: of each round; empty where it was not measured, and then `note` says why."""

    name: str
    values: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass
class Comparison:
    """A work, and the ways to do it; the first is ours.

    amount: of `unit` that a round does. limits: what bounds it, for people.
    measure: unit of the contenders' values, "s" or "GB"; less is better.
    """

    work: str
    contenders: list[Contender]
    amount: float = 1
    unit: str = "calls"
    limits: list[str] = field(default_factory=list)
    measure: str = "s"

    def ratio(self, contender: Contender) -> float | None:
        """How many times faster, or smaller, ours is; None where either was not measured."""
        ours = self.contenders[0].median
        return None if ours is None or contender.median is None else contender.median / ours


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> list[Contender]:
    """Run each once to warm up, then all of them in turns. What they return is dropped."""
    contenders = [Contender(name) for name in ways]
    for turn in range(rounds + 1):
        for contender, way in zip(contenders, ways.values(), strict=True):
            seconds = timed(way, device)
            if turn:  # the first warms up
                contender.values.append(seconds)
    return contenders


def timed(way: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device is done."""
    _wait(device)
    begun = time.perf_counter()
    way()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
