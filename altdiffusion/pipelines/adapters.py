"""LoRA and textual inversion files that were made for CLIP's text encoder: what of them fits AltCLIP's."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.textual_inversion import load_textual_inversion_state_dicts
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from diffusers.utils.peft_utils import get_adapter_name, scale_lora_layers
from torch import Tensor
from transformers import AltCLIPTextModel
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils import check_peft_version

from altdiffusion.errors import InputError
from altdiffusion.text_encoder.exit_bridge import BridgedTextEncoder

logger = logging.getLogger(__name__)


def load_lora_into_text_encoder(
    state_dict: dict[str, Tensor], network_alphas: Any, text_encoder: Any, prefix: str | None = None, **kwargs: Any
) -> None:
    """Apply the text half of a LoRA if it was made for AltCLIP's tower; one for CLIP's is left out, with a warning.

    Replaces diffusers' method of this name, and takes its arguments: for AltCLIP's encoder, with a bridge or without,
    and where XL's first encoder was removed. kwargs: adapter_name, lora_scale, metadata, ...
    """
    start = (prefix or "text_encoder") + "."
    half = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
    is_ours = isinstance(text_encoder, AltCLIPTextModel | BridgedTextEncoder)
    if text_encoder is not None and not (is_ours and half):  # without a text half diffusers warns
        load_stock = StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder
        load_stock(state_dict, network_alphas, text_encoder, prefix=prefix, **kwargs)
        return
    tower = "tower." if isinstance(text_encoder, BridgedTextEncoder) else ""
    ours = {
        tower + key: value
        for key, value in ((key.removeprefix(tower), value) for key, value in half.items())
        if key.startswith(("roberta.", "transformation."))
    }
    if left_out := len(half) - len(ours):
        logger.warning(
            "LoRA: %d tensors for CLIP's text encoder were left out, as this pipeline reads prompts with AltCLIP's; "
            "the UNet half is applied",
            left_out,
        )
    if ours and text_encoder is not None:
        if kwargs.get("hotswap"):
            raise InputError("hotswap=True is for LoRAs of a UNet alone, this one has a text half: load it without")
        from peft import LoraConfig

        _check_peft()
        metadata = kwargs.get("metadata") or {}
        settings = {key.removeprefix(start): value for key, value in metadata.items() if key.startswith(start)}
        ranks = {key: value.shape[1] for key, value in ours.items() if key.endswith("lora_B.weight")}
        if not settings:  # without them, as diffusers does: alpha is the rank
            rank = next(iter(ranks.values()))
            settings = {"r": rank, "lora_alpha": rank}
            settings["rank_pattern"] = {key.removesuffix(".lora_B.weight"): rank for key, rank in ranks.items()}
        settings["target_modules"] = [key.removesuffix(".lora_B.weight") for key in ranks]
        text_encoder.load_adapter(
            adapter_name=kwargs.get("adapter_name") or get_adapter_name(text_encoder),
            adapter_state_dict=ours,
            peft_config=LoraConfig(**settings),
        )
        scale_lora_layers(text_encoder, weight=kwargs.get("lora_scale", 1.0))


def with_alphas_in_weights(
    state_dict: dict[str, Tensor], alphas: dict[str, float] | None, *others: Any
) -> tuple[Any, ...]:
    """What a pipeline's `lora_state_dict` gives, with alpha / rank in the weights where a kohya LoRA's layers differ in alpha.

    diffusers looks such alphas up by names that its layers don't have, and takes the most common one for all.
    """
    if not alphas or len(set(alphas.values())) == 1:
        return state_dict, alphas, *others
    scaled = dict(state_dict)
    for key, alpha in alphas.items():
        layer = key.removesuffix(".alpha")
        down = layer if layer in state_dict else f"{layer}.lora.down.weight"
        up = down.replace(".down.", ".up.")
        if down not in state_dict or up not in state_dict:
            return state_dict, alphas, *others
        scaled[up] = state_dict[up] * (alpha / state_dict[down].shape[0])
    return scaled, None, *others


def _check_peft() -> None:
    """Raise InputError where the transformers here wants another peft for a text encoder's LoRA than is installed."""
    try:
        check_peft_version(min_version=MIN_PEFT_VERSION)
    except ValueError:
        versions = importlib.metadata.version
        raise InputError(
            f"transformers {versions('transformers')} wants peft {MIN_PEFT_VERSION} or newer for a text encoder's LoRA, got "
            f'{versions("peft")}: pip install -U "peft>={MIN_PEFT_VERSION}", or where there is none yet, '
            f'pip install "transformers<{versions("transformers")}"'
        ) from None


@contextmanager
def without_lora_layers(models: Sequence[Any]) -> Iterator[None]:
    """For a while, each model with its own layers in place of those that peft put around them.

    What was fused stays in their weights; a warning says what wasn't. None among the models is skipped.
    """
    replaced: list[tuple[Any, str, Any]] = []
    flags: list[Any] = []
    for model in models:
        wrapped = [] if model is None else [name for name, part in model.named_modules() if hasattr(part, "base_layer")]
        for name in wrapped:
            parent, _, child = name.rpartition(".")
            layer = model.get_submodule(name)
            if ".base_layer" not in name:
                replaced.append((model.get_submodule(parent), child, layer))
        if wrapped and getattr(model, "_hf_peft_config_loaded", False):
            flags.append(model)
    if any(not layer.merged for _, _, layer in replaced):
        logger.warning("the LoRA that is loaded is not saved: to save it in the weights, call fuse_lora() before")
    try:
        for parent, child, layer in replaced:
            while hasattr(layer, "base_layer"):
                layer = layer.base_layer
            setattr(parent, child, layer)
        for model in flags:
            model._hf_peft_config_loaded = False  # else transformers writes the adapter alone
        yield
    finally:
        for parent, child, layer in replaced:
            setattr(parent, child, layer)
        for model in flags:
            model._hf_peft_config_loaded = True


def refuse_ip_adapter(unet: Any) -> None:
    """Raise InputError where an IP-Adapter is loaded: a saved UNet would hold tensors that its config knows nothing of."""
    if isinstance(getattr(unet, "encoder_hid_proj", None), MultiIPAdapterImageProjection):
        raise InputError(
            "an IP-Adapter is loaded, which diffusers can't save within a pipeline: call unload_ip_adapter() before, and "
            "load_ip_adapter() again after loading what is saved"
        )


def check_textual_inversion(sources: Any, text_encoder: Any, /, **kwargs: Any) -> None:
    """Raise InputError unless the embeddings of a textual inversion are as wide as the encoder's.

    sources: what `load_textual_inversion` takes: a path, an id, a state dict, or a list of them; kwargs: its others.
    """
    kwargs = {name: kwargs[name] for name in kwargs if name not in ("token", "tokenizer", "text_encoder")}
    width = text_encoder.get_input_embeddings().weight.shape[1]
    reader = "AltCLIP's" if isinstance(text_encoder, AltCLIPTextModel | BridgedTextEncoder) else "CLIP's here"
    for state in load_textual_inversion_state_dicts(sources if isinstance(sources, list) else [sources], **kwargs):
        values = state.get("string_to_param", state) if isinstance(state, dict) else {"embedding": state}
        for value in values.values():
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1] != width:
                raise InputError(
                    f"this textual inversion has embeddings of width {value.shape[-1]}, {reader} are {width}: it was "
                    "made for another text encoder and can't be used here; take one that was trained for this one"
                )
