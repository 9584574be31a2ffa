"""Settings that other programs put inside images: where they keep them, and the JSON of SwarmUI, Fooocus and the like.

AUTOMATIC1111, Forge, SD.Next   infotext; PNG text "parameters", EXIF user comment of JPEG, WebP and AVIF
SwarmUI                         JSON {"sui_image_params": {...}}; in the same places
Fooocus                         infotext, or JSON {"prompt": ..., "base_model": ...}; in the same places
InvokeAI, NovelAI               JSON; PNG texts "invokeai_metadata" and "Comment"
"""

from __future__ import annotations

import json
import re
from typing import Any

from PIL import ExifTags, Image

_TEXTS = ("parameters", "invokeai_metadata", "Comment", "comment", "UserComment")  # by what a text in a file is called
# Names in JSON, without case, blanks, - and _ -> names of infotext.
_NAMES = {
    "prompt": "Prompt",
    "positiveprompt": "Prompt",
    "negativeprompt": "Negative prompt",
    "uc": "Negative prompt",
    "steps": "Steps",
    "sampler": "Sampler",
    "samplername": "Sampler",
    "scheduler": "Schedule type",
    "scheduletype": "Schedule type",
    "noiseschedule": "Schedule type",
    "cfgscale": "CFG scale",
    "cfg": "CFG scale",
    "guidancescale": "CFG scale",
    "scale": "CFG scale",
    "seed": "Seed",
    "imageseed": "Seed",
    "width": "Width",
    "height": "Height",
    "resolution": "Size",
    "size": "Size",
    "model": "Model",
    "basemodel": "Model",
    "strength": "Denoising strength",
    "initimagecreativity": "Denoising strength",
}


def settings_text(image: Image.Image) -> str | None:
    """The text of settings in an image that is decoded, of whatever program; None where there is none."""
    exif = image.getexif()
    comments = [exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment), exif.get(ExifTags.Base.UserComment)]
    texts = [image.info.get(name) for name in _TEXTS] + comments + [exif.get(ExifTags.Base.ImageDescription)]
    decoded = [_decoded(text) if isinstance(text, bytes) else str(text) for text in texts if text]
    return next((text for text in decoded if _is_settings(text)), decoded[0] if image.info.get("parameters") else None)


def _is_settings(text: str) -> bool:
    """Whether it isn't any other comment, such as a camera's."""
    return read_json(text) is not None or re.search(r"\bSteps: *\d", text) is not None


def _decoded(comment: bytes) -> str:
    """An EXIF user comment: eight bytes name its encoding; UTF-16 comes in either order, by what the program likes."""
    name, content = (comment[:8], comment[8:]) if comment[:5] in (b"UNICO", b"ASCII", b"\0" * 5) else (b"", comment)
    if name.startswith(b"UNICODE") and b"\0" in content:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16", "replace").strip("\0")
        both = [content.decode(order, "replace").strip("\0") for order in ("utf-16-be", "utf-16-le")]
        return max(both, key=lambda text: (_is_settings(text), sum(char.isascii() for char in text)))
    return content.decode("utf-8", "replace").strip("\0")


def read_json(text: str) -> tuple[dict[str, str], list[str]] | None:
    """Settings in JSON by infotext's names, with "Prompt" and "Negative prompt", and the names of the others; else None."""
    if not text.lstrip("\ufeff \r\n\t").startswith("{"):
        return None
    try:
        values = json.loads(text.strip("\ufeff \r\n\t"))
    except (ValueError, RecursionError):
        return None
    values = values.get("sui_image_params", values)
    if not isinstance(values, dict):
        return None
    pairs: dict[str, str] = {}
    others = []
    for key, value in values.items():
        name = _NAMES.get(re.sub(r"[\s_-]", "", key).lower())
        if isinstance(value, dict):  # InvokeAI's model
            value = value.get("name") or value.get("model_name")
        if name and isinstance(value, str | int | float):
            pairs.setdefault(name, str(value))
        elif value not in (None, "", [], {}, "None", False):
            others.append(key)
    if "Prompt" not in pairs and "Negative prompt" not in pairs:
        return None
    return _in_infotexts_terms(pairs), others


def _in_infotexts_terms(pairs: dict[str, Any]) -> dict[str, str]:
    width, height = pairs.pop("Width", None), pairs.pop("Height", None)
    if width and height:
        pairs["Size"] = f"{width}x{height}"
    elif size := re.findall(r"\d+", pairs.get("Size", "")):  # Fooocus: (1152, 896)
        pairs["Size"] = "x".join(size[:2])
    if "Schedule type" in pairs and "Sampler" not in pairs:  # InvokeAI
        pairs["Sampler"] = pairs.pop("Schedule type")
    if "Sampler" in pairs:
        pairs["Sampler"] = pairs["Sampler"].removeprefix("k_")  # NovelAI
    return pairs
