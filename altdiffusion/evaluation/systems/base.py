"""What an evaluation asks of a model that compares images with texts, and what a family's loader is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor


class System(Protocol):
    """A row of a table: AltCLIP, CLIP, CN-CLIP, ... each with its own preprocessing.

    Features are float32 on the CPU, unit vectors: (n, width), or (n, tokens, width) for a system that compares token by
    token, where padding is a zero vector.
    """

    name: str  # as the table shows it
    note: str  # what must be known about its metrics, "" if nothing
    protocol: dict[str, str]  # how it computes: "padding" of texts, "precision", "model" and its revision

    def image_features(self, images: Sequence[Image]) -> Tensor:
        """Features of RGB images of any sizes."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts of any lengths."""
        ...

    def similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """How well each text fits each image by text to image: float (texts, images)."""
        ...

    def image_to_text_similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """The same for the other direction, float (texts, images): differs only in token-wise systems."""
        ...


def tell_language(system: System, language: str) -> None:
    """Tell a system what language the texts that follow are in, where it has to know (open_clip's NLLB).

    language: "en", "zh", ..., or a code of FLORES-200. Raises InputError for one that the system doesn't have.
    """
    if (use_language := getattr(system, "use_language", None)) is not None:
        system.protocol["language"] = use_language(language)


@dataclass(frozen=True)
class Options:
    """Where and how a system computes, and whether it may read pickles."""

    device: torch.device
    dtype: torch.dtype
    batch_size: int
    allow_pickle: bool
