"""Models, tokenizers and pixels for the systems; whatever does not fit its model is an error, never random tensor_files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, CLIPVisionConfig, CLIPVisionModel

from altdiffusion.checkpoints import hub, layouts, tensor_files
from altdiffusion.errors import InputError, first_line
from altdiffusion.evaluation.systems.dual_encoder import Options
from altdiffusion.files import local_path

# OpenAI's CLIP, and with it every system here.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
VOCABULARY = ["tokenizer.json", "vocab.txt"]  # of BERT, either


def split_name(name: str) -> tuple[str, str | None]:
    """ "FILE+OTHER" -> (FILE, OTHER); a name without, or of something that exists -> (name, None)."""
    if "+" not in name or local_path(name).exists():
        return name, None
    first, _, second = name.rpartition("+")
    return first, second


def find_folder(name: str, options: Options) -> Path:
    """The folder of a model in transformers' layout. Raises InputError for a file."""
    patterns = ["*.json", "*.txt", "model*.safetensors", *(["pytorch_model*.bin"] if options.allow_pickle else [])]
    folder = hub.resolve(name, patterns)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model: expected a folder with config.json, weights, tokenizer")
    return folder


def load_model(model_class: Any, model_type: str, folder: Path, options: Options) -> Any:
    """A model of transformers from a folder, ready to compute.

    Raises InputError for another `model_type`, for pickles that were not allowed, for tensors missing or left over.
    """
    if (found := tensor_files.read_config_type(folder)) != model_type:
        raise InputError(f"{folder} is of type {found!r}, expected {model_type!r}")
    if not options.allow_pickle:
        tensor_files.refuse_pickles(folder)
    tensor_files.weight_files(folder, use_safetensors=None if options.allow_pickle else True)
    kinds = {} if options.allow_pickle else {"use_safetensors": True}
    return tensor_files.load_strict(model_class, folder, dtype=options.dtype, **kinds).to(options.device).eval()


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
    for name in ("embeddings.patch_embedding.weight", "embeddings.position_embedding.weight",
                 "encoder.layers.0.mlp.fc1.weight"):  # fmt: skip
        if name not in state:
            raise InputError(f"{what} does not fit its layout: missing {name}")
    width, _, _, patch = state["embeddings.patch_embedding.weight"].shape
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=count_layers(state, "encoder.layers."),
        num_attention_heads=max(1, width // 64),
        image_size=patch * round((len(state["embeddings.position_embedding.weight"]) - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    return build_model(CLIPVisionModel, config, state, what, options)


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers there are, numbered after the prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}


def load_tokenizer(tokenizer_class: Any, folder: Path, files: Sequence[str], rows: int) -> Any:
    """The tokenizer of a folder that holds one of `files`. rows: of the model's table of words, which it must fit."""
    if not any((folder / name).is_file() for name in files):  # transformers would make up an empty one
        raise InputError(f"no tokenizer in {folder}: expected {' or '.join(files)}")
    try:
        tokenizer = tokenizer_class.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise InputError(f"the tokenizer in {folder} can't be read: {first_line(error)}") from None
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {rows}: they don't belong together"
        )
    return tokenizer


def load_vocabulary(checkpoint: Path, named: str | None, rows: int) -> BertTokenizer:
    """BERT's tokenizer for a checkpoint that carries none.

    named: where it is, a vocab.txt, a folder or a repository of the hub; None: vocab.txt beside the checkpoint.
    rows: the number of tokens that it must have.
    """
    if named is None and not (checkpoint.parent / "vocab.txt").is_file():
        raise InputError(
            f"{checkpoint} carries no tokenizer: put bert-base-chinese's vocab.txt ({rows} lines) beside it, "
            f"or name it: {checkpoint.name}+VOCABULARY"
        )
    root = checkpoint.parent / "vocab.txt" if named is None else hub.resolve(named, VOCABULARY)
    if root.is_dir():
        tokenizer = load_tokenizer(BertTokenizer, root, VOCABULARY, rows)
    else:
        try:
            tokenizer = BertTokenizer(vocab=str(root))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise InputError(f"the vocabulary {root} can't be read: {first_line(error)}") from None
    if len(tokenizer) != rows:
        raise InputError(
            f"the vocabulary {root} has {len(tokenizer)} tokens, the model {rows}: take bert-base-chinese's"
        )
    return tokenizer


def squashed_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """float (images, 3, side, side), normalised: scaled to a square whatever their proportions, nothing cut off."""
    return _normalised([image.resize((side, side), Image.Resampling.BICUBIC) for image in images])


def cropped_pixels(images: Sequence[Image.Image], side: int) -> Tensor:
    """float (images, 3, side, side), normalised: scaled by the shorter side, then the middle, rounded as torchvision does."""
    crops = []
    for image in images:
        short = min(image.size)
        width, height = (int(side * each / short) for each in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        scaled = image.resize((width, height), Image.Resampling.BICUBIC)
        crops.append(scaled.crop((left, top, left + side, top + side)))
    return _normalised(crops)


def _normalised(images: Sequence[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return (pixels.float() / 255 - MEAN) / DEVIATION
