"""Taiyi: a Chinese BERT whose classes are the dimensions of an OpenAI CLIP's space."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification, BertTokenizer

from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.clip import clip_images
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.vocabulary import VOCABULARY, encode, load_tokenizer, padded, split_name
from altdiffusion.evaluation.systems.weights import find_folder, load_model

CONTEXT = 77  # tokens
VISION = "openai/clip-vit-large-patch14"


def load_taiyi(name: str, options: Options) -> DualEncoder:
    """A Taiyi from a folder or the hub: "IDEA-CCNL/Taiyi-CLIP-Roberta-large-326M-Chinese", or "TEXT+VISION".

    VISION: the CLIP that the images go through, by default OpenAI's ViT-L/14; the 102M text tower needs ViT-B/32.
    A text's vector is the classifier's `logits`. Texts are padded to 77 tokens without an attention mask, as they are in
    the authors' training and Flickr test (Fengshenbang-LM, examples/clip_finetune/clip_finetune_flickr.py and
    data/clip_dataloader/flickr.py): the model reads the padding, so neither may be trimmed.
    """
    text_name, vision_name = split_name(name)
    folder = find_folder(text_name, options)
    model = load_model(BertForSequenceClassification, "bert", folder, options)
    tokenizer = load_tokenizer(BertTokenizer, folder, VOCABULARY, model.config.vocab_size)
    encode_images = clip_images(find_folder(vision_name or VISION, options), options)
    if model.config.num_labels != encode_images.model.config.projection_dim:
        raise InputError(
            f"Taiyi's text vectors have {model.config.num_labels} dimensions, those of {vision_name or VISION} "
            f"{encode_images.model.config.projection_dim}: name the CLIP that it was trained with, taiyi:TEXT+VISION"
        )

    def encode_texts(texts: Sequence[str]) -> Tensor:
        inputs = encode(tokenizer, texts, CONTEXT, options.device, padding="max_length")
        return model(input_ids=inputs["input_ids"]).logits

    protocol = padded(CONTEXT, "max_length")
    return DualEncoder("Taiyi", encode_images, encode_texts, options.batch_size, protocol=protocol)
