"""Scores as a histogram, whose bins are fixed, so that memory stays flat however many there are."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from altdiffusion.altclip.score_kinds import LARGEST, ScoreAs
from altdiffusion.benchmark.plot import check as check_matplotlib
from altdiffusion.errors import InputError

BINS = 100  # from 0 to the largest score; of cosines as many below 0
MAX_SERIES = 10  # lines in one plot
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimSun",
)


def check(path: Path) -> None:
    """Raises InputError for what can't be plotted, before anything is scored."""
    check_matplotlib()
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise InputError(f"--plot {path}: expected a .png file in a folder that is there")


class Histogram:
    """How many scores fall into each bin, by what they are of, such as a prompt or a language."""

    def __init__(self, kind: ScoreAs) -> None:
        self._kind = kind
        self._counts: dict[str, Counter[int]] = {}

    def add(self, score: float, series: str = "") -> None:
        """Count a score; NaN isn't one."""
        if not math.isnan(score):
            bin_of = min(BINS - 1, math.floor(score / LARGEST[self._kind] * BINS))
            self._counts.setdefault(series, Counter())[bin_of] += 1

    def save(self, path: Path) -> None:
        """A line for each series, the commonest ones. Raises InputError where there are no scores, or no place for a file."""
        if not self._counts:
            raise InputError(f"--plot {path}: there are no scores to plot")
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import font_manager, pyplot

        installed = {font.name for font in font_manager.fontManager.ttflist}
        fonts = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]
        with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # each label begins with its number
            self._plot(pyplot, path)

    def _plot(self, pyplot: Any, path: Path) -> None:
        used = [each for counts in self._counts.values() for each in counts]
        low, high, width = min(used), max(used) + 1, LARGEST[self._kind] / BINS
        edges = [each * width for each in range(low, high + 1)]
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        commonest = sorted(self._counts.items(), key=lambda item: -item[1].total())
        for name, counts in commonest[:MAX_SERIES]:
            axes.stairs(
                [counts[each] for each in range(low, high)], edges, label=name, fill=len(commonest) == 1, alpha=0.8
            )
        if len(commonest) > 1:
            axes.legend()
        axes.set_xlabel(self._kind.replace("_", " "))
        axes.set_ylabel("images" if len(commonest) == 1 else "scores")
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise InputError(f"--plot {path} can't be written: {error}") from None
        finally:
            pyplot.close(figure)
