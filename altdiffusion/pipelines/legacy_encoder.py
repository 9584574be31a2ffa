"""The class that published checkpoints name as their text encoder, for stock diffusers to load them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AltCLIPTextModel

from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.text_encoder.encoder import build_text_encoder


class RobertaSeriesModelWithTransformation(AltCLIPTextModel):
    """`from_pretrained` reads any layout and returns a stock `AltCLIPTextModel`; there are no instances of this class."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        subfolder: str = "",
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        device_map: Any = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> AltCLIPTextModel:
        """Takes the arguments of transformers' method. As there, pickles are read unless use_safetensors is True."""
        hub_options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        patterns = [f"{subfolder}/*" if subfolder else "*"]
        folder = hub.resolve(pretrained_model_name_or_path, patterns, **hub_options) / subfolder
        dtype = dtype or torch_dtype or torch.float32
        state = tensor_files.read_weights(folder, variant, use_safetensors, allow_pickle=True, dtype=dtype)
        return build_text_encoder(
            state, tensor_files.read_config(folder), what=f"the text encoder in {folder}", device_map=device_map
        )
