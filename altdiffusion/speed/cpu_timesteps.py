"""Timesteps that stay on the CPU, so that the steps of an image are queued on a GPU without waiting for it.

diffusers puts a scheduler's timesteps on the GPU, and each of its schedulers then asks the GPU for their values: DDIM, DDPM
and PNDM at every step, the others at the first. Each time the CPU waits until all that is queued is done. What is
computed doesn't change: tensors of one element on the CPU mix with any device's.
"""

from __future__ import annotations

from typing import Any

from altdiffusion.forward_override import ForwardOverride, find, install


def keep_on_cpu(scheduler: Any) -> None:
    """From now on this scheduler's timesteps are on the CPU, whatever device is asked for, in place."""
    if not is_kept(scheduler):
        install(SetTimestepsOnCpu(scheduler))


def is_kept(scheduler: Any) -> bool:
    """Whether `keep_on_cpu` was called."""
    return find(scheduler, SetTimestepsOnCpu) is not None


class SetTimestepsOnCpu(ForwardOverride):
    """A scheduler's own `set_timesteps`, on the CPU."""

    method = "set_timesteps"

    def __call__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        self.original(*args, device="cpu", **kwargs)
