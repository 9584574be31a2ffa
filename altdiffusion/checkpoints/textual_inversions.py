"""Files of textual inversions, in the layouts that A1111, Forge, ComfyUI, InvokeAI and diffusers read.

    .safetensors    one CLIP: emb_params (n, width); Stable Diffusion XL's two: clip_l and clip_g; notes in the header
    .pt             one CLIP: A1111's own layout, string_to_param; XL's: as above. A pickle of tensors, text and numbers

No torch until tensors are written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from altdiffusion import files
from altdiffusion.errors import InputError
from altdiffusion.files import local_path

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".safetensors", ".pt")
MAX_VECTORS = 75  # as CLIP's 77 positions hold beside begin and end: web UIs fail on more, diffusers cuts them off
_READ_TOO = (".bin",)  # by other tools
_NO_NAME = re.compile(
    r"[\s()\[\]{}<>:|,;/\\\"'`*?（）［］｛｝：｜，、。]|^[.-]"
)  # a prompt's signs, and a file system's


def save_textual_inversion(
    vectors: Sequence[Tensor],
    path: str | Path,
    *,
    dtype: str = "float32",
    notes: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a textual inversion, atomically, in the layout that the path's ending says.

    vectors: for each CLIP (n, width), Stable Diffusion XL's in the order of its encoders. dtype: float32 or float16, in the
        file. notes: for the header of a .safetensors file; a .pt file has no place for them.
    Raises InputError as `check_free`, and where the file can't be written.
    """
    import torch
    from safetensors.torch import save

    file = check_free(path, overwrite)
    kind = {"float32": torch.float32, "float16": torch.float16}[dtype]
    stored = [part.detach().to("cpu", kind).contiguous() for part in vectors]
    if not all(bool(part.isfinite().all()) for part in stored):
        raise InputError(f"{file}: the vectors are beyond {dtype}'s numbers and aren't saved: take float32")
    tensors = {"emb_params": stored[0]} if len(stored) == 1 else {"clip_l": stored[0], "clip_g": stored[1]}
    if file.suffix.lower() == ".safetensors":
        content = save(tensors, {**(notes or {}), "dtype": dtype})
    else:
        buffer = io.BytesIO()
        torch.save(_as_a1111(stored[0], file.stem) if len(stored) == 1 else tensors, buffer)
        content = buffer.getvalue()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file, content)
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}): pick another --out or make room") from None
    return file


def check_free(path: str | Path, overwrite: bool = False) -> Path:
    """The path of a textual inversion to write.

    Raises InputError for another ending than ENDINGS, for a name that can't be written in prompts, and for one that is taken,
    by a file of another ending, too, as tools know an inversion by its name. overwrite: whether the same file may be there.
    """
    file = local_path(path)
    if file.suffix.lower() not in ENDINGS:
        raise InputError(f"{file}: expected a file of a textual inversion that ends in {' or '.join(ENDINGS)}")
    check_name(file.stem)
    for other in (file.with_suffix(ending) for ending in (*ENDINGS, *_READ_TOO)):
        if not other.exists():
            continue
        if other != file:
            raise InputError(
                f"{other} has the name {file.stem!r} already, and tools would read either: take another name"
            )
        if not overwrite:
            raise InputError(f"{file} is there already: take another name, or --overwrite (overwrite=True)")
    return file


def check_name(name: str) -> None:
    """Raises InputError for a name, without ending, that can't be written in prompts."""
    if found := _NO_NAME.search(name):
        raise InputError(
            f"{name}: an inversion's name is written in prompts, and {found[0]!r} would end it there or read as syntax: "
            "expected letters, digits, - and _"
        )


def notes_of(prompt: str, bridge: str | Path, route: str, literal: Collection[str]) -> dict[str, str]:
    """What a file's header says of how a prompt became an inversion, but for what was understood.

    Of a bridge in a folder it has that folder's name alone, as files are passed on.
    """
    folder = local_path(bridge)
    name = folder.resolve().name if folder.exists() else str(bridge)
    return {"prompt": prompt, "bridge": name, "route": route, "literal": ", ".join(literal)}


def read_notes(path: Path) -> dict[str, str]:
    """What the header of a .safetensors file says beside its tensors; {} for any other file."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}


def triggers(name: str) -> dict[str, str]:
    """What is written in a prompt for an inversion of this name, by tool. diffusers' is the `token` that it is loaded with."""
    return {
        "a1111": name,
        "forge": name,
        "comfyui": f"embedding:{name}",
        "invokeai": f"<{name}>",
        "diffusers": f"<{name}>",
    }


def _as_a1111(vectors: Tensor, name: str) -> dict[str, Any]:
    """265 is the token * of CLIP's vocabulary, which stands for an inversion in the files of its first authors."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": name,
        "step": 0,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
