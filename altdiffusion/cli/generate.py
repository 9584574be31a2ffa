"""`altdiffusion generate`: images from prompts."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from altdiffusion.cli.flags import command
from altdiffusion.cli.generate_output import report, say_about
from altdiffusion.cli.generate_settings import GenerateSettings
from altdiffusion.cli.terminal import hide_loading, print_json, say, with_progress
from altdiffusion.errors import InputError
from altdiffusion.files import local_path


@command(GenerateSettings)
def generate(settings: GenerateSettings) -> None:
    """Images from prompts, with prompt and settings inside.

    altdiffusion generate "一只猫" "a cat" --num-images 4 --seed 1
    altdiffusion generate "a castle" --model BAAI/AltDiffusion-m9 --allow-pickle --out castle.png
    altdiffusion generate --prompts-file prompts.csv --grid "steps=10,20 guidance_scale=3,7" --out sheets
    """
    _check_writable(settings)
    if settings.is_planned:
        from altdiffusion.cli.generate_many import generate_many

        generate_many(settings)
        return
    say("loading ...")
    started = time.monotonic()
    from altdiffusion.generation import generate as library
    from altdiffusion.generation.result import free_path, save_image

    hide_loading(steps=settings.total == 1)
    generated = library.generate(settings.prompts, **settings.of_run, **settings.said)
    results: list[dict[str, Any]] = []
    for image in with_progress(generated, settings.total) if settings.total > 1 else generated:
        if not results:
            say_about(settings.model)
        path = settings.out if settings.is_file else free_path(settings.out, image.settings)
        save_image(image, path, settings.label)
        results.append(report(path, image.settings, image.filtered, settings.as_json))
    if settings.as_json:
        print_json({"pictures": results, "seconds": round(time.monotonic() - started, 2)})


def _check_writable(settings: GenerateSettings) -> None:
    """Say before anything is loaded that images could not be written."""
    folder = local_path(settings.out.parent if settings.is_file else settings.out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: expected a folder")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(
            f"--out {folder} can't be written ({existing}: {error.strerror}): pick another folder"
        ) from None
