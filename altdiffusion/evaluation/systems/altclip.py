"""AltCLIP, in any layout, as `PromptScorer` computes it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image
from torch import Tensor

from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.evaluation.systems.base import Options


class AltCLIPSystem:
    """A `PromptScorer` as a `System`."""

    name = "AltCLIP"
    note = ""

    def __init__(self, scorer: PromptScorer) -> None:
        self.scorer = scorer

    def image_features(self, images: Sequence[Image]) -> Tensor:
        """float32 (images, projection_dim) on the CPU, unit vectors."""
        return self.scorer.image_features(list(images))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """float32 (texts, projection_dim) on the CPU, unit vectors; texts are cut at 77 tokens."""
        return self.scorer.text_features(list(texts))

    def similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """Cosines, float (texts, images)."""
        return text_features @ image_features.T

    image_to_text_similarity = similarity


def load_altclip(name: str, options: Options) -> AltCLIPSystem:
    """An AltCLIP from a folder or the hub, or "mini", the embedded default."""
    return AltCLIPSystem(
        PromptScorer.from_pretrained(
            name,
            dtype=options.dtype,
            device=str(options.device),
            allow_pickle=options.allow_pickle,
            batch_size=options.batch_size,
        )
    )
