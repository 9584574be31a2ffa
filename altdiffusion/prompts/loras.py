"""The weights that a prompt gives to LoRAs: `<lora:ink:0.8>` is for the adapter `ink` of a pipeline, while it generates.

A LoRA is matrices beside a model's own, and its weight a number beside these: nothing is copied or merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.prompt_syntax import LoraTag

_PARTS = ("unet", "text_encoder", "text_encoder_2")
Weights = Mapping[str, tuple[float, float]]  # adapter -> its weights in the UNet and in the text encoder


def adapter_name(name: str) -> str:
    """What the adapter of a LoRA is called: PyTorch allows no point in a name."""
    return name.replace(".", "_")


def loaded_adapters(pipe: Any) -> set[str]:
    """The names of a pipeline's LoRAs."""
    return {name for _, layer in _layers(pipe) for name in layer.scaling}


def check_loaded(pipe: Any, names: Iterable[str]) -> None:
    """Raise InputError for a LoRA of a prompt that a pipeline hasn't."""
    known = loaded_adapters(pipe) if (names := list(names)) else set()
    for name in names:
        if adapter_name(name) not in known:
            there = f"loaded: {', '.join(sorted(known))}" if known else "none is loaded"
            raise InputError(
                f"<lora:{name}>: this model has no LoRA of that name, {there}: load it with that adapter_name, or leave it out"
            )


def set_weights(pipe: Any, weights: Weights) -> None:
    """Make these the LoRAs that act, with these weights; the others stay loaded and don't act."""
    for in_unet, layer in _layers(pipe):
        layer.enable_adapters(True)
        layer.set_adapter([name for name in weights if name in layer.scaling], inference_mode=True)
        _scale(layer, in_unet, weights)


@contextmanager
def lora_weights(pipe: Any, tags: Sequence[LoraTag]) -> Iterator[None]:
    """For a while, a pipeline with the LoRAs of a prompt at its weights; those that it doesn't name keep their own.

    Raises InputError for a LoRA that isn't loaded, and for one that was fused, whose weight is in the model's.
    """
    if not tags:
        yield
        return
    layers = _layers(pipe)
    weights = {
        adapter_name(tag.name): (tag.weight, tag.weight if tag.text_encoder_weight is None else tag.text_encoder_weight)
        for tag in tags
    }
    check_loaded(pipe, [tag.name for tag in tags])
    for tag in tags:
        if any(adapter_name(tag.name) in layer.merged_adapters for _, layer in layers):
            raise InputError(f"<lora:{tag.name}>: this LoRA was fused, its weight can't change: unfuse_lora() before")
    before = [
        (layer, list(layer.active_adapters), dict(layer.scaling), layer.disable_adapters,
         [(parameter, parameter.requires_grad) for parameter in layer.parameters()])
        for _, layer in layers
    ]  # fmt: skip
    try:
        for in_unet, layer in layers:
            acting = [] if layer.disable_adapters else layer.active_adapters
            named = [name for name in weights if name in layer.scaling and name not in acting]
            layer.enable_adapters(True)
            layer.set_adapter([*acting, *named], inference_mode=True)
            _scale(layer, in_unet, weights)
        yield
    finally:
        for layer, active, scaling, disabled, parameters in before:
            layer.set_adapter(active)
            layer.enable_adapters(not disabled)
            layer.scaling.update(scaling)
            for parameter, trained in parameters:
                parameter.requires_grad_(trained)


def _scale(layer: Any, in_unet: bool, weights: Weights) -> None:
    for name, (unet, text_encoder) in weights.items():
        layer.set_scale(name, unet if in_unet else text_encoder)


def _layers(pipe: Any) -> list[tuple[bool, Any]]:
    """(whether it is the UNet's, layer) of each layer that peft put LoRAs beside."""
    models = [(name == "unet", getattr(pipe, name, None)) for name in _PARTS]
    return [
        (in_unet, layer)
        for in_unet, model in models
        if model is not None
        for layer in model.modules()
        if hasattr(layer, "set_scale") and hasattr(layer, "base_layer")
    ]
