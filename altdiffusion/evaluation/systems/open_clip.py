"""Every model of the package open_clip, an optional peer: pip install open_clip_torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.datasets.caption_languages import flores_code
from altdiffusion.evaluation.systems.base import Options
from altdiffusion.evaluation.systems.dual_encoder import DualEncoder

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
SCHEMAS = ("hf-hub:", "local-dir:")


def load_open_clip(name: str, options: Options) -> DualEncoder:
    """A model of open_clip, with the preprocessing, tokenizer and text length that its configuration says.

    name: "MODEL/TAG", e.g. "xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k" (or MODEL/FILE), or
        "hf-hub:OWNER/NAME", or "local-dir:FOLDER". The table's name is MODEL, NAME or the folder's.
    A model with NLLB's tokenizer, such as "nllb-clip-base-siglip/v1", reads texts as English until `tell_language`.
    Raises InputError where the package is missing, and where no weights are named or found.
    """
    open_clip = _import()
    has_schema = name.startswith(SCHEMAS)
    model_name, tag = (name, None) if has_schema else (name.partition("/")[0], name.partition("/")[2])
    if tag == "":
        raise InputError(
            f"open_clip:{name} names no weights: expected open_clip:MODEL/TAG, e.g. "
            "open_clip:xlm-roberta-large-ViT-H-14/frozen_laion5b_s13b_b90k"
        )
    try:
        model, preprocess = open_clip.create_model_from_pretrained(
            model_name, tag, precision=PRECISIONS[options.dtype], device=options.device, weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # RuntimeError, ValueError, FileNotFoundError, and what its many parts raise
        raise InputError(f"open_clip can't load {name}: {first_line(error)[:300]}") from error
    model.eval()

    def encode_images(images: Sequence[Image]) -> Tensor:
        pixels = torch.stack([preprocess(image) for image in images])
        return model.encode_image(pixels.to(options.device, options.dtype))

    def encode_texts(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(texts)).to(options.device))

    def use_language(language: str) -> str:
        code = flores_code(language)
        words = tokenizer.tokenizer
        if code is None or words.convert_tokens_to_ids(code) == words.unk_token_id:
            raise InputError(
                f"{row} has to be told the language of its texts, and NLLB has none that is called {language!r}: "
                "name it, such as de or deu_Latn (--language)"
            )
        words.src_lang = code  # open_clip's own set_language is undone by the next call of transformers 5
        return f"texts as {code}"

    row = Path(model_name.partition(":")[2]).name if has_schema else model_name
    context = getattr(tokenizer, "context_length", None)
    protocol = {"padding": f"to {context} tokens" if context else "as its tokenizer does"}
    system = DualEncoder(row, encode_images, encode_texts, options.batch_size, protocol=protocol)
    if current := getattr(
        getattr(tokenizer, "tokenizer", None), "src_lang", None
    ):  # NLLB's: the first token is the language
        system.protocol["language"] = f"texts as {current}"
        system.use_language = use_language
    return system


def _import() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            f"open_clip: models need the package open_clip ({first_line(error)}): pip install open_clip_torch"
        ) from None
    return open_clip
