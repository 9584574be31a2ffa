"""`altdiffusion train STAGE`: the stages of the method, each a line of `training.stage_settings.STAGES`."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

from cyclopts import App

from altdiffusion.cli.flags import Call, command
from altdiffusion.cli.terminal import hide_loading, print_line, say
from altdiffusion.errors import InputError
from altdiffusion.training import stage_settings
from altdiffusion.training.settings import TrainingSettings


def first_line(cls: type) -> str:
    """Of a class's docstring."""
    return (cls.__doc__ or "").partition("\n")[0]


train = App(name="train", help="The stages of the method.", version_flags=())


def stage_command(name: str) -> Callable[..., Call]:
    """The command of a stage: a flag for each of its settings."""

    def run(settings: TrainingSettings) -> None:
        if settings.hour_price is not None and not settings.plan:
            raise InputError("--hour-price is what --plan reckons with: give both, or neither")
        say("loading ...")
        hide_loading()
        if settings.plan:
            from altdiffusion.training.plan import make_plan

            return print_line(str(make_plan(name, settings)))
        from altdiffusion.training.checkpoint import has_checkpoint

        try:
            stage_settings.run_stage(name, settings)
        except KeyboardInterrupt:
            folder, due = settings.output_dir, settings.checkpointing_steps
            if has_checkpoint(folder / "checkpoints"):
                say(f"{folder} keeps the checkpoints: the same command with --resume goes on from the last")
            else:
                say(f"no checkpoint was due yet (--checkpointing-steps {due}): nothing to go on from")
            raise
        if os.environ.get("RANK", "0") == "0":  # of several processes, one speaks
            print_line(str(settings.output_dir / "model"))

    settings_class, function = stage_settings.STAGES[name]
    run.__doc__ = f"{settings_class.__doc__}\n\n{_example(function.partition(':')[0])}"
    return command(settings_class, config=True)(run)


def _example(module: str) -> str:
    """The command that a stage's file begins with, read without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return textwrap.dedent(Path(spec.origin).read_text(encoding="utf-8").split("\n\n")[1])


def __getattr__(name: str) -> Callable[..., Call]:
    """The command of a stage, made when it is asked for."""
    if name in stage_settings.STAGES:
        return stage_command(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for stage, (settings_class, _) in stage_settings.STAGES.items():
    train.command(f"{__name__}:{stage}", name=stage, help=first_line(settings_class))
