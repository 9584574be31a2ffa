"""What of an image's settings `altdiffusion generate` can run here: other programs have samplers and models that we don't."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Any

from altdiffusion.checkpoints import hub
from altdiffusion.errors import InputError
from altdiffusion.files import local_path
from altdiffusion.generation.loras import known_names
from altdiffusion.generation.schedulers import find_scheduler
from altdiffusion.generation.settings import ImageSettings, settings_with
from altdiffusion.settings import about_of

# The web UIs' schedule types, and ComfyUI's, that diffusers hasn't.
_OTHER_SCHEDULES = re.compile(
    r"[ _](karras|exponential|beta|sgm[ _]uniform|polyexponential|turbo|kl[ _]optimal|align your steps\w*( \w+)?|ays\w*|"
    r"ddim([ _]uniform)?|linear[ _]quadratic|native|bong[ _]tangent|simple|normal|uniform|automatic)$",
    re.IGNORECASE,
)
_LORA = re.compile(r"(?<!\\)[<＜](?:lora|lyco)[:：]([^<>＜＞:：]*)(?:[:：][^<>＜＞]*)?[>＞]")
_MAX_NAME = 100  # characters of a sampler with its schedule: images are strangers'


def runnable(settings: ImageSettings) -> tuple[ImageSettings, list[str]]:
    """The settings without what would fail, and a line for each that is left out."""
    values, left_out = dict(settings), []

    def leave_out(name: str, reason: str) -> None:
        left_out.append(f"{name.replace('_', ' ')} {values[name]}: {reason}")
        values[name] = None

    for name in settings_with("needs"):
        needed = _about(name)["needs"]
        if values[name] is not None and values[needed] is None:
            leave_out(name, f"there is no {needed.replace('_', ' ')}")
    for name in ("route", "literal"):
        if values[name] is not None and values["bridge"] is None:
            leave_out(name, "there is no bridge")
    for name, flag in (("model", "--model"), ("vae", "--vae")):
        if values[name] is not None and not _may_be_model(values[name]):
            leave_out(name, f"no {name} of that name is here: name its file, folder or id on the hub with {flag}")
    if settings.scheduler is not None:
        values["scheduler"], lines = _scheduler(settings.scheduler)
        left_out += lines
    for name, value in list(values.items()):
        if (
            name not in ("prompt", "negative_prompt", "width", "height")
            and value is not None
            and (problem := _problem(name, value))
        ):
            leave_out(name, problem)
    size = {"width": settings.width, "height": settings.height}
    if (settings.width or settings.height) and (problem := _problem("width", settings.width, **size)):
        left_out.append(f"size {settings.width}x{settings.height}: {problem}")
        values |= {"width": None, "height": None}
    if settings.prompt_syntax != "none":
        values["prompt"], unknown = _without_loras(settings.prompt, known_names(settings.lora, settings.lora_dir))
        values["negative_prompt"], negative = _without_loras(settings.negative_prompt, ())
        left_out += [f"{tag}: name its file with --lora, or its folder with --lora-dir" for tag in unknown]
        left_out += [f"{tag}: it stands in the negative prompt, where LoRAs do nothing" for tag in negative]
    if not values["prompt"].strip():
        left_out.append("prompt: there is none, and the command needs one")
    elif problem := _problem("prompt", values["prompt"]) or _problem("negative_prompt", values["negative_prompt"]):
        values["prompt_syntax"] = "lenient"
        left_out.append(f"{problem}: read as AUTOMATIC1111 does, by --prompt-syntax lenient")
    return ImageSettings.model_construct(**values), left_out


def _problem(name: str, value: Any, **others: Any) -> str:
    """Why a value is refused; "" if it isn't. What it needs beside it is there."""
    needed: dict[str, Any] = {}
    wanted = _about(name).get("needs")
    while wanted:  # and what that needs
        needed[wanted] = 2.0 if wanted == "hires" else "x"
        wanted = _about(wanted).get("needs")
    try:
        ImageSettings(**({"prompt": "x"} | needed | others | {name: value}))
    except InputError as error:
        return str(error)
    return ""


def _without_loras(prompt: str, known: Collection[str]) -> tuple[str, list[str]]:
    """A prompt without the LoRAs that aren't known, and these as they were written."""
    unknown: list[str] = []

    def leave_out(found: re.Match[str]) -> str:
        if found[1].strip() in known:
            return found[0]
        unknown.append(found[0])
        return ""

    prompt = _LORA.sub(leave_out, prompt)
    return prompt.strip() if unknown else prompt, unknown


def _about(name: str) -> dict[str, Any]:
    return about_of(ImageSettings.model_fields[name])


def _may_be_model(name: str) -> bool:
    known = name in (hub.MINI, hub.SD_MINI) or hub.is_hub_id(name)
    with contextlib.suppress(InputError):  # of a name that no file can have
        return known or local_path(name).exists()
    return False


def _scheduler(name: str) -> tuple[str | None, list[str]]:
    """The name, without its schedule where that can't be had; None where the sampler itself can't."""
    if len(name) > _MAX_NAME:
        return None, [f"scheduler {name[:40]}…: no sampler has so long a name, the model's own is taken"]
    try:
        find_scheduler(name)
        return name, []
    except InputError as error:
        reason = str(error).partition(": expected")[0]
    if schedule := _OTHER_SCHEDULES.search(name):
        sampler = name[: schedule.start()]
        kept, lines = _scheduler(sampler)
        return kept, lines or [f"schedule type {schedule[1]}: {sampler} has none of that name here"]
    return None, [f"{reason}: the model's own is taken"]
