"""Where a bridge is and where it stands, before it is loaded. No torch."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.files import local_path

EXIT = "altdiffusion_bridge"  # model_type in config.json
ENTRANCE = "altdiffusion_entrance_bridge"


def local_bridge(name: str | Path) -> Path:
    """The folder of a bridge that is on this machine, "mini", a path or a training's output_dir; it need not be there."""
    return hub.mini_folder() / "bridge" if name == hub.MINI else hub.result_of_training(local_path(name))


def with_tokenizer(name: str | Path) -> Path:
    """A bridge's folder, with its CLIP's tokenizer in `tokenizer` if it has one; downloaded from the hub. Raises InputError."""
    if name == hub.MINI:
        return local_bridge(name)
    return hub.resolve(name, ["config.json", "tokenizer/*.json", "tokenizer/*.txt"])


def model_type(name: str | Path) -> str | None:
    """EXIT, ENTRANCE or another word; None where there is none, and for a bridge on the hub."""
    with contextlib.suppress(OSError, ValueError, RecursionError, InputError):
        config = json.loads((local_bridge(name) / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and isinstance(kind := config.get("model_type"), str):
            return kind
    return None


def stands_at_exit(name: str | Path) -> bool:
    """Whether a bridge gives CLIP's states in CLIP's place. False for one on the hub, which is told once it is loaded."""
    return model_type(name) == EXIT


def no_soft_tokens(name: str | Path) -> str:
    """What to say of one that stands at the exit, where another is expected."""
    return f"the bridge {name} stands at CLIP's exit and gives no soft tokens: expected one at its entrance"
