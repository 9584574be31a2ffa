"""`altdiffusion benchmark`: ours and the usual ways, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from altdiffusion.benchmark.catalogue import CASES
from altdiffusion.cli.flags import command
from altdiffusion.cli.terminal import hide_loading, print_json, print_table, say
from altdiffusion.settings import Settings, device_setting, setting

if TYPE_CHECKING:
    Case = str
else:
    Case = Literal[tuple(CASES)]


class SizeSettings(Settings):
    """How large the models and the work are; the names are `benchmark.models.Sizes`', but for size."""

    group: ClassVar[str] = "Sizes"

    rounds: int = setting(5, "timed, after one of warm-up", minimum=1)
    layers: int = setting(24, "of the text tower", minimum=1)
    width: int = setting(1024, "of the text tower, a multiple of 64", minimum=1, multiple_of=64)
    captions: int = setting(5000, "to encode", minimum=1)
    pictures: int = setting(64, "images to score, or to generate by mini", minimum=1)
    steps: int = setting(4, "of an image", minimum=1)
    size: int = setting(512, "of an image, in pixels, a multiple of 64", minimum=1, multiple_of=64)
    channels: int = setting(320, "of the UNet's first level, a multiple of 32", minimum=1, multiple_of=32)


class BenchmarkSettings(SizeSettings):
    """What is measured."""

    group: ClassVar[str] = "Options"

    quick: bool = setting(False, "small models: compare outputs, not times; exit status 1 if any differ")
    cases: list[Case] = setting(list(CASES), "what to measure")
    device: str | None = device_setting()
    json_file: Path | None = setting(None, "write all figures to a file; - prints them", flag="json")
    plot: Path | None = setting(None, "plot the ratios into this .png; needs matplotlib")


@command(BenchmarkSettings)
def benchmark(settings: BenchmarkSettings) -> None:
    """This machine's times beside the peers', on full-size models with random weights; nothing is downloaded.

    altdiffusion benchmark --cases text captions --json times.json
    altdiffusion benchmark --quick
    """
    say("loading ...")
    from altdiffusion.benchmark import plot, quick, runs
    from altdiffusion.benchmark.models import Sizes

    hide_loading()
    if settings.plot is not None:
        plot.check()
    if settings.quick:
        checks = []
        for check in quick.check_all():
            checks.append(check)
            print(check, flush=True)
        if not all(check.passed for check in checks):
            sys.exit(1)
        return
    sizes = {name: getattr(settings, name) for name in SizeSettings.model_fields}
    sizes["side"] = sizes.pop("size")
    report = runs.run(settings.cases, Sizes(**sizes), settings.device, say)
    if str(settings.json_file) == "-":
        print_json(report)
    else:
        print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
        for comparison in report["comparisons"]:
            print()
            print_table(runs.rows(comparison))
            for line in comparison["limits"]:
                print(f"  limit: {line}")
        if settings.json_file is not None:
            runs.write(report, settings.json_file)
    if settings.plot is not None:
        plot.draw(report, settings.plot)
