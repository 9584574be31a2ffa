"""Prompt and settings inside an image file, in the form that the Stable Diffusion web UIs write and read ("infotext").

    一只猫
    Negative prompt: 模糊
    Steps: 25, Sampler: DDIM, CFG scale: 7.5, Seed: 1, Size: 64x64, Model: mini, Version: altdiffusion 0.1.0

It is kept where these keep it: as the PNG text "parameters", as iTXt (UTF-8), so that Chinese survives; in JPEG and WebP
as EXIF's user comment, in UTF-16. The names are those of `ImageSettings`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.foreign_settings import read_json, settings_text
from altdiffusion.generation.runnable import runnable
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.images import opened_image
from altdiffusion.prompt_syntax import choose
from altdiffusion.settings import about_of, as_flag, is_list, type_of

KEY = "parameters"
_NEGATIVE = re.compile(r"\nNegative [pP]rompt: ?")
_READ_TOO = {"Size", "Schedule type", "Exact prompts", "Inpaint area"}
_ONLY_MASKED = "Only masked"
_UPSCALER = "Lanczos"  # by which the first pass is enlarged, as the web UIs call it
# a name's length is bounded, as a line that is one word of a megabyte would take hours
_PAIR = re.compile(r'(\w[\w \-/]{0,99}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')

_FIELDS = ImageSettings.model_fields
_LABELS: dict[str, str] = {name: about_of(_FIELDS[name])["infotext"] for name in settings_with("infotext")}
_READ = {*_LABELS.values(), *_READ_TOO}


def to_infotext(settings: ImageSettings) -> str:
    """The settings as infotext; `from_infotext` gives the same settings back."""
    text = _text(settings, settings.prompt)
    prompts = [settings.prompt, settings.negative_prompt]
    if [*_read(text)[:2]] != prompts:  # one looks like infotext itself, or ends in a line break
        exact = _quoted(json.dumps(prompts, ensure_ascii=False))
        text = f"{_text(settings, settings.prompt.strip())}, Exact prompts: {exact}"
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may hold bytes that are no text


def _text(settings: ImageSettings, prompt: str) -> str:
    from altdiffusion import __version__

    pairs = [*_pairs(settings), ("Version", f"altdiffusion {__version__}")]
    negative = f"\nNegative prompt: {settings.negative_prompt}" if settings.negative_prompt else ""
    return f"{prompt}{negative}\n" + ", ".join(f"{label}: {_quoted(str(value))}" for label, value in pairs)


def _pairs(settings: ImageSettings) -> Iterator[tuple[str, Any]]:
    """(infotext name, value) of the fields that are known."""
    for name, value in settings:
        label = _LABELS.get(name)
        if name == "width" and settings.width and settings.height:
            yield "Size", f"{settings.width}x{settings.height}"
        elif label and not _is_unsaid(name, value):
            if name == "hires_strength":  # of the two strengths, an image has one
                label = "Denoising strength"
            elif name == "hires":
                yield "Hires upscaler", _UPSCALER
            elif name == "only_masked":
                yield "Inpaint area", _ONLY_MASKED
            yield label, _joined(value) if isinstance(value, list) else value


def _joined(values: list[str]) -> str:
    """A list as text: JSON, but one value alone stands as it is."""
    if len(values) == 1 and _split(values[0]) == values:
        return values[0]
    return json.dumps(values, ensure_ascii=False)


def _split(text: str) -> list[str]:
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text)
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return [text]


def _is_unsaid(name: str, value: Any) -> bool:
    return value is None or value is False or value == _FIELDS[name].default


def _quoted(value: str) -> str:
    """Values with a comma, a colon, a quote or a line break are JSON strings, as the web UIs write them."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n]|^\s|\s$', value) else value


def from_infotext(text: str) -> ImageSettings:
    """The settings in an infotext or JSON, ours or another program's, unchecked; what is missing or can't be parsed is None."""
    return read_infotext(text)[0]


def read_infotext(text: str) -> tuple[ImageSettings, list[str]]:
    """The same, and the names of what isn't read, such as "Hires upscale"."""
    prompt, negative, pairs, others = _read(text)
    if "Sampler" in pairs and pairs.get("Schedule type", "Automatic") != "Automatic":  # newer web UIs have it apart
        pairs["Sampler"] += f" {pairs['Schedule type']}"
    if "Hires upscale" in pairs and "Init image" not in pairs and "Denoising strength" in pairs:
        pairs["Hires strength"] = pairs.pop("Denoising strength")
    if pairs.get("Hires upscaler") == _UPSCALER:
        others.remove("Hires upscaler")
    if pairs.get("Inpaint area") == _ONLY_MASKED:
        pairs.setdefault("Masked area padding", "32")  # the web UIs' own
    else:
        pairs.pop("Masked area padding", None)
    values: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    for name in settings_with("infotext"):
        field = ImageSettings.model_fields[name]
        kind = type_of(field)
        with contextlib.suppress(KeyError, ValueError):
            value = pairs[about_of(field)["infotext"]]
            values[name] = _split(value) if is_list(field) else value == "True" if kind is bool else kind(value)
    if size := re.fullmatch(r"(\d{1,9})x(\d{1,9})", pairs.get("Size", "")):
        values["width"], values["height"] = int(size[1]), int(size[2])
    return ImageSettings.model_construct(**values), others


def _read(text: str) -> tuple[str, str, dict[str, str], list[str]]:
    """Prompt, negative prompt, settings, and the names of those that aren't read, of an infotext or JSON."""
    if found := read_json(text):
        pairs, others = found
        return pairs.pop("Prompt", ""), pairs.pop("Negative prompt", ""), pairs, others
    return _parts(text)


def _parts(text: str) -> tuple[str, str, dict[str, str], list[str]]:
    """The same of an infotext.

    The settings are the last line that begins with "Steps:"; below it, extensions write lines such as "Template: ...".
    """
    lines = text.replace("\r\n", "\n").strip("\n").split("\n")
    index = max((i for i, line in enumerate(lines) if re.match(r"\s*Steps: *[^ ]", line)), default=len(lines) - 1)
    pairs = {label.strip(): _unquoted(value) for label, value in _PAIR.findall(lines[index])}
    if "Steps" not in pairs:
        index, pairs = len(lines), {}
    head = "\n".join(lines[:index]).rstrip("\n")
    prompt, negative = [*_NEGATIVE.split(f"\n{head}", maxsplit=1), ""][:2]
    prompt = prompt.removeprefix("\n").rstrip("\n")
    with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
        prompt, negative = map(str, json.loads(pairs["Exact prompts"]))
    others = [label for label in pairs if label not in _READ and not re.search(r"(?i)hash(es)?$|version", label)]
    below = [line.partition(":")[0] for line in lines[index + 1 :] if re.match(r"[\w ]+:", line)]
    return prompt, negative, pairs, others + below


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value


def png_info(settings: ImageSettings) -> PngImagePlugin.PngInfo:
    """What to pass as `pnginfo` when saving the image."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, to_infotext(settings))
    return info


def exif_info(settings: ImageSettings) -> Image.Exif:
    """What to pass as `exif` when saving a JPEG or WebP."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + to_infotext(settings).encode(
        "utf-16-be"
    )
    return exif


def image_settings(image: Image.Image) -> ImageSettings:
    """The settings inside an image, unchecked. Raises InputError where there are none."""
    return from_infotext(_settings_text(image))


def _settings_text(image: Image.Image) -> str:
    text = settings_text(image)
    if text is None:
        raise InputError(
            "this image carries no settings (no text 'parameters', no EXIF user comment): another program made or saved it, "
            "or it is a contact sheet"
        )
    return text


def open_info(path: str | Path) -> ImageSettings:
    """Prompt and settings inside an image file, unchecked. Raises InputError as `open_image`, and where there are none."""
    return read_info(path)[0]


def read_info(path: str | Path) -> tuple[ImageSettings, list[str]]:
    """The same, and the names of what isn't read, see `read_infotext`."""
    with opened_image(local_path(path)) as image:
        return read_infotext(_settings_text(image))


def to_command(settings: ImageSettings) -> str:
    """The `altdiffusion generate` command that makes the image again, without what would fail here, see `runnable`."""
    settings, _ = runnable(settings)
    prompt = settings.prompt
    if settings.prompt_syntax != "none" and settings.seed is not None:  # the command would generate every choice
        with contextlib.suppress(InputError):
            prompt = choose(prompt, settings.seed, lenient=settings.prompt_syntax == "lenient")
    flags: list[str] = []
    for name, value in settings:
        if name == "width" and settings.width:
            flags += ["--size", f"{settings.width}x{settings.height}"]
        elif name not in settings_with("metavar") or _is_unsaid(name, value):
            continue
        elif value is True:
            flags.append(as_flag(name))
        else:  # a value that starts with "-" would read as an option
            for one in map(str, value if isinstance(value, list) else [value]):
                flags += [f"{as_flag(name)}={one}"] if one.startswith("-") else [as_flag(name), one]
    words = ["--", prompt] if prompt.startswith("-") else [prompt]
    return shlex.join(["altdiffusion", "generate", *flags, *words])
