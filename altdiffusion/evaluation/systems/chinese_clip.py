"""CN-CLIP: transformers' ChineseCLIPModel, prepared as the authors' own package `cn_clip` does it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image
from torch import Tensor
from transformers import BertTokenizer, ChineseCLIPModel

from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.pixels import squashed_pixels
from altdiffusion.evaluation.systems.vocabulary import VOCABULARY, encode, load_tokenizer, padded
from altdiffusion.evaluation.systems.weights import find_folder, load_model

CONTEXT = 52  # tokens


def load_chinese_clip(name: str, options: Options) -> DualEncoder:
    """A Chinese-CLIP from a folder or the hub, e.g. "OFA-Sys/chinese-clip-vit-large-patch14".

    Texts: lower case, “ and ” become ", cut at 52 tokens. Images: scaled to the model's square without a crop, bicubic.
    These are set here and not read from preprocessor_config.json, because transformers' defaults for this model crop;
    getting it wrong lowers the recalls (Chinese-CLIP, issue 15). Source: cn_clip/clip/utils.py, cn_clip/eval/data.py.
    """
    folder = find_folder(name, options)
    model = load_model(ChineseCLIPModel, "chinese_clip", folder, options)
    tokenizer = load_tokenizer(BertTokenizer, folder, VOCABULARY, model.config.text_config.vocab_size)
    side = model.config.vision_config.image_size

    def encode_images(images: Sequence[Image]) -> Tensor:
        pixels = squashed_pixels(images, side).to(options.device, options.dtype)
        return model.get_image_features(pixels).pooler_output

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, [prepared(text) for text in texts], CONTEXT, options.device)
        return model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output

    return DualEncoder("CN-CLIP", encode_images, encode_texts, options.batch_size, protocol=padded(CONTEXT))


def prepared(text: str) -> str:
    """A text as CN-CLIP was trained with."""
    return text.lower().replace("“", '"').replace("”", '"')
