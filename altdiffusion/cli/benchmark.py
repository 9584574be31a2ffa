"""`altdiffusion benchmark`: ours and the usual ways, side by side. It parses; `altdiffusion.benchmark` does the rest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from altdiffusion.cli.terminal import hide_loading, print_json, say
from altdiffusion.errors import InputError

CASES = ("text", "captions", "generation", "batches", "memory", "scoring", "import")


def add_benchmark(commands: Any) -> None:
    """`altdiffusion benchmark`."""
    about = "this machine's figures beside the peers', on full-size models with random weights; nothing is downloaded"
    benchmark = commands.add_parser("benchmark", help=about, description=about)
    benchmark.add_argument("--quick", action="store_true",
                           help="small models: compare outputs, not times; exit status 1 if any differ")  # fmt: skip
    benchmark.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
                           help=f"some of: {' '.join(CASES)} (default: all)")  # fmt: skip
    benchmark.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="timed, after one of warm-up (default: 5)"
    )
    benchmark.add_argument("--layers", type=int, default=24, metavar="N", help="of the text tower (default: 24)")
    benchmark.add_argument("--width", type=int, default=1024, metavar="N", help="of the text tower (default: 1024)")
    benchmark.add_argument("--captions", type=int, default=5000, metavar="N", help="(default: 5000)")
    benchmark.add_argument(
        "--pictures", type=int, default=64, metavar="N", help="to score, or to draw by mini (default: 64)"
    )
    benchmark.add_argument("--steps", type=int, default=4, metavar="N", help="of a drawing (default: 4)")
    benchmark.add_argument("--size", type=int, default=512, metavar="N", help="of a drawing, in pixels (default: 512)")
    benchmark.add_argument(
        "--channels", type=int, default=320, metavar="N", help="of the UNet's first level (default: 320)"
    )
    benchmark.add_argument("--device", metavar="D", help="cuda, cpu, ... (default: the best there is)")
    benchmark.add_argument("--json", type=Path, metavar="F", help="write all figures to a file; - prints them")
    benchmark.add_argument("--plot", type=Path, metavar="F.png", help="draw the ratios; needs matplotlib")
    benchmark.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> None:
    for name in ("rounds", "layers", "width", "captions", "pictures", "steps", "size", "channels"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: expected at least 1")
    for name, unit in (("width", 64), ("size", 64), ("channels", 32)):
        if getattr(options, name) % unit:
            raise InputError(f"--{name} {getattr(options, name)}: expected a multiple of {unit}")
    say("loading ...")
    from altdiffusion.benchmark import plot, quick, runs
    from altdiffusion.benchmark.models import Sizes

    hide_loading()
    if options.plot is not None:
        plot.check()
    if options.quick:
        checks = []
        for check in quick.check_all():
            checks.append(check)
            print(check, flush=True)
        if not all(check.passed for check in checks):
            sys.exit(1)
        return
    sizes = Sizes(
        rounds=options.rounds,
        layers=options.layers,
        width=options.width,
        captions=options.captions,
        pictures=options.pictures,
        steps=options.steps,
        side=options.size,
        channels=options.channels,
    )
    report = runs.run(options.cases, sizes, options.device, say)
    if str(options.json) == "-":
        print_json(report)
    else:
        print(runs.table(report))
        if options.json is not None:
            runs.write(report, options.json)
    if options.plot is not None:
        plot.draw(report, options.plot)
