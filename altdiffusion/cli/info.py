"""`altdiffusion info`: versions, devices, and what computes attention here; or the settings inside an image."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

from altdiffusion.checkpoints import hub
from altdiffusion.cli.flags import command
from altdiffusion.cli.options import JsonSettings
from altdiffusion.cli.terminal import hide_loading, print_json, print_line
from altdiffusion.settings import setting

_PACKAGES = ("altdiffusion", "torch", "diffusers", "transformers", "accelerate", "xformers", "peft", "pillow")


class InfoSettings(JsonSettings):
    """What is asked about: the installation, or an image."""

    image: str | None = setting(
        None, "print its settings and the command that generates it again", positional="IMAGE.png", source="image"
    )


@command(InfoSettings)
def info(settings: InfoSettings) -> None:
    """Versions, device and attention; or the settings inside an image.

    altdiffusion info
    altdiffusion info pictures/1-0.png
    """
    if settings.image is not None:
        _print_settings(settings.image, settings.as_json)
        return
    hide_loading()
    facts = describe()
    if settings.as_json:
        print_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {', '.join(value) if isinstance(value, list) else value}")


def describe() -> dict[str, Any]:
    """Versions, devices, the default device and dtype, and the attention of the embedded default on that device."""
    from altdiffusion.devices import available_devices, choose_device, choose_dtype
    from altdiffusion.pipelines.alt_diffusion import AltDiffusionPipeline
    from altdiffusion.speed.attention import choose_attention

    facts: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    device = choose_device()
    dtype = choose_dtype(None, device)
    pipe = AltDiffusionPipeline.from_pretrained(dtype=dtype).to(device)
    attention = asdict(choose_attention(pipe))
    return facts | {
        "devices": available_devices(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        **{f"attention_{part}": kernel for part, kernel in attention.items()},
        "default_model": f"{hub.MINI} ({hub.mini_folder()})",
    }


def _print_settings(image: str, as_json: bool) -> None:
    from altdiffusion.files import local_path
    from altdiffusion.generation.infotext import read_info, to_command
    from altdiffusion.generation.label import read_label
    from altdiffusion.generation.runnable import runnable
    from altdiffusion.images import opened_image

    with opened_image(local_path(image)) as opened:
        label = read_label(opened)
    settings, unread = read_info(image)
    left_out = [*runnable(settings)[1], *unread]
    if as_json:
        found = {"label": {"source_type": label.source_type, "aigc": label.aigc}}
        print_json({**dict(settings), "command": to_command(settings), "left_out": left_out, **found})
        return
    for name, value in settings:
        if value not in (None, ""):
            print_line(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
    for line in label.lines():
        print_line(f"label: {line}")
    print_line(f"\n{to_command(settings)}")
    if left_out:
        print_line("\n  ".join(["\nleft out of the command:", *left_out]))
