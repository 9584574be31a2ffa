"""Any published layout -> one that plain diffusers and transformers load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AltCLIPTextModel

from altdiffusion import files
from altdiffusion.checkpoints import hub, tensor_files
from altdiffusion.checkpoints.layouts import has_text_encoder, is_single_file
from altdiffusion.errors import InputError, first_line
from altdiffusion.files import local_path
from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline, agree_on_float32
from altdiffusion.pipelines.load import load_by_kind
from altdiffusion.pipelines.model_card import write_model_card
from altdiffusion.text_encoder.encoder import read_text_encoder
from altdiffusion.text_encoder.tokenizer import choose_tokenizer, hub_files


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    allow_pickle: bool = False,
    ema: bool = False,
    tokenizer: str | Path | None = None,
    config: str | Path | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write `source` to the new folder `destination` in the stock layout: safetensors, with a model card.

    A pipeline (folder, id on the hub, single file) becomes a pipeline, of plain Stable Diffusion's files the English one;
    AltCLIP or an encoder alone becomes the folders
    `text_encoder` and `tokenizer`. Arguments as in `AltDiffusionPipeline.from_pretrained`; dtype None keeps the dtype
    that the weights are stored in. The folder is there whole or not at all.
    Raises InputError for a source that can't be read and for a destination that is taken or can't be written.
    """
    target = local_path(destination)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: pick a new folder")
    path = _fetch(source, allow_pickle)
    is_pipeline, stored = _inspect(path, allow_pickle)
    options: dict[str, Any] = {"allow_pickle": allow_pickle, "tokenizer": tokenizer, "dtype": dtype or stored}
    if is_pipeline:
        pipeline = load_by_kind(path, ema=ema, config=config, **options)
        stays = path.is_file() or path == hub.sd_mini_folder()  # which lacks a VAE
        if not stays and not isinstance(pipeline.text_encoder, AltCLIPTextModel):
            kind = type(pipeline.text_encoder).__name__
            raise InputError(f"{source} reads prompts with {kind}, not AltCLIP: nothing to convert")
    else:
        encoder = read_text_encoder(path, dtype=dtype or stored, allow_pickle=allow_pickle)
        own_tokenizer = choose_tokenizer(tokenizer, path)
    try:
        with files.new_folder(target) as folder:
            if is_pipeline:
                pipeline.save_pretrained(folder)
                agree_on_float32(folder)
                write_model_card(folder, pipeline, str(source))
            else:
                encoder.save_pretrained(folder / "text_encoder")
                own_tokenizer.save_pretrained(folder / "tokenizer")
                write_model_card(folder, encoder, str(source))
            forget_paths(folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
        raise InputError(f"{target} can't be written ({first_line(error)}): pick another place or make room") from None
    return target


def _fetch(source: str | Path, allow_pickle: bool) -> Path:
    """The source's local path; from the hub, the files of a pipeline or of a text encoder are downloaded."""
    root = hub.resolve(source, ["model_index.json", "config.json"])
    if hub.is_local(source):
        return root
    if (root / "model_index.json").is_file():
        return AltDiffusionPipeline.fetch(source, allow_pickle=allow_pickle)
    return hub.resolve(source, hub_files(allow_pickle))


def _inspect(path: Path, allow_pickle: bool) -> tuple[bool, torch.dtype]:
    """Whether this is a whole pipeline, and the dtype that its weights are stored in."""
    if path.is_file():
        state = tensor_files.read_tensors(path, allow_pickle=allow_pickle)
        return is_single_file(state) or not has_text_encoder(state), _dtype(
            state
        )  # for what is neither, its loader says so
    folder = next((path / name for name in ("unet", "text_encoder") if (path / name).is_dir()), path)
    first = tensor_files.weight_files(folder)[0]
    return (path / "model_index.json").is_file(), _dtype(tensor_files.read_tensors(first, allow_pickle=allow_pickle))


def _dtype(state: dict[str, torch.Tensor]) -> torch.dtype:
    """Of the matrices: what marks a file may be of another."""
    matrices = (tensor for tensor in state.values() if tensor.is_floating_point() and tensor.dim() > 1)
    return next((tensor.dtype for tensor in matrices), torch.float32)


def forget_paths(folder: Path) -> None:
    """Remove `_name_or_path` from saved JSON files: it is a path on the machine that converted."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            files.write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
