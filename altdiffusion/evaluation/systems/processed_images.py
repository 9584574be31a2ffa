"""Images as preprocessor_config.json says, through the image encoder of a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from altdiffusion.errors import InputError, first_line


class ProcessedImages:
    """The image encoder of a model: images to vectors, float (batch, width).

    Pillow scales them, as in the authors' own code; with torchvision at hand, transformers' usual classes would not.
    """

    def __init__(self, model: Any, processor_class: Any, folder: Path) -> None:
        """folder: which holds the settings of the processor. Raises InputError where they are missing or don't fit."""
        self.model = model
        if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            raise InputError(f"no preprocessor_config.json in {folder}: it says how the model wants its images")
        try:
            self._processor: Any = processor_class.from_pretrained(folder)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"preprocessor_config.json in {folder} can't be read: {first_line(error)}") from None
        pixels = self._inputs([Image.new("RGB", (9, 7))])["pixel_values"]
        side = getattr(model.config.vision_config, "image_size", None)
        if pixels.dim() == 4 and tuple(pixels.shape[2:]) != (side, side):  # patches of any number have no side
            height, width = pixels.shape[2:]
            raise InputError(f"preprocessor_config.json in {folder} makes {width} x {height} pixels, expected {side}")

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = {
            name: tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else None)
            for name, tensor in self._inputs(images).items()
        }
        return self.model.get_image_features(**inputs).pooler_output

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return dict(self._processor(list(images), return_tensors="pt"))
