"""Timesteps that stay on the CPU, so that a drawing on a GPU is queued without waiting for it.

diffusers puts a scheduler's timesteps on the GPU, and each of its schedulers then asks the GPU for their values: DDIM, DDPM
and PNDM at every step, the others at the first. Each time the CPU waits until all that is queued is done. What is
computed does not change: tensors of one element on the CPU mix with any device's.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


def keep_on_cpu(scheduler: Any) -> None:
    """From now on this scheduler's timesteps are on the CPU, whatever device is asked for, in place."""
    if not is_kept(scheduler):
        scheduler.set_timesteps = _OnCpu(scheduler)


def is_kept(scheduler: Any) -> bool:
    """Whether `keep_on_cpu` was called."""
    return isinstance(vars(scheduler).get("set_timesteps"), _OnCpu)


class _OnCpu:
    """A scheduler's own `set_timesteps`, with its signature, which pipelines inspect."""

    def __init__(self, scheduler: Any) -> None:
        functools.update_wrapper(self, type(scheduler).set_timesteps.__get__(scheduler))
        self.scheduler = scheduler

    def __call__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        type(self.scheduler).set_timesteps(self.scheduler, *args, device="cpu", **kwargs)

    def __reduce__(self) -> Any:
        return type(self), (self.scheduler,)


class MovesTimestep:
    """A UNet's `forward` for a CUDA graph, which takes tensors of its GPU alone: the timestep is brought there before."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, sample: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        moment = torch.as_tensor(timestep).to(sample.device, non_blocking=True)
        return self.forward(sample, moment, *args, **kwargs)
