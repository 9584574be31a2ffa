"""`altdiffusion generate` over files of prompts, grids and choices: planned first, so that it can be resumed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any

from altdiffusion.cli.generate_output import entry_of, report, say_about
from altdiffusion.cli.generate_settings import GenerateSettings
from altdiffusion.cli.sources import missing
from altdiffusion.cli.terminal import hide_loading, print_json, print_line, say, with_progress
from altdiffusion.errors import GenerationFailed, InputError
from altdiffusion.generation.grid import Axis
from altdiffusion.generation.manifest import Manifest
from altdiffusion.generation.plan import Plan
from altdiffusion.generation.prompts_file import BadRow, Row, read_prompts_file
from altdiffusion.generation.settings import ImageSettings


def generate_many(settings: GenerateSettings) -> None:
    """Generate what a prompts file, a grid or choices ask for. Bad rows are named, the others done; then InputError."""
    if settings.is_file:
        raise InputError(f"--out {settings.out} is one file: expected a folder, for the images and their manifest")
    started = time.monotonic()
    manifest = Manifest(settings.out)
    seed = settings.seed
    if seed is None:
        seed = manifest.seed if settings.resume and manifest.seed is not None else secrets.randbelow(2**32)
    plan, rows_of, bad = _planned(settings, seed)
    if manifest.unfinished and not settings.resume:
        say(f"{settings.out} has an interrupted run: this one begins anew, --resume would go on with that one")
    if settings.resume and manifest.seed is None:
        say(f"{settings.out} has no run to go on with: this one begins anew")
    say("loading ...")
    from altdiffusion.generation.run import Run

    hide_loading(steps=False)
    run = Run(plan, settings.out, manifest, seed, settings.resume, settings.label)
    if there := len(plan.images) - len(run.remaining):
        say(f"{there} of {len(plan.images)} images are there already")
    about_said = False
    try:
        for image in with_progress(run.images(**settings.of_run), len(run.remaining)):
            if not about_said:
                say_about(settings.model)
                about_said = True
            report(image.path, image.settings, image.filtered, settings.as_json)
    except KeyboardInterrupt:
        say("the same command with --resume goes on with this run")
        raise
    sheets = [str(path) for path in run.draw_sheets()]
    failed = list(dict.fromkeys(BadRow(rows_of[key], str(error)) for key, error in run.failed.items()))
    _say_bad(failed)
    if settings.as_json:
        pictures = [entry_of(image.path, image.settings, image.filtered) for image in run.finished()]
        failures = [row._asdict() for row in [*bad, *failed]]
        seconds = round(time.monotonic() - started, 2)
        print_json({"pictures": pictures, "sheets": sheets, "failed": failures, "seconds": seconds})
    else:
        for sheet in sheets:
            print_line(sheet)
    if bad or failed:
        wrong = {row.where for row in [*bad, *failed]}
        rest = "; the others are done" if len(run.failed) < len(plan.images) else ""
        line = f"{len(wrong)} of {len(wrong.union(rows_of.values()))} prompts can't be used (above){rest}"
        only_nan = not bad and all(isinstance(error, GenerationFailed) for error in run.failed.values())
        raise GenerationFailed(line) if only_nan else InputError(line)


def _planned(settings: GenerateSettings, seed: int) -> tuple[Plan, dict[str, str], list[BadRow]]:
    """What can be generated, where each image was asked for, by its key, and the bad rows, which are told.

    Raises InputError where nothing is left.
    """
    rows, bad = _rows(settings)
    plan, rows_of = Plan(settings.num_images, settings.best_of, settings.scorer, settings.score_as), dict[str, str]()
    for row in rows:
        try:
            new = plan.add(_checked(row, seed, settings.axes), settings.axes)
        except InputError as error:
            bad.append(BadRow(row.where, str(error)))
        else:
            rows_of |= dict.fromkeys(new, row.where)
    _say_bad(bad)
    if not plan.images:
        raise InputError(f"none of {len(bad)} prompts can be used (above)")
    return plan, rows_of, bad


def _rows(settings: GenerateSettings) -> tuple[list[Row], list[BadRow]]:
    """The prompts of the command line, then the file's. Raises InputError for values of a grid that aren't there."""
    for axis in settings.axes:
        for change in axis.changes:
            if problems := missing(ImageSettings, change, _name):
                raise InputError(f"--grid: {'; '.join(problems)}")
    rows = [
        Row(repr(prompt), ImageSettings(prompt=prompt, **settings.said), frozenset()) for prompt in settings.prompts
    ]
    if settings.prompts_file is None:
        return rows, []
    in_file, bad = read_prompts_file(settings.prompts_file, settings.said)
    return rows + in_file, bad


def _checked(row: Row, seed: int, axes: Iterable[Axis]) -> ImageSettings:
    """The row's settings with a seed. Raises InputError: a file or model that isn't there, a setting that is also an axis."""
    if both := row.said & {name for axis in axes for name in axis.sets}:
        raise InputError(f"{', '.join(sorted(both))} is in the row and in --grid: leave one out")
    if problems := missing(ImageSettings, {name: getattr(row.settings, name) for name in row.said}, _name):
        raise InputError("; ".join(problems))
    return row.settings if row.settings.seed is not None else row.settings.replace(seed=seed)


def _name(name: str, _: Any) -> str:
    return name


def _say_bad(rows: Iterable[BadRow]) -> None:
    for row in rows:
        say(row.reason if row.where in row.reason else f"{row.where}: {row.reason}")
