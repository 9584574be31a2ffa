"""Prompt and settings inside a PNG, in the form that the Stable Diffusion web UIs write and read ("infotext").

    一只猫
    Negative prompt: 模糊
    Steps: 25, Sampler: DDIM, CFG scale: 7.5, Seed: 1, Size: 64x64, Model: mini, Version: altdiffusion 0.1.0

It is kept as the PNG text "parameters", as iTXt (UTF-8), so that Chinese survives.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.settings import Settings
from altdiffusion.images import opened_image

KEY = "parameters"


# Settings' fields and their infotext names, in the order they are written. Size is apart: it is two fields.
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "steps": ("Steps", int),
    "scheduler": ("Sampler", str),
    "guidance_scale": ("CFG scale", float),
    "seed": ("Seed", int),
    "model": ("Model", str),
    "strength": ("Denoising strength", float),
    "init_image": ("Init image", str),
    "mask": ("Mask", str),
    "lora": ("Lora", str),
    "text_encoder": ("Text encoder", str),
    "bridge": ("Bridge", str),
    "dtype": ("Precision", str),
    "allow_pickle": ("Pickle allowed", lambda text: text == "True"),
    "score": ("AltCLIP score", float),
}
_PAIR = re.compile(r'\s*([\w][\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')


def to_infotext(settings: Settings) -> str:
    """The settings as infotext; `from_infotext` gives the same settings back."""
    text = _lines(settings)
    if from_infotext(text) != settings:  # a prompt that looks like infotext itself, or ends in a line break
        exact = json.dumps([settings.prompt, settings.negative_prompt], ensure_ascii=False)
        text = _lines(replace(settings, prompt=settings.prompt.strip())) + f", Exact prompts: {_quoted(exact)}"
    return text


def _lines(settings: Settings) -> str:
    from altdiffusion import __version__

    pairs = [(label, getattr(settings, field)) for field, (label, _) in _FIELDS.items()]
    if settings.width and settings.height:
        pairs.insert(4, ("Size", f"{settings.width}x{settings.height}"))
    pairs.append(("Version", f"altdiffusion {__version__}"))
    line = ", ".join(f"{label}: {_quoted(str(value))}" for label, value in pairs if value is not None)
    negative = f"\nNegative prompt: {settings.negative_prompt}" if settings.negative_prompt else ""
    return f"{settings.prompt}{negative}\n{line}"


def _quoted(value: str) -> str:
    """Values with a comma, a colon, a quote or a line break are JSON strings, as the web UIs write them."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n]|^\s|\s$', value) else value


def from_infotext(text: str) -> Settings:
    """The settings in an infotext, ours or a web UI's; what is missing or can't be parsed is None."""
    head, _, last = text.rpartition("\n")
    pairs = {label.strip(): _unquoted(value) for label, value in _PAIR.findall(last)}
    if "Steps" not in pairs:
        head, pairs = text, {}
    prompt, _, negative = head.partition("\nNegative prompt: ")
    if prompt.startswith("Negative prompt: "):
        prompt, negative = "", prompt.removeprefix("Negative prompt: ")
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    if "Exact prompts" in pairs:
        values["prompt"], values["negative_prompt"] = json.loads(pairs["Exact prompts"])
    for field, (label, kind) in _FIELDS.items():
        with contextlib.suppress(KeyError, ValueError):
            values[field] = kind(pairs[label])
    if size := re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", "")):
        values["width"], values["height"] = int(size[1]), int(size[2])
    return Settings(**values)


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def png_info(settings: Settings) -> PngImagePlugin.PngInfo:
    """What to pass as `pnginfo` when saving the image."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, to_infotext(settings))
    return info


def read_settings(picture: Image.Image) -> Settings:
    """The settings in an image. Raises InputError where there are none."""
    text = picture.info.get(KEY)
    if not isinstance(text, str):
        raise InputError(
            "this picture carries no settings (no PNG text 'parameters'): it was drawn or saved by another program"
        )
    return from_infotext(text)


def to_command(settings: Settings) -> str:
    """The `altdiffusion generate` command that draws the image again."""
    words = ["altdiffusion", "generate", settings.prompt]
    if settings.prompt.startswith("-"):
        words.insert(2, "--")
    options = {
        "--negative-prompt": settings.negative_prompt or None,
        "--model": settings.model,
        "--seed": settings.seed,
        "--steps": settings.steps,
        "--guidance-scale": settings.guidance_scale,
        "--size": f"{settings.width}x{settings.height}" if settings.width else None,
        "--scheduler": settings.scheduler,
        "--init-image": settings.init_image,
        "--strength": settings.strength,
        "--mask": settings.mask,
        "--lora": settings.lora,
        "--text-encoder": settings.text_encoder,
        "--bridge": settings.bridge,
        "--dtype": settings.dtype,
    }
    flags = []
    for name, value in options.items():
        if value is not None:  # a value that starts with "-" would read as an option
            flags += [f"{name}={value}"] if str(value).startswith("-") else [name, str(value)]
    if settings.allow_pickle:
        flags.append("--allow-pickle")
    return shlex.join(words[:2] + flags + words[2:])


def open_info(path: str | Path) -> Settings:
    """Prompt and settings inside an image. Raises InputError as `open_image`, and where there are none."""
    with opened_image(local_path(path)) as file:
        return read_settings(file)
