"""`altdiffusion batch score | embed | filter | generate | index`: millions of images or prompts."""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App

from altdiffusion.batch.settings import BatchSettings
from altdiffusion.batch.tasks.load import TASKS
from altdiffusion.cli.flags import Call, command
from altdiffusion.cli.terminal import counting, print_json, print_line, say
from altdiffusion.cli.train import first_line
from altdiffusion.errors import InputError

_EXAMPLES = {
    "score": 'altdiffusion batch score "data/{000..012}.tar" scores --as cosine percentile',
    "embed": "altdiffusion batch embed pictures features --model BAAI/AltCLIP-m9",
    "filter": 'altdiffusion batch filter "data/{000..012}.tar" best --scores scores --top 0.3',
    "generate": "altdiffusion batch generate prompts.csv images --steps 20 --engine ray",
}

batch = App(name="batch", help="Millions of images or prompts.", version_flags=())


def task_command(name: str) -> Callable[..., Call]:
    """The command of a task: a flag for each of its settings."""

    def run(settings: BatchSettings) -> None:
        from altdiffusion.batch.run import run_batch

        try:
            summary = run_batch(name, settings, counting=counting, say=say)
        except KeyboardInterrupt:
            say(f"the same command goes on with {settings.out}")
            raise
        bad = sum(summary.failed.values())
        if settings.as_json:
            print_json(
                {"out": str(settings.out), "partitions": summary.partitions, "items": summary.items}
                | {"failed": dict(summary.failed.most_common()), "unread": summary.unread, "files": summary.files}
            )
        else:
            say(f"{summary.items:,} items in {summary.partitions:,} partitions")
            print_line(str(settings.out))
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in summary.failed.most_common(5))
        if summary.unread:
            raise InputError(f"{len(summary.unread):,} of {summary.partitions:,} partitions can't be read (above)")
        if bad:
            say(f"{bad:,} items can't be used, see {settings.out}/errors: {reasons}")
        if not summary.items:
            raise InputError(f"no item of {settings.source} can be used: {reasons or 'none is kept'}")

    settings_class = TASKS[name][0]
    run.__doc__ = f"{settings_class.__doc__}\n\n{_EXAMPLES[name]}"
    return command(settings_class, config=True)(run)


def __getattr__(name: str) -> Callable[..., Call]:
    """The command of a task, made when it is asked for."""
    if name in TASKS:
        return task_command(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for task, (cls, _) in TASKS.items():
    batch.command(f"{__name__}:{task}", name=task, help=first_line(cls))
batch.command("altdiffusion.cli.batch_index:index", name="index", help="An index of features, for search.")
