"""Schedulers by the names that people know them by: ours, the web UIs', diffusers'.

    build_scheduler("DPM++ 2M Karras", pipe)   # a sampler, and how its noise levels are spaced

The mapping is that of diffusers' documentation (docs/source/en/api/schedulers/overview.md); "DPM++ SDE" is the stochastic
solver here, which diffusers could not do yet when that table was written.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altdiffusion.errors import InputError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Sampler:
    """A class of diffusers and what it is called: by us, by AUTOMATIC1111's web UI, by ComfyUI."""

    name: str
    web_ui: str
    comfy_ui: str
    class_name: str
    algorithm: str | None = None  # its `algorithm_type`; None: the model's


SAMPLERS = (
    Sampler("ddim", "DDIM", "ddim", "DDIMScheduler"),
    Sampler("ddpm", "DDPM", "ddpm", "DDPMScheduler"),
    Sampler("pndm", "PLMS", "plms", "PNDMScheduler"),
    Sampler("lms", "LMS", "lms", "LMSDiscreteScheduler"),
    Sampler("euler", "Euler", "euler", "EulerDiscreteScheduler"),
    Sampler("euler-a", "Euler a", "euler_ancestral", "EulerAncestralDiscreteScheduler"),
    Sampler("heun", "Heun", "heun", "HeunDiscreteScheduler"),
    Sampler("dpm2", "DPM2", "dpm_2", "KDPM2DiscreteScheduler"),
    Sampler("dpm2-a", "DPM2 a", "dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
    Sampler("dpm++", "DPM++ 2M", "dpmpp_2m", "DPMSolverMultistepScheduler"),
    Sampler("dpm++-single", "DPM++ 2S", "dpmpp_2s", "DPMSolverSinglestepScheduler"),
    Sampler("deis", "DEIS", "deis", "DEISMultistepScheduler"),
    Sampler("unipc", "UniPC", "uni_pc", "UniPCMultistepScheduler"),
    Sampler("dpm++-2m-sde", "DPM++ 2M SDE", "dpmpp_2m_sde", "DPMSolverMultistepScheduler", "sde-dpmsolver++"),
    Sampler("dpm++-sde", "DPM++ SDE", "dpmpp_sde", "DPMSolverSinglestepScheduler", "sde-dpmsolver++"),
)
SCHEDULERS = {sampler.name: sampler.class_name for sampler in SAMPLERS if sampler.algorithm is None}

# How the noise levels are spaced: the web UIs' schedule types. The first argument is the one that a class must take.
SCHEDULES: dict[str, dict[str, Any]] = {
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "Beta": {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
_SAME_SCHEDULE = {"simple": "SGM Uniform", "uniform": "", "normal": "", "automatic": ""}  # "": the model's own
MOST_NEEDED = 8  # steps, by any scheduler
_NO_SIGMAS = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False)


@dataclass(frozen=True)
class SchedulerChoice:
    """What a name stands for. schedule: one of SCHEDULES; "": the model's own."""

    class_name: str
    algorithm: str | None = None
    schedule: str = ""

    @property
    def written(self) -> str:
        """Its name in a PNG: the class's; with an algorithm or a schedule the web UIs', which they read, too."""
        short = self.class_name.removesuffix("Scheduler")
        if not (self.algorithm or self.schedule):
            return short
        return f"{self._web_ui or short} {self.schedule}".rstrip()

    @property
    def _web_ui(self) -> str:
        same = (each for each in SAMPLERS if (each.class_name, each.algorithm) == (self.class_name, self.algorithm))
        return next((sampler.web_ui for sampler in same), "")


def find_scheduler(name: str) -> SchedulerChoice:
    """The same as `parse_scheduler`. Raises InputError for a schedule, too, that the class doesn't take."""
    choice = parse_scheduler(name)
    takes = schedules_of(choice.class_name) if choice.schedule else []
    if choice.schedule and choice.schedule not in takes:
        sampler = name.strip()[: -len(choice.schedule)].rstrip(" _-")
        raise InputError(
            f"scheduler {name}: {sampler} takes no {choice.schedule} schedule, but {' or '.join(takes) or 'its own alone'}"
        )
    return choice


def parse_scheduler(name: str) -> SchedulerChoice:
    """What a name of ours, of the web UIs or of diffusers stands for. Raises InputError, which lists the names.

    It doesn't import diffusers, which takes seconds.
    """
    words = _words(name)
    schedules = {_words(schedule): schedule for schedule in SCHEDULES} | _SAME_SCHEDULE
    ending = max((each for each in schedules if words.endswith(f" {each}")), key=len, default="")
    sampler = name.strip()[: len(words) - len(ending)].rstrip(" _-")
    return SchedulerChoice(*_sampler(sampler), schedules.get(ending, ""))


def schedules_of(class_name: str) -> list[str]:
    """Those of SCHEDULES that a class of diffusers takes."""
    import diffusers

    scheduler_class = getattr(diffusers, class_name)
    if hasattr(scheduler_class, "_backends"):  # diffusers' stand-in where scipy is missing: building it says so
        return list(SCHEDULES)
    taken = inspect.signature(scheduler_class).parameters
    return [schedule for schedule, options in SCHEDULES.items() if next(iter(options)) in taken]


def build_scheduler(name: str, pipe: DiffusionPipeline) -> Any:
    """The scheduler of that name with the noise that the model was trained with. Raises InputError."""
    import diffusers

    from altdiffusion.speed.cpu_timesteps import is_kept, keep_on_cpu

    choice = find_scheduler(name)
    scheduler_class = getattr(diffusers, choice.class_name, None)
    unfit = InputError(
        f"scheduler {name}: {choice.class_name} isn't made for such models: take another one, such as ddim"
    )
    if scheduler_class is None:
        raise unfit
    # as Stable Diffusion's own PNDM; its Runge-Kutta steps would need four steps at least, and nine more calls of the UNet
    options: dict[str, Any] = {"skip_prk_steps": True}
    if choice.schedule:
        options |= _NO_SIGMAS | SCHEDULES[choice.schedule]
    if choice.algorithm:
        options["algorithm_type"] = choice.algorithm
    taken = inspect.signature(scheduler_class).parameters
    try:
        scheduler = scheduler_class.from_config(
            pipe.scheduler.config, **{name: value for name, value in options.items() if name in taken}
        )
    except ImportError as error:  # LMS and Beta need scipy
        raise InputError(f"scheduler {name}: {' '.join(str(error).split())}") from None
    except (TypeError, KeyError, ValueError):
        raise unfit from None
    if not _fits(scheduler):
        raise unfit
    if is_kept(pipe.scheduler):
        keep_on_cpu(scheduler)
    return scheduler


def check_steps(scheduler: Any, steps: int) -> None:
    """Raise InputError where a scheduler can't do so few steps, as a model's own PNDM with Runge-Kutta steps."""
    for more in range(steps, steps + MOST_NEEDED):
        try:
            copy.deepcopy(scheduler).set_timesteps(more)
        except (ValueError, IndexError):
            continue
        if more == steps:
            return
        name = type(scheduler).__name__.removesuffix("Scheduler")
        raise InputError(
            f"steps: expected at least {more} with the model's own {name}, got {steps}: or take another scheduler"
        )


def _fits(scheduler: Any) -> bool:
    """Whether Stable Diffusion's pipelines can step with it, through the noise levels that their models learnt.

    Without betas (EDM, flow matching, consistency models) it has levels of its own, and images come out as noise.
    """
    if not all(hasattr(scheduler, name) for name in ("init_noise_sigma", "scale_model_input", "order", "step")):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(scheduler.step).parameters.values()
    required = [parameter for parameter in taken if parameter.kind in kinds and parameter.default is parameter.empty]
    adds_noise = "Inverse" in type(scheduler).__name__
    # model_output, timestep, sample
    return len(required) == 3 and "beta_start" in inspect.signature(type(scheduler)).parameters and not adds_noise


def _sampler(name: str) -> tuple[str, str | None]:
    """Class and algorithm of a name without a schedule."""
    for sampler in SAMPLERS:
        if _words(name) in map(_words, (sampler.name, sampler.web_ui, sampler.comfy_ui, f"{sampler.comfy_ui}_gpu")):
            return sampler.class_name, sampler.algorithm
    for class_name in (name, f"{name}Scheduler"):
        if class_name.endswith("Scheduler") and _is_in_diffusers(class_name):
            return class_name, None
    raise InputError(
        f"unknown scheduler {name!r}: expected one of {', '.join(sampler.name for sampler in SAMPLERS)}, "
        f"and after it, where wanted, one of {', '.join(SCHEDULES)}"
    )


def _is_in_diffusers(class_name: str) -> bool:
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None
    assert spec.origin is not None
    return f'"{class_name}"' in Path(spec.origin).with_name("schedulers").joinpath("__init__.py").read_text("utf-8")


def _words(name: str) -> str:
    """dpmpp_2m_karras, DPM++ 2M Karras -> words in small letters, as long as the name."""
    return name.strip().lower().replace("_", " ").replace("-", " ")
