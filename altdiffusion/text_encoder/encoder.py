"""The drop-in text encoder: a stock `transformers.AltCLIPTextModel`, made fast and complete.

There is no model class of our own: what is added lives on the instance (`forward.py`), so what is saved stays stock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AltCLIPTextConfig, AltCLIPTextModel, XLMRobertaTokenizer

from altdiffusion.checkpoints import hub, layouts, tensor_files
from altdiffusion.errors import InputError, first_line
from altdiffusion.text_encoder.forward import patch_forward
from altdiffusion.text_encoder.load_options import MODEL_OPTIONS, LoadOptions, read_dtype, read_options
from altdiffusion.text_encoder.tokenizer import TOKENIZER_FILES, choose_tokenizer, has_tokenizer, hub_files

logger = logging.getLogger(__name__)


def load_text_encoder(
    model: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    tokenizer: str | Path | XLMRobertaTokenizer | None = None,
    allow_pickle: bool = False,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    **options: Any,
) -> tuple[AltCLIPTextModel, XLMRobertaTokenizer]:
    """AltCLIP's text tower and its tokenizer, ready to take the place of CLIP's in a Stable Diffusion pipeline.

    The encoder takes input_ids and attention_mask, int64 (batch, 77), and gives `last_hidden_state` (batch, 77, width),
    which conditions the UNet: width 768 for Stable Diffusion 1.x, 1024 for 2.x.

    model: None (the embedded default), an id on the hub, a folder (AltDiffusion, AltCLIP, or what `convert` wrote)
        or a single file (.safetensors, .ckpt), in any layout that `layouts.py` knows.
    dtype: of the weights, or its name; None means float32, "auto" as they are stored. torch_dtype is the same.
    tokenizer: where to take it from if the model, a single file say, has none; by default XLM-R's on the hub.
    allow_pickle: read .bin and .ckpt files (with torch's weights_only).
    variant, use_safetensors: which files of a folder, as in diffusers.
    options: as in transformers: attn_implementation, device_map (e.g. "auto"), max_memory, quantization_config, subfolder,
        and the hub's: revision, token, cache_dir, ...
    Raises InputError for what can't be found or read, for tensors that are missing or left over, and for any other option.
    """
    read = check_encoder_options("load_text_encoder", options)
    weights_dtype = read_dtype(dtype, options)
    root = read.find(model, hub_files(allow_pickle))
    files: dict[str, Any] = {"allow_pickle": allow_pickle, "variant": variant, "use_safetensors": use_safetensors}
    encoder = read_text_encoder(root, weights_dtype, read.others, **files)
    if tokenizer is None and read.subfolder and not has_tokenizer(root):  # beside `text_encoder`, not in it
        tokenizer = hub.resolve(model, TOKENIZER_FILES, **read.hub)
    return encoder, choose_tokenizer(tokenizer, root, **read.elsewhere)


def check_encoder_options(caller: str, options: dict[str, Any], named: Sequence[str] = ()) -> LoadOptions:
    """What `load_text_encoder` takes in its options, for a caller that passes them on. Raises InputError for any other."""
    own = ("dtype", "tokenizer", "allow_pickle", "variant", "use_safetensors")
    return read_options(caller, options, MODEL_OPTIONS, (*named, *own))


def read_text_encoder(
    root: Path, dtype: torch.dtype | None = torch.float32, model_options: dict[str, Any] | None = None, **files: Any
) -> AltCLIPTextModel:
    """The text tower in a folder (or its subfolder `text_encoder`) or a file.

    dtype: None: as stored. model_options: of transformers, see MODEL_OPTIONS. files: of `tensor_files.read_weights`.
    """
    folder = root / "text_encoder" if (root / "text_encoder").is_dir() else root
    state = tensor_files.read_weights(folder, dtype=dtype, wanted=_may_be_text, **files)
    config = tensor_files.read_config(folder)
    return build_text_encoder(state, config, what=f"the text encoder of {root}", **(model_options or {}))


def check_text_encoder(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> None:
    """Raise InputError unless a folder holds every tensor of the encoder, and no other. Nothing is loaded, only mapped."""
    state = tensor_files.read_weights(folder, variant, use_safetensors, allow_pickle=use_safetensors is not True)
    _to_stock(state, tensor_files.read_config(folder), f"the text encoder in {folder}")


def _may_be_text(key: str) -> bool:
    """Whether a tensor isn't of the UNet, the VAE or the vision tower, which may lie in the same file."""
    return not key.startswith((layouts.LDM_UNET, layouts.LDM_VAE, "model_ema.", "vision_model."))


def build_text_encoder(
    state: layouts.State, config: dict[str, Any] | None = None, *, what: str, **model_options: Any
) -> AltCLIPTextModel:
    """The encoder of a state dict in any layout, in the state's dtype. config: its config.json. what: its name in errors.

    model_options: of transformers, see MODEL_OPTIONS.
    """
    stock_config, stock = _to_stock(state, config, what)
    dtype = stock["transformation.weight"].dtype
    encoder = AltCLIPTextModel.from_pretrained(
        None, config=stock_config, state_dict=stock, dtype=dtype, **model_options
    )
    return patch_forward(encoder.eval())


def _to_stock(
    state: layouts.State, config: dict[str, Any] | None, what: str
) -> tuple[AltCLIPTextConfig, dict[str, Tensor]]:
    """The stock config and state dict of a text encoder in any layout. Raises InputError unless its tensors fit exactly."""
    settings, stock = layouts.to_stock(layouts.text_encoder_part(state), config)
    try:
        stock_config = AltCLIPTextConfig(**settings)
        with torch.device("meta"):
            expected = AltCLIPTextModel(stock_config).state_dict()
    except Exception as error:  # on settings that make no sense, transformers raises whatever it stumbles over
        raise InputError(f"{what} can't be built by its config.json: {first_line(error)}") from None
    layouts.check_names(stock, expected, what)
    return stock_config, stock
