"""What a visitor may ask for, checked on the server whatever the page allowed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The owner's limits. pixels: of an image to draw; upload_pixels, upload_bytes: of one that is sent."""

    pixels: int = 768 * 768
    steps: int = 100
    images: int = 8  # drawn for one wish, the best of them included
    guidance_scale: float = 30.0
    text: int = 2000  # characters; the models read 77 tokens
    upload_pixels: int = 16 * 10**6
    upload_bytes: int = 10 * 2**20
    pictures: int = 30  # to score
    texts: int = 50  # to score

    @property
    def work(self) -> int:
        """Pixels times steps times images of one wish: four images of the largest size in 50 steps."""
        return self.pixels * 50 * 4
