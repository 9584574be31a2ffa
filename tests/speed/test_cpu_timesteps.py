"""No step waits for the device: shown on PyTorch's "meta" device, whose tensors have no values that could be asked for."""

import copy
import inspect
import pickle
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from altdiffusion.benchmark import models
from altdiffusion.benchmark.cases import generation
from altdiffusion.benchmark.models import SMALL
from altdiffusion.generation.schedulers import SCHEDULERS, build_scheduler
from altdiffusion.speed.cpu_timesteps import is_kept, keep_on_cpu
from altdiffusion.speed.optimize import optimize

CPU = torch.device("cpu")
FOUR_STEPS = replace(SMALL, steps=4)  # PNDM can't do with fewer
NAMES = [name for name in SCHEDULERS if name != "lms"]  # which needs scipy


@pytest.fixture(scope="module")
def stock():
    return models.diffusion(SMALL, models.text_tower(SMALL, CPU), CPU, torch.float32)


def loop(stock, scheduler):
    """A whole generation but for encoding the prompt and decoding, on "meta"."""
    parts = {name: part for name, part in stock.components.items() if name not in ("unet", "vae", "scheduler")}
    pipe = type(stock)(
        **parts,
        unet=copy.deepcopy(stock.unet).to("meta"),
        vae=copy.deepcopy(stock.vae).to("meta"),
        scheduler=scheduler,
        requires_safety_checker=False,
    )
    pipe.text_encoder = None
    pipe.set_progress_bar_config(disable=True)
    states = torch.empty(1, 77, models.PROJECTED, device="meta")
    given = {"prompt_embeds": states, "negative_prompt_embeds": states, "generator": torch.Generator()}
    return pipe(**given, output_type="latent", num_inference_steps=4, width=64, height=64).images


@pytest.mark.parametrize("name", NAMES)
def test_no_step_asks_for_a_value(stock, name):
    scheduler = build_scheduler(SCHEDULERS[name], stock)
    keep_on_cpu(scheduler)
    assert loop(stock, scheduler).device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_as_diffusers_leaves_it_every_scheduler_does(stock, name):
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|nonzero"):
        loop(stock, build_scheduler(SCHEDULERS[name], stock))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_the_same_and_generates_schedulers_are_kept_too(stock, name):
    pipe = generation.copy_with_our_encoder(stock)
    pipe.scheduler = build_scheduler(SCHEDULERS[name], pipe)
    expected = generation.make_generate(pipe, FOUR_STEPS, 1)()
    optimize(pipe, dtype=torch.float32)
    assert is_kept(pipe.scheduler)
    assert is_kept(build_scheduler("EulerDiscreteScheduler", pipe))
    torch.testing.assert_close(generation.make_generate(pipe, FOUR_STEPS, 1)(), expected, atol=1e-4, rtol=0)


def test_pipelines_see_which_arguments_the_scheduler_takes():
    scheduler = EulerDiscreteScheduler()
    before = inspect.signature(scheduler.set_timesteps)
    keep_on_cpu(scheduler)
    assert inspect.signature(scheduler.set_timesteps) == before


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_a_copy_sets_its_own_timesteps(twin):
    scheduler = DDIMScheduler()
    keep_on_cpu(scheduler)
    other = twin(scheduler)
    other.set_timesteps(7, device="meta")
    assert len(other.timesteps) == 7
    assert other.timesteps.device == CPU
    assert len(scheduler.timesteps) == 1000
