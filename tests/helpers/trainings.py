"""Trainings of the smallest models as words of the command line, and what they logged."""

from __future__ import annotations

import json


def distillation(models, **settings):
    settings = {
        "teacher": models / "clip",
        "student": models / "student",
        "train_data": models / "pairs.tsv",
        **settings,
    }
    return words("distill", settings)


def contrast(models, **settings):
    return words("contrast", {"model": models / "clip", "train_data": models / "pictures", **settings})


def words(stage, settings):
    common = {"batch_size": 8, "max_train_steps": 10, "logging_steps": 1, "learning_rate": 0.01, "device": "cpu"}
    flags = [(f"--{name.replace('_', '-')}", value) for name, value in (common | settings).items()]
    return ["train", stage, *(word for flag in flags for word in flag)]


def curve(folder):
    """The log without what a clock says."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]
