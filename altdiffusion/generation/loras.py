"""The LoRAs of a run, before any is read: those that are named with it, and those that its prompts name. No torch.

ink.safetensors:0.8      a LoRA and its weight: a file, a folder or an id on the hub
<lora:ink:0.5>           in a prompt: its weight there; or NAME.safetensors in a folder of LoRAs, `lora_dir`
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.prompt_syntax import PromptSyntax, lora_names
from altdiffusion.prompt_syntax.loras import MAX_LORA_WEIGHT
from altdiffusion.settings import suggest

_WEIGHT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_DIFFUSERS_FILE = "pytorch_lora_weights"  # every LoRA that diffusers saves is called so
_SHOWN = 10  # names in an error
MAX_PLACES = 1000


@dataclass(frozen=True)
class NamedLora:
    """A LoRA to load. name: what prompts call it. weight: where no prompt says one; None: it isn't used there."""

    name: str
    source: str
    weight: float | None


def parse_lora(written: str) -> NamedLora:
    """SOURCE or SOURCE:WEIGHT; what follows the last colon is a weight if it is a number. The name is a file's stem.

    Raises InputError for a weight beyond 10 either way.
    """
    source, colon, number = written.rpartition(":")
    if not colon or not _WEIGHT.fullmatch(number):
        source, number = written, "1"
    if abs(float(number)) > MAX_LORA_WEIGHT:
        raise InputError(f"{written}: expected a weight from {-MAX_LORA_WEIGHT:g} to {MAX_LORA_WEIGHT:g}, got {number}")
    return NamedLora(_name(local_path(source)), source, float(number))


def check_lora(lora: NamedLora) -> None:
    """Raise InputError for a source that can't be there."""
    if not lora.source or not (local_path(lora.source).exists() or hub.is_hub_id(lora.source)):
        raise InputError(f"no such LoRA: {lora.source}: expected a file, a folder or an id on the hub")


def loras_to_load(
    written: Sequence[str] | None, folder: str | Path | None, prompts: Iterable[str], syntax: PromptSyntax
) -> list[NamedLora]:
    """The LoRAs that are named for a run, and those of a folder that its prompts name.

    Raises InputError for one that can't be there, for two of one name, and for a prompt's LoRA that is neither named nor in
    the folder.
    """
    loras: dict[str, NamedLora] = {}
    for lora in map(parse_lora, written or ()):
        check_lora(lora)
        if other := loras.get(lora.name):
            raise InputError(f"{other.source} and {lora.source} are both called {lora.name}: rename one of them")
        loras[lora.name] = lora
    wanted = [name for name in dict.fromkeys(lora_names(prompts, syntax)) if name not in loras]
    in_folder = _files(folder) if folder is not None and wanted else {}
    check_known(
        wanted, {*loras, *in_folder}, "name its file with --lora (lora=), or its folder with --lora-dir (lora_dir=)"
    )
    for name in wanted:
        first, *others = in_folder[name]
        if others:
            raise InputError(f"{first} and {others[0]} are both called {name}: rename one of them")
        loras[name] = NamedLora(name, str(first), None)
    return list(loras.values())


def check_known(names: Iterable[str], known: Iterable[str], remedy: str) -> None:
    """Raise InputError for the first LoRA of a prompt that isn't known."""
    known = sorted(known)
    for name in names:
        if name not in known:
            more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            there = f"known: {', '.join(known[:_SHOWN])}{more}" if known else "none is known"
            raise InputError(f"<lora:{name}>: no LoRA of that name{suggest(name, known)}: {there}; {remedy}")


def known_names(written: Sequence[str] | None, folder: str | Path | None) -> set[str]:
    """What prompts may call the LoRAs that are named, and those of a folder that is there.

    Of a folder the first MAX_PLACES folders in it are looked through: an image may name the root of the disk.
    """
    names = set()
    for each in written or ():
        with contextlib.suppress(InputError):
            names.add(parse_lora(each).name)
    return names | (set(_files(folder, MAX_PLACES)) if folder is not None and local_path(folder).is_dir() else set())


def _files(folder: str | Path, places: int | None = None) -> dict[str, list[Path]]:
    """The LoRAs in a folder and its subfolders, by name; at most so many folders. Raises InputError where it is no folder."""
    root = local_path(folder)
    if not root.is_dir():
        raise InputError(f"lora_dir {folder}: expected a folder of .safetensors files")
    found: dict[str, list[Path]] = {}
    for place, _, names in islice(os.walk(root), places):
        for path in sorted(Path(place, name) for name in names):
            if path.suffix.lower() == ".safetensors":
                found.setdefault(_name(path), []).append(path)
    return found


def _name(path: Path) -> str:
    is_file = path.suffix.lower() in (".safetensors", ".bin", ".pt")
    stem = path.stem if is_file else path.resolve().name if path.exists() else path.name
    return path.resolve().parent.name if stem == _DIFFUSERS_FILE else stem
