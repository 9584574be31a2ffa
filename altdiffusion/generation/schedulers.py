"""Schedulers by the names that people know them by, which are checked without importing diffusers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altdiffusion.errors import InputError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Names people know, and diffusers' classes. `scheduler_class` takes a class name too.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2-a": "KDPM2AncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}


# What the web UIs call some of them. Their "Karras" variants space the noise levels differently and are not here.
WEB_UI_NAMES = {
    "euler a": "EulerAncestralDiscreteScheduler",
    "plms": "PNDMScheduler",
    "dpm++ 2m": "DPMSolverMultistepScheduler",
    "dpm2 a": "KDPM2AncestralDiscreteScheduler",
}


def scheduler_class(name: str) -> str:
    """diffusers' class name for a short name, a web UI's name or a class name. Raises InputError, which lists the names."""
    known = SCHEDULERS | WEB_UI_NAMES
    if name.lower() in known:
        return known[name.lower()]
    for class_name in (name, f"{name}Scheduler"):
        if class_name.endswith("Scheduler") and _is_in_diffusers(class_name):
            return class_name
    raise InputError(f"unknown scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")


def _is_in_diffusers(class_name: str) -> bool:
    spec = importlib.util.find_spec("diffusers")  # importing it takes seconds
    assert spec is not None
    assert spec.origin is not None
    return f'"{class_name}"' in Path(spec.origin).with_name("schedulers").joinpath("__init__.py").read_text("utf-8")


def build_scheduler(class_name: str, pipe: DiffusionPipeline) -> Any:
    """That scheduler with the noise schedule that the model was trained with."""
    import diffusers

    from altdiffusion.speed.cpu_timesteps import is_kept, keep_on_cpu

    try:
        scheduler = getattr(diffusers, class_name).from_config(pipe.scheduler.config)
    except ImportError as error:  # LMS needs scipy
        raise InputError(f"scheduler {class_name}: {' '.join(str(error).split())}") from None
    if is_kept(pipe.scheduler):
        keep_on_cpu(scheduler)
    return scheduler
