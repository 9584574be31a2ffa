"""CLIP, and MetaCLIP 2, which is one in 300 languages: transformers' classes with their own processors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, MetaClip2Model, XLMRobertaTokenizer

from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.processed_images import ProcessedImages
from altdiffusion.evaluation.systems.vocabulary import encode, load_tokenizer, padded
from altdiffusion.evaluation.systems.weights import find_folder, load_model

CONTEXT = 77  # tokens


def load_clip(name: str, options: Options) -> DualEncoder:
    """A CLIP from a folder or the hub. Chinese is read too, as bytes, though CLIP has learned next to none of it.

    Texts are lower-cased by the tokenizer and cut at 77 tokens; images are prepared as preprocessor_config.json says.
    """
    folder = find_folder(name, options)
    return _dual_encoder("CLIP", clip_images(folder, options), CLIPTokenizer, "vocab.json", folder, options)


def load_metaclip_2(name: str, options: Options) -> DualEncoder:
    """A MetaCLIP 2 from a folder or the hub, e.g. "facebook/metaclip-2-worldwide-huge-quickgelu".

    Texts keep their case and are cut at 77 tokens of XLM-V's tokenizer; images are prepared as preprocessor_config.json
    says, which squashes them. Source: transformers' convert_metaclip_2_to_hf.py.
    """
    folder = find_folder(name, options)
    images = ProcessedImages(load_model(MetaClip2Model, "metaclip_2", folder, options), CLIPImageProcessorPil, folder)
    return _dual_encoder("MetaCLIP 2", images, XLMRobertaTokenizer, "sentencepiece.bpe.model", folder, options)


def clip_images(folder: Path, options: Options) -> ProcessedImages:
    """The image encoder of a CLIP, and the whole model in it: images to vectors, float (batch, projection_dim)."""
    return ProcessedImages(load_model(CLIPModel, "clip", folder, options), CLIPImageProcessorPil, folder)


def _dual_encoder(
    row: str, images: ProcessedImages, tokenizer_class: Any, vocabulary: str, folder: Path, options: Options
) -> DualEncoder:
    model = images.model
    settings = model.config.text_config
    tokenizer = load_tokenizer(tokenizer_class, folder, ["tokenizer.json", vocabulary], settings.vocab_size)
    context = min(CONTEXT, settings.max_position_embeddings)

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, context, options.device)
        return model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output

    return DualEncoder(row, images, encode_texts, options.batch_size, protocol=padded(context))
