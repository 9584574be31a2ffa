"""The ratios as a bar chart."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError


def check() -> None:
    """Raises InputError without matplotlib, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs the package matplotlib: pip install matplotlib, or leave it out")


def draw(report: dict[str, Any], path: Path) -> None:
    """A bar for every contender: how many times what ours takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{comparison['work']}\n{contender['name']}", contender["ratio"])
        for comparison in report["comparisons"]
        for contender in comparison["contenders"]
        if contender["ratio"] is not None
    ]
    figure, axes = pyplot.subplots(figsize=(10, 0.6 * len(bars) + 1), layout="constrained")
    axes.barh([name for name, _ in bars], [ratio for _, ratio in bars])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("time (or memory), as a multiple of ours")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path} can't be written: {error}") from None
    finally:
        pyplot.close(figure)
