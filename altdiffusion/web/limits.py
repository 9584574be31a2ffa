"""The owner's limits, which hold on top of the ranges of `ImageSettings`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """pixels: of an image to generate; upload_pixels, upload_bytes: of one that is sent. A field named like a setting is the
    most that it may be."""

    pixels: int = 768 * 768
    steps: int = 100
    images: int = 8  # generated for one request, those that aren't kept included
    guidance_scale: float = 30.0
    text: int = 2000  # characters; the models read 510 tokens
    upload_pixels: int = 16 * 10**6
    upload_bytes: int = 10 * 2**20
    pictures: int = 30  # to score
    texts: int = 50  # to score
    results: int = 60  # of a search

    @property
    def work(self) -> int:
        """Pixels times steps times images of one request: four images of the largest size in 50 steps."""
        return self.pixels * 50 * 4
