"""`altdiffusion score`: how well each image fits each prompt."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Any

from altdiffusion.cli.evaluate import _add_loading, _dtype
from altdiffusion.cli.terminal import hide_loading, print_json, say
from altdiffusion.errors import InputError
from altdiffusion.text_table import aligned


def add_score(commands: Any) -> None:
    """`altdiffusion score`."""
    score = commands.add_parser("score", help="how well pictures fit prompts: AltCLIP's cosines, -1 to 1")
    score.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or folders of them")
    score.add_argument(
        "--prompt", nargs="+", action="extend", required=True, metavar="P", help="in any of the model's languages"
    )
    score.add_argument("--model", metavar="M", help="AltCLIP: id on the hub or folder (default: mini)")
    score.add_argument("--sort", action="store_true", help="best picture first, by the first prompt")
    _add_loading(score)
    form = score.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    form.add_argument("--csv", action="store_true", help="print comma-separated values, a line a picture")
    score.set_defaults(run=_score)


def _score(options: argparse.Namespace) -> None:
    images = _with_folders(options.images)
    say("loading ...")
    from altdiffusion.altclip.scorer import PromptScorer
    from altdiffusion.devices import DTYPES

    hide_loading()
    scorer = PromptScorer.from_pretrained(
        options.model, dtype=_dtype(options.dtype, DTYPES), device=options.device, allow_pickle=options.allow_pickle
    )
    bad: dict[int, str] = {}
    scores = scorer.score(images, options.prompt, bad).tolist()
    order = [index for index in range(len(scores)) if index not in bad]
    if options.sort:
        order.sort(key=lambda index: -scores[index][0])
    if options.json:
        rows = [{"image": images[index], "scores": [round(score, 6) for score in scores[index]]} for index in order]
        failed = [{"image": images[index], "reason": reason} for index, reason in bad.items()]
        print_json({"prompts": options.prompt, "results": rows, "failed": failed})
    elif not order:
        pass  # a heading without rows says nothing
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", *options.prompt])
        writer.writerows([images[index], *(f"{score:.6f}" for score in scores[index])] for index in order)
    else:
        rows_of_text = [[images[index], *(f"{score:.4f}" for score in scores[index])] for index in order]
        print(aligned([["", *options.prompt], *rows_of_text]))
    if bad:
        for index, reason in bad.items():
            say(reason if images[index] in reason else f"{images[index]}: {reason}")
        rest = "; the others were scored" if order else ""
        raise InputError(f"{len(bad)} of {len(scores)} pictures can't be used (above){rest}")


def _with_folders(names: list[str]) -> list[str]:
    """The same with the images of each folder in its place. Raises InputError where one holds none."""
    from altdiffusion.images import ENDINGS, image_files

    files: list[str] = []
    for name in names:
        if os.path.isdir(folder := os.path.expanduser(name)):  # False, too, for what no file system could hold
            found = image_files(Path(folder))
            if not found:
                raise InputError(f"{folder} holds no pictures: expected files that end in {', '.join(ENDINGS)}")
            files += map(str, found)
        else:
            files.append(name)
    return files
