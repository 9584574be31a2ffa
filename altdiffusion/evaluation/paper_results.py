"""Published figures that stand beside measured ones: the model card's table, Babel-ImageNet's and CLIP_benchmark's results.

The model card's table is zero-shot retrieval on Flickr30k's test set, 1000 images with 5 captions each, by systems with
ViT-L image encoders: Chen et al., AltCLIP, arXiv 2211.06679. published_results.toml says where the others come from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from altdiffusion.files import packaged_toml
from altdiffusion.metrics import RetrievalMetrics

_FILE = packaged_toml(__package__, "paper_results.toml")
_OTHERS = packaged_toml(__package__, "published_results.toml")
SOURCE: str = _FILE["source"]
FLICKR30K = "flickr30k"
BABEL_SOURCE: str = _OTHERS["babel-imagenet"]["source"]


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table. Metrics that were not published are NaN."""

    language: str  # "en", "zh", ...
    system: str
    metrics: RetrievalMetrics
    mean: float  # MR as printed, or the mean of the six recalls; per cent
    note: str = ""
    about: str = "Flickr30k's test set, ViT-L image encoders"  # the data, and what else must be known
    source: str = SOURCE


def _row(language: str, system: str, printed: str) -> PublishedRow:
    *recalls, mean = map(float, printed.split())
    return PublishedRow(language, system, _metrics(recalls), mean, _FILE["notes"][language].get(system, ""))


def _metrics(recalls: list[float]) -> RetrievalMetrics:
    t1, t5, t10, i1, i5, i10 = recalls  # text to image, image to text
    return RetrievalMetrics((t1, t5, t10), (i1, i5, i10))


def _rows_of(table: dict[str, Any]) -> list[PublishedRow]:
    """The rows of one set in published_results.toml; "-" stands for what was not published."""
    rows = []
    for system, by_language in table["rows"].items():
        for language, printed in by_language.items():
            metrics = _metrics([float("nan") if cell == "-" else float(cell) for cell in printed.split()])
            row = PublishedRow(
                language, system, metrics, metrics.mean, which_model(system), table["about"], table["source"]
            )
            rows.append(row)
    return rows


def which_model(row: str) -> str:
    """What must be said of a row of one model of several, which stands beside whichever of them was measured."""
    family = re.sub(r"-m\d+$", "", row)
    return "" if family == row else f"it stands beside any {family}; whether the measured one is {row} is not known"


TABLE = tuple(_row(language, *row) for language in ("en", "zh") for row in _FILE[language].items())
BY_SET = {table["set"]: _rows_of(table) for table in _OTHERS["retrieval"]}


def published_rows(system: str, language: str, data_set: str = FLICKR30K) -> list[PublishedRow]:
    """The rows that a measured system may be compared with on a known set, which name its model where it has several.

    The model card's have the system's name, with or without an asterisk; those of others are called after one of its
    models (AltCLIP-m9) or its weights (open_clip's "ViT-L-14 openai").
    """
    name = system.casefold()
    paper = TABLE if data_set == FLICKR30K else ()
    rows = [row for row in paper if row.system.rstrip("*").casefold() == name]
    rows += [row for row in BY_SET.get(data_set, ()) if name in (row.system.casefold(), *_kinds(row.system))]
    return [row for row in rows if row.language == language]


def published_accuracy(system: str, language: str, classes: int, prompts: int) -> tuple[str, float] | None:
    """The model and its top-1, 0 to 1, on Babel-ImageNet in a language, where it was measured by so many classes and prompts."""
    for model, by_language in _OTHERS["babel-imagenet"].items():
        if model != "source" and system.casefold() in (model.casefold(), *_kinds(model)) and language in by_language:
            label, prompted, count = map(float, by_language[language].split())
            if count == classes and prompts in (1, 80):
                return model, (label if prompts == 1 else prompted) / 100
    return None


def _kinds(row: str) -> tuple[str, ...]:
    """What a measured system may be called that a row stands beside: AltCLIP of AltCLIP-m9, ViT-L-14 of "ViT-L-14 openai"."""
    return re.sub(r"-m\d+$", "", row).casefold(), row.partition(" ")[0].casefold()
