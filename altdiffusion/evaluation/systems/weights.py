"""Models for the systems: tensors that are missing or left over are an error, never random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from altdiffusion.checkpoints import hub, layouts, tensor_files
from altdiffusion.errors import InputError
from altdiffusion.evaluation.systems.base import Options


def find_folder(name: str, options: Options) -> Path:
    """The folder of a model in transformers' layout. Raises InputError for a file."""
    patterns = [
        "*.json",
        "*.txt",
        "*.model",
        "model*.safetensors",
        *(["pytorch_model*.bin"] if options.allow_pickle else []),
    ]
    folder = hub.resolve(name, patterns)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model: expected a folder with config.json, weights, tokenizer")
    return folder


def load_model(model_class: Any, model_type: str, folder: Path, options: Options) -> Any:
    """A model of transformers from a folder, ready to compute.

    Raises InputError for another `model_type`, for pickles that were not allowed, for tensors missing or left over.
    """
    if (actual := tensor_files.read_config_type(folder)) != model_type:
        raise InputError(f"{folder} is of type {actual!r}, expected {model_type!r}")
    if not options.allow_pickle:
        tensor_files.refuse_pickles(folder)
    tensor_files.weight_files(folder, use_safetensors=None if options.allow_pickle else True)
    formats = {} if options.allow_pickle else {"use_safetensors": True}
    return tensor_files.load_strict(model_class, folder, dtype=options.dtype, **formats).to(options.device).eval()


def build_model(
    model_class: Any, config: Any, state: Mapping[str, Tensor], what: str, options: Options, **settings: Any
) -> Any:
    """A model of transformers from tensors under its own names. Raises InputError unless they are exactly its own."""
    with torch.device("meta"):
        expected = model_class(config, **settings).state_dict()
    layouts.check_names(state, expected, what)
    model = model_class.from_pretrained(None, config=config, state_dict=dict(state), dtype=options.dtype, **settings)
    return model.to(options.device).eval()


def build_vision(state: Mapping[str, Tensor], what: str, options: Options) -> CLIPVisionModel:
    """CLIP's vision tower from its tensors: its settings are read from their shapes, heads have 64 channels."""
    names = (
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.mlp.fc1.weight",
    )
    check_there(state, names, what)
    patches, positions, inner = (state[name] for name in names)
    width, _, _, patch = patches.shape
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(inner),
        num_hidden_layers=count_layers(state, "encoder.layers."),
        num_attention_heads=max(1, width // 64),
        image_size=patch * round((len(positions) - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    return build_model(CLIPVisionModel, config, state, what, options)


def build_text(
    model_class: Any, config_class: Any, state: Mapping[str, Tensor], what: str, options: Options, prefix: str
) -> Any:
    """A BERT or an XLM-RoBERTa from its tensors: its settings are read from their shapes, heads have 64 channels.

    prefix: of the tensors' names in the file. It has the pooling layer that its tensors have; nothing here reads it.
    """
    names = (
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "encoder.layer.0.intermediate.dense.weight",
    )
    check_there(state, names, what, prefix)
    rows, positions, types, inner = (len(state[name]) for name in names)
    width = state[names[0]].shape[1]
    config = config_class(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=count_layers(state, "encoder.layer."),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=positions,
        type_vocab_size=types,
    )
    has_pooler = any(name.startswith("pooler.") for name in state)
    return build_model(model_class, config, state, what, options, add_pooling_layer=has_pooler)


def check_there(state: Mapping[str, Tensor], names: Iterable[str], what: str, prefix: str = "") -> None:
    """Raise InputError where a tensor is missing. prefix: of its name in the file."""
    if missing := [prefix + name for name in names if name not in state]:
        raise InputError(f"{what} does not fit its layout: missing {', '.join(missing[:4])}")


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers there are, numbered after the prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
