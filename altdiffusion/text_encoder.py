"""The drop-in text encoder: a stock `transformers.AltCLIPTextModel`, made fast and complete by hooks.

No model class of our own: the hooks below live on the instance, so whatever it is saved into stays stock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AltCLIPTextConfig, AltCLIPTextModel, XLMRobertaTokenizer

from altdiffusion import checkpoints, sources, weights
from altdiffusion.errors import InputError, first_line

MAX_TOKENS = 77  # what every Stable Diffusion UNet was trained with

logger = logging.getLogger(__name__)


def load_text_encoder(
    model: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device_map: Any = None,
    tokenizer: str | Path | XLMRobertaTokenizer | None = None,
    allow_pickle: bool = False,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    **hub: Any,
) -> tuple[AltCLIPTextModel, XLMRobertaTokenizer]:
    """AltCLIP's text tower and its tokenizer, ready to stand in for CLIP's in a Stable Diffusion pipeline.

    The encoder takes input_ids and attention_mask (batch, 77) and gives `last_hidden_state` (batch, 77, width), the
    conditioning: width 768 for UNets of Stable Diffusion 1.x, 1024 for 2.x.

    model: None (the embedded default), an id on the hub, a folder (AltDiffusion, AltCLIP, or what `convert` wrote)
        or a single file (.safetensors, .ckpt), in any layout that `checkpoints.py` knows.
    dtype: of the weights; None means float32.
    device_map: as in transformers, e.g. "auto".
    tokenizer: where to take it from if the model has none, as a single file; by default XLM-R's on the hub.
    allow_pickle: read .bin and .ckpt files (with torch's weights_only).
    variant, use_safetensors: which files of a folder, as in diffusers. hub: revision, token, cache_dir, ...
    Raises InputError for what can't be found or read, and for tensors that are missing or left over.
    """
    root = sources.locate(model, hub_files(allow_pickle), **hub)
    folder = root / "text_encoder" if (root / "text_encoder").is_dir() else root
    files = [root] if root.is_file() else weights.weight_files(folder, variant, use_safetensors)
    state = weights.read_files(files, allow_pickle=allow_pickle, dtype=dtype or torch.float32, wanted=_is_wanted)
    config = {} if root.is_file() else weights.read_config(folder)
    encoder = build_text_encoder(state, config, what=f"the text encoder of {root}", device_map=device_map)
    return encoder, load_tokenizer(tokenizer if tokenizer is not None else root, **hub)


def hub_files(allow_pickle: bool) -> list[str]:
    """The files of a repository that `load_text_encoder` needs, as patterns."""
    patterns = [*_TOKENIZER_FILES, "text_encoder/*.safetensors", "text_encoder/*.json", "model*.safetensors"]
    return [*patterns, "text_encoder/*.bin", "pytorch_model*.bin"] if allow_pickle else patterns


_TOKENIZER_FILES = ["*.json", "*.model", "tokenizer/*.json", "tokenizer/*.model"]


def check_text_encoder(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> None:
    """Raise InputError unless a folder holds every tensor of the encoder, and no other. Nothing is loaded, only mapped."""
    files = weights.weight_files(folder, variant, use_safetensors)
    state = weights.read_files(files, allow_pickle=use_safetensors is not True)
    _fitting(state, weights.read_config(folder), f"the text encoder in {folder}")


def _is_wanted(key: str) -> bool:
    """Not the UNet, the VAE or the vision tower, which may lie in the same file."""
    return not key.startswith((checkpoints.LDM_UNET, checkpoints.LDM_VAE, "model_ema.", "vision_model."))


def build_text_encoder(
    state: checkpoints.State, config: dict[str, Any] | None = None, *, what: str, device_map: Any = None
) -> AltCLIPTextModel:
    """The encoder of a state dict in any layout, in the state's dtype. config: its config.json. what: its name in errors."""
    stock_config, stock = _fitting(state, config, what)
    dtype = stock["transformation.weight"].dtype
    encoder = AltCLIPTextModel.from_pretrained(
        None, config=stock_config, state_dict=stock, dtype=dtype, device_map=device_map
    )
    return equip(encoder.eval())


def _fitting(
    state: checkpoints.State, config: dict[str, Any] | None, what: str
) -> tuple[AltCLIPTextConfig, dict[str, Tensor]]:
    """The stock config and state dict of a text encoder in any layout, if its tensors are exactly the ones needed."""
    settings, stock = checkpoints.to_stock(checkpoints.text_encoder_part(state), config)
    stock_config = AltCLIPTextConfig(**settings)
    with torch.device("meta"):
        expected = AltCLIPTextModel(stock_config).state_dict()
    checkpoints.check_names(stock, expected, what)
    return stock_config, stock


def load_tokenizer(source: str | Path | XLMRobertaTokenizer, **hub: Any) -> XLMRobertaTokenizer:
    """XLM-R's tokenizer, cutting at 77 tokens, from a folder (or its subfolder `tokenizer`) or an id on the hub.

    A single file carries no tokenizer: then the one that all AltDiffusion models use is taken from the hub.
    """
    if isinstance(source, str | Path):
        root = sources.locate(source, _TOKENIZER_FILES, **hub)
        if root.is_file():
            logger.warning("%s carries no tokenizer: taking %s", root.name, sources.XLM_R)
            try:
                root = sources.locate(sources.XLM_R, _TOKENIZER_FILES, **hub)
            except InputError as error:
                raise InputError(
                    f"{root} is a single file and carries no tokenizer: pass tokenizer= (--tokenizer), a folder with "
                    f"XLM-R's 'tokenizer.json' or 'sentencepiece.bpe.model' ({error})"
                ) from None
        folder = root / "tokenizer" if (root / "tokenizer").is_dir() else root
        if not any((folder / name).is_file() for name in ("tokenizer.json", "sentencepiece.bpe.model")):
            raise InputError(f"no tokenizer in {folder}: expected tokenizer.json or sentencepiece.bpe.model")
        try:
            tokenizer = XLMRobertaTokenizer.from_pretrained(folder)
        except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
            raise InputError(f"the tokenizer in {folder} can't be read: {first_line(error)}") from None
    else:
        tokenizer = source
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def equip(encoder: AltCLIPTextModel) -> AltCLIPTextModel:
    """Trim padding and support `clip_skip` on this encoder, in place. Outputs stay the same.

    Calling it twice changes nothing. The encoder's class, its state dict and what `save_pretrained` writes stay stock.
    """
    if not isinstance(getattr(encoder, "text_model", None), _ClipSkip):
        encoder.text_model = _ClipSkip(encoder)
        encoder.register_forward_pre_hook(_trim_padding, with_kwargs=True)
        encoder.register_forward_hook(_restore_padding, with_kwargs=True)
    return encoder


@dataclass
class _ClipSkip:
    """What diffusers' `clip_skip` asks of an encoder: `encoder.text_model.final_layer_norm(hidden_states)`.

    For CLIP that is a LayerNorm; here it is all that follows the last layer, so that an earlier layer takes
    the same way to the UNet. A plain object, not a module: it must not show up in the state dict.
    """

    encoder: AltCLIPTextModel

    def final_layer_norm(self, hidden_states: Tensor) -> Tensor:
        return self.encoder.transformation(self.encoder.pre_LN(hidden_states))


class _TrimmedCall(dict[str, Any]):
    """The keyword arguments of a trimmed call, and the number of padding rows that its output must get back."""

    missing: int


def _trim_padding(encoder: AltCLIPTextModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Keep the real tokens and one padding token.

    XLM-R gives all padding tokens one position, so with the attention mask all padding rows of every layer are
    identical and one of them is enough. A missing mask is derived from the padding id: no row ever means to attend
    to padding. Left whole: training (dropout differs from row to row), inputs_embeds, own position_ids, attention maps,
    tuples, and torch.compile, which wants one static shape.
    """
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
    call = dict(zip(names, args, strict=False)) | kwargs
    ids, mask = call.get("input_ids"), call.get("attention_mask")
    if ids is None or ids.dim() != 2:
        return None
    if mask is None:
        mask = call["attention_mask"] = ids.ne(encoder.config.pad_token_id).long()

    whole = encoder.training or torch.compiler.is_compiling() or mask.dim() != 2
    whole |= call.get("return_dict") is False or call.get("output_attentions") is True
    if whole or call.get("position_ids") is not None or call.get("inputs_embeds") is not None:
        return (), call
    used = (ids.ne(encoder.config.pad_token_id) | mask.bool()).any(0)
    length = int(used.nonzero().max()) + 2 if bool(used.any()) else 1
    if length >= ids.shape[1]:
        return (), call
    trimmed = _TrimmedCall(call)
    trimmed.missing = ids.shape[1] - length
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if call.get(name) is not None:
            trimmed[name] = call[name][:, :length]
    return (), trimmed


def _restore_padding(encoder: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Repeat the one padding row up to the full length, in every tensor of token states."""
    if not isinstance(kwargs, _TrimmedCall):
        return None

    def restore(states: Tensor) -> Tensor:
        return torch.cat([states, states[:, -1:].expand(-1, kwargs.missing, -1)], dim=1)

    output.last_hidden_state = restore(output.last_hidden_state)
    if output.hidden_states is not None:
        output.hidden_states = tuple(restore(states) for states in output.hidden_states)
    return output
