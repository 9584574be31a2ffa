"""A system of one vector for an image and one for a text, compared by their cosine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from altdiffusion.errors import InputError

Item = TypeVar("Item")


@dataclass
class DualEncoder:
    """A `System` of two functions that turn a batch into vectors, float (batch, width), of any length, on any device."""

    name: str
    encode_images: Callable[[Sequence[Image]], Tensor]
    encode_texts: Callable[[Sequence[str]], Tensor]
    batch_size: int
    note: str = ""  # what the table says below it
    protocol: dict[str, str] = field(default_factory=dict)  # how it computes: see `System`
    use_language: Callable[[str], str] | None = None  # takes a language's code, gives its name in the protocol

    def image_features(self, images: Sequence[Image]) -> Tensor:
        """float32 (images, width) on the CPU, unit vectors."""
        return in_batches(self.encode_images, images, self.batch_size)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """float32 (texts, width) on the CPU, unit vectors. Sorted by length, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        rows = in_batches(self.encode_texts, [texts[index] for index in order], self.batch_size)
        return torch.empty_like(rows).index_copy_(0, torch.tensor(order), rows)

    def similarity(self, text_features: Tensor, image_features: Tensor, /) -> Tensor:
        """Cosines, float (texts, images)."""
        return text_features @ image_features.T

    image_to_text_similarity = similarity


def in_batches(encode: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], batch_size: int) -> Tensor:
    """Encodes the items batch by batch, to unit vectors, float32 on the CPU; vectors of zeros stay as they are.

    Raises InputError where there is nothing to encode, and where the features are not finite.
    """
    if not items:
        raise InputError("no features of nothing: expected at least one image or text")
    with torch.inference_mode():
        rows = [
            F.normalize(encode(items[start : start + batch_size]).float(), dim=-1).cpu()
            for start in range(0, len(items), batch_size)
        ]
    features = torch.cat(rows)  # outside, so that it is no inference tensor
    if not features.isfinite().all():
        raise InputError("the model's features are NaN: compute in float32 (--dtype float32)")
    return features
