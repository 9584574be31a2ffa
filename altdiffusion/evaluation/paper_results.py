"""The model card's table: zero-shot retrieval on Flickr30k's test set, 1000 images with 5 captions each, as published.

Source: Chen et al., AltCLIP: Altering the Language Encoder in CLIP for Extended Language Capabilities, arXiv 2211.06679,
and the model card of BAAI/AltCLIP. All systems have ViT-L image encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

from altdiffusion.files import packaged_toml
from altdiffusion.metrics import RetrievalMetrics

_FILE = packaged_toml(__package__, "paper_results.toml")
SOURCE: str = _FILE["source"]


@dataclass(frozen=True)
class PublishedRow:
    """A row of the table."""

    language: str  # "en" or "zh"
    system: str
    metrics: RetrievalMetrics
    mean: float  # MR as printed, per cent
    note: str = ""


def _row(language: str, system: str, printed: str) -> PublishedRow:
    t1, t5, t10, i1, i5, i10, mean = map(float, printed.split())  # text to image, image to text
    note = _FILE["notes"][language].get(system, "")
    return PublishedRow(language, system, RetrievalMetrics((t1, t5, t10), (i1, i5, i10)), mean, note)


TABLE = tuple(_row(language, *row) for language in ("en", "zh") for row in _FILE[language].items())


def published_rows(system: str, language: str) -> list[PublishedRow]:
    """The rows that a measured system may be compared with: those of its name, with and without an asterisk."""
    name = system.casefold()
    return [row for row in TABLE if row.language == language and row.system.rstrip("*").casefold() == name]
