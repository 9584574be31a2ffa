"""`altdiffusion train STAGE`: the stages of the method."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from altdiffusion.cli.terminal import hide_loading, say
from altdiffusion.training.settings import Settings, read_settings
from altdiffusion.training.stage_settings import STAGES, run_stage


def _add_stage(stages: Any, name: str, settings: type[Settings]) -> None:
    """A flag for every setting. They are read as text: `read_settings` names all that is wrong at once."""
    summary = (settings.__doc__ or "").strip()
    stage = stages.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    stage.add_argument(
        "--config",
        type=Path,
        metavar="F",
        help="file of settings: TOML, or the settings.json of a training; flags win over it",
    )
    for each in dataclasses.fields(settings):
        about = each.metadata["help"]
        default = [] if each.default_factory is not dataclasses.MISSING else each.default
        if default is dataclasses.MISSING:
            about += " (must be given)"
        elif default is not None and default is not False and default != []:
            about += f" (default: {default})"
        name_of = "--" + each.name.replace("_", "-")
        options: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": about.replace("%", "%%")}
        if default is False:
            stage.add_argument(name_of, nargs="?", const="true", metavar="true|false", **options)
        else:
            metavar = "|".join(each.metadata["choices"]) or each.name.split("_")[-1].upper()
            several = {"nargs": "+", "action": "extend"} if str(each.type).startswith("list") else {}
            stage.add_argument(name_of, metavar=metavar, **several, **options)
    stage.set_defaults(run=_train, stage=name)


def _train(options: argparse.Namespace) -> None:
    flags = {name: value for name, value in vars(options).items() if name not in ("run", "stage", "config", "unknown")}
    flags |= {name.replace("-", "_"): "" for name in options.unknown}
    settings = read_settings(STAGES[options.stage][0], flags, options.config)
    say("loading ...")
    hide_loading()
    from altdiffusion.training.checkpoint import has_checkpoint

    try:
        run_stage(options.stage, settings)
    except KeyboardInterrupt:
        if has_checkpoint(settings.output_dir / "checkpoints"):
            say(f"{settings.output_dir} keeps the checkpoints: the same command with --resume goes on from the last")
        else:
            say(
                f"no checkpoint was due yet (--checkpointing-steps {settings.checkpointing_steps}): nothing to go on from"
            )
        raise
    if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
        print(settings.output_dir / "model")
