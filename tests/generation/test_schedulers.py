"""Schedulers by everybody's names: what is built, what is written into a PNG, and that it is the same read back."""

import importlib.util
import itertools

import diffusers
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from altdiffusion import AltDiffusionPipeline, InputError, generate
from altdiffusion.generation.infotext import from_infotext, open_info, to_infotext
from altdiffusion.generation.result import save_image
from altdiffusion.generation.schedulers import (
    SAMPLERS,
    SCHEDULERS,
    SCHEDULES,
    build_scheduler,
    find_scheduler,
    schedules_of,
)
from altdiffusion.generation.settings import ImageSettings

NAMES = [name for sampler in SAMPLERS for name in (sampler.name, sampler.web_ui, sampler.comfy_ui, sampler.class_name)]
ENDINGS = {"Karras": "karras", "Exponential": "exponential", "Beta": "beta", "SGM Uniform": "sgm_uniform"}


@pytest.fixture(scope="module")
def pipe(published):
    pipe = AltDiffusionPipeline.from_pretrained(published("m9"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def built(name, pipe):
    if "lms" in name.lower() or "beta" in name.lower():
        pytest.importorskip("scipy")
    return build_scheduler(name, pipe)


def image(pipe, scheduler, **options):
    return next(
        generate("一只猫", model=pipe, scheduler=scheduler, seed=1, **({"steps": 2, "size": (16, 16)} | options))
    )


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_scheduler_by_name(pipe, name):
    scheduler = built(name, pipe)
    short = type(scheduler).__name__.removesuffix("Scheduler")
    assert type(scheduler).__name__ == SCHEDULERS[name]
    assert scheduler.config.beta_start == pipe.scheduler.config.beta_start
    assert find_scheduler(f"{short}Scheduler") == find_scheduler(short) == find_scheduler(name)
    before = pipe.scheduler
    assert image(pipe, name).settings.scheduler == short
    assert pipe.scheduler is before


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_sampler_and_schedule_from_one_step_on(pipe, steps):
    for sampler in SAMPLERS:
        for schedule in ["", *schedules_of(sampler.class_name)]:
            name = f"{sampler.web_ui} {schedule}".rstrip()
            if (sampler.name == "lms" or schedule == "Beta") and not importlib.util.find_spec("scipy"):
                continue
            assert image(pipe, name, steps=steps).settings.steps == steps, name


@pytest.mark.parametrize("name", ["pndm", "PLMS", "PNDMScheduler"])
@pytest.mark.parametrize("own", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_pndm_skips_the_runge_kutta_steps_as_stable_diffusions_own(pipe, name, own):
    """21 calls of the UNet for 20 steps, whatever the model's own scheduler is."""
    other = AltDiffusionPipeline(**pipe.components)
    other.scheduler = own.from_config(
        {name: value for name, value in pipe.scheduler.config.items() if name != "skip_prk_steps"}
    )
    scheduler = build_scheduler(name, other)
    scheduler.set_timesteps(20)
    assert len(scheduler.timesteps) == 21
    assert scheduler.config.skip_prk_steps


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_models_own_pndm_with_runge_kutta_steps_says_from_how_many(pipe, steps):
    other = AltDiffusionPipeline(**pipe.components)
    other.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=False)
    with pytest.raises(InputError, match=f"steps: expected at least 4 with the model's own PNDM, got {steps}"):
        image(other, None, steps=steps)
    assert image(other, None, steps=4).settings.scheduler == "PNDM"


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "DDPMWuerstchen", "Amused", "ConsistencyDecoder"])
def test_a_scheduler_of_other_models_is_one_line(pipe, name):
    with pytest.raises(InputError, match="isn't made for such models"):
        build_scheduler(name, pipe)


def test_every_scheduler_of_diffusers_generates_or_is_one_line(pipe):
    names = {name for name in dir(diffusers) if name.endswith("Scheduler")}
    refused = {}
    for name in names:
        try:
            for steps in (1, 2, 5):
                image(pipe, name, steps=steps)
        except InputError as error:
            refused[name] = str(error)
    assert not [line for line in refused.values() if "\n" in line]
    assert refused.keys() >= {"KarrasVeScheduler", "UnCLIPScheduler", "EDMEulerScheduler", "DDIMInverseScheduler"}
    works = {"LCMScheduler", "TCDScheduler", "SASolverScheduler", "DDIMParallelScheduler", *SCHEDULERS.values()}
    assert not (works & refused.keys()) - {"LMSDiscreteScheduler"}  # which needs scipy


@pytest.mark.parametrize("name", ["Euler a", "DPM++ 2M", "PLMS", "ddim", "DDIM", "DDIMScheduler", "DPMSolverSDE"])
def test_schedulers_by_the_web_uis_and_diffusers_names(name):
    assert find_scheduler(name).class_name.endswith("Scheduler")


def test_no_two_samplers_share_a_name():
    names = [{each.lower().replace("-", " ") for each in (one.name, one.web_ui, one.comfy_ui)} for one in SAMPLERS]
    assert not any(one & other for one, other in itertools.combinations(names, 2))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["", *SCHEDULES])
def test_what_is_written_is_the_same_read_back(pipe, name, schedule):
    if schedule and schedule not in schedules_of(find_scheduler(name).class_name):
        with pytest.raises(InputError, match=f"takes no {schedule} schedule"):
            find_scheduler(f"{name} {schedule}")
        return
    choice = find_scheduler(f"{name} {schedule}")
    assert choice.schedule == schedule
    settings = ImageSettings(prompt="猫", steps=2, scheduler=choice.written)
    assert find_scheduler(from_infotext(to_infotext(settings)).scheduler) == choice
    if schedule:
        assert find_scheduler(f"{name}_{ENDINGS[schedule]}") == find_scheduler(f"{name} {ENDINGS[schedule]}") == choice
        newer = from_infotext(f"猫\nSteps: 2, Sampler: {name}, Schedule type: {schedule}")
        assert find_scheduler(newer.scheduler) == choice


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DPM++ 2M Karras", {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"}),
        ("dpmpp_2m_sde_gpu karras", {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}),
        ("DPM++ 2M SDE Exponential", {"use_exponential_sigmas": True, "timestep_spacing": "linspace"}),
        ("Euler Beta", {"use_beta_sigmas": True, "timestep_spacing": "linspace"}),
        ("euler-a sgm_uniform", {"timestep_spacing": "trailing"}),
        ("Heun Simple", {"timestep_spacing": "trailing"}),
        ("DPM++ SDE", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_diffusers_is_asked_for_the_schedule(pipe, name, options):
    config = built(name, pipe).config
    assert {key: config[key] for key in options} == options


@pytest.mark.parametrize("schedule", ["Automatic", "Uniform", "normal"])
def test_the_web_uis_plain_schedules_are_the_models_own(schedule):
    assert find_scheduler(f"Euler {schedule}") == find_scheduler("euler")


def test_a_schedule_replaces_that_of_the_pipeline(pipe):
    pipe = AltDiffusionPipeline(**pipe.components)
    pipe.scheduler = build_scheduler("DPM++ 2M Karras", pipe)
    config = build_scheduler("DPM++ 2M Exponential", pipe).config
    assert (config.use_karras_sigmas, config.use_exponential_sigmas) == (False, True)


@pytest.mark.parametrize(
    "name", ["DPM++ 2M Karras", "DPM++ 2M SDE Karras", "DPM++ SDE Exponential", "Euler a SGM Uniform"]
)
def test_the_image_says_what_was_used_and_comes_out_again(pipe, name, tmp_path):
    first = image(pipe, name, steps=4)
    save_image(first, tmp_path / "x.png")
    written = open_info(tmp_path / "x.png").scheduler
    assert written == first.settings.scheduler == name
    again = image(pipe, written, steps=4)
    assert again.image.tobytes() == first.image.tobytes()
    assert first.image.tobytes() != image(pipe, name.rsplit(" ", 2 if "SGM" in name else 1)[0], steps=4).image.tobytes()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("magic", "unknown scheduler 'magic': expected one of ddim, ddpm, pndm"),
        ("Karras", "unknown scheduler 'Karras'"),
        ("", "unknown scheduler ''"),
        ("__class__", "unknown scheduler"),
        ("DPM++ 2S a Karras", "unknown scheduler 'DPM\\+\\+ 2S a'"),
        ("Euler a Karras", "Euler a takes no Karras schedule, but SGM Uniform"),
        (
            "dpm\\+\\+-single sgm_uniform".replace("\\", ""),
            "takes no SGM Uniform schedule, but Karras or Exponential or Beta",
        ),
    ],
)
def test_what_is_none_is_one_clear_line(name, line):
    with pytest.raises(InputError, match=line) as error:
        find_scheduler(name)
    assert "\n" not in str(error.value)
