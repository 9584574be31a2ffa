"""`altdiffusion convert`: any layout to one that plain diffusers loads."""

from __future__ import annotations

import argparse

from altdiffusion.cli.terminal import hide_loading, print_json, say


def _convert(options: argparse.Namespace) -> None:
    say("loading ...")
    import torch

    from altdiffusion.devices import choose_dtype
    from altdiffusion.pipelines.convert import convert

    hide_loading()
    dtype = choose_dtype(options.dtype, torch.device("cpu")) if options.dtype else None
    folder = convert(
        options.source,
        options.destination,
        allow_pickle=options.allow_pickle,
        ema=options.ema,
        tokenizer=options.tokenizer,
        dtype=dtype,
    )
    if options.json:
        print_json({"path": str(folder)})
    else:
        print(folder)
    say("plain diffusers loads it; weights that BAAI published stay under their licence, CreativeML OpenRAIL-M")
