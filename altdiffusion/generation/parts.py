"""What a community makes for models, put into a pipeline: LoRAs."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.generation.loras import NamedLora
from altdiffusion.prompts.loras import adapter_name, loaded_adapters, set_weights

_NO_PEFT = 'a LoRA needs peft: pip install "altdiffusion[train]"'
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}  # by text width
_DOWN = ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.default.weight")


def check_peft() -> None:
    """Raise InputError where LoRAs can't be loaded, before a model is."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(_NO_PEFT)


def load_loras(pipe: DiffusionPipeline, loras: Sequence[NamedLora], allow_pickle: bool = False) -> None:
    """Put LoRAs beside a pipeline's weights, in kohya's or diffusers' format; those with a weight act.

    Raises InputError for one that is damaged, or was made for another kind of model.
    """
    for lora in loras:
        with _as_input_error(f"{lora.source} can't be loaded as a LoRA"):
            _load_lora(pipe, lora, allow_pickle)
        if adapter_name(lora.name) not in loaded_adapters(pipe):
            raise InputError(
                f"{lora.source} has nothing for this model: expected a LoRA for its UNet, or for AltCLIP's text encoder"
            )
    set_weights(
        pipe, {adapter_name(lora.name): (lora.weight, lora.weight) for lora in loras if lora.weight is not None}
    )


@contextmanager
def _as_input_error(problem: str) -> Iterator[None]:
    """What the libraries raise for files that are damaged, or not what they seem, becomes one line."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:  # of a version that doesn't fit
        raise InputError(f"{_NO_PEFT} ({first_line(error)})") from None
    except (OSError, ValueError, LookupError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(f"{problem}: {first_line(error)}") from None


def _load_lora(pipe: Any, lora: NamedLora, allow_pickle: bool) -> None:
    options = {"adapter_name": adapter_name(lora.name), "use_safetensors": None if allow_pickle else True}
    path = local_path(lora.source)
    if path.exists() or constants.HF_HUB_OFFLINE:  # offline diffusers wants a file's name, so look into the cache
        patterns = ["*.safetensors", *(["*.bin"] if allow_pickle else [])]
        path = hub.resolve(lora.source, patterns)
        for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
            _check_lora_fits(file, lora.source, pipe)
        pipe.load_lora_weights(str(path), **options)
    else:
        hub.on_hub(lora.source, lambda name: pipe.load_lora_weights(name, **options))


def _check_lora_fits(file: Path, source: str, pipe: Any) -> None:
    """Raise InputError for a LoRA whose cross-attention reads text states of another width than the UNet's."""
    if file.suffix.lower() != ".safetensors":
        return
    width = pipe.unet.config.cross_attention_dim
    with safe_open(file, framework="pt") as tensors:
        keys = [key for key in tensors.keys() if "attn2" in key and ("to_k" in key or "to_v" in key)]  # noqa: SIM118
        read = {tensors.get_slice(key).get_shape()[1] for key in keys if key.endswith(_DOWN)}
    if others := read - {width}:
        (other, *_) = others
        raise InputError(
            f"{source} is a LoRA for {_family(other)}, {pipe.name_or_path} is {_family(width)}: take one made for it"
        )


def _family(width: int) -> str:
    """A kind of model, by the width of the text states that its UNet attends to."""
    return f"{_FAMILIES.get(width, 'a model of its own kind')} (text states of width {width})"
