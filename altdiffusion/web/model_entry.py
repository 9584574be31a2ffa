"""A model with its parts, as the page's owner names it: `mini+lora=ink.safetensors:0.8+lora=sketch.safetensors`. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altdiffusion.errors import InputError
from altdiffusion.generation.loras import parse_lora
from altdiffusion.generation.settings import ImageSettings
from altdiffusion.settings import is_list

# Of the settings that are about loading.
PARTS = ("lora", "textual_inversion", "vae", "text_encoder", "bridge", "tokenizer", "settings_from")
_UNTOLD = ("tokenizer", "settings_from")
_PART = re.compile(r"\+([a-z][a-z-]*)=")


@dataclass(frozen=True)
class ModelEntry:
    """name: as in `AltDiffusionPipeline.from_pretrained`. parts: arguments of `load_pipeline`."""

    name: str
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def part_names(self) -> list[str]:
        """What a visitor is told of the parts: never a path."""
        loras = [parse_lora(lora).name for lora in self.parts.get("lora", ())]
        words = [Path(word).stem for word in self.parts.get("textual_inversion", ())]
        told = [self.parts.get(part) for part in PARTS if part not in _UNTOLD]
        return loras + words + [Path(part).name for part in told if isinstance(part, str)]


def parse_entry(written: str) -> ModelEntry:
    """MODEL, or MODEL+PART=VALUE...; LoRAs and textual inversions may come several times. Raises InputError."""
    name, *rest = _PART.split(written)
    parts: dict[str, Any] = {}
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        part = flag.replace("-", "_")
        if part not in PARTS:
            expected = ", ".join(known.replace("_", "-") for known in PARTS)
            raise InputError(f"{written}: {flag} is no part of a model: expected {expected}")
        if is_list(ImageSettings.model_fields[part]):
            parts.setdefault(part, []).append(value)
        elif part in parts:
            raise InputError(f"{written}: expected one {flag}")
        else:
            parts[part] = value
    return ModelEntry(name, parts)
