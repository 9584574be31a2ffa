"""`altdiffusion generate`: images from prompts."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from altdiffusion.cli.terminal import hide_loading, print_json, say
from altdiffusion.errors import InputError

MINI_NOTE = (
    "mini: the model inside this package draws small pictures of 316 things, from nine languages; "
    "for a large one: --model BAAI/AltDiffusion-m9"
)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected WIDTHxHEIGHT, such as 512x512") from None
    return width, height


def _batch_size(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of pictures, or auto")
    return text if text == "auto" else int(text)


def _generate(options: argparse.Namespace) -> None:
    single = options.out.suffix.lower() == ".png"
    if single and len(options.prompts) * options.num_images != 1:
        raise InputError(f"--out {options.out} is one file, but several pictures are asked for: give a folder")
    _check_writable(options.out)
    say("loading ...")
    started = time.monotonic()
    from altdiffusion.generation.generate import generate
    from altdiffusion.generation.result import free_path, save_image

    hide_loading()
    drawn = generate(
        options.prompts,
        model=options.model,
        negative_prompt=options.negative_prompt,
        seed=options.seed,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        size=options.size,
        num_images=options.num_images,
        batch_size=options.batch_size,
        best_of=options.best_of,
        scorer=options.scorer,
        init_image=options.init_image,
        strength=options.strength,
        mask=options.mask,
        scheduler=options.scheduler,
        lora=options.lora,
        text_encoder=options.text_encoder,
        bridge=options.bridge,
        device=options.device,
        dtype=options.dtype,
        low_memory=options.low_memory,
        optimize=options.optimize,
        allow_pickle=options.allow_pickle,
    )
    results: list[dict[str, Any]] = []
    for picture in drawn:
        if not results and options.model in (None, "mini"):
            say(MINI_NOTE)
        elif not results and options.model.startswith("BAAI/"):
            say("BAAI's weights are under CreativeML OpenRAIL-M, whose use restrictions bind you")
        path = options.out if single else free_path(options.out, picture.settings)
        save_image(picture, path)
        results.append({"path": str(path), "filtered": picture.filtered, **asdict(picture.settings)})
        if picture.filtered:
            say(f"{path} is black: the safety checker found something in the picture")
        if not options.json:
            score = "" if picture.settings.score is None else f"  {picture.settings.score:.4f}"
            print(f"{path}{score}", flush=True)
    if options.json:
        print_json({"pictures": results, "seconds": round(time.monotonic() - started, 2)})


def _check_writable(out: Path) -> None:
    """Say before anything is loaded that images could not be written."""
    from altdiffusion.files import local_path

    folder = local_path(out.parent if out.suffix.lower() == ".png" else out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: expected a folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"--out {folder} can't be written ({there}: {error.strerror}): pick another folder") from None
