"""What an export to ONNX can be refused for before torch is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from altdiffusion.errors import InputError

Part = Literal["altclip", "text-encoder", "bridge"]
Precision = Literal["float32", "float16", "int8"]
OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra "onnx"


def check_export(destination: Path, part: Part, bridge: object) -> None:
    """Raise InputError for packages that are missing, a bridge without its part or the part without one, and a folder that
    has something in it."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"{' '.join(missing)} missing: pip install {' '.join(missing)}")
    if (bridge is not None) != (part == "bridge"):
        raise InputError("--bridge and --part bridge belong together: expected both or neither")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise InputError(f"{destination} exists and is not an empty folder: pick another one")
