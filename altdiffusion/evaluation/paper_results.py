"""The model card's table: zero-shot retrieval on Flickr30k's test set, 1000 images with 5 captions each, as published.

Source: Chen et al., AltCLIP: Altering the Language Encoder in CLIP for Extended Language Capabilities, arXiv 2211.06679,
and the model card of BAAI/AltCLIP. All systems have ViT-L image encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

from altdiffusion.metrics import RetrievalMetrics

SOURCE = "AltCLIP paper, arXiv 2211.06679, and the model card of BAAI/AltCLIP"


@dataclass(frozen=True)
class PublishedRow:
    """A row of the table."""

    language: str  # "en" or "zh"
    system: str
    metrics: RetrievalMetrics
    mean: float  # MR as printed, per cent
    note: str = ""


def _row(language: str, system: str, recalls: str, mean: float, note: str = "") -> PublishedRow:
    t1, t5, t10, i1, i5, i10 = map(float, recalls.split())  # text to image, image to text
    return PublishedRow(language, system, RetrievalMetrics((t1, t5, t10), (i1, i5, i10)), mean, note)


_UNKNOWN_ROW = "which of the rows AltCLIP and AltCLIP* the published weights reproduce is unknown"
_CN_CLIP = "elsewhere CN-CLIP's MR is over one direction; here it is the mean of the six recalls"

TABLE = (
    _row("en", "CLIP", "65.0 87.1 92.2 85.1 97.3 99.2", 87.6),
    _row("en", "Taiyi", "25.3 48.2 59.2 39.3 68.1 79.6", 53.3),
    _row("en", "CN-CLIP", "49.5 76.9 83.8 66.5 91.2 96.0", 77.3, _CN_CLIP),
    _row("en", "AltCLIP", "66.3 87.8 92.7 85.9 97.7 99.1", 88.3, _UNKNOWN_ROW),
    _row("en", "AltCLIP*", "72.5 91.6 95.4 86.0 98.0 99.1", 90.4, _UNKNOWN_ROW),
    _row("zh", "CLIP", "0.0 2.4 4.0 2.3 8.1 12.6", 5.0, "the MR is printed as 5.0; the mean of its recalls is 4.9"),
    _row("zh", "Taiyi", "53.7 79.8 86.6 63.8 90.5 95.9", 78.4),
    _row("zh", "Wukong", "51.7 78.9 86.3 76.1 94.8 97.5", 80.9, "compares token by token"),
    _row(
        "zh",
        "R2D2",
        "60.9 86.8 92.7 77.6 96.7 98.9",
        85.6,
        "the printed figures may include re-ranking of the first 128 by a cross-encoder",
    ),
    _row("zh", "CN-CLIP", "68.0 89.7 94.4 80.2 96.6 98.2", 87.9, _CN_CLIP),
    _row("zh", "AltCLIP", "63.7 86.3 92.1 84.7 97.4 98.7", 87.2, _UNKNOWN_ROW),
    _row("zh", "AltCLIP*", "69.8 89.9 94.7 84.8 97.4 98.8", 89.2, _UNKNOWN_ROW),
)


def published_rows(system: str, language: str) -> list[PublishedRow]:
    """The rows that a measured system may be compared with: those of its name, with and without an asterisk."""
    name = system.casefold()
    return [row for row in TABLE if row.language == language and row.system.rstrip("*").casefold() == name]
