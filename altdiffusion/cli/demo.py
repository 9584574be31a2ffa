"""`altdiffusion demo`: the page in the browser. It parses; `altdiffusion.web` does the rest."""

from __future__ import annotations

import argparse
from typing import Any

from altdiffusion.cli.terminal import hide_loading, say


def add_demo(commands: Any) -> None:
    """`altdiffusion demo`."""
    demo = commands.add_parser("demo", help="the web page: draw, change, compare, score; needs altdiffusion[demo]")
    demo.add_argument("--models", nargs="+", default=[], metavar="M",
                      help="what visitors may choose from: ids on the hub, folders, files (default: mini)")  # fmt: skip
    demo.add_argument("--scorer", metavar="M", help="AltCLIP that scores (default: the one that belongs to each model)")
    demo.add_argument("--host", default="127.0.0.1", metavar="H",
                      help="address to serve at; 0.0.0.0 lets everyone in (default: this machine alone)")  # fmt: skip
    demo.add_argument("--port", type=int, metavar="N", help="(default: the first free one from 7860)")
    demo.add_argument("--auth", metavar="NAME:PASSWORD", help="ask for it before anything is shown")
    demo.add_argument("--max-queue", type=int, default=20, metavar="N", help="visitors that may wait (default: 20)")
    demo.add_argument("--max-pixels", type=int, metavar="N",
                      help="of a drawn picture, width x height (default: 589824, 768 x 768)")  # fmt: skip
    demo.add_argument("--device", metavar="D", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    demo.add_argument(
        "--dtype", metavar="T", help="float32, float16, bfloat16 (default: float16 on a GPU, else float32)"
    )
    demo.add_argument("--allow-pickle", action="store_true", help="read .bin and .ckpt files, which can carry code")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    say("loading ...")
    from altdiffusion.web.limits import Limits
    from altdiffusion.web.server import Serving, serve

    hide_loading()
    limits = Limits() if options.max_pixels is None else Limits(pixels=options.max_pixels)
    serve(
        Serving(
            host=options.host,
            port=options.port,
            auth=options.auth,
            max_queue=options.max_queue,
            models=options.models,
            scorer=options.scorer,
            limits=limits,
            device=options.device,
            dtype=options.dtype,
            allow_pickle=options.allow_pickle,
        )
    )
