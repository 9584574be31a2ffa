"""Tensors from files: safetensors, and pickles where the user allows them. Nothing is copied that can be mapped.

A file that holds the wanted dtype is mapped into memory, so that loading costs no second copy. Otherwise it is
converted 64 MB at a time, and mapped anew after each, which frees the pages that were read.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from types import EllipsisType
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from altdiffusion import files
from altdiffusion.errors import InputError, first_line

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_REFUSAL = (
    "{} is a pickle, a format that can carry code: allow it with --allow-pickle (allow_pickle=True); "
    "`altdiffusion convert --allow-pickle` writes safetensors once and for all"
)
_MAPPED_AT_ONCE = 64 * 2**20  # bytes


def weight_files(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> list[Path]:
    """The files that together hold the weights in `folder`: safetensors if there are any, else pickles.

    Raises InputError where there are none. use_safetensors: True or False insists on one kind.
    """
    middle = f".{variant}" if variant else ""
    kinds = []
    if use_safetensors is not False:
        kinds += [f"{stem}{middle}.safetensors" for stem in ("model", "diffusion_pytorch_model")]
    if use_safetensors is not True:
        kinds += [f"{stem}{middle}.bin" for stem in ("pytorch_model", "diffusion_pytorch_model")]
    for name in kinds:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file() and variant:  # diffusers' order: model.safetensors.index.fp16.json
            index = folder / f"{name.replace(middle, '')}.index{middle}.json"
        if index.is_file():
            shards = _shards(index)
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise InputError(f"{index} names {missing[0]}, which is not there: the download is incomplete")
            return [folder / shard for shard in shards]
    raise InputError(f"no weights in {folder}: expected {' or '.join(kinds)} (.bin only with --allow-pickle)")


def read_tensors(
    path: Path,
    *,
    allow_pickle: bool = False,
    dtype: torch.dtype | None = None,
    wanted: Callable[[str], bool] = lambda key: True,
) -> dict[str, Tensor]:
    """The wanted tensors of one file by name, floating-point ones in `dtype` (None: as they are stored).

    A nested "state_dict" is opened; "state_dict_ema" adds its tensors as `model_ema.*`, the names that latent
    diffusion gives them. Raises InputError for a file that is missing, damaged, or a pickle that was not allowed.
    """
    state = {key: tensor for key, tensor in _map(path, allow_pickle).items() if wanted(key)}
    if dtype is None or all(tensor.dtype == dtype or not tensor.is_floating_point() for tensor in state.values()):
        return state
    if path.suffix in PICKLES and not zipfile.is_zipfile(path):  # an old pickle can't be mapped, so read it once
        return {key: tensor.to(_target_dtype(tensor, dtype)) for key, tensor in state.items()}
    kept = {key: torch.empty_like(tensor, dtype=_target_dtype(tensor, dtype)) for key, tensor in state.items()}
    unread = [(key, rows) for key, tensor in state.items() for rows in _row_slices(tensor)]
    del state
    while unread:
        mapped, budget = _map(path, allow_pickle), _MAPPED_AT_ONCE
        while unread and budget > 0:
            key, rows = unread.pop()
            kept[key][rows] = mapped[key][rows]
            budget -= mapped[key][rows].nbytes
    return kept


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors; {} of any other file."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _target_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


def _row_slices(tensor: Tensor) -> Iterator[slice | EllipsisType]:
    """Slices of rows that are small enough to be mapped at once: the embedding table alone may be half of the weights."""
    if tensor.dim() == 0:
        yield ...
        return
    rows = max(1, _MAPPED_AT_ONCE * len(tensor) // max(1, tensor.nbytes))
    for start in range(0, len(tensor), rows):
        yield slice(start, start + rows)


def _map(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """All tensors of a file, mapped where the format allows it."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (safetensors.SafetensorError, *_DAMAGED) as error:
            raise InputError(f"{path} is damaged or no safetensors file ({error}): download it again") from None
    if path.suffix not in PICKLES:
        raise InputError(
            f"{path}: expected .safetensors or one of {', '.join(PICKLES)}, got {path.suffix or 'no ending'}"
        )
    if not allow_pickle:
        raise InputError(_REFUSAL.format(path))
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_packing(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise InputError(f"{path} holds more than tensors and is not opened ({reason}), or it is damaged") from None
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): download it again") from None
    return _flatten(loaded, path)


# On damaged pickles and archives, torch raises whatever it stumbles over.
_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


def _check_packing(path: Path) -> None:
    """Raise InputError for a zip that unpacks to more than it is: torch packs nothing, so that files can be mapped."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > path.stat().st_size:
        raise InputError(f"{path} unpacks to {unpacked:,} bytes, more than it has: torch writes no such file")


def _shards(index: Path) -> list[str]:
    """The files beside an index that hold its tensors. Raises InputError for a name that leads out of the folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index} is no index of shards: expected a weight_map of tensors and files")
    try:
        return sorted({files.plain_name(name) for name in names.values()})
    except InputError as error:
        raise InputError(f"{index}: {error}") from None


def _flatten(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what a pickle held, by name, see `read_tensors`; and beside a state dict, the step of its training."""
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, expected a state dict")
    nested, ema = loaded.get("state_dict", loaded), loaded.get("state_dict_ema") or {}
    if not isinstance(nested, Mapping) or not isinstance(ema, Mapping):
        raise InputError(f"{path}: 'state_dict' is a {type(nested).__name__}, expected tensors by name")
    state = {str(key): value for key, value in nested.items() if isinstance(value, Tensor)}
    ema = {str(key): value for key, value in ema.items() if isinstance(value, Tensor)}
    for key, value in (*state.items(), *ema.items()):
        # views of a few bytes can be terabytes of numbers; others have their numbers elsewhere
        if (
            value.layout != torch.strided
            or value.device.type != "cpu"
            or value.nbytes > value.untyped_storage().nbytes()
        ):
            raise InputError(f"{path}: the tensor {key[:80]} isn't stored number by number: damaged, or no checkpoint")
    if nested is not loaded and isinstance(step := loaded.get("global_step"), int):
        state["global_step"] = torch.tensor(step)
    for key, value in ema.items():
        if key.startswith("model.diffusion_model."):
            state["model_ema." + key.removeprefix("model.").replace(".", "")] = value
    return state


def refuse_pickles(folder: Path) -> None:
    """Raise InputError where a folder holds pickles and no safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            raise InputError(_REFUSAL.format(file))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError for anything else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: expected a JSON object")
    return loaded


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; {} where there is none. AltCLIP's nested text settings are returned alone."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    check_sizes(config, path)
    nested = config.get("text_config") or config.get("text_config_dict")
    return nested if isinstance(nested, dict) else config


# The most that a model's settings may say, by what their names end in: many times what any model has, and soon built.
_MOST = {
    "layers": 1000,
    "layers_per_block": 1000,
    "timesteps": 100_000,
    "sample_size": 4096,
    **dict.fromkeys(("size", "dim", "channels", "heads", "embeddings", "positions", "embeds", "groups"), 2**24),
}


def check_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Raise InputError where a model's settings ask for a size that none has: negative, NaN, or so large that it never ends."""
    for name, value in config.items():
        limits = [most for ending, most in _MOST.items() if name.endswith(ending)]
        for most, number in product(limits[:1], _numbers(value)):
            if not 0 <= number <= most:  # NaN isn't
                raise InputError(f"{path}: {name} is {number!s:.40}, expected 0 to {most:,}: damaged, or no model")
        if isinstance(value, Mapping):
            check_sizes(value, path)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value


def read_config_type(folder: Path) -> str:
    """`model_type` of a folder's config.json, the whole model's; "" where there is none."""
    path = folder / "config.json"
    return str(read_json(path).get("model_type", "")) if path.is_file() else ""


def read_weights(
    path: Path, variant: str | None = None, use_safetensors: bool | None = None, **options: Any
) -> dict[str, Tensor]:
    """The tensors of a file, or of the weight files of a folder together. options: of `read_tensors`."""
    state: dict[str, Tensor] = {}
    for file in [path] if path.is_file() else weight_files(path, variant, use_safetensors):
        state |= read_tensors(file, **options)
    return state


def load_strict(model_class: Any, folder: Path, **kwargs: Any) -> Any:
    """`model_class.from_pretrained(folder)` in float32; raises InputError where it would fill tensors at random.

    For classes of diffusers and of transformers. kwargs: dtype, variant, use_safetensors, ...
    """
    kwargs = {"dtype": torch.float32, "output_loading_info": True} | kwargs
    read_config(folder)
    try:
        model, report = model_class.from_pretrained(str(folder), **kwargs)
    except Exception as error:  # on settings that make no sense, the libraries raise whatever they stumble over
        raise InputError(f"{folder} can't be loaded: {first_line(error)}") from error
    problems = [
        f"{kind.removesuffix('_keys')} {', '.join(sorted(map(str, report[kind]))[:4])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report.get(kind)
    ]
    if problems:
        raise InputError(f"the tensors in {folder} do not fit its config.json: {'; '.join(problems)}")
    return model
