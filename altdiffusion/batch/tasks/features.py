"""Features of a partition's images and captions by AltCLIP: what `score` and `embed` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from altdiffusion.altclip.image_inputs import AnyImage
from altdiffusion.altclip.scorer import PromptScorer
from altdiffusion.batch.items import Item
from altdiffusion.batch.settings import ModelSettings
from altdiffusion.batch.tasks.base import OnDone


@dataclass(frozen=True)
class Features:
    """Of the items that could be used: unit vectors, float32 (items, projection_dim). None where they weren't asked for."""

    items: list[Item]
    images: Tensor | None
    texts: Tensor | None
    bad: list[tuple[Item, str]]


def load_scorer(settings: ModelSettings, device: str | None, calibration: str | None = None) -> PromptScorer:
    """Nothing is cached: no image comes twice, and prompts' features are held."""
    return PromptScorer.from_pretrained(
        settings.model, dtype=settings.dtype, device=device, allow_pickle=settings.allow_pickle,
        batch_size=settings.batch_size, cache_size=0, calibration=calibration,
    )  # fmt: skip


def features(scorer: PromptScorer, items: Iterable[Item], images: bool, texts: bool, on_done: OnDone) -> Features:
    """images, texts: whether an item must have one, and its features are wanted.

    Images are read while others are computed, and not held: memory grows with the features alone.
    """
    usable, bad = list[Item](), list[tuple[Item, str]]()

    def images_of_usable() -> Iterator[AnyImage]:
        for item in items:
            lacks = "no image" if images and item.image is None else "no caption" if texts and item.text is None else ""
            image, item.image = item.image, None
            if item.defect or lacks:
                bad.append((item, item.defect or lacks))
                on_done(1)
                continue
            usable.append(item)
            if images:
                assert image is not None
                yield image

    of_images = of_texts = None
    if images:
        defects: dict[int, str] = {}
        of_images = scorer.image_features(images_of_usable(), defects, on_done)
        bad += [(usable[index], reason) for index, reason in defects.items()]
        good = [index for index in range(len(usable)) if index not in defects]
        of_images, usable = of_images[good], [usable[index] for index in good]
    else:
        for _ in images_of_usable():
            pass
    if texts:
        of_texts = scorer.text_features([item.text or "" for item in usable])
        on_done(0 if images else len(usable))
    return Features(usable, of_images, of_texts, sorted(bad, key=lambda found: found[0].index))
