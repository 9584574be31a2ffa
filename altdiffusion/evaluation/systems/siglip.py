"""SigLIP, mSigLIP and SigLIP 2, at a fixed size or as NaFlex: transformers' classes, texts as big_vision prepares them.

Texts are in lower case and padded to all positions of the model, by default 64, without an attention mask: the text's
vector is read at the last position, so that padding to the longest of a batch gives something else. SigLIP and mSigLIP
have no ASCII punctuation either. Source: big_vision, SigLIP_demo.ipynb and SigLIP2_demo.ipynb under
configs/proj/image_text, evaluators/proj/image_text/prompt_engineering.py; transformers' SiglipTokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from altdiffusion.checkpoints import tensor_files
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder
from altdiffusion.evaluation.systems.processed_images import ProcessedImages
from altdiffusion.evaluation.systems.vocabulary import load_tokenizer, padded
from altdiffusion.evaluation.systems.weights import find_folder, load_model

BLANKS = 100  # tokens of mSigLIP's vocabulary, which is mT5's, that no text has and the model has no rows for
MANY_LANGUAGES = 100_000  # tokens: mSigLIP's vocabulary has 250,000, SigLIP's 32,000


def load_siglip(name: str, options: Options) -> DualEncoder:
    """A SigLIP from a folder or the hub, e.g. "google/siglip2-base-patch16-256".

    Which of the three it is, its tokenizer says: SigLIP 2 has Gemma's. Images are prepared as preprocessor_config.json says.
    """
    folder = find_folder(name, options)
    if tensor_files.read_config_type(folder) == "siglip2":  # NaFlex: patches of the image's own proportions
        model, processor_class = load_model(Siglip2Model, "siglip2", folder, options), Siglip2ImageProcessorPil
    else:
        model, processor_class = load_model(SiglipModel, "siglip", folder, options), SiglipImageProcessorPil
    settings = model.config.text_config
    path = folder / "tokenizer_config.json"
    kind = str(tensor_files.read_json(path).get("tokenizer_class", "")) if path.is_file() else ""
    is_second = kind.startswith(("Gemma", "Siglip2"))
    tokenizer: Any
    if is_second:
        row = "SigLIP 2"
        tokenizer = load_tokenizer(Siglip2Tokenizer, folder, ["tokenizer.json"], settings.vocab_size)
    else:
        row = "mSigLIP" if settings.vocab_size > MANY_LANGUAGES else "SigLIP"
        tokenizer = load_tokenizer(SiglipTokenizer, folder, ["spiece.model"], settings.vocab_size + BLANKS)
    context = settings.max_position_embeddings

    def encode_texts(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer([text.lower() for text in texts], add_special_tokens=False)["input_ids"]
        ids = torch.full((len(texts), context), tokenizer.pad_token_id)
        for row_of_ids, found in zip(ids, tokens, strict=True):
            kept = [*found[: context - 1], tokenizer.eos_token_id]  # a text that is cut has its end, too
            row_of_ids[: len(kept)] = torch.tensor(kept)
        return model.get_text_features(ids.to(options.device)).pooler_output

    images = ProcessedImages(model, processor_class, folder)
    protocol = padded(context, "max_length")
    return DualEncoder(row, images, encode_texts, options.batch_size, protocol=protocol)
