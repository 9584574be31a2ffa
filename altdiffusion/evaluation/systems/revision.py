"""Which weights a system has, so that a figure says what it was measured of."""

from __future__ import annotations

from altdiffusion.altclip.model import EMBEDDED
from altdiffusion.checkpoints import hub
from altdiffusion.evaluation.systems.vocabulary import split_name
from altdiffusion.files import sha256_of

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")


def revision_of(name: str) -> str:
    """A model's name with the hub's commit, or with the beginning of the SHA-256 of its weights where it lies on the disk."""
    model, _ = split_name(name)
    path = hub.resolve(model, ["config.json", "open_clip_config.json"])
    if path.parent.name == "snapshots":
        return f"{name} at {path.name[:12]}"
    if path.is_dir():
        path = path / EMBEDDED if (path / EMBEDDED).is_dir() else path
        files = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
    else:
        files = [path]
    return f"{name}, sha256 {sha256_of(files)}" if files else name
