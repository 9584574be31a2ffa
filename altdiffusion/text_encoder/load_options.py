"""The keywords of transformers' `from_pretrained` where ours takes `**options`: each is used, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.settings import suggest

_HUB = (*hub.HUB_OPTIONS, "etag_timeout", "max_workers", "user_agent", "headers", "endpoint")
MODEL_OPTIONS = (
    "attn_implementation",
    "device_map",
    "max_memory",
    "offload_folder",
    "offload_buffers",
    "quantization_config",
)
_NOT_NEEDED = ("low_cpu_mem_usage", "trust_remote_code")  # weights are always mapped, no code is ever run


class LoadOptions(NamedTuple):
    """hub: for `hub.resolve`. subfolder: of the folder or repository. others: what else the caller takes, as given."""

    hub: dict[str, Any]
    subfolder: str
    others: dict[str, Any]

    @property
    def elsewhere(self) -> dict[str, Any]:
        """Hub options for another repository than the model's, such as a tokenizer's: its revisions are its own."""
        return {name: value for name, value in self.hub.items() if name != "revision"}

    def find(self, model: str | Path | None, files: Sequence[str]) -> Path:
        """`hub.resolve`, and the subfolder in it. Raises InputError where there is none."""
        if not self.subfolder:
            return hub.resolve(model, files, **self.hub)
        inside = [f"{self.subfolder}/{pattern}" for pattern in files]
        folder = hub.resolve(model, inside, **self.hub) / self.subfolder
        if not folder.is_dir():
            raise InputError(f"no folder {self.subfolder!r} in {model or hub.MINI}: expected one with the model in it")
        return folder


def read_options(
    caller: str, given: Mapping[str, Any], takes: Sequence[str] = (), named: Sequence[str] = ()
) -> LoadOptions:
    """Sort what `caller` got in its `**options`. takes: those it reads from there beside the hub's; named: its other keywords.

    Raises InputError that names those which nobody would read, such as config=, state_dict= or a misspelt one.
    """
    known = (*named, *takes, "subfolder", *hub.HUB_OPTIONS)
    taken = (*takes, "subfolder", *_HUB, *_NOT_NEEDED, *(["torch_dtype"] if "dtype" in named else []))
    unknown = [name for name in given if name not in taken]
    if unknown:
        hint = suggest(unknown[0], known) or f": expected {', '.join(known)}"
        raise InputError(f"{caller} takes no {', '.join(f'{name}=' for name in unknown)}{hint}")
    return LoadOptions(
        {name: given[name] for name in _HUB if given.get(name) is not None},
        str(given.get("subfolder") or ""),
        {name: given[name] for name in takes if name in given},
    )


def read_dtype(
    dtype: torch.dtype | str | None, options: Mapping[str, Any] = MappingProxyType({})
) -> torch.dtype | None:
    """The dtype of weights; None is "auto": as they are stored. Without one float32, the exact one.

    dtype: a torch.dtype, its name, or "auto". options: may hold it as torch_dtype, transformers' old name.
    Raises InputError for what is no dtype of weights.
    """
    wanted: Any = options.get("torch_dtype") if dtype is None else dtype
    if wanted is None:
        return torch.float32
    if wanted == "auto":
        return None
    found = getattr(torch, wanted.removeprefix("torch."), None) if isinstance(wanted, str) else wanted
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype={wanted!r}: expected float32, float16, bfloat16 or auto")
    return found
