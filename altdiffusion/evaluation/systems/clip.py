"""CLIP: transformers' CLIPModel with its own processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.vocabulary import encode, load_tokenizer, padded
from altdiffusion.evaluation.systems.weights import find_folder, load_model

CONTEXT = 77  # tokens


def load_clip(name: str, options: Options) -> DualEncoder:
    """A CLIP from a folder or the hub. Chinese is read too, as bytes, though CLIP has learned next to none of it.

    Texts are lower-cased by the tokenizer and cut at 77 tokens; images are prepared as preprocessor_config.json says.
    """
    folder = find_folder(name, options)
    encode_images = CLIPImages(folder, options)
    model = encode_images.model
    settings = model.config.text_config
    tokenizer = load_tokenizer(CLIPTokenizer, folder, ["tokenizer.json", "vocab.json"], settings.vocab_size)
    context = min(CONTEXT, settings.max_position_embeddings)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, context, options.device)
        return model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output

    return DualEncoder("CLIP", encode_images, encode_texts, options.batch_size, protocol=padded(context))


class CLIPImages:
    """The image encoder of a CLIP: images to vectors, float (batch, projection_dim).

    Pillow scales them, as in OpenAI's own code; with torchvision at hand, transformers' CLIPImageProcessor would not.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self.model: Any = load_model(CLIPModel, "clip", folder, options)
        if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            raise InputError(f"no preprocessor_config.json in {folder}: it says how the model wants its images")
        try:
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(folder)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"preprocessor_config.json in {folder} can't be read: {first_line(error)}") from None
        side = self.model.config.vision_config.image_size
        height, width = self._pixels([Image.new("RGB", (9, 7))]).shape[2:]
        if (height, width) != (side, side):
            raise InputError(f"preprocessor_config.json in {folder} makes {width} x {height} pixels, expected {side}")

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = self._pixels(images).to(self.model.device, self.model.dtype)
        return self.model.get_image_features(pixels).pooler_output

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return self._processor(list(images), return_tensors="pt")["pixel_values"]
