"""The class that published checkpoints name as their text encoder, for stock diffusers to load them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AltCLIPTextModel

from altdiffusion.checkpoints import tensor_files
from altdiffusion.text_encoder.encoder import build_text_encoder
from altdiffusion.text_encoder.load_options import MODEL_OPTIONS, read_dtype, read_options


class RobertaSeriesModelWithTransformation(AltCLIPTextModel):
    """`from_pretrained` reads any layout and returns a stock `AltCLIPTextModel`. Built from a config, it is one, too."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        **options: Any,
    ) -> AltCLIPTextModel:
        """Takes the arguments of transformers' method. As there, pickles are read unless use_safetensors is True.

        options: as in `load_text_encoder`. Raises InputError for any other, and for what can't be found or read.
        """
        named = ("dtype", "variant", "use_safetensors")
        read = read_options(f"{cls.__name__}.from_pretrained", options, MODEL_OPTIONS, named)
        folder = read.find(pretrained_model_name_or_path, ["*"])
        weights_dtype = read_dtype(dtype, options)
        state = tensor_files.read_weights(folder, variant, use_safetensors, allow_pickle=True, dtype=weights_dtype)
        what = f"the text encoder in {folder}"
        return build_text_encoder(state, tensor_files.read_config(folder), what=what, **read.others)
