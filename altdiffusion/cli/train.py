"""`altdiffusion train STAGE`: the stages of the method."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from altdiffusion.cli.terminal import hide_loading, say
from altdiffusion.settings import as_flag, choices_of, read_settings
from altdiffusion.training.settings import TrainingSettings
from altdiffusion.training.stage_settings import STAGES, run_stage


def _add_stage(stages: Any, name: str, settings: type[TrainingSettings]) -> None:
    """A flag for every setting. They are read as text: `read_settings` names all that is wrong at once."""
    summary = (settings.__doc__ or "").strip()
    stage = stages.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    stage.add_argument(
        "--config",
        type=Path,
        metavar="F",
        help="file of settings: TOML, or the settings.json of a training; flags win over it",
    )
    for field_name, field in settings.model_fields.items():
        about = field.description or ""
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            about += " (must be given)"
        elif default is not None and default is not False and default != []:
            about += f" (default: {default})"
        flag = as_flag(field_name)
        options: dict[str, Any] = {"dest": field_name, "default": argparse.SUPPRESS, "help": about.replace("%", "%%")}
        if default is False:
            stage.add_argument(flag, nargs="?", const="true", metavar="true|false", **options)
        else:
            metavar = "|".join(choices_of(field)) or field_name.split("_")[-1].upper()
            several = {"nargs": "+", "action": "extend"} if str(field.annotation).startswith("list") else {}
            stage.add_argument(flag, metavar=metavar, **several, **options)
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
