"""What `altdiffusion info` prints: versions, devices, and what computes attention here."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

from altdiffusion.checkpoints import hub
from altdiffusion.cli.terminal import hide_loading, print_json

_PACKAGES = ("altdiffusion", "torch", "diffusers", "transformers", "accelerate", "xformers", "peft", "pillow")


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


def _info(options: argparse.Namespace) -> None:
    if options.picture is not None:
        from altdiffusion.generation.infotext import open_info, to_command

        settings = open_info(options.picture)
        if options.json:
            print_json({**dict(settings), "command": to_command(settings)})
        else:
            for name, value in settings:
                if value not in (None, ""):
                    print(f"{name.replace('_', ' ')}: {value}")
            print(f"\n{to_command(settings)}")
        return
    hide_loading()
    facts = describe()
    if options.json:
        print_json(facts)
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):{width}}  {', '.join(value) if isinstance(value, list) else value}")
