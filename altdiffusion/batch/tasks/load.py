"""The tasks by name. A new one is a class of settings, a file here, and a line in both tables. No torch until it is asked for."""

from __future__ import annotations

import importlib

from altdiffusion.batch.settings import BatchSettings, EmbedBatch, FilterBatch, GenerateBatch, ScoreBatch
from altdiffusion.batch.tasks.base import Task

# name -> (its settings, where the class is that does it)
TASKS: dict[str, tuple[type[BatchSettings], str]] = {
    "score": (ScoreBatch, "altdiffusion.batch.tasks.score:ScoreTask"),
    "embed": (EmbedBatch, "altdiffusion.batch.tasks.embed:EmbedTask"),
    "filter": (FilterBatch, "altdiffusion.batch.tasks.filter:FilterTask"),
    "generate": (GenerateBatch, "altdiffusion.batch.tasks.generate:GenerateTask"),
}
PROMPTS = ("generate",)  # those whose input is prompts, not images
WITHOUT_MODEL = ("filter",)


def task_class(name: str) -> type[Task]:
    """Import a task, and torch with it where it computes."""
    module, _, cls = TASKS[name][1].partition(":")
    found: type[Task] = getattr(importlib.import_module(module), cls)
    return found
